"""The paper's recipe in the reduced form that benchmarks/paper_recipe.py runs whole: its settings, its stages, and two models."""

import importlib
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from made_project import ROOT, Project

from benchmarks import paper_recipe
from pipeline import repro, settings, state
from pipeline.stages import check

PAPER = yaml.safe_load((ROOT / "recipes/paper.yaml").read_text())
CHANGED = {"title", "seeds", "synthetic", "corpora", "transcribe"}  # whole sections
EPOCHS = {"calp.epochs": 1, "pretrain.epochs": 1, "head.epochs": 1, "head.frozen_epochs": 1, "head_of.msp.epochs": 1}
KEPT = ("mosei-tiny", "msp-base")  # models, and their heads of the same names


def differences(one, other, path: str = "") -> dict:
    """Values of `one` that are different or absent in `other`, by their dotted keys."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return {} if one == other else {path: one}
    found = {}
    for key in {**one, **other}:
        found |= differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    return found


def test_the_reduced_form_differs_from_the_recipe_in_what_it_names():
    reduced = paper_recipe.reduced()
    models = {f"models.{name}.language_model": paper_recipe.LANGUAGE_MODEL for name in PAPER["models"]}
    found = {key: value for key, value in differences(reduced, PAPER).items() if key.partition(".")[0] not in CHANGED}
    assert found == EPOCHS | models and reduced["seeds"] == [1]
    assert {name: section["format"] for name, section in reduced["corpora"].items()} == {
        name: section["format"] for name, section in PAPER["corpora"].items()
    }


def test_every_row_of_the_recipe_is_expected():
    """28 heads a corpus: 18 with BERT-tiny, 10 with BERT-base."""
    expected = paper_recipe.expected(settings.Settings.model_validate(paper_recipe.reduced()))
    rows = {(entry["corpus"], row, PAPER["models"][entry["model"]]["lm"]) for entry in PAPER["heads"].values() for row in entry["rows"]}
    assert {result[:3] for result in expected} == rows and len(rows) == 2 * (10 + 5 + 4 + 3)
    assert len(expected) == 2 * 28 and {("msp", "calm", "base", name, 1) for name in ("audio", "text", "both")} <= expected


def test_dvc_has_every_stage_of_the_recipe(tmp_path, monkeypatch):
    """Of 18 models, 20 entries of heads, two transfers and two corpora."""
    project = Project(tmp_path)
    project.write(params := paper_recipe.reduced())
    monkeypatch.chdir(tmp_path)
    found = repro.stages([])
    addresses = [address for *_, address in state.addresses(settings.Settings.model_validate(params))]
    assert sorted(found) == sorted(["check", *addresses]) and len(found) == 1 + 2 * 4 + 18 * 3 + 20 * 2 + 2 * 2 + 2 + 1


@pytest.fixture(scope="module")
def few(lent, tmp_path_factory):
    """Two models with all rows of their heads, run in this process; without what other tests run and takes long here."""
    params = paper_recipe.reduced()
    for section in ("models", "heads"):
        params[section] = {name: params[section][name] for name in KEPT}
    params["transfer"] = {"mosei-to-msp": {"trained": KEPT[0], "tested": KEPT[1]}}
    params["transcribe"]["check"] = 0
    params["evaluate"] = {"baselines": ["chance", "logmel_functionals"], "bootstrap": 50}
    for section in ("transcribe", "features", "head"):
        params[section]["workers"] = 1
    project = Project(tmp_path_factory.mktemp("paper"))
    project.write(params)
    paper_recipe.make_language_model(project.folder / paper_recipe.LANGUAGE_MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        loaded = settings.load()
        check.run(loaded)
        for stage, name, _ in state.addresses(loaded):
            run = importlib.import_module(f"pipeline.stages.{stage}").run
            run(loaded, name) if name else run(loaded)
    return project.folder, loaded


def test_the_report_of_two_models_has_every_row(few):
    folder, loaded = few
    assert paper_recipe.gaps(folder, loaded) == []
    assert paper_recipe.printed(folder) == {("mosei", 1), ("mosei", 2), ("mosei", 7), ("mosei", 9), ("msp", 2), ("msp", 3), ("msp", 8)}
    for threshold in ("0.5", "tuned"):
        _, *rows = (folder / f"reports/tables/study-msp-transfer-{threshold}.csv").read_text().splitlines()
        assert rows and all(row.startswith("mosei") for row in rows), rows
    assert ",19206075," in (folder / "reports/tables/parameters-paper.csv").read_text()
    page = (folder / "reports/index.html").read_text()
    assert "bert-random" in page and "Synthetic speech" in page


def test_every_pretraining_changes_the_answers(few):
    """CALM, after CALP alone, and without pretraining: heads of the same seed on the same utterances."""
    folder, _ = few
    logits = pd.read_parquet(folder / "data/heads/mosei/mosei-tiny/logits.parquet").query("modality == 'both' and split == 'test'")
    calm, calp_only, neither = (
        np.stack(logits[logits["variant"] == name].sort_values("id")["logits"]) for name in ("calm", "calp_only", "no_pretraining")
    )
    assert not np.allclose(calm, calp_only, atol=1e-4) and not np.allclose(calp_only, neither, atol=1e-4)


def test_gaps_are_told(few, tmp_path):
    """A result that is taken out of the metrics, and a number that is taken out of a table."""
    folder, loaded = few
    (tmp_path / "reports/tables").mkdir(parents=True)
    rows = json.loads((folder / "reports/metrics.json").read_text())
    kept = [row for row in rows if row["variant"] not in ("labels_40", "chance")]
    (tmp_path / "reports/metrics.json").write_text(json.dumps(kept))
    table = 'variant,model,input,"accuracy, test",note\nCALM,tiny,audio,,\nOther,–,audio,50.0,\n"Theirs, quoted",–,audio,,\n'
    (tmp_path / "reports/tables/study-mosei-table-1-tuned.csv").write_text(table)
    assert paper_recipe.gaps(tmp_path, loaded) == [
        "no result of mosei labels_40 tiny both 1",
        "no result of mosei chance",
        "no result of msp chance",
        "study-mosei-table-1-tuned.csv: CALM, tiny, audio: no accuracy, test",
    ]
