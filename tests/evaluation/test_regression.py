"""Logistic regression against scikit-learn's, and where there is nothing to learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from calm.evaluation.regression import fit_logistic


def data(classes: int, rows: int = 90):
    """Inputs (rows, 4) that tell some of the class, and the class of each row; classes are not equally frequent."""
    draw = np.random.default_rng(0)
    labels = np.minimum(draw.integers(0, classes + 1, rows), classes - 1)
    return draw.normal(size=(rows, 4)) + labels[:, None] * [1, -1, 0, 0.5], labels


def sklearn(inputs, labels, weight="balanced") -> LogisticRegression:
    return LogisticRegression(C=0.1, class_weight=weight, tol=1e-8, max_iter=1000).fit(inputs, labels)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weight", ["balanced", None])
def test_one_hot_is_the_multinomial_regression(classes, weight):
    inputs, labels = data(classes)
    found = fit_logistic(inputs, np.eye(classes, dtype=bool)[labels], True, 0.1, weight)
    expected = sklearn(inputs, labels, weight)
    np.testing.assert_allclose(found.probabilities(inputs), expected.predict_proba(inputs), atol=0.01)
    np.testing.assert_allclose(found.probabilities(inputs).sum(1), 1)
    assert (found.weights.shape, found.bias.shape, found.unconverged) == ((classes, 4), (classes,), 0)
    if classes == 2:
        np.testing.assert_allclose(found.weights[0], -found.weights[1])
        np.testing.assert_allclose(found.weights[1] - found.weights[0], expected.coef_[0], atol=0.02)


def test_a_class_that_training_lacks_is_never_likely():
    """Of four classes the second has no rows: the others are told apart as if it were not there."""
    inputs, labels = data(3)
    targets = np.eye(4, dtype=bool)[np.array([0, 2, 3])[labels]]
    found = fit_logistic(inputs, targets, True, 0.1)
    probabilities = found.probabilities(inputs)
    assert probabilities[:, 1].max() < 1e-5 and not found.weights[1].any()
    np.testing.assert_allclose(probabilities[:, [0, 2, 3]], sklearn(inputs, labels).predict_proba(inputs), atol=0.01)


def test_several_classes_are_a_regression_each_and_constant_ones_stay_constant():
    """The first two are learned, the third holds for all and the fourth for none."""
    inputs, labels = data(3)
    targets = np.stack([labels > 0, labels != 1, np.ones(90, bool), np.zeros(90, bool)], 1)
    found = fit_logistic(inputs, targets, False, 0.1)
    probabilities = found.probabilities(inputs)
    for column in (0, 1):
        expected = sklearn(inputs, targets[:, column]).predict_proba(inputs)[:, 1]
        np.testing.assert_allclose(probabilities[:, column], expected, atol=0.01)
    assert probabilities[:, 2].min() > 1 - 1e-6 and probabilities[:, 3].max() < 1e-6 and not found.weights[2:].any()
    nothing = fit_logistic(inputs, targets[:, 2:], False, 0.1)
    assert not nothing.weights.any() and nothing.unconverged == 0


@pytest.mark.parametrize("one_hot", [True, False])
def test_a_start_changes_the_way_and_not_the_end(one_hot):
    inputs, labels = data(3)
    targets = np.eye(3, dtype=bool)[labels]
    cold = fit_logistic(inputs, targets, one_hot, 0.1)
    warm = fit_logistic(inputs, targets, one_hot, 0.1, start=fit_logistic(inputs, targets, one_hot, 0.01))
    np.testing.assert_allclose(warm.probabilities(inputs), cold.probabilities(inputs), atol=0.01)


def test_regressions_that_do_not_end_are_counted(monkeypatch):
    monkeypatch.setattr("calm.evaluation.regression.ITERATIONS", 1)
    inputs, labels = data(3)
    assert fit_logistic(inputs, np.eye(3, dtype=bool)[labels], False, 100.0).unconverged == 3
