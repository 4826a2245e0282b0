"""Spot values of the paper's tables, typed from its text a second time, and what is derived from the tables."""

import pytest

from calm.evaluation import baselines
from pipeline import paper
from pipeline.paper import TABLES, TableRow, tables_of

WA, ACC, F1 = "weighted_accuracy", "accuracy", "f1_paper"
MSP_NUMBERS = (3, 6, 8, 10, 12)


def printed_rows(number: int) -> list[tuple[TableRow, str, paper.PublishedRow]]:
    """Row, size and figures of everything that the paper prints in a table."""
    corpus_format = "msp_podcast" if number in MSP_NUMBERS else "mosei"
    (table,) = [table for table in TABLES if table.number(corpus_format) == number]
    return [(row, size, row.published(corpus_format, size)) for row in table.rows for size in getattr(row, corpus_format)]


@pytest.mark.parametrize(
    ("number", "variant", "modality", "size", "validation", "test"),
    [
        (1, "chance", "none", "", {}, {WA: 50.0, ACC: 77.5}),
        (1, "M-ELMo (Tseng et al.)", "both", "", {}, {WA: 66.2}),
        (1, "Transformer (Delbrouck et al.)", "both", "", {WA: 65.5, ACC: 81.2}, {WA: 66.5, ACC: 81.3}),
        (1, "Transformer (Khare et al.)", "both", "", {}, {WA: 67.4}),
        (1, "bert_only", "both", "base", {WA: 65.4}, {WA: 65.3}),
        (1, "calm", "both", "base", {WA: 72.4, ACC: 81.4}, {WA: 73.6, ACC: 81.8}),
        (2, "mm_only", "both", "tiny", {WA: 70.2, ACC: 80.1}, {WA: 71.1, ACC: 80.3}),
        (2, "calm_ood", "both", "base", {WA: 72.5, ACC: 81.5}, {WA: 73.6, ACC: 81.9}),
        (3, "Listener adaptive models (Ando et al.)", "audio", "", {}, {WA: 59.7, ACC: 48.6}),
        (3, "calm", "both", "tiny", {F1: 43.3, WA: 70.1, ACC: 85.9}, {F1: 48.3, WA: 75.1, ACC: 85.3}),
        (5, "no_calp_text", "audio", "tiny", {WA: 65.9, ACC: 78.7}, {WA: 64.7, ACC: 78.8}),
        (6, "no_calp_text", "audio", "base", {F1: 38.8, WA: 69.1, ACC: 87.5}, {F1: 37.3, WA: 71.2, ACC: 87.5}),
        (7, "calm", "text", "base", {WA: 72.0, ACC: 81.2}, {WA: 72.5, ACC: 81.3}),
        (8, "calm", "audio", "base", {F1: 39.1, WA: 69.4, ACC: 84.3}, {F1: 46.0, WA: 75.1, ACC: 79.8}),
        (9, "labels_60", "both", "tiny", {WA: 69.9, ACC: 80.3}, {WA: 71.5, ACC: 80.2}),
        (10, "labels_80", "both", "tiny", {F1: 43.1, WA: 69.8, ACC: 84.3}, {F1: 48.4, WA: 74.2, ACC: 85.2}),
        (11, "patch_20x8", "both", "tiny", {WA: 70.9, ACC: 80.5}, {WA: 71.7, ACC: 80.7}),
        (12, "patch_2x64", "both", "tiny", {F1: 43.6, WA: 70.1, ACC: 84.7}, {F1: 49.1, WA: 73.7, ACC: 85.5}),
    ],
)
def test_spot_values(number, variant, modality, size, validation, test):
    matches = [
        published
        for row, row_size, published in printed_rows(number)
        if (row.variant.name if row.variant else row.label, row.inputs[0], row_size) == (variant, modality, size)
    ]
    assert matches == [(validation, test)]


def test_number_of_rows_and_range_of_values():
    counts = {1: 9, 2: 8, 3: 5, 5: 4, 6: 4, 7: 8, 8: 8, 9: 5, 10: 5, 11: 3, 12: 3}
    for number, count in counts.items():
        published = [figures for _, _, figures in printed_rows(number)]
        assert len(published) == count and all(figures.test for figures in published)
        assert all(20 < value < 90 for figures in published for split in figures for value in split.values())


def test_only_quoted_rows():
    quoted = {row.label.split(" (")[0].split(",")[0] for table in TABLES for row in table.rows if row.variant is None}
    assert quoted == {"M-ELMo", "MM-BERT small", "Transformer", "Lotfian and Busso", "Human performance", "Listener adaptive models"}


def test_costs():
    assert [(row.language_model.title, row.time) for row in paper.COSTS] == [
        ("BERT-tiny", "40 min."),
        ("BERT-base", "2.5 hr."),
        ("BERT-base", "5.5 hr."),
    ]
    assert paper.COSTS[2].hours == "148 hr." and paper.COSTS[0].language_model[1:] == ("4.5M", "5M")
    assert paper.LANGUAGE_MODELS["base"][1:] == ("125M", "19M")


def test_variants_come_from_the_rows():
    assert list(paper.BASELINES)[:4] == ["chance", "egemaps", "logmel_functionals", "encoder_functionals"]
    assert paper.KNOWN == baselines.KNOWN and all(name.removesuffix(paper.KNOWN) in paper.BASELINES for name in paper.BASELINES)
    assert paper.VARIANTS["labels_20_frozen"] == "CALM, 20 % of the labels, frozen" and "chance_frozen" not in paper.VARIANTS
    names = {row.variant.name for table in TABLES for row in table.rows if row.variant} | {row.name for row in paper.BESIDE_THE_PAPER}
    assert names == {name for titles in paper.GROUPS.values() for name in titles}  # every variant has a group of GROUP_ORDER
    assert paper.label_shares() == {"labels_20": 20, "labels_40": 40, "labels_60": 60, "labels_80": 80, "calm": 100}


def test_a_row_shows_the_widest_input_that_was_run():
    every = {"audio", "text", "both"}
    assert tables_of("calm", "both", every) == "1 3 2 7 8 9 10 11 12" and tables_of("calm", "text", every) == "7 8"
    assert tables_of("calm_frozen", "audio", every) == "5 6 7 8"
    assert tables_of("calm", "audio", {"audio"}) == "1 3 2 5 6 7 8 9 10 11 12"
    assert tables_of("labels_20", "both", {"both"}) == "9 10" and tables_of("labels_20", "audio", every) == ""
    assert tables_of("no_calp_text", "audio", {"audio"}) == "5 6 7 8" and tables_of("new", "audio", {"audio"}) == ""
