"""Mean and deviation that acoustic frames are normalised by, from sums that add up over parts of a corpus."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calm.array_types import Floats, Floats32, Floats64

OF_SPEAKERS = ("speaker", "tested_speaker")  # ways to normalise by the statistics of speakers
PRIOR = 500  # frames of the corpus that count as heard from every speaker: 10 s of a speech encoder's, 5 s of log-mel

Statistics = tuple[Floats32, Floats32]  # mean and deviation of every channel, (channels,) each


@dataclass(frozen=True)
class Normaliser:
    """What the frames of an utterance are normalised by.

    Attributes:
        corpus: statistics of the training split.
        by_utterance: whether those of the utterance itself are taken.
        speaker_of: id of an utterance -> its speaker, for utterances that are normalised by the statistics of their speaker.
        speakers: speaker -> statistics.
    """

    corpus: Statistics
    by_utterance: bool = False
    speaker_of: Mapping[str, str] = field(default_factory=dict)
    speakers: Mapping[str, Statistics] = field(default_factory=dict)

    def of(self, id: str, frames: Floats32) -> Statistics:
        """Mean and deviation for an utterance with these frames, (frames, channels)."""
        if self.by_utterance:
            return frames.mean(0), frames.std(0) + 1e-3
        return self.speakers[self.speaker_of[id]] if id in self.speaker_of else self.corpus


Sums = tuple[int, Floats64, Floats64]  # number of frames, and over them the sums of values and of their squares, (channels,) each


def added(frames: Floats, sums: Sums | None = None) -> Sums:
    """Sums of frames (frames, channels), beside those of others."""
    values = np.asarray(frames, np.float64)
    count, total, squares = len(values), values.sum(0), np.square(values).sum(0)
    return (count, total, squares) if sums is None else (sums[0] + count, sums[1] + total, sums[2] + squares)


def of_speaker(sums: Sums, corpus: tuple[Floats, Floats]) -> Statistics:
    """Mean and deviation of a speaker's frames, from the sums over the recordings that were heard, without any label.

    `PRIOR` frames of the corpus, by its mean and deviation, count as heard from every speaker, so that few recordings say little.
    """
    mean, deviation = (np.asarray(values, np.float64) for values in corpus)
    frames, total, squares = sums
    own = mean_and_deviation(frames + PRIOR, total + PRIOR * mean, squares + PRIOR * (deviation**2 + mean**2))
    return own[0].astype(np.float32), own[1].astype(np.float32)


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
