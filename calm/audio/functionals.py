"""Functionals: what acoustic frames have in common over an utterance, whatever its length."""

import numpy as np

from calm.array_types import Floats32

QUANTILES = (0.1, 0.5, 0.9)
PARTS = 3  # of an utterance, of equal length
PER_CHANNEL = {"whole": 2 + len(QUANTILES), "thirds": 2 + len(QUANTILES) + PARTS}  # functionals of a channel, by kind


def functionals(frames: Floats32, kind: str = "whole") -> Floats32:
    """Functionals of every channel over time: (frames, channels) -> (`PER_CHANNEL` x channels,) float32.

    "whole": mean, standard deviation and three quantiles. "thirds": and after them the mean of each third of the frames, in order.
    """
    frames = frames.astype(np.float32)
    ordered = np.sort(frames, axis=0)
    ranks = np.rint(np.array(QUANTILES) * (len(frames) - 1)).astype(int)
    parts = [frames[first:last].mean(0) for first, last in thirds(len(frames))] if kind == "thirds" else []
    return np.concatenate([frames.mean(0), frames.std(0), *ordered[ranks], *parts])


def thirds(frames: int) -> list[tuple[int, int]]:
    """First frame of each third, and the one after its last; every third has one frame at least."""
    starts = [part * frames // PARTS for part in range(PARTS)]
    return [(start, max(start + 1, (part + 1) * frames // PARTS)) for part, start in enumerate(starts)]
