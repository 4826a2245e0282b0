"""The space that audio and text share, before and after CALP: which points are shown, their principal components, their cosines."""

from pathlib import Path

import numpy as np
import pandas as pd

POINTS = 400  # utterances shown at most


def read(file: Path, corpus: str) -> pd.DataFrame | None:
    """Held-out utterances of a corpus from `space.parquet`; None where there is no file or no such utterance."""
    if not file.exists():
        return None
    frame = pd.read_parquet(file)
    frame = frame[frame["corpus"] == corpus].sort_values("id").reset_index(drop=True)
    return frame if len(frame) else None


def thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """At most POINTS rows, evenly over the ids."""
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(len(frame), POINTS)).round().astype(int))].reset_index(drop=True)


def columns(frame: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Title of a column of panels -> unit vectors of audio and of text, (utterances, d) each; a row of NaN where there is no text."""
    return {
        title: (_unit(frame[f"audio_{when}"]), _unit(frame[f"text_{when}"]))
        for title, when in (("before CALP", "before"), ("after CALP", "after"))
    }


def _unit(vectors: pd.Series) -> np.ndarray:
    width = max(len(row) for row in vectors if row is not None)
    values = np.array([np.full(width, np.nan) if row is None else np.asarray(row, np.float64) for row in vectors])
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)  # CALP compares by cosine


def only_labels(ids: pd.Series, table: pd.DataFrame) -> list[str | None]:
    """The label of utterances that have exactly one, None for others; `table` has columns id and labels."""
    labels = dict(zip(table["id"], table["labels"], strict=True))
    found = [labels.get(name) for name in ids]
    return [row[0] if row is not None and len(row) == 1 else None for row in found]


def components(audio: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two principal components, fitted on audio and text together: audio (n, 2), text (m, 2), and which utterances have a text (n,)."""
    from sklearn.decomposition import PCA

    kept = np.isfinite(text).all(axis=1)
    found = PCA(2, svd_solver="full").fit_transform(np.vstack([audio, text[kept]]))  # exact, so the same every time
    return found[: len(audio)], found[len(audio) :], kept


def cosines(audio: np.ndarray, text: np.ndarray) -> tuple[float, float] | None:
    """Mean cosine of unit vectors of an utterance's audio with its own text, and with the others' texts; None for fewer than two texts."""
    kept = np.isfinite(text).all(axis=1)
    if (many := int(kept.sum())) < 2:
        return None
    own = float((audio[kept] * text[kept]).sum(axis=1).mean())
    every = float(audio[kept].sum(axis=0) @ text[kept].sum(axis=0))
    return own, (every - many * own) / (many * (many - 1))


def cosine_sentence(vectors: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """How near audio lies to its own text and to others', in words; "" without texts."""
    found = [(title, pair) for title, (audio, text) in vectors.items() if (pair := cosines(audio, text))]
    parts = [f"{title} {own:.2f} and {others:.2f}".replace("-", "−") for title, (own, others) in found]
    return f"Mean cosine of audio with its own text and with others': {'; '.join(parts)}." if parts else ""
