"""Spot values of the paper's tables, typed from its text a second time."""

import pytest

from pipeline.paper import COSTS, METRICS, TABLES

WA, ACC, F1 = "weighted_accuracy", "accuracy", "f1_paper"


@pytest.mark.parametrize(
    ("table", "label", "size", "validation", "test"),
    [
        (1, "Chance", None, {}, {WA: 50.0, ACC: 77.5}),
        (1, "M-ELMo (Tseng et al.)", None, {}, {WA: 66.2}),
        (1, "Transformer (Delbrouck et al.)", None, {WA: 65.5, ACC: 81.2}, {WA: 66.5, ACC: 81.3}),
        (1, "Transformer (Khare et al.)", None, {}, {WA: 67.4}),
        (1, "BERT BASE", "base", {WA: 65.4}, {WA: 65.3}),
        (1, "CALM BASE", "base", {WA: 72.4, ACC: 81.4}, {WA: 73.6, ACC: 81.8}),
        (2, "MM-BERT pretraining only", "tiny", {WA: 70.2, ACC: 80.1}, {WA: 71.1, ACC: 80.3}),
        (2, "CALM + OOD", "base", {WA: 72.5, ACC: 81.5}, {WA: 73.6, ACC: 81.9}),
        (3, "Listener adaptive models (Ando et al.)", None, {}, {WA: 59.7, ACC: 48.6}),
        (3, "CALM TINY", "tiny", {F1: 43.3, WA: 70.1, ACC: 85.9}, {F1: 48.3, WA: 75.1, ACC: 85.3}),
        (5, "CALM TINY without CALP (A)", "tiny", {WA: 65.9, ACC: 78.7}, {WA: 64.7, ACC: 78.8}),
        (6, "CALM BASE without CALP (A)", "base", {F1: 38.8, WA: 69.1, ACC: 87.5}, {F1: 37.3, WA: 71.2, ACC: 87.5}),
        (7, "CALM BASE (L)", "base", {WA: 72.0, ACC: 81.2}, {WA: 72.5, ACC: 81.3}),
        (8, "CALM BASE (A)", "base", {F1: 39.1, WA: 69.4, ACC: 84.3}, {F1: 46.0, WA: 75.1, ACC: 79.8}),
        (9, "60%", "tiny", {WA: 69.9, ACC: 80.3}, {WA: 71.5, ACC: 80.2}),
        (10, "80%", "tiny", {F1: 43.1, WA: 69.8, ACC: 84.3}, {F1: 48.4, WA: 74.2, ACC: 85.2}),
        (11, "CALM TINY [20*8 Patch, 10*4 Stride]", "tiny", {WA: 70.9, ACC: 80.5}, {WA: 71.7, ACC: 80.7}),
        (12, "CALM TINY [2*64 Patch, 1*64 Stride]", "tiny", {F1: 43.6, WA: 70.1, ACC: 84.7}, {F1: 49.1, WA: 73.7, ACC: 85.5}),
    ],
)
def test_spot_values(table, label, size, validation, test):
    (row,) = [row for row in TABLES[table] if (row.label, row.size) == (label, size)]
    assert (row.validation, row.test) == (validation, test)


def test_every_row_has_known_metrics_and_the_tables_their_rows():
    assert {number: len(rows) for number, rows in TABLES.items()} == {1: 9, 2: 8, 3: 5, 5: 4, 6: 4, 7: 8, 8: 8, 9: 5, 10: 5, 11: 3, 12: 3}
    for rows in TABLES.values():
        for row in rows:
            assert row.test and {*row.validation, *row.test} <= set(METRICS)
            assert all(20 < value < 90 for value in (*row.validation.values(), *row.test.values()))


def test_what_nothing_can_rerun_is_only_quoted():
    quoted = {row.label.split(" (")[0].split(",")[0] for rows in TABLES.values() for row in rows if row.variant is None}
    assert quoted == {"M-ELMo", "MM-BERT small", "Transformer", "Lotfian and Busso", "Human performance", "Listener adaptive models"}


def test_costs():
    assert [(row.language_model, row.time) for row in COSTS] == [
        ("BERT TINY", "40 min."),
        ("BERT BASE", "2.5 hr."),
        ("BERT BASE", "5.5 hr."),
    ]
    assert COSTS[2].hours == "148 hr." and COSTS[0].calm_parameters == "5M"
