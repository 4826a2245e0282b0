"""Embeddings of audio and text in their shared space, before and after CALP: the points shown, principal components, cosines."""

from pathlib import Path

import numpy as np
import pandas as pd

from calm.storage import read_parquet

POINTS = 400  # utterances shown at most


def read_embeddings(file: Path, corpus: str) -> pd.DataFrame | None:
    """Held-out utterances of a corpus from `space.parquet`; None without the file or without such an utterance."""
    if not file.exists():
        return None
    frame = read_parquet(file).to_pandas()
    frame = frame[frame["corpus"] == corpus].sort_values("id").reset_index(drop=True)
    return frame if len(frame) else None


def thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """At most POINTS rows, spread evenly over the ids."""
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(len(frame), POINTS)).round().astype(int))].reset_index(drop=True)


def unit_vectors(frame: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Title of a column of panels -> unit vectors of audio and of text, each (utterances, d); a row of NaN where there is no text."""
    return {
        title: (_unit(frame[f"audio_{when}"]), _unit(frame[f"text_{when}"]))
        for title, when in (("before CALP", "before"), ("after CALP", "after"))
    }


def _unit(vectors: pd.Series) -> np.ndarray:
    width = max(len(row) for row in vectors if row is not None)
    values = np.array([np.full(width, np.nan) if row is None else np.asarray(row, np.float64) for row in vectors])
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)  # CALP compares by cosine


def single_labels(ids: pd.Series, table: pd.DataFrame) -> list[str | None]:
    """The label of each utterance that has exactly one, None for others. `table` has the columns id and labels."""
    by_id = dict(zip(table["id"], table["labels"], strict=True))
    labels = [by_id.get(name) for name in ids]
    return [names[0] if names is not None and len(names) == 1 else None for names in labels]


def principal_components(audio: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two principal components, fitted on audio and text together.

    Returns audio (n, 2), the texts that exist (m, 2), and which utterances have a text (n,).
    """
    from sklearn.decomposition import PCA

    has_text = np.isfinite(text).all(axis=1)
    points = PCA(2, svd_solver="full").fit_transform(np.vstack([audio, text[has_text]]))  # the exact solver, to get equal results
    return points[: len(audio)], points[len(audio) :], has_text


def mean_cosines(audio: np.ndarray, text: np.ndarray) -> tuple[float, float] | None:
    """Mean cosine of unit vectors: each utterance's audio with its own text, and with the other texts. None for fewer than two texts."""
    has_text = np.isfinite(text).all(axis=1)
    if (count := int(has_text.sum())) < 2:
        return None
    own = float((audio[has_text] * text[has_text]).sum(axis=1).mean())
    every = float(audio[has_text].sum(axis=0) @ text[has_text].sum(axis=0))
    return own, (every - count * own) / (count * (count - 1))


def cosine_sentence(vectors: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """How close audio is to its own text and to others' texts, in words; "" without texts."""
    cosines = {title: mean_cosines(audio, text) for title, (audio, text) in vectors.items()}
    parts = [f"{title} {pair[0]:.2f} and {pair[1]:.2f}".replace("-", "−") for title, pair in cosines.items() if pair]
    return f"Mean cosine of audio with its own text and with other texts: {'; '.join(parts)}." if parts else ""
