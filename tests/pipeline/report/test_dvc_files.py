"""Files for `dvc metrics` and `dvc plots`, with numbers that are easy to check by hand."""

import csv
import json
from types import SimpleNamespace

from pipeline.report import dvc_files


def rows(variant: str, lm: str, modality: str, values: list[float], metric: str = "weighted_accuracy", threshold: str = "tuned") -> list:
    key = {"corpus": "c", "synthetic": False, "variant": variant, "lm": lm, "modality": modality, "split": "test", "metric": metric}
    return [{**key, "threshold": threshold, "seed": seed, "value": value} for seed, value in enumerate(values)]


def lines(path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_summary_is_the_mean_over_seeds_at_the_thresholds_of_the_released_models(tmp_path):
    """0.61234 and 0.63: mean 62.117 percent."""
    results = [*rows("calm", "small", "both", [0.61234, 0.63]), *rows("calm", "small", "both", [0.9], threshold="0.5")]
    results += rows("chance", "-", "none", [0.5]) + rows("calm", "small", "audio", [0.7], metric="accuracy")
    dvc_files.write_summary(results, {"c": "tuned"}, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == {"c": {"chance": {"none": 50.0}, "calm": {"both": 62.12}}}
    dvc_files.write_summary(results, {"c": "0.5"}, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == {"c": {"calm": {"both": 90.0}}}


def test_summary_names_the_language_model_where_there_are_several(tmp_path):
    results = [*rows("calm", "small", "both", [0.6]), *rows("calm", "large", "both", [0.7]), *rows("chance", "-", "none", [0.5])]
    dvc_files.write_summary(results, {"c": "tuned"}, tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == {"c": {"chance": {"none": 50.0}, "calm (large)": {"both": 70.0}, "calm (small)": {"both": 60.0}}}


def test_classes_of_calm(tmp_path):
    results = rows("calm", "small", "audio", [0.5, 0.7], metric="weighted_accuracy/sad") + rows("calm", "small", "audio", [0.6])
    results += rows("mm_only", "small", "audio", [0.5], metric="weighted_accuracy/sad")
    dvc_files.write_classes(results, {"c": "tuned"}, tmp_path / "classes.csv")
    row = {"corpus": "c", "model": "small", "input": "audio", "class": "sad", "weighted_accuracy": "60.0"}
    assert lines(tmp_path / "classes.csv") == [{"name": "c small sad audio", **row}]


def test_head_losses_are_means_over_seeds_of_epochs_that_all_have():
    curves = [
        {"variant": "calm", "modality": "both", "curve": [{"epoch": 1, "validation_loss": 1.0}, {"epoch": 2, "validation_loss": 0.5}]},
        {"variant": "calm", "modality": "both", "curve": [{"epoch": 1, "validation_loss": 3.0}, {"epoch": 2, "validation_loss": None}]},
        {"variant": "calm", "modality": "audio", "curve": [{"epoch": 1, "validation_loss": 4.0}]},
    ]
    assert dvc_files.head_losses(curves) == {"calm-both": {1: 2.0}, "calm-audio": {1: 4.0}}


def test_a_curve_has_the_columns_of_its_kind(tmp_path):
    curve = [{"epoch": 1, "loss": 5.0, "mam": 1.0, "other": 3.0}]
    heads = {"h": [{"variant": "calm", "modality": "both", "curve": [{"epoch": 1, "validation_loss": 0.5}]}]}
    outputs = SimpleNamespace(calp={"m": {"curve": []}}, pretrained={"m": {"curve": curve}}, heads=heads)
    dvc_files.write_curves(SimpleNamespace(heads={"h": SimpleNamespace(corpus="c", model="m")}), outputs, tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv")} == {"pretraining/m.csv", "heads/c-m/calm-both.csv"}
    assert lines(tmp_path / "pretraining/m.csv") == [{"epoch": "1", "loss": "5.0", "mlm": "", "mam": "1.0", "mam_middle": ""}]
    assert lines(tmp_path / "heads/c-m/calm-both.csv") == [{"epoch": "1", "validation_loss": "0.5"}]
