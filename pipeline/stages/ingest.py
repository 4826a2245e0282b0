"""Stage `ingest`: a raw corpus to one table of utterances, and a report of what was read, mended, dropped and why."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from calm.audio import AudioError
from calm.corpora import pauses, read_corpus
from calm.corpora.headers import Header, read_header
from calm.corpora.pauses import Pauses
from calm.corpora.utterances import SPLITS, Corpus, CorpusError, Utterance, write_table
from pipeline import command, paths, settings, workers


def run(name: str, source: settings.CorpusSettings, limits: settings.Ingest, table: Path, report: Path) -> dict:
    """Read a corpus, check its audio, write the table and the report; returns the report.

    Raises CorpusError, with nothing written, where the corpus is missing or loses a larger share of its rows than
    `limits.max_dropped`. Rows that the options do not ask for (another test set, songs) are dropped but count as no loss.
    """
    corpus = read_corpus(source.format, source.path, **source.options)
    headers = read_headers({row.audio for row in corpus.utterances}, name)
    cut(corpus, headers, limits.cut, name)
    read = len(corpus.utterances) + len(corpus.dropped)
    check(corpus, headers, limits)
    refuse(corpus, limits)
    frame = write_table(corpus, table)
    summary = {
        "corpus": name,
        "format": source.format,
        "path": str(source.path),
        "options": source.options,
        "synthetic": source.synthetic,
        "read": read,
        "kept": len(frame),
        "dropped": dict(Counter(row.reason for row in corpus.dropped).most_common()),
        "dropped_by_choice": sum(not row.fault for row in corpus.dropped),
        "corrections": {what: count for what, count in corpus.corrections.most_common() if count},
        "splits": by_split(frame, corpus.classes),
        "speakers_in_two_splits": speakers_in_two_splits(frame),
        "checks": corpus.checks,
        "dropped_rows": [asdict(row) for row in corpus.dropped],
    }
    command.write_json(summary, report)
    return summary


def cut(corpus: Corpus, headers: dict[Path, Header], limits: settings.Cut | None, name: str = "") -> None:
    """Replace long recordings that have no segments and no text by the pieces between their pauses, which keep their speaker,
    split and labels; a recording in which nobody speaks is dropped.
    """
    long = [row for row in corpus.utterances if limits and _uncut(row) and headers[row.audio].seconds > limits.longer_than]
    if not long:
        return
    tasks = [(row.audio, headers[row.audio].seconds, Pauses(**limits.model_dump(exclude={"longer_than"}))) for row in long]
    parts, count = {}, min(workers.cores(), len(tasks))
    with workers.processes(count) as pool:
        found = workers.in_order(pool, _cut, tasks, ahead=4 * count)
        for row, intervals in zip(long, tqdm(found, desc=f"{name}: pauses", total=len(long), unit="file", delay=2), strict=True):
            parts[id(row)] = []
            if isinstance(intervals, str):
                corpus.drop(row.id, "unreadable audio", intervals)
            elif not intervals:
                corpus.drop(row.id, "no speech found", str(row.audio))
            else:
                corpus.corrections["recordings cut at pauses"] += 1
                parts[id(row)] = [replace(row, id=f"{row.id}[{a:.2f}-{b:.2f}]", start=a, end=b) for a, b in intervals]
    corpus.utterances = [part for row in corpus.utterances for part in parts.get(id(row), [row])]


def _uncut(row: Utterance) -> bool:
    return row.start == 0 and row.end is None and row.text is None


def _cut(task: tuple[Path, float, Pauses]) -> list[tuple[float, float]] | str:
    """Pieces of a recording, or why it cannot be read."""
    try:
        return pauses.cut(*task)
    except AudioError as error:
        return str(error)


def check(corpus: Corpus, headers: dict[Path, Header], limits: settings.Ingest) -> None:
    """Drop rows whose audio or interval cannot be used and, of several with one id, all but the first that can.

    Fills in ends that are the file's own and clamps those beyond it.
    """
    kept = {}
    for row in corpus.utterances:
        seconds = headers[row.audio].seconds
        interval = f"{row.start:.3f} to {'its end' if row.end is None else f'{row.end:.3f}'} s of {seconds:.3f} s, {row.audio}"
        if headers[row.audio].fault:
            corpus.drop(row.id, headers[row.audio].fault, headers[row.audio].detail)
        elif fault := interval_fault(row, seconds, limits):
            corpus.drop(row.id, fault, interval)
        elif row.id in kept:
            corpus.drop(row.id, "duplicate id", interval)
        else:
            corpus.corrections["end beyond the audio set to its end"] += row.end is not None and row.end > seconds
            row.end = seconds if row.end is None else min(row.end, seconds)
            kept[row.id] = row
    corpus.utterances = list(kept.values())


def read_headers(files: set[Path], name: str) -> dict[Path, Header]:
    """The header of each file, read once; in threads, because it is the disk that is waited for."""
    ordered = sorted(files)
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        headers = tqdm(pool.map(read_header, ordered), desc=f"{name}: audio headers", total=len(ordered), unit="file", delay=2)
        return dict(zip(ordered, headers, strict=True))


def interval_fault(row: Utterance, seconds: float, limits: settings.Ingest) -> str | None:
    """Why an interval of a file so long cannot be used, its end being clamped to the file's (None: the file's own)."""
    length = (seconds if row.end is None else min(row.end, seconds)) - row.start
    if row.end is not None and row.end <= row.start:
        return "inverted interval"
    if row.start >= seconds:
        return "start beyond the end of the audio"
    if length < limits.min_seconds:
        return "too short"
    return "too long" if length > limits.max_seconds else None


def refuse(corpus: Corpus, limits: settings.Ingest) -> None:
    """Raises CorpusError where too large a share of the rows was lost, or none is left."""
    lost = [row for row in corpus.dropped if row.fault]
    asked_for = len(lost) + len(corpus.utterances)
    first = {row.reason: row.id for row in reversed(lost)}
    counts = Counter(row.reason for row in lost).most_common(3)
    reasons = "; ".join(f"{count} {reason}, the first {first[reason]}" for reason, count in counts) or "its options ask for none of them"
    if not corpus.utterances:
        raise CorpusError(f"none of {len(corpus.dropped)} rows can be used ({reasons}): check its path and options in params.yaml")
    if len(lost) > limits.max_dropped * asked_for:
        raise CorpusError(
            f"{len(lost)} of {asked_for} rows ({len(lost) / asked_for:.1%}) cannot be used, more than ingest.max_dropped = "
            f"{limits.max_dropped:.1%} ({reasons}): mend the corpus, or raise ingest.max_dropped in params.yaml"
        )


def by_split(frame: pd.DataFrame, classes: tuple[str, ...]) -> dict:
    """Rows, hours, speakers, texts and labels of every split."""
    return {split: _summary(frame[frame["split"] == split], classes) for split in SPLITS}


def _summary(part: pd.DataFrame, classes: tuple[str, ...]) -> dict:
    labels = [row for row in part["labels"] if isinstance(row, list)]
    counts = Counter(name for row in labels for name in row)
    counts |= {"none of them": sum(not row for row in labels), "unlabelled": len(part) - len(labels)}
    return {
        "rows": len(part),
        "hours": round(float(part["duration"].sum()) / 3600, 3),
        "speakers": int(part["speaker"][part["speaker"] != ""].nunique()),
        "with_text": int(part["text"].notna().sum()),
        "labels": {name: counts[name] for name in (*classes, "none of them", "unlabelled")},
    }


def speakers_in_two_splits(frame: pd.DataFrame) -> list[str]:
    """Speakers, where they are known, that more than one split has."""
    counts = frame[frame["speaker"] != ""].groupby("speaker")["split"].nunique()
    return sorted(counts.index[counts > 1])


def main() -> None:
    """`python -m pipeline.stages.ingest --corpus NAME`"""
    command.start(_ingest, corpus=lambda given: given.corpora)


def _ingest(given: settings.Settings, name: str) -> str:
    report = run(name, given.corpora[name], given.ingest, paths.utterances(name), paths.ingest_report(name))
    hours = sum(part["hours"] for part in report["splits"].values())
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    return f"{name}: {report['kept']} of {report['read']} rows kept, {hours:.2f} h; dropped: {dropped}; {paths.ingest_report(name)}"


if __name__ == "__main__":
    main()
