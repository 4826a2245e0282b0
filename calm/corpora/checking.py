"""Check the rows of a corpus against its audio files, and summarise what is kept."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from calm.audio.headers import Header, read_header
from calm.audio.pauses import Pauses
from calm.corpora.errors import CorpusError
from calm.corpora.limits import Limits
from calm.corpora.utterances import SPLITS, Corpus, Utterance


def check(corpus: Corpus, headers: dict[Path, Header], limits: Limits) -> None:
    """Drop rows whose audio or interval cannot be used, and all but the first usable row of each id.

    Sets the ends of the kept rows: None becomes the end of the file, and ends beyond the file are clamped to it.
    """
    check_unit(corpus, headers)
    kept = {}
    for row in corpus.utterances:
        seconds = headers[row.audio].seconds
        interval = f"{row.start:.3f} to {seconds if row.end is None else row.end:.3f} s of {seconds:.3f} s, {row.audio}"
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
            note(corpus, headers[row.audio])
    corpus.utterances = list(kept.values())


def note(corpus: Corpus, header: Header) -> None:
    """Count what is mended in a row's audio, and where its spectrum ends."""
    corpus.corrections.update(header.notes)
    if header.top_hz:
        ends = corpus.checks.setdefault("rows without sound above (see features.high_hz)", {})
        ends[f"{header.top_hz:g} Hz"] = ends.get(f"{header.top_hz:g} Hz", 0) + 1


def check_unit(corpus: Corpus, headers: dict[Path, Header]) -> None:
    """Raises CorpusError if the times of the rows are milliseconds: all are whole numbers, fit so, and half are far beyond the audio."""
    sound = [row for row in corpus.utterances if not headers[row.audio].fault]
    timed = [(row, row.end, headers[row.audio].seconds) for row in sound if row.end is not None]
    beyond = sum(end > seconds + 1 for _, end, seconds in timed)
    fit = all(end % 1 == 0 and row.start % 1 == 0 and end / 1000 < seconds + 1 for row, end, seconds in timed)
    if timed and fit and 2 * beyond > len(timed) and max(end for _, end, _ in timed) > 100:
        row, end, seconds = next(of_row for of_row in timed if of_row[1] > of_row[2] + 1)
        raise CorpusError(
            f"times must be seconds and seem to be milliseconds ({row.id}: {row.start:g} to {end:g} of {seconds:g} s): "
            "divide them by 1000, or in a table of your own name the columns start_ms and end_ms"
        )


def read_headers(files: set[Path], name: str) -> dict[Path, Header]:
    """The header of each file, read once. Threads are used because most of the time is spent waiting for the disk."""
    ordered = sorted(files)
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        headers = tqdm(
            pool.map(partial(read_header, bands=True), ordered), desc=f"{name}: audio headers", total=len(ordered), unit="file", delay=2
        )
        return dict(zip(ordered, headers, strict=True))


def interval_fault(row: Utterance, seconds: float, limits: Limits) -> str | None:
    """Why the interval of a row cannot be used in a file of `seconds`, or None if it can. Its end is clamped to that of the file."""
    length = (seconds if row.end is None else min(row.end, seconds)) - row.start
    if row.end is not None and row.end <= row.start:
        return "inverted interval"
    if row.start >= seconds:
        return "start beyond the end of the audio"
    if length < limits.min_seconds:
        return "too short"
    return "too long" if length > limits.max_seconds else None


def refuse(corpus: Corpus, limits: Limits) -> None:
    """Raises CorpusError if too large a share of the rows was lost, or no row is left."""
    lost = [row for row in corpus.dropped if row.fault]
    wanted = len(lost) + len(corpus.utterances)
    first = {row.reason: row.id for row in reversed(lost)}
    counts = Counter(row.reason for row in lost).most_common(3)
    reasons = "; ".join(f"{count} {reason}, the first {first[reason]}" for reason, count in counts) or "its options exclude all of them"
    if not corpus.utterances:
        raise CorpusError(f"none of {len(corpus.dropped)} rows can be used ({reasons}): check its path and options in params.yaml")
    if len(lost) > limits.max_dropped * wanted:
        raise CorpusError(
            f"{len(lost)} of {wanted} rows ({len(lost) / wanted:.1%}) cannot be used, more than ingest.max_dropped = "
            f"{limits.max_dropped:.1%} ({reasons}): correct the corpus, or raise ingest.max_dropped in params.yaml"
        )


def by_split(frame: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Counts of rows, hours, speakers, texts and labels by split."""
    return {split: _summary(frame[frame["split"] == split], classes) for split in SPLITS}


def _summary(part: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
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
    """Known speakers that are in more than one split."""
    counts = frame[frame["speaker"] != ""].groupby("speaker")["split"].nunique()
    return sorted(counts.index[counts > 1])


def to_cut(row: Utterance, seconds: float, pauses: Pauses) -> bool:
    """Whether a row is a whole recording without a text that is long enough to be cut at its pauses."""
    return row.start == 0 and row.end is None and row.text is None and seconds > pauses.longer_than
