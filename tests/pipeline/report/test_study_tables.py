"""The paper's tables from rows with numbers that are easy to check by hand."""

import pytest

from pipeline.report import study_figure_data, study_figures, study_more_tables
from pipeline.report.cost_table import cost_table
from pipeline.report.paper_claims import answer, answered_claims, limits
from pipeline.report.result_tables import Key
from pipeline.report.study import Study
from pipeline.report.study_tables import study_tables
from pipeline.report.table import Table

WA = "weighted_accuracy"


def rows(variant: str, values: list[float], lm: str = "small", modality: str = "both", metric: str = WA, threshold: str = "tuned") -> list:
    """Test values of seeds 1, 2, ...; validation lies 0.01 below."""
    key = {"corpus": "c", "synthetic": False, "variant": variant, "lm": lm, "modality": modality, "threshold": threshold, "metric": metric}
    seeds = list(enumerate(values, 1))
    return [{**key, "split": split, "seed": n, "value": v - less} for split, less in (("test", 0), ("validation", 0.01)) for n, v in seeds]


def compared(a: tuple, b: tuple, difference: float, low: float | None, high: float | None, metric: str = WA) -> dict:
    systems = [dict(zip(("variant", "lm", "modality"), key, strict=True)) for key in (a, b)]
    interval = {"difference": difference, "low": low, "high": high, "significant": None if low is None else low > 0 or high < 0}
    return {"a": systems[0], "b": systems[1], "threshold": "tuned", "metric": metric, **interval, "n": 50, "speakers": 5}


def study_of(parts: list, comparisons: list = (), corpus_format: str = "mosei", **sizes: str | None) -> Study:
    return Study("c", corpus_format, [row for part in parts for row in part], list(comparisons), sizes or {"small": "tiny"})


def shown(table: Table) -> list[list[str]]:
    return [["" if cell is None else str(cell) for cell in row] for row in table.rows]


def published(table: Table) -> list[str]:
    return [name for name in table.columns if "the paper's" in name]


def by_number(study: Study) -> dict[str, Table]:
    return {table.name.split("-")[3]: table for table in study_tables(study, "tuned")}


def test_table_2_has_ours_the_papers_and_the_difference():
    """0.70 and 0.72: mean 71.0, sample deviation 1.41; the paper's 70.8 and 72.1 are of BERT-tiny."""
    both = ("calm", "small", "both"), ("no_pretraining", "small", "both")
    comparisons = [compared(*both, 0.02, -0.005, 0.045), compared(*both, 0.5, 0.4, 0.6, metric="accuracy")]
    study = study_of(
        [rows("calm", [0.70, 0.72]), rows("no_pretraining", [0.68, 0.70]), rows("calm", [0.8, 0.82], metric="accuracy")], comparisons
    )
    table = by_number(study)["2"]
    assert table.name == "study-c-table-2-tuned" and table.title == "Table 2, c: ablation of pretraining"
    names = [f"{WA}, validation", f"{WA}, test", f"{WA}, the paper's test", "CALM less this row, points"]
    assert table.columns == ["variant", "model", "input", *names, "accuracy, validation", "accuracy, test", "accuracy, the paper's test"]
    assert shown(table) == [
        ["no pretraining", "small", "audio + text", "68.0 ± 1.4", "69.0 ± 1.4", "70.8", "+2.0 (−0.5 to +4.5) n.s.", "", "", "80.1"],
        ["CALM", "small", "audio + text", "70.0 ± 1.4", "71.0 ± 1.4", "72.1", "", "80.0 ± 1.4", "81.0 ± 1.4", "80.9"],
    ]
    assert table.bold == {(1, 3), (1, 4), (1, 7), (1, 8)}
    assert "over seeds: 1, 2." in table.note and "The paper's figures for BERT-tiny stand beside small." in table.note


def test_only_what_can_be_compared_is_shown():
    """CALM alone fills table 1, whose other rows are quoted; the ablations need a second row of the same model."""
    assert list(by_number(study_of([rows("calm", [0.7])]))) == ["1"]
    assert not by_number(study_of([rows("chance", [0.5], "-", "none"), rows("egemaps", [0.6], "-", "audio")]))
    parts = [rows("calm", [0.7]), rows("calm", [0.7], "large"), rows("labels_20", [0.6], "large")]
    table = by_number(study_of(parts, small="tiny", large="base"))["9"]
    assert [row[:2] for row in shown(table)] == [["20 % of the labels", "large"], ["all labels", "large"]]
    assert not published(table)  # its table 9 is of BERT-tiny


def test_quoted_rows_and_models_in_order():
    parts = [rows("calm", [0.7], "large"), rows("calm", [0.7]), rows("mm_bert_cnn", [0.6]), rows("chance", [0.5], "-", "none")]
    table = by_number(study_of(parts, large="base", small="tiny"))["1"]
    lines = [row[:2] + row[5:6] for row in shown(table)]
    assert lines[:5] == [
        ["M-ELMo (Tseng et al.), quoted", "–", "66.2"],
        ["MM-BERT small, quoted", "–", "66.6"],
        ["Transformer (Delbrouck et al.), quoted", "–", "66.5"],
        ["Transformer (Khare et al.), quoted", "–", "67.4"],
        ["chance", "–", "50.0"],
    ]
    assert lines[5:] == [["BERT, CNN audio input", "small", ""], ["CALM", "small", "72.1"], ["CALM", "large", "73.6"]]
    assert table.rules == {4, 5, 7} and "Quoted rows cannot be run here." in table.note


def test_frozen_rows_stand_in_and_are_compared_with_frozen():
    parts = [rows("calm", [0.7]), rows("calm_frozen", [0.66]), rows("labels_20_frozen", [0.6]), rows("labels_40", [0.65])]
    frozen = compared(("calm_frozen", "small", "both"), ("labels_20_frozen", "small", "both"), 0.06, 0.02, 0.1)
    table = by_number(study_of(parts, [frozen]))["9"]
    assert [(row[0], row[6]) for row in shown(table)] == [
        ("20 % of the labels (frozen)", "+6.0 (+2.0 to +10.0)"),
        ("40 % of the labels", ""),
        ("all labels", ""),
        ("CALM (frozen)", ""),
    ]
    assert "(frozen): only the heads were trained" in table.note


def test_inputs_are_compared_with_both():
    parts = [rows("calm", [0.7]), rows("calm", [0.6], modality="audio"), rows("no_calp_text", [0.55], modality="audio")]
    calm = "calm", "small", "audio"
    comparisons = [compared(("calm", "small", "both"), calm, 0.1, None, None)]
    comparisons += [compared(calm, ("no_calp_text", "small", "audio"), 0.05, 0.01, 0.09)]
    tables = by_number(study_of(parts, comparisons))
    assert [row[6] for row in shown(tables["7"])] == ["+5.0 (+1.0 to +9.0)", "+10.0 (too few speakers)", ""]
    assert [row[5:7] for row in shown(tables["5"])] == [["64.7", "+5.0 (+1.0 to +9.0)"], ["66.0", ""]]


def test_tables_of_msp_podcast_and_of_other_corpora():
    parts = [rows("calm", [0.7]), rows("no_pretraining", [0.6]), rows("labels_20", [0.6]), rows("calm", [0.4], metric="f1_paper")]
    podcast = by_number(study_of(parts, corpus_format="msp_podcast"))
    assert list(podcast) == ["3", "2", "10"] and not published(podcast["2"])
    calm = shown(podcast["3"])[-1]
    assert calm[5] == "75.1" and calm[9] == "85.3" and calm[-3:] == ["39.0", "40.0", "48.3"]
    assert [row[0] for row in shown(podcast["3"])][:2] == ["Lotfian and Busso (2018), quoted", podcast["3"].rows[1][0]]
    other = by_number(study_of(parts, corpus_format="ravdess"))
    assert list(other) == ["1", "2", "9"] and not any(published(table) for table in other.values())
    assert other["1"].title == "In the shape of table 1, c: beside other systems" and len(other["1"].rows) == 1


def test_seeds_of_the_rows_that_have_others():
    table = by_number(study_of([rows("calm", [0.7, 0.7, 0.7]), rows("mm_only", [0.6, 0.6, 0.6]), rows("no_pretraining", [0.6])]))["2"]
    assert "over seeds: 1, 2, 3; no pretraining: 1." in table.note


def test_frozen_rows_stand_beside_frozen_calm_of_their_input():
    parts = [rows("calm", [0.7], modality="audio"), rows("no_calp_text_frozen", [0.6], modality="audio")]
    parts += [rows("calm_frozen", [0.8], modality=modality) for modality in ("audio", "both")]
    names = [row[:3] for row in shown(by_number(study_of(parts))["5"])]
    assert names == [
        ["CALM without CALP's text (frozen)", "small", "audio"],
        ["CALM", "small", "audio"],
        ["CALM (frozen)", "small", "audio"],
    ]


def test_a_study_is_more_than_calm_and_the_baselines():
    plain = [rows(name, [0.5]) for name in ("calm", "calm_frozen", "no_pretraining", "egemaps")]
    known = [*plain, rows("calm_known_frozen", [0.5])]
    assert not study_of(known).has_more_than_calm and study_of(known).knows_speakers and not study_of(plain).knows_speakers
    assert not study_of(plain).has_more_than_calm and study_of([*plain, rows("calp_only_frozen", [0.5])]).has_more_than_calm


def test_costs():
    """30 s and 90 s; 440,000 of SpecTran in the 1,100,000 beside the language model, and 65,000 of projections."""
    calp = {"corpora": ["a", "b"], "hours": 1.25, "flops": 1e12}
    calp |= {"parameters": {"spectran": 440_000, "projections": 65_000}}
    masked = {"corpora": ["a", "b"], "flops": 2.5e12}
    masked |= {"parameters": {"language_model": 15_300_000, "calm_besides_language_model": 1_100_000, "all": 0}}
    measured = {f"calp@{name}": {"seconds": 30.0, "device": "cpu"} for name in ("m", "only")}
    measured["pretrain@m"] = {"seconds": 90.0, "device": "cpu"}
    cells = shown(cost_table({"m": calp, "only": {**calp, "flops": None}}, {"m": masked}, measured, {"m": "small"}))
    assert cells[0] == ["m: a and b", "small", "1.2", "15,300,000", "1,165,000", "cpu", "2 min", "30 s", "3.5e+12"]
    assert cells[1] == ["only: a and b", "only", "1.2", "", "505,000", "cpu", "30 s", "30 s", ""]
    assert cells[2] == ["paper: MOSEI only", "BERT-tiny", "65 hr.", "4.5M", "5M", "8 V100", "40 min.", "", ""] and len(cells) == 5
    assert cost_table({}, {}, {}, {}) is None
    assert shown(cost_table({"m": calp}, {"m": masked}, {"calp@m": {"seconds": 30.0}}, {}))[0][5:8] == ["–", "–", "30 s"]


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("gain", 0.001, 0.05, "yes"),
        ("gain", -0.05, -0.001, "no"),
        ("gain", -0.01, 0.05, "undecided"),
        ("gain", None, None, "undecided"),
        ("close", -0.05, 0.019, "yes"),
        ("close", 0.021, 0.05, "no"),
        ("close", 0.001, 0.03, "undecided"),
        ("same", -0.019, 0.019, "yes"),
        ("same", 0.021, 0.03, "no"),
        ("same", -0.03, -0.021, "no"),
        ("same", -0.03, 0.001, "undecided"),
    ],
)
def test_answers(kind, low, high, expected):
    assert answer(kind, low, high) == expected


def test_claims_name_the_difference_and_prefer_unfrozen_heads():
    parts = [rows(name, [0.7]) for name in ("calm", "calm_frozen", "no_pretraining", "no_pretraining_frozen", "labels_20_frozen")]
    comparisons = [
        compared(("calm", "small", "both"), ("no_pretraining", "small", "both"), 0.03, 0.01, 0.05),
        compared(("calm_frozen", "small", "both"), ("no_pretraining_frozen", "small", "both"), 0.09, 0.08, 0.1),
        compared(("calm_frozen", "small", "both"), ("labels_20_frozen", "small", "both"), 0.04, 0.03, 0.05),
    ]
    study = study_of(parts, comparisons)
    answers = answered_claims(study)
    assert [(claim.claim, claim.answer) for claim in answers] == [
        ("Pretraining helps with both inputs", "yes"),
        ("A fifth of the labels comes close to all of them", "no"),
    ]
    assert answers[0].text == "CALM less “no pretraining”, audio + text: +3.0 points (95 % interval +1.0 to +5.0)."
    assert "heads only (frozen): +4.0 points" in answers[1].text
    assert "These 2 answers come from 3 differences" in limits(study, answers)


def test_claims_of_a_corpus_without_texts_are_of_audio():
    comparisons = [compared(("calm", "small", "audio"), (name, "small", "audio"), 0.0, -0.01, 0.01) for name in ("labels_20", "patch_2x64")]
    answers = answered_claims(study_of([rows("calm", [0.7]), rows("labels_20", [0.7])], comparisons))
    assert [claim.answer for claim in answers] == ["yes", "yes"] and all(", audio: +0.0" in claim.text for claim in answers)


def test_groups_of_utterances():
    """Seeds 0.6 and 0.7 of the unfrozen heads: 65.0 ± 7.1; the frozen ones are left out."""
    key = {"lm": "small", "modality": "audio", "by": "gender", "bucket": "female", "n": 1200, "threshold": "tuned", "metric": WA}
    buckets = [{**key, "variant": "calm", "seed": 1, "value": 0.6}, {**key, "variant": "calm", "seed": 2, "value": 0.7}]
    buckets += [{**key, "variant": "calm_frozen", "seed": 1, "value": 0.9}]
    buckets += [{**key, "variant": "calm", "by": "age", "seed": 1, "value": None}]
    table = study_more_tables.bucket_table(study_of([]), buckets, "tuned")
    assert shown(table) == [["gender", "female", "small", "1,200", "65.0 ± 7.1"]] and table.columns[-1] == "audio"
    assert study_more_tables.bucket_table(study_of([]), buckets, "0.5") is None


def test_groups_stand_in_order():
    key = {"lm": "small", "modality": "audio", "variant": "calm", "n": 1, "threshold": "tuned", "metric": WA, "value": 0.5}
    names = {"wer": ["over 20% wrong", "no word wrong", "up to 20% wrong"], "duration": ["from 8 s", "4-8 s", "under 2 s", "2-4 s"]}
    buckets = [{**key, "by": by, "bucket": name} for by, groups in names.items() for name in groups]
    order = [row[1] for row in shown(study_more_tables.bucket_table(study_of([]), buckets, "tuned"))]
    assert order == ["under 2 s", "2-4 s", "4-8 s", "from 8 s", "no word wrong", "up to 20% wrong", "over 20% wrong"]


def test_transfer():
    key = {"trained_on": "a", "tested_on": "c", "variant": "calm", "lm": "small", "modality": "both", "threshold": "tuned", "metric": WA}
    key |= {"n": 40, "speakers": 4, "classes": ["happy", "sad"]}
    results = [{**key, "seed": 1, "value": 0.6, "low": 0.5, "high": 0.65, "own": 0.7}]
    results += [{**key, "seed": 2, "value": 0.6, "low": 0.55, "high": 0.7, "own": None}]
    (row,) = shown(study_more_tables.transfer_table(study_of([]), results, "tuned"))
    assert row == ["a → c", "CALM (small)", "audio + text", "happy, sad", "60.0 ± 0.0", "50.0 to 70.0", "70.0", "40"]
    assert study_more_tables.transfer_table(study_of([]), [], "tuned") is None


def test_calibration_and_losses():
    study = study_of([rows("calm", [0.05, 0.07], metric="ece", threshold="0.5"), rows("labels_20", [0.1], metric="ece", threshold="0.5")])
    assert shown(study_more_tables.calibration_table(study)) == [["CALM", "small", "audio + text", "5.0 ± 1.4", "6.0 ± 1.4"]]
    losses = {"m": {"corpora": ["a"], "validation": {"mlm": 3.14159, "mam": 0.5, "mam_middle": None}}, "n": {"corpora": ["a"]}}
    assert shown(study_more_tables.loss_table(losses)) == [["m", "a", "3.142", "0.500", "–"]]


def test_data_of_the_figures():
    parts = [rows("calm", [0.7, 0.8]), rows("mm_only_frozen", [0.6]), rows("labels_20", [0.5, 0.6]), rows("calm", [0.6], modality="text")]
    interval = {"variant": "calm", "lm": "small", "modality": "both", "threshold": "tuned", "metric": WA, "low": 0.65, "high": 0.85}
    study = study_of(parts)
    bars = study_figure_data.ablation_bars(study, [interval], "small", "tuned")
    assert bars == {"both": {"masked pretraining only, frozen": (0.6, None, None), "CALM": (0.75, 0.65, 0.85)}}
    shares = study_figure_data.label_share_values(study, "small", "tuned")
    assert shares == {"both": {20: [0.5, 0.6], 100: [0.7, 0.8]}}
    (axes,) = study_figures.ablation(bars, WA).axes
    assert [(bar.get_x(), round(bar.get_width(), 9)) for bar in axes.patches] == [(50, 25), (50, 10)]
    assert list(axes.lines[0].get_xdata()) == [65, 85]
    (axes,) = study_figures.label_curve(shares, WA, {20: 70.8, 100: 72.1}).axes
    assert axes.lines[0].get_xydata().round(9).tolist() == [[20, 55], [100, 75]]
    assert axes.lines[-1].get_xydata().tolist() == [[20, 70.8], [100, 72.1]] and axes.lines[-1].get_linestyle() == "--"


def test_reliability_pools_the_seeds_by_their_numbers():
    """Bins of 10 and 30 answers: predicted (10 x 0.1 + 30 x 0.2) / 40 = 0.175; observed (10 x 0.4 + 30 x 0) / 40 = 0.1."""
    key = {"variant": "calm", "lm": "small", "modality": "both"}
    bins = [{"low": 0.1, "n": 10, "predicted": 0.1, "observed": 0.4}], [{"low": 0.1, "n": 30, "predicted": 0.2, "observed": 0.0}]
    calibration = [{**key, "seed": n, "split": "test", "bins": items} for n, items in enumerate(bins)]
    calibration += [{**key, "seed": 0, "split": "validation", "bins": bins[0]}]
    calibration += [{**key, "variant": "mm_only", "seed": 0, "split": "test", "bins": bins[1]}]
    curves = study_figure_data.reliability_bins(calibration, "small")
    assert curves == {"both": [(pytest.approx(0.175), pytest.approx(0.1), 40)]}
    (axes,) = study_figures.reliability(curves).axes
    assert axes.collections[0].get_offsets().round(9).tolist() == [[17.5, 10.0]]


def test_names_of_keys_are_groups():
    assert [Key(name, "", "").group for name in ("egemaps", "mm_only_frozen", "labels_20", "patch_2x64", "calm_ood", "new")] == [
        "baselines", "ablations", "labels", "patches", "calm", "new",
    ]  # fmt: skip
