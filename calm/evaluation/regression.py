"""Logistic regression on vectors: of the baselines, and of heads on representations that do not change."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calm.array_types import Bools, Floats, Ints

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

ITERATIONS = 300


@dataclass
class Linear:
    """A fitted regression. A class that all or none of the rows had has weights of 0.

    Attributes:
        weights, bias: (classes, width) and (classes,), of logits = inputs @ weights.T + bias.
        one_hot: whether probabilities are the softmax of the logits, else the sigmoid of each.
        unconverged: regressions that reached the limit of iterations.
    """

    weights: Floats
    bias: Floats
    one_hot: bool
    unconverged: int = 0

    def probabilities(self, inputs: Floats) -> Floats:
        """Of every class, (rows, classes), from inputs (rows, width)."""
        logits = inputs @ self.weights.T + self.bias
        if not self.one_hot:
            sigmoid: Floats = 1 / (1 + np.exp(-logits))
            return sigmoid
        odds: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        return odds


def fit_logistic(
    inputs: Floats,
    targets: Bools,
    one_hot: bool,
    strength: float,
    class_weight: str | None = "balanced",
    start: Linear | None = None,
) -> Linear:
    """Fit a multinomial regression for one-hot classes, else one regression per class.

    Args:
        inputs: standardised, (rows, width).
        targets: bool (rows, classes).
        strength: C, the inverse of the weight of the squared weights.
        class_weight: "balanced" weights classes by their rarity; None does not.
        start: weights to start from.
    """
    classes = targets.shape[1]
    linear = Linear(np.zeros((classes, inputs.shape[1]), inputs.dtype), _log_odds(targets.mean(axis=0)), one_hot)
    learned = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    tasks = [(targets.argmax(axis=1), learned)] if one_hot else [(targets[:, column], np.array([column])) for column in learned]
    for labels, columns in tasks if len(learned) else []:
        model = _model(strength, class_weight, start, columns)
        linear.unconverged += _fit(model, inputs, labels)
        if one_hot and len(columns) == 2:  # one row of weights, for the second class against the first
            linear.weights[columns], linear.bias[columns] = (
                [-model.coef_[0] / 2, model.coef_[0] / 2],
                [-model.intercept_[0] / 2, model.intercept_[0] / 2],
            )
        else:
            linear.weights[columns], linear.bias[columns] = model.coef_, model.intercept_
    return linear


def _log_odds(share: Floats) -> Floats:
    """Logits of the shares of the classes; far from 0 for a class that all or none have."""
    clipped = np.clip(share, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _model(strength: float, class_weight: str | None, start: Linear | None, columns: Ints) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight=class_weight, max_iter=ITERATIONS, tol=1e-3, warm_start=True)
    if start is not None and not (start.one_hot and len(columns) == 2):
        model.coef_, model.intercept_ = start.weights[columns].copy(), start.bias[columns].copy()
    return model


def _fit(model: "LogisticRegression", inputs: Floats, labels: Ints | Bools) -> bool:
    """Fit the model; returns whether it stopped at the limit of iterations."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, labels)
    return bool(np.max(model.n_iter_) >= model.max_iter)
