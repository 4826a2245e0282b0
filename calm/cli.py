"""The `calm` command."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from calm.corpora import FORMATS, CorpusError

SHORT = {"msp": "msp_podcast"}  # other names of formats

app = typer.Typer(help="Joint audio-language representations of speech.", no_args_is_help=True, add_completion=False)
corpus_app = typer.Typer(help="Corpora: what they hold, and what is wrong with them.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")


@corpus_app.callback()
def _group() -> None:
    """Corpora: what they hold, and what is wrong with them."""


@corpus_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="The corpus as its publisher ships it; for `manifest` the table.")],
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)} (msp: msp_podcast).")],
    option: Annotated[list[str], typer.Option(help="An option of the format, NAME=VALUE in JSON; may be repeated.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say before any long work whether a folder is what it should be.

    Reads labels, transcripts and the header of every audio file. Names what is missing or wrong, parts of the layout that are not
    there, and audio that no row uses. Tells the disk and the time that each stage will need here, from about ten seconds of measuring.

    Exit code 0: no fault. 1: rows with faults, which the pipeline would drop, or too little disk. 2: the corpus cannot be used.

        calm corpus check data/raw/mosei --format mosei

        calm corpus check data/raw/ravdess --format ravdess --option 'test=[19, 20]'
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin on a busy machine would spoil the measuring
    from calm.corpora import inspection, layout

    format, options = SHORT.get(format, format), dict(map(_option, option))
    try:
        result = inspection.inspect(format, path, options)
    except CorpusError as error:
        absent = layout.missing(format, path, options) if format in FORMATS and path.is_dir() else []
        said = "\n".join([f"{path} cannot be used: {error}", *inspection.described_missing(absent)])
        typer.echo(json.dumps({"error": str(error), "missing": absent}) if as_json else said, err=not as_json)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(result, indent=2) if as_json else inspection.described(result))
    raise typer.Exit(2 if not result["kept"] else int(bool(result["faults"]) or not result["needs"]["enough"]))


def _option(text: str) -> tuple[str, object]:
    """`name=value`, the value as JSON or, where it is none, as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    app()
