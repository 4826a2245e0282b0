"""Tuned thresholds against brute force and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calm.evaluation import metrics
from calm.evaluation.thresholds import likeliest, tune_thresholds


def brute(targets, probabilities):
    """Best (TPR + TNR) / 2 over every threshold that decides differently."""
    cuts = [0.0, *np.unique(probabilities), 1.1]
    recall = [(probabilities >= cut)[targets].mean() + (probabilities < cut)[~targets].mean() for cut in cuts]
    return max(recall) / 2


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 15).flatmap(lambda rows: st.tuples(arrays(bool, (rows, 2)), arrays(np.float64, (rows, 2), elements=st.floats(0, 1)))))
def test_thresholds_are_the_best(pair):
    targets, probabilities = pair
    tuned = tune_thresholds(targets, probabilities)
    for column, threshold in enumerate(tuned):
        truth, scores = targets[:, column], probabilities[:, column]
        if truth.any() and not truth.all():
            reached = metrics.score("weighted_accuracy", truth[:, None], (scores >= threshold)[:, None])
            assert reached == pytest.approx(brute(truth, scores))
        else:
            assert threshold == 0.5


def test_thresholds_by_hand():
    targets = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    probabilities = np.array([[0.9, 0.2], [0.3, 0.1], [0.1, 0.8], [0.2, 0.1]])
    # first class: between 0.2 and 0.3; second: between 0.1 and 0.2
    assert tune_thresholds(targets, probabilities) == pytest.approx([0.25, 0.15])


def test_threshold_ties():
    targets = np.array([[1], [0], [1], [0]], bool)
    # Cuts between 0.8 and 0.6, and between 0.4 and 0.2, are equally good: 0.7 and 0.3 are as far from 0.5, the lower is taken.
    assert tune_thresholds(targets, np.array([[0.8], [0.6], [0.4], [0.2]])) == pytest.approx([0.3])
    assert tune_thresholds(targets, np.array([[0.8], [0.6], [0.45], [0.42]])) == pytest.approx([0.435])
    assert tune_thresholds(targets, np.array([[0.9], [0.1], [0.9], [0.3]])) == [0.5]  # 0.5 decides as well as 0.6
    # One probability for all, as chance has it: present or absent for all are equally good.
    assert tune_thresholds(targets, np.full((4, 1), 0.2)) == [0.5]
    assert tune_thresholds(targets, np.full((4, 1), 1.0)) == [0.5]


def test_thresholds_at_the_ends():
    targets, neighbour = np.array([[1], [0]], bool), np.nextafter(0.25, 1)
    assert tune_thresholds(targets, np.array([[1.0], [0.999]]))[0] == pytest.approx(0.9995)
    assert tune_thresholds(targets, np.array([[neighbour], [0.25]]))[0] == neighbour
    with pytest.raises(ValueError, match="numbers"):
        tune_thresholds(targets, np.array([[np.nan], [0.2]]))


def test_resampled_thresholds_by_hand():
    targets = np.array([[1, 0], [0, 0]], bool)
    # Half of the resamples hold both utterances, and cut the first class at 0.75; the others, of one class, do not count.
    assert tune_thresholds(targets, np.array([[0.8, 0.1], [0.7, 0.2]]), resamples=20) == pytest.approx([0.75, 0.5])
    certain = tune_thresholds(targets, np.array([[0.0, 0.1], [1.0, 0.2]]), resamples=20)
    assert np.isfinite(certain).all()  # a cut at 0 or 1 has no log-odds


def test_resampled_thresholds_are_the_mean_of_the_best_in_log_odds():
    rng = np.random.default_rng(4)
    targets = rng.random((30, 2)) < 0.3
    probabilities = np.clip(0.4 * targets + 0.6 * rng.random((30, 2)), 0, 1)
    drawn = np.random.default_rng(7).integers(30, size=(25, 30))
    cuts = np.array([tune_thresholds(targets[rows], probabilities[rows]) for rows in drawn])
    expected = np.log(cuts / (1 - cuts)).mean(0)
    tuned = tune_thresholds(targets, probabilities, resamples=25, seed=7)
    assert np.log(tuned / (1 - tuned)) == pytest.approx(expected)
    assert (tuned > cuts.min(0)).all() and (tuned < cuts.max(0)).all()


def test_likeliest():
    decisions = likeliest(np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]]))
    assert decisions.tolist() == [[False, True, False], [True, False, False]]
