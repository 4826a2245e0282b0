"""Mean and deviation that acoustic frames are normalised by, from sums that add up over parts of a corpus."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from calm.array_types import Floats64


def mean_and_deviation(frames: int, total: Floats64, squares: Floats64) -> tuple[Floats64, Floats64]:
    """Of every channel, (channels,) float64 each, from the sums over frames of values and of their squares.

    A channel that never changes has a deviation of 0.001.
    """
    mean = total / frames
    return mean, np.maximum(np.sqrt(np.maximum(squares / frames - mean**2, 0)), 1e-3)


def outside(sums: Mapping[str, Mapping[str, Any]], fold: int) -> tuple[Floats64, Floats64]:
    """Mean and deviation over all folds but one, and over what is in none.

    Args:
        sums: by the number of the fold, "" for rows in none: frames, total and squares as in `mean_and_deviation`.
    """
    others = [of_fold for name, of_fold in sums.items() if name != str(fold)]
    frames = sum(of_fold["frames"] for of_fold in others)
    if not frames:
        raise ValueError(f"fold {fold} holds all utterances with features: there is nothing to normalise by")
    total, squares = (sum(np.asarray(of_fold[key], np.float64) for of_fold in others) for key in ("total", "squares"))
    return mean_and_deviation(frames, np.asarray(total), np.asarray(squares))
