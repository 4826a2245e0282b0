"""Heads fitted by logistic regression: the chosen strength, the second fit, and the same weights in a network's head."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import BertConfig

from calm.evaluation.regression import fit_logistic
from calm.models.configuration import CalmConfig
from calm.models.heads import Head
from pipeline.heads.logistic import fit

STRENGTHS = [0.1, 0.01, 1.0]
TRAIN, VALIDATION = np.arange(60), np.arange(60, 90)
BOTH = np.concatenate([TRAIN, VALIDATION])


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    """Vectors (120, 6) of three classes, far from 0 and of unequal scale, one value always the same; and their targets."""
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 3, 120)
    values = draw.normal(size=(120, 6)) + labels[:, None] * [1, -1, 0.5, 0, 0, 0]
    values = values * [1, 10, 100, 1, 1, 0] + 40
    return values.astype(np.float32), np.eye(3, dtype=bool)[labels]


def by_hand(values, targets, rows, softmax, strength):
    """A regression on rows, of vectors scaled by the training split."""
    deviation = values[TRAIN].std(0)
    inputs = (values - values[TRAIN].mean(0)) / np.where(deviation > 1e-6, deviation, 1)
    return fit_logistic(inputs[rows], targets[rows], softmax, strength), inputs


@pytest.mark.parametrize("softmax", [True, False])
def test_validation_is_answered_by_the_first_fit_and_test_by_the_last(vectors, softmax):
    values, targets = vectors
    head = fit(values, targets, TRAIN, VALIDATION, BOTH, STRENGTHS, softmax)
    assert [entry["strength"] for entry in head.curve] == sorted(STRENGTHS)
    aucs = {}
    for entry in head.curve:
        linear, inputs = by_hand(values, targets, TRAIN, softmax, entry["strength"])
        aucs[entry["strength"]] = roc_auc_score(targets[VALIDATION], linear.probabilities(inputs[VALIDATION]), average="macro")
        assert entry["validation_auc"] == pytest.approx(aucs[entry["strength"]], abs=0.01)
    best = max(head.curve, key=lambda entry: entry["validation_auc"])["strength"]
    for linear, rows in ((head.first, TRAIN), (head.last, BOTH)):
        expected, inputs = by_hand(values, targets, rows, softmax, best)
        np.testing.assert_allclose(linear.probabilities(inputs), expected.probabilities(inputs), atol=0.01)
        np.testing.assert_allclose(head.logits(values, linear), inputs @ linear.weights.T + linear.bias, atol=1e-4)
    once = fit(values, targets, TRAIN, VALIDATION, None, STRENGTHS, softmax)
    assert once.last is once.first and np.array_equal(once.first.weights, head.first.weights)
    assert np.abs(head.last.weights - head.first.weights).max() > 1e-3


def test_an_averaged_head_answers_with_the_mean_of_both(vectors):
    """For any vector, though both scale their inputs otherwise; and so do the weights that are released."""
    values, targets = vectors
    other = fit(values * 2 + 3, targets, TRAIN, VALIDATION, BOTH, [0.01], True)
    own = fit(values, targets, TRAIN, VALIDATION, BOTH, [1.0], True)
    both, new = own.averaged(other), np.random.default_rng(2).normal(50, 20, (7, 6)).astype(np.float32)
    for name in ("first", "last"):
        expected = (own.logits(new, getattr(own, name)) + other.logits(new, getattr(other, name))) / 2
        np.testing.assert_allclose(both.logits(new, getattr(both, name)), expected, rtol=1e-4, atol=1e-3)
    assert np.abs(both.logits(new, both.last) - own.logits(new, own.last)).max() > 0.1


def test_losses_by_hand(vectors):
    """Cross-entropy of the training and of the validation split: of the right class, or the mean over the classes."""
    values, targets = vectors
    for softmax in (True, False):
        head = fit(values, targets, TRAIN, VALIDATION, None, [0.1], softmax)
        for name, rows in (("loss", TRAIN), ("validation_loss", VALIDATION)):
            p = head.first.probabilities((values[rows] - head.mean) / head.deviation)
            expected = -np.log(p[targets[rows]]).mean() if softmax else -np.log(np.where(targets[rows], p, 1 - p)).mean()
            assert head.curve[0][name] == pytest.approx(expected, rel=1e-5)


def test_without_both_kinds_on_validation_the_middle_strength_is_taken(vectors):
    values, targets = vectors
    targets = targets.copy()
    targets[VALIDATION] = [True, False, False]
    assert [entry["strength"] for entry in fit(values, targets, TRAIN, VALIDATION, None, STRENGTHS, True).curve] == [0.1]


@pytest.mark.parametrize("softmax", [True, False])
def test_a_head_of_a_network_answers_as_the_last_fit(vectors, softmax):
    values, targets = vectors
    fitted = fit(values, targets, TRAIN, VALIDATION, BOTH, STRENGTHS, softmax)
    text = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
    head = Head(CalmConfig(text, head_hidden=None, head_standardise=True), 3, 6).eval()
    fitted.write_to(head)
    with torch.no_grad():
        np.testing.assert_allclose(head(torch.from_numpy(values)), fitted.logits(values, fitted.last), atol=1e-4)
