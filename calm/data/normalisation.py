"""Mean and deviation that acoustic frames are normalised by, from sums that add up over parts of a corpus."""

from collections.abc import Iterable

import numpy as np


def mean_and_deviation(frames: int, total: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every channel, (channels,) float64 each, from the sums over frames of values and of their squares.

    A channel that never changes has a deviation of 0.001.
    """
    mean = total / frames
    return mean, np.maximum(np.sqrt(np.maximum(squares / frames - mean**2, 0)), 1e-3)


def outside(sums: dict[str, dict], fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over all folds but one, and over what is in none.

    Args:
        sums: by the number of the fold, "" for rows in none: frames, total and squares as in `mean_and_deviation`.
    """
    others = [of_fold for name, of_fold in sums.items() if name != str(fold)]
    if not any(of_fold["frames"] for of_fold in others):
        raise ValueError(f"fold {fold} holds all utterances with features: there is nothing to normalise by")
    return mean_and_deviation(*(_sum(of_fold[key] for of_fold in others) for key in ("frames", "total", "squares")))


def _sum(parts: Iterable) -> np.ndarray:
    return sum(np.asarray(part, np.float64) for part in parts)
