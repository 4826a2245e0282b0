"""The commands `calm new` and `calm train`: a project of one's own recordings."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from calm.corpora import FORMATS
from calm.tools import console

Format = Annotated[
    str | None, typer.Option(help=f"Format of the recordings, found out by default: {', '.join(FORMATS)}.", show_default=False)
]
Options = Annotated[list[str], typer.Option(help="Option of the format: NAME=VALUE, the value in JSON. May be repeated.")]


def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the project, to be made.", show_default=False)],
    audio: Annotated[
        list[Path],
        typer.Option(help="A table, or a folder of audio whose folders are the classes. Once more, without labels: for pretraining."),
    ],
    format: Format = None,
    option: Options = [],  # noqa: B006
) -> None:
    """Make a project folder for recordings of your own: settings, stages and a page on what to type.

    It runs by `dvc repro`, and needs no copy of this program's repository. Folders such as `angry` and `happy` are classes. Files in no
    folder, and rows without labels, are for pretraining. --format and --option are those of the first --audio. Exit code 2: nothing was
    made.

        calm new my-project --audio recordings/table.csv

        calm new my-project --audio recordings --option 'speaker=Actor_([0-9]+)'
    """
    _create(folder, audio, format, option)
    console.say(f"{folder}: cd there and run `dvc repro`, or change params.yaml first")


def train(
    audio: Annotated[Path, typer.Argument(help="A table, or a folder of audio whose folders are the classes.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the project, to be made or to be brought up to date.")],
    format: Format = None,
    option: Options = [],  # noqa: B006
) -> None:
    """Train on recordings of your own, with defaults for few speakers, and print the table of results and the path of the page.

    The same as `calm new` and `dvc repro`: run again, it does what has changed. Speakers are tested in folds, each by a model that has not
    heard them. Exit code 2: nothing was done; others are those of the stage that failed.

        calm train recordings/table.csv -o my-project

        calm train recordings -o my-project --option 'speaker=Actor_([0-9]+)'
    """
    projects = _create(output, [audio], format, option)
    if code := projects.run(output):
        raise typer.Exit(code)
    console.say(f"The project:    {output.resolve()}\nThe page:       {(output / 'reports' / 'index.html').resolve()}")


def _create(folder: Path, audio: list[Path], format: str | None, option: list[str]) -> ModuleType:
    """Make the project, say what was found, and return the module of projects."""
    options = dict(map(console.parse_option, option))
    with console.user_errors():
        console.need("pipeline", "a project")
        projects = import_module("pipeline.project")  # by name: the library itself never needs the pipeline
        sources = [projects.source(audio[0], format, options), *map(projects.source, audio[1:])]
        for source in sources:
            console.say(source.described())
        _note(sources)
        projects.create(folder, sources)
    return projects


def _note(sources: list[Any]) -> None:
    """Say what makes results look better than they are."""
    for source in sources:
        if any(row.labels is not None and not row.speaker for row in source.corpus.utterances):
            console.say(
                f"note: {source.path} has rows without a speaker, and each such file counts as a speaker of its own: whoever is heard in "
                "training and in testing makes results look better. Name speakers by a column 'speaker', or --option speaker=PATTERN",
                err=True,
            )
