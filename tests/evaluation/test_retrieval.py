"""Retrieval by hand, and against chance."""

import numpy as np
import pytest

from calm.evaluation.retrieval import retrieval


def test_retrieval_by_hand():
    keys = np.eye(4)
    queries = np.array([[1, 0.5, 0, 0], [1, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]])  # ranks 1, 2, 2, 1
    scores = retrieval(queries, keys, ranks=(1, 2))
    assert scores["recall_at_1"] == 0.5
    assert scores["recall_at_2"] == 1
    assert scores["median_rank"] == 1.5
    assert (scores["n"], scores["chance_recall_at_1"], scores["chance_median_rank"]) == (4, pytest.approx(0.25), 2.5)


def test_retrieval_of_collapsed_vectors_is_chance():
    for groups in (None, np.arange(60) // 3, ["one"] * 50 + [f"other{n}" for n in range(10)]):
        scores = retrieval(np.ones((60, 8)), np.full((60, 8), 0.3), groups)
        for k in (1, 5, 10):
            assert scores[f"recall_at_{k}"] == pytest.approx(scores[f"chance_recall_at_{k}"])
        assert scores["median_rank"] == pytest.approx(scores["chance_median_rank"])


def test_retrieval_of_random_vectors_is_near_chance():
    draw = np.random.default_rng(0)
    groups = np.arange(600) // 2
    scores = retrieval(draw.normal(size=(600, 32)), draw.normal(size=(600, 32)), groups)
    assert scores["chance_recall_at_10"] == pytest.approx(1 - (590 / 600) * (589 / 599))
    assert scores["recall_at_10"] == pytest.approx(scores["chance_recall_at_10"], abs=0.02)
    assert scores["median_rank"] == pytest.approx(scores["chance_median_rank"], rel=0.3)


def test_identical_texts_are_right():
    keys = np.array([[1, 0], [1, 0], [0, 1.0]])
    queries = np.array([[1, 0], [1, 0], [0, 1.0]])
    alone = retrieval(queries, keys, ranks=(1,))
    assert alone["recall_at_1"] == pytest.approx((0.5 + 0.5 + 1) / 3)  # one of two equal keys, as in random order
    assert retrieval(queries, keys, groups=["hello", "hello", "bye"], ranks=(1,))["recall_at_1"] == 1


def test_retrieval_in_chunks_and_far_ranks():
    draw = np.random.default_rng(1)
    keys = draw.normal(size=(50, 6))
    queries = keys + draw.normal(size=keys.shape)
    groups = draw.integers(0, 30, 50)
    assert retrieval(queries, keys, groups, chunk=120) == retrieval(queries, keys, groups)
    few = retrieval(keys[:3], keys[:3])
    assert few["recall_at_10"] == few["chance_recall_at_10"] == 1


def test_retrieval_of_zeros_and_nan():
    assert retrieval(np.zeros((4, 3)), np.eye(4, 3), ranks=(1,))["recall_at_1"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="NaN"):
        retrieval(np.full((2, 3), np.nan), np.eye(2, 3))
    with pytest.raises(ValueError, match="same shape"):
        retrieval(np.eye(3), np.eye(2, 3))
    with pytest.raises(ValueError, match="group names"):
        retrieval(np.eye(3), np.eye(3), groups=["a"])
