"""Linear heads on representations that do not change, fitted by logistic regression (`head.frozen_fit`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from calm.evaluation.regression import Linear, fit_logistic
from calm.models.heads import Head


@dataclass
class LogisticHead:
    """A linear head, fitted on the training split, and again on training and validation together where that is asked for.

    Attributes:
        first: answers validation, by which thresholds are tuned.
        last: answers test, and is released; `first` if it was fitted once.
        curve: an entry for each strength that was tried: `strength`, `loss` (training) and `validation_loss`.
    """

    mean: np.ndarray
    deviation: np.ndarray
    first: Linear
    last: Linear
    curve: list[dict]

    def logits(self, vectors: np.ndarray, linear: Linear) -> np.ndarray:
        """(rows, width) -> (rows, classes) float32."""
        return ((vectors - self.mean) / self.deviation @ linear.weights.T + linear.bias).astype(np.float32)

    def averaged(self, other: "LogisticHead") -> "LogisticHead":
        """The head whose logits are the mean of the logits of this one and another one, for any vector."""
        first, last = (self._mean_of(own, their, other) for own, their in ((self.first, other.first), (self.last, other.last)))
        return replace(self, first=first, last=last)

    def _mean_of(self, own: Linear, their: Linear, other: "LogisticHead") -> Linear:
        """Mean of a regression of this head and one of another head, on inputs that are standardised as those of this head."""
        weights = their.weights * (self.deviation / other.deviation)
        bias = their.bias + their.weights @ ((self.mean - other.mean) / other.deviation)
        return replace(own, weights=(own.weights + weights) / 2, bias=(own.bias + bias) / 2)

    def write_to(self, head: Head) -> None:
        """Put the released weights into a head without a hidden layer."""
        statistics, layer = head[0], head[-1]
        with torch.no_grad():
            for target, values in (
                (statistics.mean, self.mean),
                (statistics.deviation, self.deviation),
                (layer.weight, self.last.weights),
                (layer.bias, self.last.bias),
            ):
                target.copy_(torch.from_numpy(np.asarray(values)))


def fit(
    vectors: np.ndarray,
    targets: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    both: np.ndarray | None,
    strengths: Sequence[float],
    softmax: bool,
) -> LogisticHead:
    """Fit a head with the strength that ranks validation best: by the mean ROC AUC over the classes, the smallest one if several do.

    Args:
        vectors: (rows, width) float32; targets: bool (rows, classes).
        train, validation: row numbers; the rows of copies are among those of `train`.
        both: row numbers to fit again on; None: the head is fitted once.
        strengths: see `fit_logistic`.
        softmax: exactly one class is present, else each class is a question of its own.
    """
    mean, deviation = vectors[train].mean(0, dtype=np.float64), vectors[train].std(0, dtype=np.float64)
    mean, deviation = mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1).astype(np.float32)
    inputs = (vectors - mean) / deviation
    known = targets[validation].any(axis=0) & ~targets[validation].all(axis=0)
    order = sorted(strengths) if known.any() else sorted(strengths)[len(strengths) // 2 :][:1]
    best, chosen, linear, curve = -np.inf, None, None, []
    for strength in order:
        linear = fit_logistic(inputs[train], targets[train], softmax, strength, start=linear)
        probabilities = linear.probabilities(inputs[validation])
        auc = roc_auc_score(targets[validation][:, known], probabilities[:, known], average="macro") if known.any() else 0.0
        losses = {"loss": _loss(linear, inputs[train], targets[train])}
        losses["validation_loss"] = _loss(linear, inputs[validation], targets[validation])
        curve.append({"epoch": len(curve) + 1, "strength": strength, "validation_auc": float(auc), **losses})
        if auc > best:
            best, chosen = auc, (strength, linear)
    strength, first = chosen
    last = first if both is None else fit_logistic(inputs[both], targets[both], softmax, strength, start=first)
    return LogisticHead(mean, deviation, first, last, curve)


def _loss(linear: Linear, inputs: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross-entropy, of the softmax or of every class."""
    probabilities = np.clip(linear.probabilities(inputs), 1e-12, 1 - 1e-12)
    if linear.one_hot:
        return float(-np.log(probabilities[targets.astype(bool)]).mean())
    return float(-np.where(targets, np.log(probabilities), np.log1p(-probabilities)).mean())
