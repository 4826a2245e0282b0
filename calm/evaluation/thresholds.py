"""Decisions from probabilities: thresholds tuned on the validation split, and the likeliest class."""

import numpy as np

from calm.array_types import Bools, Floats, Floats64

LEAST = 1e-7  # of a threshold whose log-odds are averaged, and of what it lacks to 1


def tune_thresholds(targets: Bools, probabilities: Floats, resamples: int = 0, seed: int = 0) -> Floats64:
    """The threshold of each class that maximises (TPR + TNR) / 2, the class's part of weighted accuracy. For the validation split only.

    A class is decided present if its probability is at or above its threshold. Every cut between two different probabilities is
    tried. Among equally good cuts, the one nearest to 0.5 wins, then the lower one. The threshold lies midway between the
    probabilities on either side, or is 0.5 if 0.5 gives the same decisions. A class without a positive or a negative gets 0.5.

    The best cut of a few utterances is a matter of chance. With `resamples` it is searched for in so many bootstrap resamples of the
    utterances, and the threshold is the mean of these cuts in log-odds (bagging).

    Args:
        targets: bool (utterances, classes).
        probabilities: (utterances, classes) in [0, 1].
        resamples: 0: the best cut of the utterances as they are.
        seed: of the resamples.
    Returns:
        (classes,) float64.
    Raises:
        ValueError: the shapes differ, there are no utterances, or a probability is NaN or infinite.
    """
    targets, probabilities = np.asarray(targets, bool), np.asarray(probabilities, np.float64)
    if targets.shape != probabilities.shape or not len(targets) or not np.isfinite(probabilities).all():
        raise ValueError(
            f"targets {targets.shape} and probabilities {probabilities.shape} must have the same shape, must not be empty, "
            "and must be finite numbers"
        )
    if not resamples:
        return np.nan_to_num(_best_cuts(targets, probabilities), nan=0.5)
    drawn = np.random.default_rng(seed).integers(len(targets), size=(resamples, len(targets)))
    cuts = np.stack([_best_cuts(targets[rows], probabilities[rows]) for rows in drawn]).clip(LEAST, 1 - LEAST)
    found = np.isfinite(cuts)
    odds = np.log(cuts / (1 - cuts), where=found, out=np.zeros_like(cuts)).sum(0) / found.sum(0).clip(min=1)
    return np.asarray(1 / (1 + np.exp(-odds)), np.float64)


def _best_cuts(targets: Bools, probabilities: Floats) -> Floats64:
    """The threshold of each class, (classes,); NaN for a class without a positive or a negative."""
    order = np.argsort(-probabilities, axis=0, kind="stable")
    values, hits = np.take_along_axis(probabilities, order, 0), np.take_along_axis(targets, order, 0)
    edge = np.zeros((1, targets.shape[1]))
    # Cut k decides the k highest probabilities positive: they reach down to `lowest_in`, the others up to `highest_out`.
    lowest_in, highest_out = np.vstack([edge + np.nextafter(1, 2), values]), np.vstack([values, edge - 1e-9])
    tp, fp = (np.vstack([edge.astype(int), np.cumsum(column, axis=0)]) for column in (hits, ~hits))
    positives, negatives = tp[-1], fp[-1]
    score = tp * negatives + (negatives - fp) * positives  # 2 P N (TPR + TNR) / 2, as integers, which compare exactly
    middle = (lowest_in + np.maximum(highest_out, 0)) / 2
    middle = np.where(middle > highest_out, middle, lowest_in)  # adjacent floats have no number between them
    middle = np.where((highest_out < 0.5) & (lowest_in >= 0.5), 0.5, middle)
    score = np.where(lowest_in > highest_out, score, -1)
    distance = np.where(score == score.max(axis=0), np.abs(middle - 0.5), np.inf)
    nearest = np.where(distance == distance.min(axis=0), middle, np.inf).min(axis=0)
    return np.where((positives > 0) & (negatives > 0), nearest, np.nan)


def likeliest(scores: Floats) -> Bools:
    """Decisions for the class with the highest score only, the first one if several are equal: bool (utterances, classes)."""
    decided: Bools = scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1])
    return decided
