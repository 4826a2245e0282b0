"""The `calm` command."""

import json
import shutil
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from calm.corpora import FORMATS, CorpusError, read_corpus
from calm.corpora.utterances import Corpus

SHORT = {"msp": "msp_podcast"}  # other names of formats
PROBED = 8  # utterances whose log-mel is computed to see how fast this machine is
SHOWN = 3  # rows that are named for a reason
LOGMEL_BYTES = 100 * 64 * 2  # a second: 64 bands every 10 ms, float16, before compression

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

    Reads labels, transcripts and the header of every audio file; names what is missing or wrong; tells the disk and the time that
    features will need here. Exit code 0: no fault; 1: rows with faults, which the pipeline would drop; 2: the corpus cannot be used.

        calm corpus check data/raw/mosei --format mosei

        calm corpus check data/raw/ravdess --format ravdess --option 'test=[19, 20]'
    """
    try:
        corpus = read_corpus(SHORT.get(format, format), path, **dict(map(_option, option)))
    except CorpusError as error:
        typer.echo(json.dumps({"error": str(error)}) if as_json else f"{path} cannot be used: {error}", err=not as_json)
        raise typer.Exit(2) from None
    result = summary(corpus, path)
    typer.echo(json.dumps(result, indent=2) if as_json else described(result))
    raise typer.Exit(2 if not result["kept"] else int(bool(result["faults"])))


def _option(text: str) -> tuple[str, object]:
    """`name=value`, the value as JSON or, where it is none, as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def summary(corpus: Corpus, path: Path) -> dict:
    """What a corpus holds and what is wrong with it, as plain values."""
    from calm.corpora.checking import by_split, check, read_headers, speakers_in_two_splits
    from calm.corpora.limits import Limits
    from calm.corpora.utterances import frame_of

    read = len(corpus.utterances) + len(corpus.dropped)
    check(corpus, read_headers({row.audio for row in corpus.utterances}, path.name), Limits(max_seconds=float("inf")))
    frame = frame_of(corpus)
    faults = [row for row in corpus.dropped if row.fault]
    hours = float(frame["duration"].sum()) / 3600
    return {
        "path": str(path),
        "read": read,
        "kept": len(frame),
        "hours": round(hours, 3),
        "longest_seconds": round(float(frame["duration"].max()), 2) if len(frame) else None,
        "without_text": int(frame["text"].isna().sum()),
        "faults": {
            reason: {"rows": count, "first": [asdict(row) for row in faults if row.reason == reason][:SHOWN]}
            for reason, count in Counter(row.reason for row in faults).most_common()
        },
        "left_out": dict(Counter(row.reason for row in corpus.dropped if not row.fault)),
        "corrections": {what: count for what, count in corpus.corrections.items() if count},
        "speakers_in_two_splits": speakers_in_two_splits(frame),
        "splits": by_split(frame, corpus.classes),
        "needs": needs(corpus, hours),
    }


def needs(corpus: Corpus, hours: float) -> dict:
    """Disk of the log-mel, and the seconds that one process needs for it, measured on a few utterances of the corpus."""
    from calm.audio import AudioError, LogMel, read_audio

    chosen = corpus.utterances[:: max(1, len(corpus.utterances) // PROBED)][:PROBED]
    logmel, begin, heard = LogMel(), time.perf_counter(), 0.0
    for row in chosen:
        try:
            samples = read_audio(row.audio, row.start, row.end, logmel.sample_rate)
        except AudioError:
            continue
        logmel(samples)
        heard += len(samples) / logmel.sample_rate
    speed = heard / (time.perf_counter() - begin) if heard else None
    return {
        "logmel_megabytes": round(hours * 3600 * LOGMEL_BYTES / 1e6, 1),
        "free_megabytes": round(shutil.disk_usage(".").free / 1e6),
        "logmel_seconds_one_process": round(hours * 3600 / speed, 1) if speed else None,
        "hours_to_transcribe": round(sum(row.end - row.start for row in corpus.utterances if row.text is None) / 3600, 3),
    }


def described(result: dict) -> str:
    """The result for people."""
    lines = [f"{result['path']}: {result['kept']} of {result['read']} rows can be used, {result['hours']:.2f} h"]
    for split, part in result["splits"].items():
        labels = ", ".join(f"{name} {count}" for name, count in part["labels"].items() if count)
        known = f"{part['rows']} rows, {part['hours']:.2f} h, {part['speakers']} speakers, {part['with_text']} texts"
        lines.append(f"  {split}: {known}; {labels or 'nothing'}")
    for reason, found in result["faults"].items():
        lines.append(f"  FAULT {reason}: {found['rows']} rows")
        lines += [f"    {row['id']}: {row['detail'] or reason}" for row in found["first"]]
    lines += [f"  left out, {reason}: {count} rows" for reason, count in result["left_out"].items()]
    lines += [f"  mended, {what}: {count} rows" for what, count in result["corrections"].items()]
    if several := result["speakers_in_two_splits"]:
        lines.append(f"  speakers in two splits: {', '.join(several[:SHOWN])}{' ...' if len(several) > SHOWN else ''} ({len(several)})")
    needs = result["needs"]
    lines.append(f"  log-mel: {needs['logmel_megabytes']:.0f} MB before compression ({needs['free_megabytes']} MB are free)")
    if needs["logmel_seconds_one_process"] is not None:
        lines[-1] += f", about {needs['logmel_seconds_one_process']:.0f} s by one process here"
    if result["without_text"]:
        lines.append(f"  to transcribe: {result['without_text']} rows, {needs['hours_to_transcribe']:.2f} h")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
