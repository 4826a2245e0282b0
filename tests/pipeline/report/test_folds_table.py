"""The table of cross-validation, by hand, and the published rows beside it."""

import numpy as np
import pytest

from pipeline.evaluation.folds import over_folds
from pipeline.report.data_section import fold_facts
from pipeline.report.folds_table import EMOBOX, folds_table, missing
from pipeline.report.table import Score

ABSENT = {"checks": {"data set": "ravdess", "rows without audio, of speakers or folders that have none": {"21": 60, "22": 60}}}


def line(variant: str, metric: str, mean: float, threshold: str = "argmax", **changes) -> dict:
    lm = "-" if variant == "egemaps" else "small"
    figures = {"pooled": mean + 0.01, "low": mean - 0.1, "high": mean + 0.1, "mean": mean, "spread": 0.05, "folds": {"1": mean, "2": mean}}
    size = {"n": 1200, "speakers": 20, "seeds": 3}
    return {"variant": variant, "lm": lm, "modality": "audio", "threshold": threshold, "metric": metric, **figures, **size, **changes}


def test_published_rows_stand_below_ours():
    rows = [
        line("no_pretraining", "balanced_accuracy", 0.77),
        line("egemaps", "balanced_accuracy", 0.49),
        line("calm", "weighted_accuracy", 0.9, "tuned"),
    ]
    table = folds_table("ravdess", rows, {**ABSENT, "folds_by": "given"})
    assert table.columns == ["variant", "input", "UA, folds", "UA, pooled", "UA, 95 % interval"]
    assert len(table.rows) == 2 + 10 and table.rules == {2}
    ours = next(row for row in table.rows if row[0] == "no pretraining")
    assert ours[2:] == [Score(0.77, 0.05, 2), Score(pytest.approx(0.78), None, 3), "67.0 to 87.0"]
    peer = next(row for row in table.rows if row[0] == "Whisper large v3")
    assert peer[2].text == "75.3" and peer[3:] == [None, ""]
    assert {table.rows[row][0] for row, _ in table.bold} == {"no pretraining"}
    assert "arXiv 2406.07162" in table.note and "120 rows of 21 and 22" in table.note and "1,200 tested utterances" in table.note
    assert "UA = 1/C" in table.note and table.markdown() and table.csv()


def test_folds_of_our_own_are_beside_nobody():
    rows = [line("calm", "balanced_accuracy", 0.7)]
    assert len(folds_table("x", rows, {**ABSENT, "folds_by": 6}).rows) == 1
    assert len(folds_table("x", rows, {"folds_by": "given"}).rows) == 1
    assert folds_table("x", [], ABSENT) is None and missing({}) == ""


def test_several_classes_at_once_have_no_argmax():
    table = folds_table("x", [line("calm", "weighted_accuracy", 0.7, "tuned")], {})
    assert table.columns[2] == "weighted accuracy, folds" and "UA" not in table.note


def test_mean_and_spread_over_folds_by_hand():
    """Fold 1: recalls 1 and 1/2; fold 2 of the second seed alone is wrong throughout; fold 5 holds one class."""
    targets = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0]], bool)
    right = targets.copy()
    first, second = right.copy(), right.copy()
    first[1] = second[1] = [True, False]
    second[3:5] = ~right[3:5]
    found = over_folds(targets, [first, second], np.array([1, 1, 1, 2, 2, 5]), "balanced_accuracy")
    assert found["folds"] == {"1": 0.75, "2": 0.5, "5": 1.0}
    assert found["mean"] == pytest.approx(0.75) and found["spread"] == pytest.approx(0.25)
    one = over_folds(targets, [first], np.ones(6, int), "balanced_accuracy")
    assert one["spread"] is None and one["mean"] == pytest.approx((1 + 2 / 3) / 2)


def test_published_figures_typed_a_second_time():
    found = {row.encoder: tuple(row[1:]) for row in EMOBOX["ravdess"]}
    assert found["wav2vec 2.0 base"] == (54.33, 55.4, 53.99) and found["WavLM large"] == (72.0, 72.22, 71.42)
    assert found["Whisper large v3"] == (75.32, 75.87, 75.19) and found["data2vec large"] == (59.3, 59.5, 58.74) and len(found) == 10


def test_the_data_section_names_who_is_tested():
    folds = {"1": {"test": {"rows": 180, "speakers": ["01", "11"]}, "validation": {"rows": 120, "speakers": ["03"]}}}
    assert fold_facts({"folds": folds, **ABSENT}) == [
        "1: tested on 180 rows of 01, 11; validated on 03",
        "Without audio here, and left out: 120 rows of 21 and 22.",
    ]
