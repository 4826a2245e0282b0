"""From 60 clips of real speech to a model that answers, with the packaged Whisper's encoder as the ear: every stage, then the command."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_corpus import ROOT, project
from typer.testing import CliRunner

from calm.audio.packaged import packaged
from calm.cli import app
from pipeline import paths
from pipeline.stages import baselines, calp, check, embed, evaluate, features, head, ingest, pretrain, release, report, transcribe

CORPORA = os.environ.get("CALM_CORPORA")
pytestmark = pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")
CLASSES, SPLITS = ("sadness", "surprised"), {"train": 16, "validation": 6, "test": 8}  # clips of each class
CHANGES = {
    "seeds": [1],
    "features": {"encoder": "whisper-tiny.en", "layers": [2], "speeds": [1.1], "trim_db": 40, "shard": 32, "workers": 1},
    "spectran": {"block": 25, "hop": 15, "patch": [5, 384], "stride": [5, 384], "layers": 1, "width": 64},
    "transcribe": {"window_seconds": 5, "check": 0, "workers": 1},
    "models": {"small": {"language_model": "minilm", "layers": 1, "pretrain_on": "."}},
    "calp": {"epochs": 1, "batch": 16},
    "pretrain": {"epochs": 1, "batch": 16},
    "head": {"epochs": 1, "frozen_epochs": 30, "functionals": "thirds", "standardise": True, "pooling": "cls_blocks", "workers": 1},
    "heads": {"nemo": {"corpus": "nemo", "model": "small", "rows": {"calm": {}}}},
    "evaluate": {"baselines": ["chance", "encoder_functionals"], "bootstrap": 20},
    "tracking": {"uri": "sqlite:///mlflow.db", "system_metrics_seconds": 60},
}


@pytest.fixture(scope="module")
def rebuilt(lent, tmp_path_factory):
    """Three speakers, one a split; six texts are left to Whisper."""
    if not packaged("tiny.en"):
        pytest.skip("the package with Whisper tiny.en is not installed")
    folder, source = tmp_path_factory.mktemp("nemo"), Path(CORPORA) / "nemo"
    rows = list(csv.DictReader((source / "table.csv").open(encoding="utf-8")))
    chosen = []
    for speaker, (split, count) in zip(sorted({row["speaker"] for row in rows}), SPLITS.items(), strict=False):
        for name in CLASSES:
            own = [row for row in rows if row["speaker"] == speaker and row["labels"] == name][:count]
            chosen += [row | {"audio": str(source / row["audio"]), "split": split} for row in own]
    for row in chosen[::10]:
        row["text"] = ""
    with (folder / "nemo.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*chosen[0]])
        writer.writeheader()
        writer.writerows(chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        changes = CHANGES | {"head": CHANGES["head"] | {"modalities": ["audio", "both"], "tuning": ["frozen", "unfrozen"]}}
        settings = project(["nemo"], **changes)
        shutil.copy(ROOT / "dvc.yaml", folder)  # whose stages the page draws
        check.run(settings)
        for stage, name in [
            (ingest, "nemo"),
            (transcribe, "nemo"),
            (features, "nemo"),
            (calp, "small"),
            (embed, "small"),
            (pretrain, "small"),
        ]:
            stage.run(settings, name)
        for stage in (head, baselines, evaluate, release):
            stage.run(settings, "nemo")
        report.run(settings)
    return folder


@pytest.fixture(autouse=True)
def here(rebuilt, monkeypatch):
    monkeypatch.chdir(rebuilt)


def calm(*arguments: object):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def clip(split: str = "test") -> pd.Series:
    table = pd.read_parquet(paths.utterances("nemo"))
    return table[table["split"] == split].iloc[0]


def test_heads_hear_what_the_encoder_hears():
    """Two emotions of an unseen speaker: far above chance, which is a half, with the baseline and with heads that see functionals."""
    rows = pd.DataFrame(json.loads((paths.evaluation("nemo") / "metrics.json").read_text()))
    rows = rows[(rows["split"] == "test") & (rows["metric"] == "balanced_accuracy") & (rows["threshold"] == "argmax")]
    best = rows.groupby("variant")["value"].max()
    assert {"chance", "encoder_functionals", "calm", "calm_frozen"} <= set(best.index)
    assert best["encoder_functionals"] >= 0.8 and best["calm_frozen"] >= 0.75, best


def test_the_report_and_the_card_name_the_encoder():
    page = Path("reports/index.html").read_text()
    assert "Speech encoder" in page and "whisper-tiny.en, layer 2" in page and "copies at 1.1 times the speed" in page
    folder = paths.model("nemo", "small")
    card = (folder / "README.md").read_text()
    assert "- speech encoder: whisper-tiny.en, layer 2" in card and "whisper-tiny.en comes with this folder. Its licence: MIT" in card
    assert {"encoder", "encoder.onnx", "model.onnx"} <= {path.name for path in folder.iterdir()}


def test_the_released_model_answers_as_the_stage_did():
    kept = json.loads((paths.model("nemo", "small") / "release.json").read_text())
    logits = pd.read_parquet(paths.heads("nemo", "small") / "logits.parquet")
    logits = logits[(logits[list(kept)] == pd.Series(kept)).all(axis=1)].set_index("id")["logits"]
    row, texts = clip(), pd.read_parquet(paths.texts("nemo") / "texts.parquet").set_index("id")["text"]
    done = calm("predict", row["audio"], "--model", paths.model("nemo", "small"), "--text", texts[row["id"]], "--json")
    answers = json.loads(done.stdout)["rows"][0]["probabilities"]
    found = np.array([answers[name] for name in CLASSES])
    np.testing.assert_allclose(np.log(found / (1 - found)), logits[row["id"]], atol=0.05)


def test_timeline_embed_and_search(tmp_path):
    model, row = paths.model("nemo", "small"), clip()
    calm("timeline", row["audio"], "--model", model, "-o", tmp_path / "out.csv", "--picture", tmp_path / "out.png")
    assert list(pd.read_csv(tmp_path / "out.csv")) == ["time", "start", "end", *CLASSES] and (tmp_path / "out.png").stat().st_size > 10_000
    calm("embed", row["audio"], "--model", model, "-o", tmp_path / "out.parquet", "--text", "tak")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["blocks"][0][0].shape == (384,) and np.isfinite(table["utterance"][0]).all()
    found = json.loads(calm("search", "--like", row["audio"], "nemo", "--json").stdout)
    assert found["searched"] == 60 and found["hits"][0]["id"] == row["id"] and found["hits"][0]["cosine"] > 0.99


def test_no_module_of_torch_where_the_graph_answers():
    asked = ["calm", "predict", clip()["audio"], "--model", str(paths.model("nemo", "small")), "--text", "tak", "--json"]
    code = f"import sys; sys.argv = {asked}\nfrom calm.cli import app\ntry: app()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not {"torch", "transformers"} & set(done.stderr.split()), done.stderr
