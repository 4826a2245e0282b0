"""Mean and deviation that acoustic frames are normalised by, from sums that add up over parts of a corpus."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

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


@dataclass
class Sums:
    """Sums over the frames of utterances, (channels,) float64 each.

    Attributes:
        frames, utterances: how many were added.
        total, squares: of the values, and of their squares.
    """

    frames: int = 0
    utterances: int = 0
    total: Floats64 | float = 0.0
    squares: Floats64 | float = 0.0

    def add(self, frames: Floats) -> None:
        """One utterance, (frames, channels)."""
        values = np.asarray(frames, np.float64)
        self.frames += len(values)
        self.utterances += 1
        self.total = self.total + values.sum(0)
        self.squares = self.squares + np.square(values).sum(0)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(ours + theirs for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def mean_and_deviation(self) -> tuple[Floats64, Floats64]:
        """Of every channel, (channels,) float64 each. A channel that never changes has a deviation of 0.001."""
        mean = np.asarray(self.total / self.frames)
        return mean, np.maximum(np.sqrt(np.maximum(self.squares / self.frames - mean**2, 0)), 1e-3)

    def plain(self) -> dict[str, Any]:
        """The sums as JSON has them."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()}

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> Self:
        """From what `plain` gave."""
        total, squares = (np.asarray(sums[key], np.float64) for key in ("total", "squares"))
        return cls(sums["frames"], sums["utterances"], total, squares)


def of_speaker(sums: Sums, corpus: tuple[Floats, Floats]) -> Statistics:
    """Mean and deviation of a speaker's frames, from the sums over the recordings that were heard, without any label.

    `PRIOR` frames of the corpus, by its mean and deviation, count as heard from every speaker, so that few recordings say little.
    """
    mean, deviation = (np.asarray(values, np.float64) for values in corpus)
    own = (sums + Sums(PRIOR, 0, PRIOR * mean, PRIOR * (deviation**2 + mean**2))).mean_and_deviation()
    return own[0].astype(np.float32), own[1].astype(np.float32)


def outside(sums: Mapping[str, Sums], fold: int) -> tuple[Floats64, Floats64]:
    """Mean and deviation over all folds but one, and over what is in none.

    Args:
        sums: by the number of the fold, "" for rows in none.
    """
    others = sum((of_fold for name, of_fold in sums.items() if name != str(fold)), Sums())
    if not others.frames:
        raise ValueError(f"fold {fold} holds all utterances with features: there is nothing to normalise by")
    return others.mean_and_deviation()
