"""Probabilities from logits, their calibration by a temperature, the reliability diagram and the expected calibration error."""

import numpy as np

from calm.array_types import Bools, Floats, Floats64


def probabilities(logits: Floats, loss: str = "bce") -> Floats64:
    """Probabilities of logits (..., classes) in float64: "bce", each class by itself; "softmax", they sum to 1 over the classes."""
    logits = np.asarray(logits, np.float64)
    if loss == "softmax":
        shares: Floats64 = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return shares
    size: Floats64 = np.exp(-np.abs(logits))  # never overflows
    return np.where(logits >= 0, 1, size) / (1 + size)


def fit_temperature(targets: Bools, logits: Floats) -> float:
    """The T in [0.05, 20] for which softmax(logits / T) has the lowest cross entropy (arXiv 1706.04599). For the validation split only.

    Args:
        targets: bool (utterances, classes), one class each.
        logits: (utterances, classes), finite.
    """
    from scipy.optimize import minimize_scalar

    logits = np.asarray(logits, np.float64)

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        highest = scaled.max(axis=1)
        return float((highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1)) - scaled[targets]).mean())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def expected_calibration_error(targets: Bools, probabilities: Floats, bins: int = 10) -> float:
    """Mean over the classes of the sum over bins of n_bin / n * |mean probability - share of positives|.

    Bins are equally wide. Each class is a binary question, as in the heads' binary cross-entropy (4.6).

    Args:
        targets: bool (utterances, classes).
        probabilities: (utterances, classes) in [0, 1].
    """
    sizes, predicted, observed = bin_sums(targets, probabilities, bins)
    return float((np.abs(predicted - observed).sum(axis=1) / sizes.sum(axis=1)).mean())


def reliability_diagram(targets: Bools, probabilities: Floats, bins: int = 10) -> list[dict[str, float]]:
    """Points of a reliability diagram over all classes together, one for each bin that is not empty.

    Returns:
        `low` and `high` (edges), `n` (probabilities in the bin), `predicted` (their mean) and `observed` (share of positives).
    """
    sizes, predicted, observed = (sums.sum(axis=0) for sums in bin_sums(targets, probabilities, bins))
    return [
        {"low": b / bins, "high": (b + 1) / bins, "n": int(size), "predicted": predicted[b] / size, "observed": observed[b] / size}
        for b, size in enumerate(sizes)
        if size
    ]


def bin_sums(targets: Bools, probabilities: Floats, bins: int = 10) -> tuple[Floats64, Floats64, Floats64]:
    """Utterances, sum of probabilities, and positives in each of the equally wide bins: three float arrays (classes, bins)."""
    check_probabilities(targets, probabilities)
    classes = targets.shape[1]
    bin_index = np.minimum((probabilities * bins).astype(np.int64), bins - 1) + np.arange(classes) * bins

    def summed(weights: Floats | Bools | None) -> Floats64:
        return np.bincount(bin_index.ravel(), weights, classes * bins).reshape(classes, bins).astype(np.float64)

    return summed(None), summed(probabilities.ravel()), summed(targets.ravel())


def check_probabilities(targets: Bools, probabilities: Floats) -> None:
    """Raises ValueError if the shapes differ or a probability is not in [0, 1]."""
    if targets.shape != probabilities.shape or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"probabilities {probabilities.shape} must have the same shape as the targets {targets.shape} and lie within 0 and 1"
        )
