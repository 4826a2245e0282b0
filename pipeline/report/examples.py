"""What the page shows of a corpus's utterances themselves: how long they are, which labels occur together, and a few to hear."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd

from calm.audio.decoding import read_audio
from calm.audio.logmel import LogMel
from calm.corpora.utterances import read_table
from pipeline.settings import Features

EXAMPLE_SECONDS = (1.0, 6.0)  # shortest and longest utterance that is played


def utterances(table: Path) -> pd.DataFrame | None:
    """The table that `ingest` wrote, or None where there is none."""
    return read_table(table) if table.exists() else None


def together(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Counts of rows that have both classes, (classes, classes); on the diagonal those that have the class. None for one-hot labels."""
    classes = list(frame.attrs["classes"])
    labels = [list(row) for row in frame["labels"] if row is not None]
    if frame.attrs["one_hot"] or not classes or not labels:
        return None
    present = np.array([[name in row for name in classes] for row in labels], dtype=np.int64)
    return pd.DataFrame(present.T @ present, classes, classes)


def chosen(frame: pd.DataFrame, texts: dict[str, str], count: int) -> pd.DataFrame:
    """So many utterances to hear: labelled ones of a few seconds, with a text, each of another label as far as there are; by id."""
    low, high = EXAMPLE_SECONDS
    fits = frame[frame["duration"].between(low, high) & frame["labels"].notna() & frame["id"].isin(list(texts))].sort_values("id")
    names = fits["labels"].map(lambda row: ", ".join(row) or "none of them")
    order = names.groupby(names).cumcount()
    return fits.loc[order.sort_values(kind="stable").index[:count]]


def clip(row, text: str, features: Features) -> dict:
    """One utterance to hear: `label`, `text`, `audio` (an MP3 as a data URI) and `logmel` (frames, mels). Raises AudioError."""
    import soundfile

    samples = read_audio(row.audio, row.start, row.end, features.sample_rate)
    # Some corpora are very quiet: what is played is raised to a common peak.
    played = samples * (0.8 / max(1e-4, float(np.abs(samples).max())))
    file = io.BytesIO()
    soundfile.write(file, played, features.sample_rate, format="MP3")
    logmel = LogMel(features.sample_rate, features.mels, features.window_ms, features.hop_ms, features.low_hz, features.high_hz)
    return {
        "label": ", ".join(row.labels) or "none of them",
        "text": text,
        "audio": f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}",
        "logmel": logmel(samples),
    }
