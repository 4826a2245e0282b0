"""Around the metrics: thresholds tuned on validation, bootstrap over speakers, calibration, and retrieval."""

import numpy as np

from calm.evaluation import metrics


def tune_thresholds(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """One threshold a class that maximises (TPR + TNR) / 2, the class's part of weighted accuracy. Give it validation only.

    A class is decided present where its probability is at or above its threshold. Every cut between two different
    probabilities is tried. Of several best cuts the one nearest 0.5 is taken, then the lower one; the threshold lies midway
    between the probabilities on either side, or is 0.5 where that decides the same. Without a positive or a negative: 0.5.

    Args:
        targets: bool (utterances, classes).
        probabilities: (utterances, classes) in [0, 1].
    Returns:
        (classes,) float64.
    """
    targets, probabilities = np.asarray(targets, bool), np.asarray(probabilities, np.float64)
    if targets.shape != probabilities.shape or not len(targets) or not np.isfinite(probabilities).all():
        raise ValueError(
            f"targets {targets.shape} and probabilities {probabilities.shape} must have one shape, not be empty, and be numbers"
        )
    order = np.argsort(-probabilities, axis=0, kind="stable")
    values, hits = np.take_along_axis(probabilities, order, 0), np.take_along_axis(targets, order, 0)
    edge = np.zeros((1, targets.shape[1]))
    # Cut k takes the k likeliest: they reach down to `lowest_in`, the others up to `highest_out`.
    lowest_in, highest_out = np.vstack([edge + np.nextafter(1, 2), values]), np.vstack([values, edge - 1e-9])
    tp, fp = (np.vstack([edge.astype(int), np.cumsum(part, axis=0)]) for part in (hits, ~hits))
    positives, negatives = tp[-1], fp[-1]
    score = tp * negatives + (negatives - fp) * positives  # 2 P N times the mean of TPR and TNR: whole numbers compare exactly
    middle = (lowest_in + np.maximum(highest_out, 0)) / 2
    middle = np.where(middle > highest_out, middle, lowest_in)  # neighbouring floats have no number between them
    middle = np.where((highest_out < 0.5) & (lowest_in >= 0.5), 0.5, middle)
    score = np.where(lowest_in > highest_out, score, -1)
    distance = np.where(score == score.max(axis=0), np.abs(middle - 0.5), np.inf)
    nearest = np.where(distance == distance.min(axis=0), middle, np.inf).min(axis=0)
    return np.where((positives > 0) & (negatives > 0), nearest, 0.5)


def likeliest(scores: np.ndarray) -> np.ndarray:
    """Decisions for the class of the highest score alone, the first of equals: bool (utterances, classes)."""
    return scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1])


def calibration(targets: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> list[dict]:
    """For a reliability diagram, all classes together: of each bin that is not empty, its edges, the number of probabilities in it,
    their mean, and the share that was right."""
    sizes, predicted, observed = (part.sum(axis=0) for part in metrics.reliability(targets, probabilities, bins))
    return [
        {"low": b / bins, "high": (b + 1) / bins, "n": int(size), "predicted": predicted[b] / size, "observed": observed[b] / size}
        for b, size in enumerate(sizes)
        if size
    ]
