"""Bootstrap over speakers: resamples by brute force, and intervals of clear and of no differences."""

import time

import numpy as np
import pytest

from calm.evaluation import metrics, resampling, thresholds


def corpus(rows=240, speakers=12, seed=0):
    draw = np.random.default_rng(seed)
    targets = draw.random((rows, 4)) < 0.3
    better, worse = (targets ^ (draw.random(targets.shape) < share) for share in (0.1, 0.3))
    return targets, better, worse, [f"speaker{number}" for number in draw.integers(0, speakers, rows)]


def test_resamples_are_the_metric_of_the_drawn_speakers():
    targets, better, _, speakers = corpus()
    resamples = resampling.Resamples.of(speakers, 20, seed=5)
    values = resamples.metrics(targets, better, metrics.OF_COUNTS)
    for name in metrics.OF_COUNTS:
        assert values[name].shape == (21,)
        assert values[name][0] == pytest.approx(metrics.score(name, targets, better))
        for index in (1, 7, 20):
            rows = np.repeat(np.arange(len(targets)), resamples.weights[index].astype(int)[resamples.groups])
            assert values[name][index] == pytest.approx(metrics.score(name, targets[rows], better[rows]))


def test_bootstrap_of_a_clear_and_of_no_difference():
    targets, better, worse, speakers = corpus()
    clear = resampling.bootstrap_difference(targets, [better], [worse], speakers)
    assert clear["difference"] == pytest.approx(
        metrics.score("weighted_accuracy", targets, better) - metrics.score("weighted_accuracy", targets, worse)
    )
    assert 0 < clear["low"] < clear["difference"] < clear["high"]
    assert clear["significant"]
    assert resampling.bootstrap_difference(targets, [better], [worse], speakers) == clear  # seeded
    same = resampling.bootstrap_difference(targets, [better], [better], speakers)
    assert (same["difference"], same["low"], same["high"], same["significant"]) == (0, 0, 0, False)


def test_bootstrap_averages_the_metric_over_seeds():
    targets, better, worse, speakers = corpus()
    both = resampling.bootstrap_difference(targets, [better, worse], [worse], speakers, "accuracy")
    alone = resampling.bootstrap_difference(targets, [better], [worse], speakers, "accuracy")
    assert both["difference"] == pytest.approx(alone["difference"] / 2)


def test_speakers_make_the_interval_wider():
    # Every speaker is wholly right or wholly wrong: utterances drawn alone would promise too much.
    targets = np.tile([[1], [0]], (100, 1)).astype(bool)
    speakers = np.repeat([f"s{n}" for n in range(10)], 20)
    guess = np.where(np.isin(speakers, ["s0", "s1", "s2", "s3"])[:, None], ~targets, targets)
    width = {}
    for name, groups in (("speakers", speakers), ("utterances", [None] * 200)):
        interval = resampling.bootstrap_difference(targets, [guess], [np.zeros_like(targets)], groups)
        width[name] = interval["high"] - interval["low"]
    assert width["speakers"] > 3 * width["utterances"]


def test_unknown_speakers_and_a_single_one():
    assert resampling.Resamples.of(["", None, "Unknown", "a", "a"], 3, 0).speakers == 4
    targets, better, worse, _ = corpus()
    alone = resampling.bootstrap_difference(targets, [better], [worse], ["same"] * len(targets))
    assert alone["difference"] > 0
    assert alone["low"] is alone["high"] is alone["significant"] is None


def test_it_is_fast():
    draw = np.random.default_rng(0)
    targets, probabilities = draw.random((20000, 8)) < 0.2, draw.random((20000, 8))
    begin = time.monotonic()
    tuned = thresholds.tune_thresholds(targets, probabilities)
    resampling.bootstrap_difference(targets, [probabilities >= tuned], [probabilities >= 0.5], [f"s{n // 20}" for n in range(20000)])
    assert time.monotonic() - begin < 5
