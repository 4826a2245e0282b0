"""Inspect a corpus before any long work: what it holds, what is missing or wrong, and the disk and time that the stages will need."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from calm.audio.headers import Header
from calm.audio.pauses import Pauses
from calm.corpora import read_corpus
from calm.corpora.checking import by_split, check, read_headers, refuse, speakers_in_two_splits, to_cut
from calm.corpora.errors import CorpusError
from calm.corpora.files import AUDIO, walk
from calm.corpora.layout import missing
from calm.corpora.limits import Limits
from calm.corpora.trainable import unfit
from calm.corpora.utterances import Corpus, frame_of
from calm.storage import replacing
from calm.tools.needs import needs

SHOWN = 3  # examples in the output for each finding
MOST_SHOWN = 20  # rows with one fault that are all shown

ABSENT = {  # columns that may be empty in all rows, and the consequence
    "text": "every row will be transcribed",
    "speaker": "every row counts as a speaker of its own",
    "labels": "for pretraining only, no head can be trained",
}


def inspect(format: str, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What a corpus holds, lacks and will need, as plain values for JSON. Raises CorpusError if the corpus cannot be used."""
    corpus = read_corpus(format, path, **options)
    unused = [str(file) for file in unused_audio(corpus, path)]
    rows_read = len(corpus.utterances) + len(corpus.dropped)
    to_cut = check_rows(corpus, read_headers({row.audio for row in corpus.utterances}, path.name))
    frame = frame_of(corpus)
    faults = [row for row in corpus.dropped if row.fault]
    return {
        "path": str(path),
        "read": rows_read,
        "kept": len(frame),
        "hours": round(float(frame["duration"].sum()) / 3600, 3),
        "longest_seconds": round(float(frame["duration"].max()), 2) if len(frame) else None,
        "faults": {
            reason: {"rows": count, "all": [asdict(row) for row in faults if row.reason == reason]}
            for reason, count in Counter(row.reason for row in faults).most_common()
        },
        "refused": refused(corpus),
        "left_out": dict(Counter(row.reason for row in corpus.dropped if not row.fault)),
        "corrections": {name: count for name, count in corpus.corrections.items() if count},
        "missing": missing(format, path, options),
        "absent_columns": [name for name in ABSENT if _empty(frame[name])] if len(frame) else [],
        "unused_audio": {"files": len(unused), "first": unused[:SHOWN]},
        "checks": corpus.checks,
        "unfit": unfit(corpus) if len(frame) else [],
        "speakers_in_two_splits": speakers_in_two_splits(frame),
        "splits": by_split(frame, corpus.classes),
        "to_cut": to_cut,
        "to_transcribe": {"rows": int(frame["text"].isna().sum()), "hours": _hours(frame[frame["text"].isna()])},
        "needs": needs(corpus.utterances),
    }


def refused(corpus: Corpus) -> str | None:
    """Why `ingest` would refuse the corpus with its default limits, or None."""
    try:
        refuse(corpus, Limits())
    except CorpusError as error:
        return str(error)
    return None


def write_faults(result: dict[str, Any], path: Path) -> None:
    """Write every row with a fault to a file, a JSON object with `id`, `reason` and `detail` a line."""
    rows = [row for faults in result["faults"].values() for row in faults["all"]]
    with replacing(path) as partial:
        lines = [json.dumps({key: row[key] for key in ("id", "reason", "detail")}, ensure_ascii=False) for row in rows]
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")


def check_rows(corpus: Corpus, headers: dict[Path, Header]) -> dict[str, Any]:
    """Drop the rows that `ingest` would drop. Returns rows and hours of the long recordings that it will cut, which may have any length."""
    whole = [row for row in corpus.utterances if to_cut(row, headers[row.audio].seconds, Pauses())]
    cut = {id(row) for row in whole}
    corpus.utterances = [row for row in corpus.utterances if id(row) not in cut]
    check(corpus, headers, Limits())
    kept, corpus.utterances = corpus.utterances, whole
    check(corpus, headers, replace(Limits(), max_seconds=float("inf")))
    long = frame_of(corpus)
    corpus.utterances = kept + corpus.utterances
    return {"rows": len(long), "hours": _hours(long)}


def unused_audio(corpus: Corpus, path: Path) -> Iterator[Path]:
    """Audio files that no row names, below the corpus's folder; for a table, in the folders of the files that it names."""
    used = {os.path.realpath(row.audio) for row in corpus.utterances}
    folders = sorted({row.audio.parent for row in corpus.utterances if row.audio.parent.is_dir()})
    files = walk(path, *AUDIO) if path.is_dir() else (file for folder in folders for file in sorted(folder.iterdir()))
    return (file for file in files if file.suffix.lower() in AUDIO and os.path.realpath(file) not in used)


def described(result: dict[str, Any]) -> str:
    """The result of `inspect` as text for people."""
    lines = [f"{result['path']}: {result['kept']} of {result['read']} rows can be used, {result['hours']:.2f} h"]
    for split, part in result["splits"].items():
        labels = ", ".join(f"{name} {count}" for name, count in part["labels"].items() if count)
        known = f"{part['rows']} rows, {part['hours']:.2f} h, {part['speakers']} speakers, {part['with_text']} texts"
        lines.append(f"  {split}: {known}; {labels or 'nothing'}")
    for reason, rows in result["faults"].items():
        lines.append(f"  FAULT {reason}: {rows['rows']} rows")
        shown = rows["all"] if rows["rows"] <= MOST_SHOWN else rows["all"][:SHOWN]
        lines += [f"    {row['id']}: {row['detail'] or reason}" for row in shown]
        lines += [f"    ... and {rows['rows'] - len(shown)} more: --faults FILE lists all"] * (len(shown) < rows["rows"])
    if result["refused"]:
        lines.append(f"  FAULT the stage ingest would refuse it: {result['refused']}")
    lines += [f"  NOT FOR TRAINING: {sentence}" for sentence in result["unfit"]]
    lines += described_missing(result["missing"])
    lines += [f"  no row has a {name.removesuffix('s')}: {ABSENT[name]}" for name in result["absent_columns"]]
    lines += [f"  left out, {reason}: {count} rows" for reason, count in result["left_out"].items()]
    lines += [f"  corrected, {name}: {count}{'' if name.startswith('file ') else ' rows'}" for name, count in result["corrections"].items()]
    lines += [f"  {name}: {_count(findings)}" for name, findings in result["checks"].items() if findings]
    if several := result["speakers_in_two_splits"]:
        lines.append(f"  speakers in two splits: {_few(several, len(several))}")
    if (unused := result["unused_audio"])["files"]:
        lines.append(f"  audio files that no row uses: {_few(unused['first'], unused['files'])}")
    for key, phrase in (
        ("to_cut", "to be cut at their pauses, where those without speech are dropped"),
        ("to_transcribe", "to be transcribed"),
    ):
        if result[key]["rows"]:
            lines.append(f"  {phrase}: {result[key]['rows']} rows, {result[key]['hours']:.2f} h")
    return "\n".join(lines + _described_needs(result["needs"]))


def described_missing(parts: list[dict[str, Any]]) -> list[str]:
    """One line for each missing part of the corpus."""
    return [
        f"  MISSING {part['name']} ({part['what']}): the corpus cannot be used without it"
        if part["required"]
        else f"  absent: {part['name']} ({part['what']}): {part['without']}"
        for part in parts
    ]


def _described_needs(total: dict[str, Any]) -> list[str]:
    lines = ["  estimated needs of the stages on this machine:"] if total["stages"] else []
    for stage in total["stages"]:
        disk = "-" if stage["megabytes"] is None else f"{stage['megabytes']:.1f} MB"
        time = "unknown" if stage["seconds"] is None else _duration(stage["seconds"])
        lines.append(f"    {stage['stage']:<16}{disk:>12}{time:>10}   {stage['how']}")
    disk = f"{total['megabytes']:.1f} MB with a copy in DVC's cache, {total['free_megabytes']:.0f} MB are free in the working folder"
    lines.append(f"  disk: {disk}" if total["enough"] else f"  FAULT not enough disk: {disk}")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count(findings: object) -> str:
    """The findings of a check in short: lists of names by length and names, other lists by their length."""
    if isinstance(findings, dict):
        return "; ".join(f"{name}: {_count(value)}" for name, value in findings.items())
    if isinstance(findings, list) and all(isinstance(name, str) and len(name) < 40 for name in findings):
        return f"{len(findings)} ({', '.join(findings[:MOST_SHOWN])}{', ...' if len(findings) > MOST_SHOWN else ''})"
    return str(len(findings) if isinstance(findings, list) else findings)


def _few(names: list[str], count: int) -> str:
    return f"{count} ({', '.join(names[:SHOWN])}{', ...' if count > SHOWN else ''})"


def _empty(column: pd.Series) -> bool:
    return bool((column.isna() | (column.astype(object) == "")).all())


def _hours(frame: pd.DataFrame) -> float:
    return round(float(frame["duration"].sum()) / 3600, 3)
