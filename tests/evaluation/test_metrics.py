"""Metrics of appendix B against numbers computed by hand, and the standard ones against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from calm.evaluation import metrics

EIGHT = [f"class{number}" for number in range(8)]


@pytest.fixture
def small():
    """Ten utterances, two classes. By hand: TP 3, 1; FP 1, 0; FN 1, 4; TN 5, 5."""
    targets = np.array([[1, 1], [1, 1], [1, 1], [1, 1], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], bool)
    decisions = np.array([[1, 1], [1, 0], [1, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], bool)
    return targets, decisions


def random(rows=400, classes=5, seed=0):
    draw = np.random.default_rng(seed)
    return draw.random((rows, classes)) < [0.5, 0.3, 0.2, 0.1, 0.05], draw.random((rows, classes)) < 0.3


def test_counts(small):
    counts = metrics.count(*small)
    assert [counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist(), counts.tn.tolist()] == [[3, 1], [1, 0], [1, 4], [5, 5]]


def test_by_hand(small):
    # TPR 3/4, 1/5; TNR 5/6, 5/5; F1 6/8, 2/6; right answers 8, 6
    assert metrics.score("weighted_accuracy", *small) == pytest.approx((3 / 4 + 5 / 6 + 1 / 5 + 1) / 4)
    assert metrics.score("accuracy", *small) == pytest.approx((8 / 10 + 6 / 10) / 2)
    assert metrics.score("f1_paper", *small) == pytest.approx(8 / 20 * 0.75 + 6 / 20 / 3)  # 20 labels
    assert metrics.score("f1_right_answers", *small) == pytest.approx(8 / 14 * 0.75 + 6 / 14 / 3)  # 14 right answers
    assert metrics.score("f1_macro", *small) == pytest.approx((0.75 + 1 / 3) / 2)
    assert metrics.score("f1_micro", *small) == pytest.approx(4 / (4 + (1 + 5) / 2))
    assert metrics.score("f1_weighted", *small) == pytest.approx(4 / 9 * 0.75 + 5 / 9 / 3)
    assert metrics.score("balanced_accuracy", *small) == pytest.approx((3 / 4 + 1 / 5) / 2)
    assert metrics.exact_match(*small) == pytest.approx(6 / 10)


def test_never_anything_of_eight_one_hot_classes():
    targets = np.eye(8, dtype=bool)[np.arange(80) % 8]
    never = np.zeros_like(targets)
    assert metrics.score("accuracy", targets, never) == 0.875
    assert metrics.score("weighted_accuracy", targets, never) == 0.5
    assert metrics.score("weighted_accuracy", targets, ~never) == 0.5
    assert metrics.score("accuracy", targets, ~never) == 0.125
    assert [metrics.score(f"f1_{kind}", targets, never) for kind in ("paper", "right_answers", "macro", "micro")] == [0, 0, 0, 0]


def test_f1_of_the_paper_counts_the_labels_of_classes_that_have_an_f1():
    """TP 1, FP 1, FN 1, TN 1: F1 1/2, accuracy 1/2. The second class has no positive and no positive decision."""
    targets, decisions = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], bool), np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    result = metrics.decided(targets, decisions, ["some", "none"])
    assert result.values["f1_paper"] == pytest.approx(1 / 2 * 1 / 2) and result.left_out["f1_paper"] == ["none"]
    assert result.values["f1_right_answers"] == pytest.approx(1 / 2)


def test_perfect_and_all_wrong():
    targets, _ = random()
    result = metrics.decided(targets, targets, EIGHT[:5])
    assert set(result.values.values()) == {1.0}
    assert not result.left_out
    wrong = metrics.decided(targets, ~targets, EIGHT[:5])
    assert set(wrong.values.values()) == {0.0}


def test_as_scikit_learn():
    targets, decisions = random()
    for average in ("macro", "micro", "weighted"):
        ours = metrics.score(f"f1_{average}", targets, decisions)
        assert ours == pytest.approx(sk.f1_score(targets, decisions, average=average, zero_division=np.nan))
    result = metrics.decided(targets, decisions, EIGHT[:5])
    assert result.values["exact_match"] == pytest.approx(sk.accuracy_score(targets, decisions))
    for column, label in enumerate(EIGHT[:5]):
        pair = targets[:, column], decisions[:, column]
        assert result.values[f"f1/{label}"] == pytest.approx(sk.f1_score(*pair))
        assert result.values[f"recall/{label}"] == pytest.approx(sk.recall_score(*pair))
        assert result.values[f"precision/{label}"] == pytest.approx(sk.precision_score(*pair))
        assert result.values[f"weighted_accuracy/{label}"] == pytest.approx(sk.balanced_accuracy_score(*pair))


def test_argmax_as_scikit_learn():
    draw = np.random.default_rng(3)
    truth, guess = draw.integers(0, 8, 300), draw.integers(0, 8, 300)
    targets, decisions = np.eye(8, dtype=bool)[truth], np.eye(8, dtype=bool)[guess]
    result = metrics.decided(targets, decisions, EIGHT, argmax=True)
    assert result.values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    assert result.values["accuracy_argmax"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert result.values["macro_f1_argmax"] == pytest.approx(sk.f1_score(truth, guess, average="macro"))
    assert "macro_f1_argmax" not in metrics.decided(targets, decisions, EIGHT).values
    assert "exact_match" not in result.values


def test_figures_of_emobox_by_hand():
    """Of 3 happy ones 2 are found, of 1 sad one none; the third class never occurs and is never decided."""
    targets, decisions = np.eye(3, dtype=bool)[[0, 0, 0, 1]], np.eye(3, dtype=bool)[[0, 0, 1, 0]]
    result = metrics.decided(targets, decisions, ["happy", "sad", "angry"], argmax=True)
    assert result.values["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2)  # UA
    assert result.values["accuracy_argmax"] == pytest.approx(2 / 4)  # WA
    assert result.values["macro_f1_argmax"] == pytest.approx((2 / 3 + 0) / 2)
    assert result.left_out["macro_f1_argmax"] == ["angry"]


def test_class_without_positive_or_negative_is_left_out_and_named():
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]], bool)
    decisions = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
    result = metrics.decided(targets, decisions, ["some", "none", "all"])
    assert result.values["weighted_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert result.left_out["weighted_accuracy"] == ["none", "all"]
    assert result.values["balanced_accuracy"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert result.left_out["balanced_accuracy"] == ["none"]
    assert result.left_out["weighted_accuracy/none"] == ["none"]
    assert "weighted_accuracy/none" not in result.values
    assert result.values["f1/none"] == 0  # one false positive


def test_nothing_defined_is_named_not_nan():
    nothing = np.zeros((4, 2), bool)
    result = metrics.decided(nothing, nothing, ["a", "b"])
    assert result.values["accuracy"] == 1
    assert {"weighted_accuracy", "f1_macro", "f1_micro", "f1_weighted", "balanced_accuracy"} <= set(result.left_out) - set(result.values)
    assert np.isfinite(list(result.values.values())).all()


def test_arrays_that_do_not_fit():
    targets = np.zeros((3, 2), bool)
    with pytest.raises(ValueError, match="same shape"):
        metrics.score("accuracy", targets, np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="must be bool"):
        metrics.score("accuracy", targets, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="not be empty"):
        metrics.score("accuracy", targets[:0], targets[:0])
    with pytest.raises(ValueError, match="within 0 and 1"):
        metrics.auc_macro(targets, np.full((3, 2), 1.5))


def test_every_metric_is_explained_and_computed():
    targets, decisions = random()
    computed = metrics.decided(targets, decisions, EIGHT[:5]).values | metrics.decided(targets, decisions, EIGHT[:5], argmax=True).values
    computed |= metrics.ranked(targets, np.random.default_rng(1).random(targets.shape), EIGHT[:5]).values
    assert {name for name in computed if "/" not in name} == set(metrics.METRICS)
    assert all(metric.title and metric.description.endswith(".") for metric in metrics.METRICS.values())
    assert list(metrics.OF_COUNTS)[:3] == ["weighted_accuracy", "accuracy", "f1_paper"] and "exact_match" not in metrics.OF_COUNTS


def test_ranked():
    targets, _ = random()
    probabilities = np.random.default_rng(1).random(targets.shape)
    result = metrics.ranked(targets, probabilities, EIGHT[:5])
    assert result.values["auc_macro"] == pytest.approx(sk.roc_auc_score(targets, probabilities))
    assert result.values["average_precision_macro"] == pytest.approx(sk.average_precision_score(targets, probabilities))
    targets[:, 2] = False
    result = metrics.ranked(targets, probabilities, EIGHT[:5])
    assert result.left_out == {"auc_macro": ["class2"], "average_precision_macro": ["class2"]}
    assert result.values["auc_macro"] == pytest.approx(sk.roc_auc_score(targets[:, [0, 1, 3, 4]], probabilities[:, [0, 1, 3, 4]]))


def test_ranked_where_a_class_is_always_there():
    """It has no negative, so no ROC curve. Of the other class 3 of 4 pairs are in order: 0.9 > 0.6, 0.9 > 0.2, 0.4 > 0.2."""
    targets = np.array([[1, 1], [0, 1], [1, 1], [0, 1]], bool)
    probabilities = np.array([[0.9, 0.1], [0.6, 0.2], [0.4, 0.3], [0.2, 0.4]])
    result = metrics.ranked(targets, probabilities, ["some", "all"])
    assert result.values["auc_macro"] == pytest.approx(3 / 4) and result.left_out == {"auc_macro": ["all"]}
    assert result.values["average_precision_macro"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert np.isnan(metrics.auc_macro(targets[:, 1:], probabilities[:, 1:]))


def test_counts_of_many_resamples_at_once_are_scored_as_each_alone():
    """And without a warning, though some classes have no positive. In the first nothing is right, in the second one answer alone."""
    draw = np.random.default_rng(2)
    targets, decisions = (draw.random((6, 4, 3)) < 0.3 for _ in range(2))
    targets[2, :, 1] = decisions[2, :, 1] = False
    targets[1, 0, 0] = True
    decisions[:2] = ~targets[:2]
    decisions[1, 0, 0] = True
    alone = [metrics.count(*pair) for pair in zip(targets, decisions, strict=True)]
    parts = (np.reshape([getattr(own, name) for own in alone], (2, 3, 3)) for name in ("tp", "fp", "fn", "tn"))
    together = metrics.Counts(*parts)
    with np.errstate(all="raise"):
        for function in metrics.OF_COUNTS.values():
            np.testing.assert_array_equal(function(together).ravel(), [function(own) for own in alone])
    wrong = int((targets[1] != decisions[1])[:, 0].sum())
    assert [metrics.f1_right_answers(own) for own in alone[:2]] == [0, 1 / (1 + wrong / 2)]


def test_names_that_are_not_those_of_the_columns():
    targets, decisions = random()
    for classes in (EIGHT[:4], EIGHT[:6]):
        with pytest.raises(ValueError, match="zip"):
            metrics.decided(targets, decisions, classes)
        with pytest.raises(ValueError, match="zip"):
            metrics.ranked(targets, np.full(targets.shape, 0.5), classes)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12).flatmap(lambda rows: st.tuples(arrays(bool, (rows, 3)), arrays(bool, (rows, 3)))))
def test_within_0_and_1(pair):
    result = metrics.decided(*pair, ["a", "b", "c"])
    assert all(0 <= value <= 1 + 1e-12 for value in result.values.values())
    assert set(metrics.OF_COUNTS) <= set(result.values) | set(result.left_out)
    swapped = metrics.decided(~pair[0], ~pair[1], ["a", "b", "c"])  # weighted accuracy treats both answers alike
    assert swapped.values.get("weighted_accuracy") == pytest.approx(result.values.get("weighted_accuracy"))
