"""Metrics of appendix B and the standard ones beside them.

`targets` and `decisions` are bool (utterances, classes) everywhere. Everything that depends on decisions alone is computed from
the four counts of each class, so that a bootstrap over thousands of resamples is one matrix product and one call.

A class without a positive (or negative) has no recall (or specificity): it is left out of means, and named by `decided`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Counts:
    """True and false positives and negatives of each class: four arrays (..., classes), whole or weighted."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """TP / P, (..., classes); NaN without a positive."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> np.ndarray:
        """TN / N, (..., classes); NaN without a negative."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> np.ndarray:
        """TP / (TP + FP), (..., classes); NaN where nothing was decided positive."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> np.ndarray:
        """TP / (TP + (FP + FN) / 2), (..., classes); NaN where there is neither a positive nor a positive decision."""
        return _ratio(self.tp, self.tp + (self.fp + self.fn) / 2)

    @property
    def weighted_accuracy(self) -> np.ndarray:
        """(TP/P + TN/N) / 2 of each class, (..., classes); NaN without a positive or without a negative."""
        return (self.recall + self.specificity) / 2


def multi_hot(labels: Sequence[Sequence[str]], classes: Sequence[str], one_hot: bool = False) -> np.ndarray:
    """Lists of class names, one list an utterance, as bool (utterances, classes).

    Raises ValueError for a name that is no class, and with `one_hot` for an utterance that has not exactly one.
    """
    column = {name: number for number, name in enumerate(classes)}
    targets = np.zeros((len(labels), len(classes)), bool)
    for row, names in enumerate(labels):
        for name in names:
            if name not in column:
                raise ValueError(f"label '{name}' is none of the classes {', '.join(classes)}")
            targets[row, column[name]] = True
    if one_hot and (others := int((targets.sum(axis=1) != 1).sum())):
        raise ValueError(f"{others} utterances have no class or several, though each should have exactly one")
    return targets


def count(targets: np.ndarray, decisions: np.ndarray) -> Counts:
    """Counts of each class over all utterances. Raises ValueError where the arrays do not fit or are empty."""
    return Counts(*confusion(targets, decisions).sum(axis=0))


def confusion(targets: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """Which of TP, FP, FN and TN each utterance is for each class: bool (utterances, 4, classes)."""
    targets, decisions = np.asarray(targets), np.asarray(decisions)
    if targets.shape != decisions.shape or targets.ndim != 2 or not targets.size:
        raise ValueError(
            f"targets {targets.shape} and decisions {decisions.shape} must have one shape (utterances, classes) and not be empty"
        )
    if targets.dtype != bool or decisions.dtype != bool:
        raise ValueError(f"targets ({targets.dtype}) and decisions ({decisions.dtype}) must be bool: decide by a threshold first")
    return np.stack([targets & decisions, ~targets & decisions, targets & ~decisions, ~targets & ~decisions], axis=1)


def _weighted_accuracy(counts: Counts) -> np.ndarray:
    return _mean(counts.weighted_accuracy)


def _accuracy(counts: Counts) -> np.ndarray:
    return np.mean(_ratio(counts.tp + counts.tn, counts.tp + counts.tn + counts.fp + counts.fn), axis=-1)


def _f1_paper(counts: Counts) -> np.ndarray:
    right = counts.tp + counts.tn
    return np.where(np.sum(right, axis=-1) == 0, 0.0, _mean(counts.f1, right))  # nothing right: no F1 is above 0, however weighted


def _f1_macro(counts: Counts) -> np.ndarray:
    return _mean(counts.f1)


def _f1_micro(counts: Counts) -> np.ndarray:
    return Counts(*(np.sum(part, axis=-1) for part in (counts.tp, counts.fp, counts.fn, counts.tn))).f1


def _f1_weighted(counts: Counts) -> np.ndarray:
    return _mean(counts.f1, counts.tp + counts.fn)


def _balanced_accuracy(counts: Counts) -> np.ndarray:
    return _mean(counts.recall)


OF_COUNTS: dict[str, Callable[[Counts], np.ndarray]] = {
    "weighted_accuracy": _weighted_accuracy,
    "accuracy": _accuracy,
    "f1_paper": _f1_paper,
    "f1_macro": _f1_macro,
    "f1_micro": _f1_micro,
    "f1_weighted": _f1_weighted,
    "balanced_accuracy": _balanced_accuracy,
}  # from counts (..., classes) to values (...)

# What a class needs to count in each mean
_PARTS = {
    "weighted_accuracy": "weighted_accuracy",
    "f1_paper": "f1",
    "f1_macro": "f1",
    "f1_weighted": "f1",
    "balanced_accuracy": "recall",
}


def weighted_accuracy(targets: np.ndarray, decisions: np.ndarray) -> float:
    """WA of appendix B: (1 / 2C) sum_c (TP_c/P_c + TN_c/N_c), over the classes that have a positive and a negative.

    `decided` names the classes left out. NaN where none is left. The decisions "all" and "none" have 0.5.
    """
    return float(_weighted_accuracy(count(targets, decisions)))


def accuracy(targets: np.ndarray, decisions: np.ndarray) -> float:
    """Acc of appendix B as a mean (it is printed without 1/C): mean over the classes of (TP_c + TN_c) / (P_c + N_c).

    With C one-hot classes, "never anything" has 1 - 1/C: 0.875 for eight.
    """
    return float(_accuracy(count(targets, decisions)))


def f1_paper(targets: np.ndarray, decisions: np.ndarray) -> float:
    """The F1 that appendix B calls micro: each class's F1, weighted by its share (TP_c + TN_c) / (sum TP + sum TN) of right answers."""
    return float(_f1_paper(count(targets, decisions)))


def f1_macro(targets: np.ndarray, decisions: np.ndarray) -> float:
    """Mean of the classes' F1; as scikit-learn's with `zero_division=nan`."""
    return float(_f1_macro(count(targets, decisions)))


def f1_micro(targets: np.ndarray, decisions: np.ndarray) -> float:
    """F1 of the counts summed over the classes; as scikit-learn's."""
    return float(_f1_micro(count(targets, decisions)))


def f1_weighted(targets: np.ndarray, decisions: np.ndarray) -> float:
    """Mean of the classes' F1 weighted by their positives; as scikit-learn's."""
    return float(_f1_weighted(count(targets, decisions)))


def balanced_accuracy(targets: np.ndarray, decisions: np.ndarray) -> float:
    """Mean recall of the classes that have a positive. Equals scikit-learn's for argmax decisions of a one-hot task."""
    return float(_balanced_accuracy(count(targets, decisions)))


def exact_match(targets: np.ndarray, decisions: np.ndarray) -> float:
    """Share of utterances whose classes are all decided rightly: plain accuracy for argmax decisions of a one-hot task."""
    return float(1 - confusion(targets, decisions)[:, 1:3].any(axis=(1, 2)).mean())


@dataclass
class Result:
    """Values by the metric's name (never NaN), and by the same names the classes that a value leaves out.

    A metric that is not defined on these utterances is in `left_out` and not in `values`.
    """

    values: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: float, left_out: Sequence[str] = ()) -> None:
        """Keep a value that is a number, and name the classes that are not in it."""
        if np.isfinite(value):
            self.values[name] = float(value)
        if left_out or not np.isfinite(value):
            self.left_out[name] = list(left_out)


def decided(targets: np.ndarray, decisions: np.ndarray, classes: Sequence[str], argmax: bool = False) -> Result:
    """Every metric of decisions, and `weighted_accuracy/<class>`, `f1/<class>`, `recall/<class>` and `precision/<class>`.

    Args:
        targets, decisions: bool (utterances, classes).
        argmax: the decisions are the likeliest class of a one-hot task: `exact_match` is then called `accuracy_argmax`.
    """
    counts, result = count(targets, decisions), Result()
    for name, metric in OF_COUNTS.items():
        absent = np.isnan(getattr(counts, _PARTS[name])) if name in _PARTS else np.zeros(len(classes), bool)
        result.add(name, metric(counts), _named(classes, absent))
    result.add("accuracy_argmax" if argmax else "exact_match", exact_match(targets, decisions))
    for part in ("weighted_accuracy", "f1", "recall", "precision"):
        for label, value in zip(classes, getattr(counts, part), strict=True):
            result.add(f"{part}/{label}", value, [label] if np.isnan(value) else [])
    return result


def ranked(targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Result:
    """Metrics that need no decision: `auc_macro`, `average_precision_macro` and `ece`."""
    result = Result()
    positive, negative = targets.any(axis=0), (~targets).any(axis=0)
    both = positive & negative
    result.add("auc_macro", auc_macro(targets, probabilities), _named(classes, ~both))
    result.add("average_precision_macro", average_precision_macro(targets, probabilities), _named(classes, ~positive))
    result.add("ece", ece(targets, probabilities))
    return result


def auc_macro(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean area under the ROC curve over the classes that have a positive and a negative; NaN where none has."""
    return _by_scikit_learn("roc_auc_score", targets, probabilities, targets.any(axis=0) & (~targets).any(axis=0))


def average_precision_macro(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean average precision over the classes that have a positive; NaN where none has."""
    return _by_scikit_learn("average_precision_score", targets, probabilities, targets.any(axis=0))


def _by_scikit_learn(name: str, targets: np.ndarray, probabilities: np.ndarray, keep: np.ndarray) -> float:
    import sklearn
    from sklearn import metrics

    _check(targets, probabilities)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):  # its checks cost as much as the metric
        return float(getattr(metrics, name)(targets[:, keep], probabilities[:, keep], average="macro")) if keep.any() else float("nan")


def ece(targets: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error, the mean over classes: sum over bins of n_bin / n * |mean probability - share of positives|.

    Bins are equally wide, and each class is a binary question, as the heads' binary cross-entropy asks it (4.6).
    """
    sizes, predicted, observed = reliability(targets, probabilities, bins)
    return float((np.abs(predicted - observed).sum(axis=1) / sizes.sum(axis=1)).mean())


def reliability(targets: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Utterances, sum of probabilities, and positives in each of the equally wide bins: three float arrays (classes, bins)."""
    _check(targets, probabilities)
    classes = targets.shape[1]
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1) + np.arange(classes) * bins
    sums = (np.bincount(place.ravel(), weights, classes * bins) for weights in (None, probabilities.ravel(), targets.ravel()))
    return tuple(part.reshape(classes, bins).astype(float) for part in sums)


def _check(targets: np.ndarray, probabilities: np.ndarray) -> None:
    if targets.shape != probabilities.shape or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(f"probabilities {probabilities.shape} must be of targets' shape {targets.shape} and within 0 and 1")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole != 0)


def _mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of (..., classes) over the classes whose value is no NaN; NaN where there is none."""
    weights = np.where(np.isnan(values), 0.0, 1.0 if weights is None else weights)
    return _ratio((np.nan_to_num(values) * weights).sum(axis=-1), weights.sum(axis=-1))


def _named(classes: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [label for label, one in zip(classes, chosen, strict=True) if one]
