"""Thresholds, bootstrap, calibration and retrieval against brute force and hand-computed numbers."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calm.evaluation import metrics, resampling, retrieval, thresholds


def brute(targets, probabilities):
    """Best (TPR + TNR) / 2 over every threshold that decides differently."""
    cuts = [0.0, *np.unique(probabilities), 1.1]
    recall = [(probabilities >= cut)[targets].mean() + (probabilities < cut)[~targets].mean() for cut in cuts]
    return max(recall) / 2


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 15).flatmap(lambda rows: st.tuples(arrays(bool, (rows, 2)), arrays(np.float64, (rows, 2), elements=st.floats(0, 1)))))
def test_thresholds_are_the_best(pair):
    targets, probabilities = pair
    tuned = thresholds.tune_thresholds(targets, probabilities)
    for column, threshold in enumerate(tuned):
        truth, scores = targets[:, column], probabilities[:, column]
        if truth.any() and not truth.all():
            reached = metrics.weighted_accuracy(truth[:, None], (scores >= threshold)[:, None])
            assert reached == pytest.approx(brute(truth, scores))
        else:
            assert threshold == 0.5


def test_thresholds_by_hand():
    targets = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    probabilities = np.array([[0.9, 0.2], [0.3, 0.1], [0.1, 0.8], [0.2, 0.1]])
    # first class: between 0.2 and 0.3; second: between 0.1 and 0.2
    assert thresholds.tune_thresholds(targets, probabilities) == pytest.approx([0.25, 0.15])


def test_threshold_ties():
    targets = np.array([[1], [0], [1], [0]], bool)
    # Cuts between 0.8 and 0.6, and between 0.4 and 0.2, are equally good: 0.7 and 0.3 are as far from 0.5, the lower is taken.
    assert thresholds.tune_thresholds(targets, np.array([[0.8], [0.6], [0.4], [0.2]])) == pytest.approx([0.3])
    assert thresholds.tune_thresholds(targets, np.array([[0.8], [0.6], [0.45], [0.42]])) == pytest.approx([0.435])
    assert thresholds.tune_thresholds(targets, np.array([[0.9], [0.1], [0.9], [0.3]])) == [0.5]  # 0.5 decides as well as 0.6
    # One probability for all, as chance has it: present or absent for all are equally good.
    assert thresholds.tune_thresholds(targets, np.full((4, 1), 0.2)) == [0.5]
    assert thresholds.tune_thresholds(targets, np.full((4, 1), 1.0)) == [0.5]


def test_thresholds_at_the_ends():
    targets, neighbour = np.array([[1], [0]], bool), np.nextafter(0.25, 1)
    assert thresholds.tune_thresholds(targets, np.array([[1.0], [0.999]]))[0] == pytest.approx(0.9995)
    assert thresholds.tune_thresholds(targets, np.array([[neighbour], [0.25]]))[0] == neighbour
    with pytest.raises(ValueError, match="numbers"):
        thresholds.tune_thresholds(targets, np.array([[np.nan], [0.2]]))


def test_likeliest():
    decisions = thresholds.likeliest(np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]]))
    assert decisions.tolist() == [[False, True, False], [True, False, False]]


def corpus(rows=240, speakers=12, seed=0):
    draw = np.random.default_rng(seed)
    targets = draw.random((rows, 4)) < 0.3
    better, worse = (targets ^ (draw.random(targets.shape) < share) for share in (0.1, 0.3))
    return targets, better, worse, [f"speaker{number}" for number in draw.integers(0, speakers, rows)]


def test_resamples_are_the_metric_of_the_drawn_speakers():
    targets, better, _, speakers = corpus()
    resamples = resampling.Resamples.of(speakers, 20, seed=5)
    found = resamples.metrics(targets, better, metrics.OF_COUNTS)
    for name in metrics.OF_COUNTS:
        assert found[name].shape == (21,)
        assert found[name][0] == pytest.approx(getattr(metrics, name)(targets, better))
        for index in (1, 7, 20):
            rows = np.repeat(np.arange(len(targets)), resamples.weights[index].astype(int)[resamples.groups])
            assert found[name][index] == pytest.approx(getattr(metrics, name)(targets[rows], better[rows]))


def test_bootstrap_of_a_clear_and_of_no_difference():
    targets, better, worse, speakers = corpus()
    clear = resampling.bootstrap_difference(targets, [better], [worse], speakers)
    assert clear["difference"] == pytest.approx(metrics.weighted_accuracy(targets, better) - metrics.weighted_accuracy(targets, worse))
    assert 0 < clear["low"] < clear["difference"] < clear["high"]
    assert clear["significant"]
    assert resampling.bootstrap_difference(targets, [better], [worse], speakers) == clear  # seeded
    same = resampling.bootstrap_difference(targets, [better], [better], speakers)
    assert (same["difference"], same["low"], same["high"], same["significant"]) == (0, 0, 0, False)


def test_bootstrap_averages_the_metric_over_seeds():
    targets, better, worse, speakers = corpus()
    both = resampling.bootstrap_difference(targets, [better, worse], [worse], speakers, "accuracy")
    one = resampling.bootstrap_difference(targets, [better], [worse], speakers, "accuracy")
    assert both["difference"] == pytest.approx(one["difference"] / 2)


def test_speakers_make_the_interval_wider():
    # Every speaker is wholly right or wholly wrong: utterances drawn alone would promise too much.
    targets = np.tile([[1], [0]], (100, 1)).astype(bool)
    speakers = np.repeat([f"s{n}" for n in range(10)], 20)
    guess = np.where(np.isin(speakers, ["s0", "s1", "s2", "s3"])[:, None], ~targets, targets)
    width = {}
    for name, groups in (("speakers", speakers), ("utterances", [None] * 200)):
        found = resampling.bootstrap_difference(targets, [guess], [np.zeros_like(targets)], groups)
        width[name] = found["high"] - found["low"]
    assert width["speakers"] > 3 * width["utterances"]


def test_unknown_speakers_and_a_single_one():
    assert resampling.Resamples.of(["", None, "Unknown", "a", "a"], 3, 0).speakers == 4
    targets, better, worse, _ = corpus()
    alone = resampling.bootstrap_difference(targets, [better], [worse], ["same"] * len(targets))
    assert alone["difference"] > 0
    assert alone["low"] is alone["high"] is alone["significant"] is None


def test_calibration():
    targets = np.array([[1, 0], [0, 0], [1, 1]], bool)
    probabilities = np.array([[0.92, 0.05], [0.94, 0.0], [1.0, 0.55]])
    rows = thresholds.calibration(targets, probabilities)
    assert [(row["low"], row["n"]) for row in rows] == [(0.0, 2), (0.5, 1), (0.9, 3)]
    assert rows[2]["predicted"] == pytest.approx(2.86 / 3)
    assert rows[2]["observed"] == pytest.approx(2 / 3)


def test_retrieval_by_hand():
    keys = np.eye(4)
    queries = np.array([[1, 0.5, 0, 0], [1, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]])  # ranks 1, 2, 2, 1
    found = retrieval.retrieval(queries, keys, ranks=(1, 2))
    assert found["recall_at_1"] == 0.5
    assert found["recall_at_2"] == 1
    assert found["median_rank"] == 1.5
    assert (found["n"], found["chance_recall_at_1"], found["chance_median_rank"]) == (4, pytest.approx(0.25), 2.5)


def test_retrieval_of_collapsed_vectors_is_chance():
    for groups in (None, np.arange(60) // 3, ["one"] * 50 + [f"other{n}" for n in range(10)]):
        found = retrieval.retrieval(np.ones((60, 8)), np.full((60, 8), 0.3), groups)
        for k in (1, 5, 10):
            assert found[f"recall_at_{k}"] == pytest.approx(found[f"chance_recall_at_{k}"])
        assert found["median_rank"] == pytest.approx(found["chance_median_rank"])


def test_retrieval_of_random_vectors_is_near_chance():
    draw = np.random.default_rng(0)
    groups = np.arange(600) // 2
    found = retrieval.retrieval(draw.normal(size=(600, 32)), draw.normal(size=(600, 32)), groups)
    assert found["chance_recall_at_10"] == pytest.approx(1 - (590 / 600) * (589 / 599))
    assert found["recall_at_10"] == pytest.approx(found["chance_recall_at_10"], abs=0.02)
    assert found["median_rank"] == pytest.approx(found["chance_median_rank"], rel=0.3)


def test_identical_texts_are_right():
    keys = np.array([[1, 0], [1, 0], [0, 1.0]])
    queries = np.array([[1, 0], [1, 0], [0, 1.0]])
    alone = retrieval.retrieval(queries, keys, ranks=(1,))
    assert alone["recall_at_1"] == pytest.approx((0.5 + 0.5 + 1) / 3)  # one of two equal keys, as in random order
    assert retrieval.retrieval(queries, keys, groups=["hello", "hello", "bye"], ranks=(1,))["recall_at_1"] == 1


def test_retrieval_in_chunks_and_far_ranks():
    draw = np.random.default_rng(1)
    keys = draw.normal(size=(50, 6))
    queries = keys + draw.normal(size=keys.shape)
    groups = draw.integers(0, 30, 50)
    assert retrieval.retrieval(queries, keys, groups, chunk=120) == retrieval.retrieval(queries, keys, groups)
    few = retrieval.retrieval(keys[:3], keys[:3])
    assert few["recall_at_10"] == few["chance_recall_at_10"] == 1


def test_retrieval_of_zeros_and_nan():
    assert retrieval.retrieval(np.zeros((4, 3)), np.eye(4, 3), ranks=(1,))["recall_at_1"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="NaN"):
        retrieval.retrieval(np.full((2, 3), np.nan), np.eye(2, 3))
    with pytest.raises(ValueError, match="one shape"):
        retrieval.retrieval(np.eye(3), np.eye(2, 3))
    with pytest.raises(ValueError, match="groups"):
        retrieval.retrieval(np.eye(3), np.eye(3), groups=["a"])


def test_it_is_fast():
    draw = np.random.default_rng(0)
    targets, probabilities = draw.random((20000, 8)) < 0.2, draw.random((20000, 8))
    begin = time.monotonic()
    tuned = thresholds.tune_thresholds(targets, probabilities)
    resampling.bootstrap_difference(targets, [probabilities >= tuned], [probabilities >= 0.5], [f"s{n // 20}" for n in range(20000)])
    assert time.monotonic() - begin < 5
