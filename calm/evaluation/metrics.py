"""Metrics of appendix B and standard ones. `METRICS` is the registry: an entry there is all that a new metric needs.

`targets` and `decisions` are bool (utterances, classes) everywhere. Whatever depends on decisions alone is computed from the four
counts of each class, so that a bootstrap over thousands of resamples is one matrix product and one call.

A class without a positive has no recall, and a class without a negative has no specificity. Such classes are left out of the means
that need them, and `decided` and `ranked` name them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calm.array_types import Bools, Floats, Floats64
from calm.evaluation.calibration import check_probabilities, expected_calibration_error

Numbers = npt.NDArray[np.integer[Any]] | npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Counts:
    """True and false positives and negatives of each class: four arrays (..., classes), integers or weighted sums."""

    tp: Numbers
    fp: Numbers
    fn: Numbers
    tn: Numbers

    @property
    def recall(self) -> Floats64:
        """TP / P, (..., classes); NaN without a positive."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Floats64:
        """TN / N, (..., classes); NaN without a negative."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> Floats64:
        """TP / (TP + FP), (..., classes); NaN without a positive decision."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> Floats64:
        """TP / (TP + (FP + FN) / 2), (..., classes); NaN without a positive and without a positive decision."""
        return _ratio(self.tp, self.tp + (self.fp + self.fn) / 2)

    @property
    def accuracy(self) -> Floats64:
        """(TP + TN) / n of each class, (..., classes)."""
        return _ratio(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn)

    @property
    def weighted_accuracy(self) -> Floats64:
        """(TP/P + TN/N) / 2 of each class, (..., classes); NaN without a positive or without a negative."""
        return (self.recall + self.specificity) / 2


def count(targets: Bools, decisions: Bools) -> Counts:
    """Counts of each class over all utterances. Raises ValueError as `confusion` does."""
    return Counts(*confusion(targets, decisions).sum(axis=0))


def confusion(targets: Bools, decisions: Bools) -> Bools:
    """Which of TP, FP, FN and TN each utterance is for each class: bool (utterances, 4, classes).

    Raises ValueError if the shapes differ, the arrays are empty, or they are not bool.
    """
    targets, decisions = np.asarray(targets), np.asarray(decisions)
    if targets.shape != decisions.shape or targets.ndim != 2 or not targets.size:
        raise ValueError(
            f"targets {targets.shape} and decisions {decisions.shape} must have the same shape (utterances, classes) and must not be empty"
        )
    if targets.dtype != bool or decisions.dtype != bool:
        raise ValueError(f"targets ({targets.dtype}) and decisions ({decisions.dtype}) must be bool: apply a threshold first")
    return np.stack([targets & decisions, ~targets & decisions, targets & ~decisions, ~targets & ~decisions], axis=1)


def weighted_accuracy(counts: Counts) -> Floats64:
    """WA of appendix B: (1 / 2C) sum_c (TP_c/P_c + TN_c/N_c), over the classes that have a positive and a negative.

    NaN if no class has both. Deciding "all" or "none" of the classes gives 0.5.
    """
    return _mean(counts.weighted_accuracy)


def accuracy(counts: Counts) -> Floats64:
    """Acc of appendix B as a mean (the paper prints it without 1/C): mean over the classes of (TP_c + TN_c) / (P_c + N_c).

    With C one-hot classes, deciding "none" gives 1 - 1/C: 0.875 for eight.
    """
    share: Floats64 = np.mean(counts.accuracy, axis=-1)
    return share


def f1_paper(counts: Counts) -> Floats64:
    """What appendix B calls micro F1: the sum of the classes' F1, weighted by (TP_c + TN_c) / (n C).

    The calligraphic TP and TN are "the total number of positive and negative labels", so the denominator counts all labels: n utterances
    by C classes. The weights add up to `accuracy`, not to 1. A class without F1 is left out of the sum and of C.
    """
    return _mean(counts.f1 * counts.accuracy)


def f1_right_answers(counts: Counts) -> Floats64:
    """The other reading of appendix B: weights (TP_c + TN_c) / (sum TP + sum TN), each class's share of the right answers."""
    right = counts.tp + counts.tn
    return np.where(np.sum(right, axis=-1) == 0, 0.0, _mean(counts.f1, right))  # without a right answer, every F1 is 0


def f1_macro(counts: Counts) -> Floats64:
    """Mean F1 of the classes; equals scikit-learn's with `zero_division=nan`."""
    return _mean(counts.f1)


def f1_micro(counts: Counts) -> Floats64:
    """F1 of the counts summed over the classes; equals scikit-learn's."""
    return Counts(*(np.sum(part, axis=-1) for part in (counts.tp, counts.fp, counts.fn, counts.tn))).f1


def f1_weighted(counts: Counts) -> Floats64:
    """Mean F1 of the classes weighted by their positives; equals scikit-learn's."""
    return _mean(counts.f1, counts.tp + counts.fn)


def balanced_accuracy(counts: Counts) -> Floats64:
    """Mean recall of the classes that have a positive. Equals scikit-learn's for argmax decisions of a one-hot task."""
    return _mean(counts.recall)


def exact_match(targets: Bools, decisions: Bools) -> float:
    """Share of utterances whose classes are all decided correctly: plain accuracy for argmax decisions of a one-hot task."""
    return float(1 - confusion(targets, decisions)[:, 1:3].any(axis=(1, 2)).mean())


def auc_macro(targets: Bools, probabilities: Floats) -> float:
    """Mean area under the ROC curve over the classes that have a positive and a negative; NaN if none has both."""
    return _by_scikit_learn("roc_auc_score", targets, probabilities, np.any(targets, axis=0) & np.any(~targets, axis=0))


def average_precision_macro(targets: Bools, probabilities: Floats) -> float:
    """Mean average precision over the classes that have a positive; NaN if none has one."""
    return _by_scikit_learn("average_precision_score", targets, probabilities, np.any(targets, axis=0))


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, which classes it can use, and how a report explains it."""

    title: str
    description: str  # one or two sentences for a report
    formula: str = ""  # HTML; empty if the description says it all
    of_counts: Callable[[Counts], Floats64] | None = None  # counts (..., classes) -> (...)
    of_probabilities: Callable[[Bools, Floats], float] | None = None  # targets and probabilities (utterances, classes)
    requires: str | None = None  # property of `Counts` that must be a number for a class to be in the mean; None: all classes are


# A metric with neither function is computed by `decided` itself.
METRICS: dict[str, Metric] = {
    "weighted_accuracy": Metric(
        "weighted accuracy",
        "The mean of the true positive and the true negative rate, over the classes (appendix B). Knowing nothing gives 50.",
        "1/(2C) Σ<sub>c</sub> (TP<sub>c</sub>/P<sub>c</sub> + TN<sub>c</sub>/N<sub>c</sub>)",
        of_counts=weighted_accuracy,
        requires="weighted_accuracy",
    ),
    "accuracy": Metric(
        "accuracy",
        "The share of correct yes-or-no answers, over the classes (appendix B). High for rare classes even if none is ever predicted.",
        "1/C Σ<sub>c</sub> (TP<sub>c</sub> + TN<sub>c</sub>)/(P<sub>c</sub> + N<sub>c</sub>)",
        of_counts=accuracy,
    ),
    "f1_paper": Metric(
        "F1 (paper)",
        "What appendix B calls micro F1: the F1 of each class, weighted by its right answers among all labels, n utterances by C classes.",
        "Σ<sub>c</sub> w<sub>c</sub> F1<sub>c</sub>, &nbsp;w<sub>c</sub> = (TP<sub>c</sub> + TN<sub>c</sub>)/(n C)",
        of_counts=f1_paper,
        requires="f1",
    ),
    "f1_right_answers": Metric(
        "F1 (right answers)",
        "Another reading of appendix B: the F1 of each class, weighted by its share of all right answers. The weights add up to 1.",
        "Σ<sub>c</sub> w<sub>c</sub> F1<sub>c</sub>, &nbsp;w<sub>c</sub> = (TP<sub>c</sub> + TN<sub>c</sub>)/Σ (TP + TN)",
        of_counts=f1_right_answers,
        requires="f1",
    ),
    "f1_macro": Metric(
        "F1 (macro)",
        "The plain mean of the classes' F1.",
        "1/C Σ<sub>c</sub> F1<sub>c</sub>",
        of_counts=f1_macro,
        requires="f1",
    ),
    "f1_micro": Metric("F1 (micro)", "F1 of the counts summed over the classes.", of_counts=f1_micro),
    "f1_weighted": Metric(
        "F1 (weighted)", "The mean of the classes' F1, weighted by their positives.", of_counts=f1_weighted, requires="f1"
    ),
    "balanced_accuracy": Metric(
        "balanced accuracy",
        "The mean recall of the classes. For the most likely class, it is what EmoBox calls UA (unweighted accuracy).",
        "1/C Σ<sub>c</sub> TP<sub>c</sub>/P<sub>c</sub>",
        of_counts=balanced_accuracy,
        requires="recall",
    ),
    "exact_match": Metric("exact match", "The share of utterances whose classes are all decided correctly."),
    "accuracy_argmax": Metric(
        "accuracy (argmax)",
        "The share of utterances whose likeliest class is the right one: plain accuracy, which EmoBox calls WA (weighted accuracy).",
        "1/n Σ<sub>c</sub> TP<sub>c</sub>",
    ),
    "macro_f1_argmax": Metric(
        "macro F1 (argmax)",
        "The plain mean of the classes' F1 where the likeliest class is decided, EmoBox's macro F1.",
        "1/C Σ<sub>c</sub> F1<sub>c</sub>",
        requires="f1",
    ),
    "auc_macro": Metric(
        "ROC AUC",
        "The mean over the classes of the area under the ROC curve, which needs no threshold. Knowing nothing gives 50.",
        of_probabilities=auc_macro,
        requires="weighted_accuracy",
    ),
    "average_precision_macro": Metric(
        "average precision",
        "The mean over the classes of the area under the precision-recall curve, which needs no threshold.",
        of_probabilities=average_precision_macro,
        requires="recall",
    ),
    "ece": Metric(
        "expected calibration error",
        "The mean distance between predicted probabilities and observed shares, in ten bins. Lower is better.",
        of_probabilities=expected_calibration_error,
    ),
}

OF_COUNTS = {name: metric.of_counts for name, metric in METRICS.items() if metric.of_counts}
OF_PROBABILITIES = {name: metric.of_probabilities for name, metric in METRICS.items() if metric.of_probabilities}
BY_CLASS = ("weighted_accuracy", "f1", "recall", "precision")  # properties of `Counts` that are reported for each class


@dataclass
class Result:
    """Values by the metric's name (never NaN), and by the same names the classes that a value leaves out.

    A metric that is not defined on these utterances is in `left_out` and not in `values`.
    """

    values: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: float | Floats64, left_out: Sequence[str] = ()) -> None:
        """Keep a finite value, and name the classes that it leaves out."""
        if np.isfinite(value):
            self.values[name] = float(value)
        if left_out or not np.isfinite(value):
            self.left_out[name] = list(left_out)


def score(name: str, targets: Bools, decisions: Bools) -> float:
    """One metric of `OF_COUNTS` on all utterances; NaN if it is not defined on them."""
    return float(OF_COUNTS[name](count(targets, decisions)))


def decided(targets: Bools, decisions: Bools, classes: Sequence[str], argmax: bool = False) -> Result:
    """Every metric of decisions, and `weighted_accuracy/<class>`, `f1/<class>`, `recall/<class>` and `precision/<class>`.

    Args:
        targets, decisions: bool (utterances, classes).
        argmax: the decisions are the likeliest class of a one-hot task; `exact_match` is then called `accuracy_argmax`,
            and `macro_f1_argmax` stands beside it.
    """
    counts, result = count(targets, decisions), Result()
    for name, function in OF_COUNTS.items():
        result.add(name, function(counts), _left_out(name, counts, classes))
    result.add("accuracy_argmax" if argmax else "exact_match", exact_match(targets, decisions))
    if argmax:
        result.add("macro_f1_argmax", f1_macro(counts), _left_out("macro_f1_argmax", counts, classes))
    for part in BY_CLASS:
        for label, value in zip(classes, getattr(counts, part), strict=True):
            result.add(f"{part}/{label}", value, [label] if np.isnan(value) else [])
    return result


def ranked(targets: Bools, probabilities: Floats, classes: Sequence[str]) -> Result:
    """Every metric of probabilities: those that need no decision."""
    counts, result = count(targets, targets), Result()  # decisions do not matter for what these metrics require
    for name, function in OF_PROBABILITIES.items():
        result.add(name, function(targets, probabilities), _left_out(name, counts, classes))
    return result


def _left_out(name: str, counts: Counts, classes: Sequence[str]) -> list[str]:
    """Classes that a metric's mean does not include."""
    requires = METRICS[name].requires
    undefined = np.isnan(getattr(counts, requires)) if requires else np.zeros(len(classes), bool)
    return [label for label, is_undefined in zip(classes, undefined, strict=True) if is_undefined]


def _by_scikit_learn(name: str, targets: Bools, probabilities: Floats, usable: Bools) -> float:
    import sklearn
    from sklearn import metrics

    check_probabilities(targets, probabilities)
    if not usable.any():
        return float("nan")
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):  # these checks cost as much as the metric
        return float(getattr(metrics, name)(targets[:, usable], probabilities[:, usable], average="macro"))


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats64:
    """part / whole; NaN where the whole is 0."""
    above, below = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    ratio: Floats64 = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=ratio, where=below != 0)
    return ratio


def _mean(values: Floats64, weights: Numbers | None = None) -> Floats64:
    """Weighted mean of (..., classes) over the classes whose value is not NaN; NaN if there are none."""
    weights = np.where(np.isnan(values), 0.0, 1.0 if weights is None else weights)
    return _ratio((np.nan_to_num(values) * weights).sum(axis=-1), weights.sum(axis=-1))
