"""Rows of a corpus against its audio: which can be used, and what a corpus amounts to."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from calm.audio.headers import Header, read_header
from calm.audio.pauses import Pauses
from calm.corpora.limits import Limits
from calm.corpora.utterances import SPLITS, Corpus, CorpusError, Utterance


def check(corpus: Corpus, headers: dict[Path, Header], limits: Limits) -> None:
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


def interval_fault(row: Utterance, seconds: float, limits: Limits) -> str | None:
    """Why an interval of a file so long cannot be used, its end being clamped to the file's (None: the file's own)."""
    length = (seconds if row.end is None else min(row.end, seconds)) - row.start
    if row.end is not None and row.end <= row.start:
        return "inverted interval"
    if row.start >= seconds:
        return "start beyond the end of the audio"
    if length < limits.min_seconds:
        return "too short"
    return "too long" if length > limits.max_seconds else None


def refuse(corpus: Corpus, limits: Limits) -> None:
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


def to_cut(row: Utterance, seconds: float, pauses: Pauses) -> bool:
    """Whether a row is a whole recording, so many seconds long and longer than is left as it is, without a text."""
    return row.start == 0 and row.end is None and row.text is None and seconds > pauses.longer_than
