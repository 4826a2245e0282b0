"""The study's rows: every kind of model, of heads and of table, trained shortly on two small corpora of noise."""

import contextlib
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from made_corpus import make
from transformers import BertConfig, BertModel, BertTokenizerFast

from calm.corpora.splits import nested
from calm.models.language_model import packaged_folder
from pipeline import paths
from pipeline.evaluation import groups
from pipeline.heads import training
from pipeline.heads.conditions import Condition, conditions
from pipeline.heads.networks import Networks
from pipeline.settings import Head, HeadRow
from pipeline.stages import baselines, calp, embed, evaluate, head, pretrain, release, transfer
from pipeline.state import visible

CLASSES = {"one": ("happy", "sad", "anger"), "two": ("angry", "happy", "neutral")}
ROWS = {
    "calm": {"modalities": ["audio", "both"], "tuning": ["frozen", "unfrozen"]},
    "no_pretraining": {"start": "language_model"},
    "calp_only": {"start": "calp"},
    "bert_only": {"network": "linear"},
    "mm_bert_cnn": {"network": "cnn"},
    "joint_transformer": {"network": "joint_transformer"},
    "labels_40": {"labels": 0.4},
}


@pytest.fixture(scope="module")
def study(lent, tmp_path_factory):
    """A study of four models on two corpora, run stage by stage in this process."""
    folder = tmp_path_factory.mktemp("study")
    with contextlib.chdir(folder):
        lm = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
        torch.manual_seed(0)
        BertModel(lm).save_pretrained("bert")
        BertTokenizerFast.from_pretrained(packaged_folder()).save_pretrained("bert")
        shared = {"language_model": "bert", "lm": "tiny", "stands_for": "tiny"}
        models = {
            "one-tiny": {**shared, "pretrain_on": "one"},
            "one-mm": {**shared, "pretrain_on": "one", "aligned": False, "pretrain": {"train_spectran": True}},
            "one-audio": {**shared, "pretrain_on": "one", "calp": {"alpha": 0}, "pretrain": {"modality": "audio"}},
            "two-20x8": {**shared, "pretrain_on": "two", "spectran": {"patch": [20, 8], "stride": [10, 4]}},
        }
        rows = {"no_calp_text": {"modalities": ["audio"]}}
        settings = make(
            60,
            CLASSES,
            seeds=[1, 2],
            models=models,
            heads={
                "one-tiny": {"corpus": "one", "model": "one-tiny", "rows": ROWS},
                "one-mm": {"corpus": "one", "model": "one-mm", "release": False, "rows": {"mm_only": {}}},
                "one-audio": {"corpus": "one", "model": "one-audio", "release": False, "rows": rows},
                "two-20x8": {"corpus": "two", "model": "two-20x8", "rows": {"calm": {}}},
            },
            transfer={"one-to-two": {"trained": "one-tiny", "tested": "two-20x8"}},
            spectran={"width": 64},
            calp={"epochs": 1, "batch": 16, "projection": 16},
            pretrain={"epochs": 1, "batch": 16},
            head={"epochs": 1, "frozen_epochs": 2, "modalities": ["both"], "tuning": ["unfrozen"], "first": "head", "workers": 1},
            evaluate={"baselines": ["chance"], "bootstrap": 20},
            tracking={"uri": "sqlite:///mlflow.db", "system_metrics_seconds": 60},
        )
        summaries = {}
        for name in models:
            summaries[f"calp@{name}"] = calp.run(settings, name)
            summaries[f"embed@{name}"] = embed.run(settings, name)
            summaries[f"pretrain@{name}"] = pretrain.run(settings, name)
        for name in settings.heads:
            summaries[f"head@{name}"] = head.run(settings, name)
        for name in settings.targets:
            baselines.run(settings, name)
            summaries[f"evaluate@{name}"] = evaluate.run(settings, name)
        for name in settings.heads:
            summaries[f"release@{name}"] = release.run(settings, name)
        summaries["transfer"] = transfer.run(settings, "one-to-two")
    return folder, settings, summaries


def read(folder, path):
    return json.loads((folder / path).read_text())


def test_every_row_is_evaluated(study):
    folder, _, _ = study
    rows = read(folder, paths.evaluation("one") / "metrics.json")
    names = {(row["variant"], row["modality"], row["seed"]) for row in rows if row["metric"] == "weighted_accuracy" and row["lm"] == "tiny"}
    expected = {(name, "both") for name in ("calm", "calm_frozen", *list(ROWS)[1:], "mm_only")}
    expected |= {("calm", "audio"), ("calm_frozen", "audio"), ("no_calp_text", "audio")}
    assert names == {(*row, seed) for row in expected for seed in (1, 2)}


def test_calm_is_compared_with_every_row(study):
    folder, _, _ = study
    rows = read(folder, paths.evaluation("one") / "comparisons.json")
    pairs = {(row["a"]["variant"], row["b"]["variant"], row["b"]["modality"]) for row in rows}
    peers = {("calm", name, "both") for name in (*list(ROWS)[1:], "mm_only")}
    assert pairs == peers | {("calm", "no_calp_text", "audio"), ("calm", "calm", "audio"), ("calm_frozen", "calm_frozen", "audio")}
    intervals = read(folder, paths.evaluation("one") / "intervals.json")
    (calm,) = [
        row
        for row in intervals
        if (row["variant"], row["modality"], row["threshold"], row["metric"]) == ("calm", "both", "tuned", "accuracy")
    ]
    metrics = read(folder, paths.evaluation("one") / "metrics.json")
    wanted = {"variant": "calm", "modality": "both", "split": "test", "threshold": "tuned", "metric": "accuracy"}
    assert calm["mean"] == pytest.approx(np.mean([row["value"] for row in metrics if wanted.items() <= row.items()]))
    assert calm["low"] <= calm["mean"] <= calm["high"] and calm["speakers"] == 3


def test_models_differ_as_their_settings_say(study):
    folder, settings, summaries = study
    metrics = {name: read(folder, paths.calp(name) / "metrics.json") for name in settings.models}
    assert metrics["one-mm"]["curve"] == [] == metrics["one-mm"]["retrieval"] and metrics["one-mm"]["flops"] == 0
    assert len(metrics["one-tiny"]["curve"]) == 1 and metrics["one-tiny"]["flops"] > 1e9
    pretrained = {name: read(folder, paths.pretrained(name) / "metrics.json") for name in settings.models}
    assert "mlm" in pretrained["one-tiny"]["validation"] and "mlm" not in pretrained["one-audio"]["validation"]
    assert "words" not in summaries["pretrain@one-audio"] and "words" in summaries["pretrain@one-tiny"]
    assert pretrained["one-mm"]["flops"] > pretrained["one-tiny"]["flops"] > 1e8  # SpecTran is trained along
    assert not list((folder / paths.encoded("one-mm")).glob("*.parquet"))
    config = read(folder, paths.pretrained("two-20x8") / "config.json")
    assert (config["patch"], config["stride"]) == ([20, 8], [10, 4])
    assert (folder / paths.model("one", "one-tiny") / "model.safetensors").exists()
    assert {path.name for path in (folder / paths.model("one", "one-mm")).iterdir()} == {"README.txt", "SHA256SUMS"}


def test_rows_start_from_what_they_say(study):
    folder, settings, _ = study
    with contextlib.chdir(folder):
        shared_networks = Networks(visible(settings, "head", "one-tiny"), "one", "one-tiny", folder)
        by_name = {
            condition.name: condition
            for condition in conditions(settings.heads["one-tiny"].rows, settings.head)
            if condition.modality == "both"
        }
        networks = {name: shared_networks.network(condition, 1) for name, condition in by_name.items() if condition.row.network == "calm"}
        sizes = {name: len(shared_networks.train_rows(condition)) for name, condition in by_name.items()}
    words = {name: network.calm.language_model.state_dict()["encoder.layer.0.output.dense.weight"] for name, network in networks.items()}
    cls = {name: network.calm.spectran.cls for name, network in networks.items()}
    assert torch.equal(words["calp_only"], words["no_pretraining"]) and not torch.equal(words["calp_only"], words["calm"])
    assert torch.equal(cls["calp_only"], cls["calm"]) and not torch.equal(cls["calp_only"], cls["no_pretraining"])
    for name, front_end_learns_slowly in {"calm": True, "calp_only": True, "no_pretraining": False, "bert_only": False}.items():
        slow = training.pretrained_part(by_name[name], network := networks.get(name) or shared_networks.network(by_name[name], 1))
        slow = {id(parameter) for parameter in slow.parameters()}
        assert slow >= {id(parameter) for parameter in network.calm.language_model.parameters()}
        assert (slow >= {id(parameter) for parameter in network.calm.spectran.parameters()}) is front_end_learns_slowly
    assert sizes["labels_40"] == round(0.4 * sizes["calm"]) and sizes["calm"] == 48


def test_frozen_heads_learn_from_changed_copies(study, tmp_path_factory):
    """Of the training rows that a condition may see, so many copies, each by its own draw; the rows themselves stay as they are."""
    folder, settings, _ = study
    augment = {"time_masks": 1, "time_mask_frames": 40}
    changed = settings.model_copy(
        update={"head": type(settings.head)(**settings.head.model_dump() | {"frozen_copies": 2, "augment": augment})}
    )
    with contextlib.chdir(folder):
        folders = (tmp_path_factory.mktemp("vectors") for _ in range(3))
        shared_networks, again, plain = (
            Networks(visible(changes, "head", "one-tiny"), "one", "one-tiny", next(folders)) for changes in (changed, changed, settings)
        )
        for row, copied in ((HeadRow(), 48), (HeadRow(labels=0.4), 19)):
            audio, text = (Condition("calm", row, "frozen", modality) for modality in ("audio", "text"))
            vectors, row_numbers = training.represented(shared_networks, audio, [1])
            assert vectors.shape[:2] == (60 + 2 * copied, 1)
            assert row_numbers.tolist() == [*range(60), *[*shared_networks.train_rows(audio)] * 2]
            itself, once, twice = vectors[row_numbers[60 : 60 + copied]], vectors[60 : 60 + copied], vectors[60 + copied :]
            assert all((a - b).abs().amax((1, 2)).min() > 1e-4 for a, b in ((itself, once), (itself, twice), (once, twice)))
            assert torch.equal(training.represented(plain, audio, [1])[0], vectors[:60])
            assert torch.equal(training.represented(again, audio, [1])[0], vectors)
            assert len(training.represented(shared_networks, text, [1])[1]) == 60
        _, _, curve = training.on_vectors(shared_networks, audio, vectors, row_numbers, [1], folder / "on-vectors")
    assert len(curve) == 2


def test_space_holds_vectors_before_and_after(study):
    folder, _, _ = study
    table = pq.read_table(folder / paths.calp("one-tiny") / "space.parquet").to_pandas()
    assert list(table) == ["id", "corpus", "split", "audio_before", "text_before", "audio_after", "text_after"]
    assert set(table["split"]) == {"validation", "test"} and len(table) == 12
    assert all(len(vector) == 16 for name in ("audio_before", "text_after") for vector in table[name])
    assert not np.allclose(np.stack(table["audio_before"]), np.stack(table["audio_after"]))


def test_groups_add_up(study):
    folder, _, _ = study
    rows = read(folder, paths.evaluation("one") / "buckets.json")
    assert {row["variant"] for row in rows} == {"calm", "calm_frozen"}
    wanted = {"variant": "calm", "modality": "both", "seed": 1, "threshold": "tuned"}
    sizes = {}
    for row in rows:
        if wanted.items() <= row.items():
            sizes.setdefault(row["by"], {})[row["bucket"]] = row["n"]
    assert sum(sizes["gender"].values()) == sum(sizes["duration"].values()) == 6 and set(sizes["gender"]) == {"female", "male"}
    assert set(sizes["duration"]) == {"under 2 s", "2-4 s"}
    assert sum(sizes["wer"].values()) == 6 and "no word wrong" in sizes["wer"]


def test_word_errors_by_utterance(tmp_path):
    rows = [
        ("a", "one two three four", "one two three four"),
        ("b", "one two three", "one two three four"),
        ("c", "x", "one"),
        ("d", "x", None),
    ]
    pd.DataFrame(rows, columns=["id", "text", "reference"]).to_parquet(tmp_path / "texts.parquet")
    names = groups.by_errors(pd.Series(["d", "c", "b", "a", "gone"]), tmp_path, "en")
    assert names.tolist() == [None, "over 20% wrong", "over 20% wrong", "no word wrong", None]


def test_transfer_is_over_the_shared_emotions(study):
    folder, _, summaries = study
    rows = read(folder, paths.transfer("one-to-two") / "metrics.json")["rows"]
    assert {row["threshold"] for row in rows} == {"tuned", "0.5"} and rows[0]["classes"] == ["angry", "happy"]
    assert all((row["trained_on"], row["tested_on"], row["n"]) == ("one", "two", 6) for row in rows)
    assert all(row["low"] <= row["value"] <= row["high"] and row["own"] is not None for row in rows)
    assert "over 2 emotions" in summaries["transfer"]


def test_shared_emotions():
    assert transfer.shared(("happy", "anger", "fear"), ("neutral", "fearful", "angry")) == [("fear", 2, 1), ("angry", 1, 2)]
    assert transfer.shared(["anger", "calm", "happiness"], ["joy", "sad", "angry"]) == [("happy", 2, 0), ("angry", 0, 2)]
    assert transfer.shared(("calm",), ("neutral",)) == []


def test_label_shares_are_nested_and_stratified():
    targets = np.repeat(np.eye(3), (50, 30, 20), axis=0)
    shares = {share: set(nested(targets, share, 7)) for share in (0.2, 0.4, 0.6, 1.0)}
    assert shares[0.2] < shares[0.4] < shares[0.6] < shares[1.0] == set(range(100))
    assert [int(targets[sorted(shares[0.2])][:, kind].sum()) for kind in range(3)] == [10, 6, 4]
    assert set(nested(targets, 0.2, 8)) != shares[0.2] and set(nested(targets, 0.2, 7)) == shares[0.2]
    assert len(nested(targets[:2], 0.01, 1)) == 1


def test_a_peer_has_one_condition():
    assert HeadRow(network="cnn").trained_with(Head(epochs=1, batch=1, learning_rate=0.1)) == [("unfrozen", "both")]


def test_runs_in_mlflow_agree_with_the_report(study):
    from mlflow import MlflowClient

    folder, _, _ = study
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("calm/one").experiment_id
    (run,) = client.search_runs([experiment], "params.row = 'labels_40' and params.seed = '2' and tags.`table` = '9 10'")
    rows = read(folder, paths.evaluation("one") / "metrics.json")
    wanted = {"variant": "labels_40", "modality": "both", "seed": 2, "split": "test", "threshold": "tuned", "metric": "weighted_accuracy"}
    (value,) = [row["value"] for row in rows if wanted.items() <= row.items()]
    assert run.data.metrics["test/tuned/weighted_accuracy"] == value
    assert run.data.params["labels"] == "0.4" and client.get_run(run.data.tags["calm.stage_run"]).info.run_name
