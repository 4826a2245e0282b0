"""Functionals: what acoustic frames have in common over an utterance, whatever its length."""

import numpy as np

QUANTILES = (0.1, 0.5, 0.9)
PER_CHANNEL = 2 + len(QUANTILES)  # functionals of a channel


def functionals(frames: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and three quantiles of every channel over time: (frames, channels) -> (5 x channels,) float32."""
    frames = frames.astype(np.float32)
    ordered = np.sort(frames, axis=0)
    ranks = np.rint(np.array(QUANTILES) * (len(frames) - 1)).astype(int)
    return np.concatenate([frames.mean(0), frames.std(0), *ordered[ranks]])
