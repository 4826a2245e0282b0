"""Cross-validation on a very small made corpus: folds of speakers, no pretraining, heads, baselines, release and page."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from made_corpus import ROOT, project
from made_project import small
from typer.testing import CliRunner

from calm.audio.decoding import read_audio
from calm.cli import app
from calm.corpora.folds import split_in
from calm.corpora.utterances import read_table
from calm.evaluation import metrics, thresholds
from calm.inference.loading import load_classifier
from pipeline import stage
from pipeline.heads.conditions import by_training, conditions
from pipeline.settings import Head, HeadRow
from pipeline.stages import baselines, check, evaluate, features, head, ingest, release, report, transcribe

CLASSES = ("calm", "loud")
KEYS = ["variant", "modality", "seed"]
FOLDS = (1, 2)
ROWS = {
    "no_pretraining": {"start": "language_model"},
    "no_pretraining_known": {"start": "language_model", "normalise": "tested_speaker", "tuning": ["frozen"]},
}
CHANGES = {
    "seeds": [1, 2],
    "corpora": {"mine": {"format": "manifest", "path": "mine.csv", "folds": len(FOLDS)}},
    "models": {"small": {"language_model": "minilm", "layers": 1, "pretrain_on": "none"}},
    "heads": {"mine-small": {"corpus": "mine", "model": "small", "rows": ROWS}},
    "features": {"workers": 1},
    "head": small()["head"] | {"modalities": ["audio"], "frozen_epochs": 2, "first": "all", "frozen_copies": 0, "workers": 1},
    "evaluate": {"baselines": ["chance", "logmel_functionals", "logmel_functionals_known"], "bootstrap": 20, "threshold_resamples": 20},
    "report": {"examples": 0},
    "tracking": {"uri": "sqlite:///mlflow.db", "system_metrics_seconds": 60},
}
tune = partial(thresholds.tune_thresholds, resamples=20, seed=1)


@pytest.fixture(scope="module")
def folded(lent, tmp_path_factory) -> Path:
    """Four speakers say six clips each, half of them ten times as loud; every stage."""
    folder, noise = tmp_path_factory.mktemp("folds"), np.random.default_rng(0)
    lines = ["audio,speaker,text,labels"]
    for speaker in "uvwx":
        for number in range(6):
            name, gain = f"{speaker}{number}.wav", 0.1 if number % 2 else 0.01
            soundfile.write(folder / name, noise.normal(0, gain, 12000 + 800 * number), 16000)
            lines.append(f"{name},{speaker},one two,{CLASSES[number % 2]}")
    (folder / "mine.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = project(["mine"], **CHANGES)
        shutil.copy(ROOT / "dvc.yaml", folder)  # whose stages the page draws
        check.run(settings)
        for module in (ingest, transcribe, features):
            module.run(settings, "mine")
        for name in ("calp", "embed", "pretrain"):
            assert stage.run(name, settings, "small") == "small: nothing to do, pretrain_on is none"
        for module, name in ((head, "mine-small"), (baselines, "mine"), (evaluate, "mine"), (release, "mine-small")):
            module.run(settings, name)
        report.run(settings)
    return folder


@pytest.fixture
def table(folded) -> pd.DataFrame:
    return read_table(folded / "data/utterances/mine/utterances.parquet")


def test_every_utterance_is_tested_once_by_who_never_heard_its_speaker(folded, table):
    logits = pd.read_parquet(folded / "data/heads/mine/small/logits.parquet")
    for names, rows in logits[(logits["split"] == "test")].groupby(KEYS):
        assert sorted(rows["id"]) == sorted(table["id"]), names
        merged = rows.merge(table[["id", "fold"]], on="id", suffixes=("", "_of_table"))
        assert (merged["fold"] == merged["fold_of_table"]).all()
    speakers = dict(zip(table["id"], table["speaker"], strict=True))
    for fold in FOLDS:
        split = split_in(table, fold)
        parts = {name: set(table["speaker"][split == name]) for name in ("train", "validation", "test")}
        assert {name: len(people) for name, people in parts.items()} == {"train": 1, "validation": 1, "test": 2}
        validated = logits[(logits["split"] == "validation") & (logits["fold"] == fold)]
        assert {speakers[id] for id in validated["id"]} == parts["validation"]
    assert set(zip(logits["variant"], logits["seed"], strict=True)) == {
        (name, seed) for name in ("no_pretraining", "no_pretraining_frozen", "no_pretraining_known_frozen") for seed in (1, 2)
    }


def test_known_speakers_are_answered_by_the_same_heads(folded):
    logits = pd.read_parquet(folded / "data/heads/mine/small/logits.parquet").sort_values([*KEYS, "fold", "id"])
    for split, alike in (("validation", True), ("test", False)):
        new, known = (
            np.stack(logits[(logits["variant"] == f"no_pretraining{name}_frozen") & (logits["split"] == split)]["logits"])
            for name in ("", "_known")
        )
        assert np.array_equal(new, known) == alike


def test_rows_with_the_same_training_are_trained_once():
    start = {"start": "language_model"}
    others = {"all_known": start | {"normalise": "speaker"}, "fewer": start | {"labels": 0.4}}
    rows = {name: HeadRow(**row) for name, row in {**ROWS, **others}.items()}
    groups = by_training(conditions(rows, Head(**CHANGES["head"])), "corpus")
    names = [[condition.name for condition in alike] for alike in groups]
    assert names == [
        ["no_pretraining_frozen", "no_pretraining_known_frozen"],
        ["all_known_frozen"],
        ["fewer_frozen"],
        ["no_pretraining"],
        ["all_known"],
        ["fewer"],
    ]


def test_the_last_run_is_the_released_one_alone(folded, table):
    logits = pd.read_parquet(folded / "data/heads/mine/small/logits.parquet")
    last = logits[logits["fold"] == 0]
    assert set(map(tuple, last[[*KEYS, "split"]].values)) == {("no_pretraining", "audio", 1, "validation")}
    assert set(last["id"]) == set(table["id"][table["split"] == "validation"])
    model = folded / "data/models/mine/small"
    targets = np.array([[name in labels for name in CLASSES] for labels in table.set_index("id").loc[last["id"], "labels"]])
    tuned = tune(targets, 1 / (1 + np.exp(-np.stack(last["logits"]).astype(float))))
    assert json.loads((model / "config.json").read_text())["thresholds"]["emotion"] == pytest.approx(tuned.tolist())
    card = (model / "README.md").read_text()
    assert "These are the figures of the networks of 2 folds, not of this one" in card and "pretraining:" not in card
    stats = json.loads((folded / "data/features/mine/stats.json").read_text())
    extractor, learned = json.loads((model / "preprocessor_config.json").read_text()), table[table["split"] == "train"]
    assert extractor["mean"] == stats["mean"] and extractor["longest"] == np.ceil(learned["duration"].max())
    curves = json.loads((folded / "data/heads/mine/small/curves.json").read_text())
    wanted = {"variant": "no_pretraining", "modality": "audio", "seed": 1, "fold": 0}
    (curve,) = [entry["curve"] for entry in curves if wanted.items() <= entry.items()]
    assert f"on validation: {curve[-1]['validation_loss']:.3f}" in card
    clip = folded / "u1.wav"
    done = CliRunner().invoke(app, ["predict", str(clip), "--model", str(model), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["classes"] == list(CLASSES), done.output
    known = load_classifier(model).for_speaker([read_audio(folded / f"u{number}.wav") for number in range(6)])
    assert "--speaker RECORDINGS" in card
    assert known.speaker_seconds == pytest.approx(sum(12000 + 800 * number for number in range(6)) / 16000)


def test_statistics_are_those_of_the_other_folds(folded, table):
    stats = json.loads((folded / "data/features/mine/stats.json").read_text())
    shards = pd.concat(map(pd.read_parquet, sorted((folded / "data/features/mine").glob("part-*.parquet"))))
    frames = {id: np.asarray(values, np.float64).reshape(-1, 64) for id, values in zip(shards["id"], shards["features"], strict=True)}
    for fold in FOLDS:
        of_fold = np.concatenate([frames[id] for id in table["id"][table["fold"] == fold]])
        assert stats["folds"][str(fold)]["frames"] == len(of_fold)
        np.testing.assert_allclose(stats["folds"][str(fold)]["total"], of_fold.sum(0))
        np.testing.assert_allclose(stats["folds"][str(fold)]["squares"], (of_fold**2).sum(0))
    train = np.concatenate([frames[id] for id in table["id"][table["split"] == "train"]])
    np.testing.assert_allclose(stats["mean"], train.mean(0))


def test_thresholds_and_figures_are_pooled_over_folds(folded, table):
    """Weighted accuracy of one head by hand: thresholds of each fold's validation, decisions of all tested utterances together."""
    folder = folded / "data/evaluation/mine"
    logits = pd.read_parquet(folded / "data/heads/mine/small/logits.parquet")
    rows = logits[(logits["variant"] == "no_pretraining") & (logits["seed"] == 2)]
    labels = table.set_index("id")["labels"]

    def of(part: pd.DataFrame):
        targets = np.array([[name in labels[id] for name in CLASSES] for id in part["id"]])
        return targets, 1 / (1 + np.exp(-np.stack(part["logits"]).astype(np.float64)))

    targets, decisions, by_fold, likeliest = [], [], {}, []
    for fold in FOLDS:
        own = rows[rows["fold"] == fold]
        tuned = tune(*of(own[own["split"] == "validation"]))
        truth, probabilities = of(own[own["split"] == "test"])
        targets.append(truth)
        decisions.append(probabilities >= tuned)
        likeliest.append(thresholds.likeliest(probabilities))
        by_fold[str(fold)] = metrics.score("balanced_accuracy", truth, likeliest[-1])
    pooled = metrics.score("weighted_accuracy", np.concatenate(targets), np.concatenate(decisions))
    written = json.loads((folder / "metrics.json").read_text())
    wanted = {"variant": "no_pretraining", "seed": 2, "split": "test", "threshold": "tuned", "metric": "weighted_accuracy"}
    (value,) = [row["value"] for row in written if wanted.items() <= row.items()]
    assert value == pytest.approx(pooled)
    kept = pq.read_table(folder / "predictions.parquet").to_pandas().query("variant == 'no_pretraining' and seed == 2 and split == 'test'")
    assert len(kept) == 24 and set(kept["fold"]) == set(FOLDS)
    lines = json.loads((folder / "folds.json").read_text())
    wanted = {"variant": "no_pretraining", "threshold": "argmax", "metric": "balanced_accuracy", "seeds": 2}
    (line,) = [line for line in lines if wanted.items() <= line.items()]
    assert set(line["folds"]) == {"1", "2"} and line["n"] == 24 and line["speakers"] == 4
    assert line["mean"] == pytest.approx(np.mean(list(line["folds"].values())))
    assert line["spread"] == pytest.approx(np.std(list(line["folds"].values()), ddof=1))
    accuracy = next(line for line in lines if {**wanted, "metric": "accuracy_argmax"}.items() <= line.items())
    wanted = {"variant": "no_pretraining", "split": "test", "threshold": "argmax", "metric": "accuracy_argmax"}
    seeds = [row["value"] for row in written if wanted.items() <= row.items()]
    assert len(seeds) == 2 and accuracy["pooled"] == pytest.approx(np.mean(seeds))


def test_baselines_are_fitted_in_every_fold(folded, table):
    logits = pd.read_parquet(folded / "data/heads/mine/baselines/logits.parquet")
    for name, rows in logits[logits["split"] == "test"].groupby("variant"):
        assert sorted(rows["id"]) == sorted(table["id"]), name
    report = json.loads((folded / "data/heads/mine/baselines/metrics.json").read_text())
    folds = report["baselines"]["logmel_functionals"]["folds"]
    assert set(folds) == {"1", "2"} and all(set(one["validation_auc"]) for one in folds.values())


def test_stages_of_pretraining_leave_a_note_and_the_page_says_so(folded):
    for name in ("calp", "encoded", "pretrained"):
        assert {path.name for path in (folded / "data" / name / "small").iterdir()} == {"README.txt", "SHA256SUMS"}
    page = (folded / "reports/index.html").read_text()
    assert "Model small is not pretrained" in page and "not pretrained</p>" in page.replace(".</p>", "</p>")
    assert (folded / "reports/tables/mine-folds.csv").read_text().count("\n") >= 4
