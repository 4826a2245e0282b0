"""The commands `calm corpus`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from calm.corpora import FORMATS
from calm.corpora.errors import CorpusError
from calm.tools import console

ALIASES = {"msp": "msp_podcast"}  # other names of corpus formats

app = typer.Typer(help="Inspect corpora.", no_args_is_help=True)


@app.callback()
def _corpus() -> None:
    """Inspect corpora."""


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of the corpus as its publisher ships it; for `manifest` the table.")],
    format: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(FORMATS)}; msp is short for msp_podcast. Default: by the files.", show_default=False),
    ] = None,
    option: Annotated[list[str], typer.Option(help="Option of the format: NAME=VALUE, the value in JSON. May be repeated.")] = [],  # noqa: B006
    faults: Annotated[Path | None, typer.Option(help="File to write every row with a fault to, a JSON object a line.")] = None,
    as_json: console.AsJson = False,
) -> None:
    """Check a corpus before any long work.

    Reads labels and transcripts, and counts the samples of every audio file. Lists faults, missing parts of the layout, and audio that
    no row uses. Estimates the disk and time that each stage needs on this machine, from about ten seconds of measurement.

    Exit code 0: no faults. 1: rows with faults, which the pipeline would drop, or for which it would stop (told), or not enough disk.
    2: the corpus cannot be used, or no head can be trained on it, such as with one speaker, one class, or a class that a split lacks.

        calm corpus check data/raw/mosei --format mosei

        calm corpus check data/raw/ravdess --format ravdess --option 'test=[19, 20]'
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported: spinning threads would distort the measurement
    with console.user_errors():
        from calm.corpora import layout
        from calm.tools import inspection

    options = dict(map(console.parse_option, option))
    try:
        format = (ALIASES.get(format, format) if format else None) or layout.format_of(path)
        result = inspection.inspect(format, path, options)
    except CorpusError as error:
        absent = layout.missing(format, path, options) if format in FORMATS and path.is_dir() else []
        message = "\n".join([f"{path} cannot be used: {error}", *inspection.described_missing(absent)])
        console.say(json.dumps({"error": str(error), "missing": absent}) if as_json else message, err=not as_json)
        raise typer.Exit(2) from None
    if faults:
        inspection.write_faults(result, faults)
    console.say(json.dumps(result, indent=2) if as_json else inspection.described(result))
    raise typer.Exit(2 if not result["kept"] or result["unfit"] else int(bool(result["faults"]) or not result["needs"]["enough"]))
