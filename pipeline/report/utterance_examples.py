"""Utterances of a corpus on the page: which labels occur together, and a few examples to hear."""

from pathlib import Path

import numpy as np
import pandas as pd

from calm.audio.decoding import read_audio
from calm.audio.logmel import LogMel
from calm.corpora.utterances import read_table
from pipeline.report.sounds import data_uri
from pipeline.settings import Features

EXAMPLE_SECONDS = (1.0, 6.0)  # shortest and longest utterance that is played


def read_utterances(table: Path) -> pd.DataFrame | None:
    """The table that `ingest` wrote, or None where there is none."""
    return read_table(table) if table.exists() else None


def label_pairs(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Counts of utterances with both classes, (classes, classes); the diagonal counts those with the class. None for one-hot labels."""
    classes = list(frame.attrs["classes"])
    labels = [list(names) for names in frame["labels"] if names is not None]
    if frame.attrs["one_hot"] or not classes or not labels:
        return None
    present = np.array([[name in names for name in classes] for names in labels], dtype=np.int64)
    return pd.DataFrame(present.T @ present, classes, classes)


def choose_examples(frame: pd.DataFrame, texts: dict[str, str], count: int) -> pd.DataFrame:
    """At most `count` labelled utterances of a few seconds that have a text, with as many different labels as possible, by id."""
    low, high = EXAMPLE_SECONDS
    fits = frame[frame["duration"].between(low, high) & frame["labels"].notna() & frame["id"].isin(list(texts))].sort_values("id")
    names = fits["labels"].map(label_text)
    order = names.groupby(names).cumcount()
    return fits.loc[order.sort_values(kind="stable").index[:count]]


def label_text(labels: list[str]) -> str:
    """Labels of an utterance as a title."""
    return ", ".join(labels) or "none of them"


def clip(row, text: str, features: Features) -> dict:
    """One utterance to hear: `label`, `text`, `audio` (an MP3 as a data URI) and `logmel` (frames, mels).

    Raises AudioError if the audio cannot be read.
    """
    samples = read_audio(row.audio, row.start, row.end, features.sample_rate)
    logmel = LogMel(features.sample_rate, features.mels, features.window_ms, features.hop_ms, features.low_hz, features.high_hz)
    return {
        "label": label_text(row.labels),
        "text": text,
        "audio": data_uri(samples, features.sample_rate),
        "logmel": logmel(samples),
    }
