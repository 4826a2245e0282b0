"""The stages `baselines` and `evaluate` on small made corpora: what they write, what they name, and how fast they are."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml

from calm.audio.logmel import LogMel
from calm.corpora.utterances import Corpus, Utterance, multi_hot, write_table
from calm.evaluation import metrics
from pipeline import paths
from pipeline import settings as all_settings
from pipeline.evaluation import released
from pipeline.stages import baselines, evaluate
from pipeline.state import visible

REPOSITORY = Path(__file__).parents[2]
ONE_HOT, MULTI = ("angry", "sad", "happy", "neutral"), ("happy", "sad", "fear")
KEYS = {"corpus", "synthetic", "variant", "lm", "modality", "split", "threshold", "seed", "metric", "value"}


def prepare(folder: Path) -> Path:
    """The embedded default's settings, with fewer resamples."""
    given = yaml.safe_load((REPOSITORY / "recipes/demo.yaml").read_text())
    given["evaluate"]["bootstrap"], given["features"]["workers"] = 200, 1
    (folder / "params.yaml").write_text(yaml.safe_dump(given))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return prepare(tmp_path)


@pytest.fixture(scope="module")
def msp(tmp_path_factory):
    """A one-hot corpus, evaluated once: what the stage returns, and every JSON that it writes."""
    with contextlib.chdir(prepare(tmp_path_factory.mktemp("evaluated"))):
        return evaluated("msp")


def table(name: str, classes=ONE_HOT, one_hot=True, rows=200, seed=0, audio=Path("gone.wav")) -> pd.DataFrame:
    """A table of utterances: half train, a quarter validation, a quarter test; every tenth row is not labelled."""
    draw = np.random.default_rng(seed)
    corpus = Corpus(classes, one_hot)
    for row in range(rows):
        split = "train" if row < rows // 2 else "validation" if row < 3 * rows // 4 else "test"
        labels = [classes[draw.integers(len(classes))]] if one_hot else [one for one in classes if draw.random() < 0.4]
        end, speaker = 1.0, f"{split}{row % 8}"
        corpus.add(Utterance(f"u{row:04d}", audio, 0.0, end, speaker, None, split, "hm", None if row % 10 == 9 else labels))
    return write_table(corpus, paths.utterances(name))


def answers(frame: pd.DataFrame, classes, variants, strength: float, seeds=(1, 2), modalities=("audio", "text", "both")) -> pd.DataFrame:
    """Logits of heads, for labelled and unlabelled rows; both modalities are better than one, CALM is better than no pretraining."""
    parts, held_out = [], frame[frame["split"] != "train"]
    truth = multi_hot([[] if labels is None else labels for labels in held_out["labels"]], classes)
    for variant in variants:
        for modality in modalities:
            for seed in seeds:
                draw = np.random.default_rng([seed, len(variant), len(modality)])
                gain = strength + (modality == "both") + variant.startswith("calm")
                logits = (gain * (truth - 0.5) + draw.normal(size=truth.shape)).astype(np.float32)
                rows = held_out[["id", "split"]].assign(variant=variant, modality=modality, seed=seed, logits=list(logits))
                parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def store(frame: pd.DataFrame, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "logits.parquet")
    return folder / "logits.parquet"


def seen_of(name: str, stage: str = "evaluate"):
    """What a stage sees of `params.yaml`."""
    return visible(all_settings.load(), stage, name)


def evaluated(name: str, classes=ONE_HOT, one_hot=True, change=lambda heads: heads):
    """The stage's work on a made corpus, without its tracking: what it returns, and every JSON that it writes."""
    frame = table(name, classes, one_hot)
    variants = ("calm", "no_pretraining", "calm_frozen", "no_pretraining_frozen")
    store(change(answers(frame, classes, variants, 0.5)), paths.heads(name, "small"))
    peers = answers(frame, classes, ("egemaps", "logmel_functionals"), 0.3, [1], ["audio"])
    prior = answers(frame, classes, ("chance",), 0, [1], ["none"]).assign(
        logits=lambda rows: [np.full(len(classes), -1.5, np.float32)] * len(rows)
    )
    store(pd.concat([peers, prior], ignore_index=True), paths.baselines(name))
    seen, folder = seen_of(name), paths.evaluation(name)
    made, runs = evaluate.evaluate(seen, name, evaluate.logits_files(seen, name), folder)
    return made, runs, {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def value(rows, **wanted):
    found = [row["value"] for row in rows if all(row[key] == one for key, one in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


def test_one_hot_corpus(msp):
    _, runs, files = msp
    rows, notes = files["metrics"], files["notes"]
    assert len(runs) == 4 * 3 * 2 + 3
    assert set(files) == {"metrics", "thresholds", "comparisons", "intervals", "buckets", "calibration", "notes"}
    assert all(set(row) == KEYS and math.isfinite(row["value"]) for row in rows)
    assert {row["threshold"] for row in rows} == {"0.5", "tuned", "argmax"}
    assert {row["synthetic"] for row in rows} == {True}
    assert len({tuple(row[key] for key in sorted(KEYS - {"value"})) for row in rows}) == len(rows)
    assert {row["threshold"] for row in rows if row["metric"] == "accuracy_argmax"} == {"argmax"}
    assert {row["threshold"] for row in rows if row["metric"] in ("ece", "auc_macro", "average_precision_macro")} == {"0.5"}
    assert {"weighted_accuracy/angry", "f1/sad", "recall/happy", "precision/neutral"} <= {row["metric"] for row in rows}
    head = {"corpus": "msp", "variant": "chance", "lm": "-", "modality": "none", "split": "test", "seed": 1}
    assert value(rows, **head, threshold="0.5", metric="accuracy") == pytest.approx(0.75)
    assert value(rows, **head, threshold="0.5", metric="weighted_accuracy") == 0.5
    assert notes["utterances"]["test"]["never_anything"]["accuracy"] == pytest.approx(0.75)
    assert notes["utterances"]["test"]["labelled"] == 45
    assert notes["utterances"]["test"]["unlabelled"] == 5
    assert (notes["missing"], notes["not_evaluated"]) == ([], [])
    undefined = [
        one for one in notes["left_out"] if one["metric"] == "precision/angry" and one["threshold"] == "0.5" and one["split"] == "test"
    ]
    assert undefined == [
        {
            "split": "test",
            "threshold": "0.5",
            "metric": "precision/angry",
            "classes": ["angry"],
            "defined": False,
            "runs": ["chance - none 1"],
        }
    ]


def test_values_are_those_of_the_metrics(place):
    made, runs, files = evaluated("mosei", MULTI, one_hot=False)
    assert {row["threshold"] for row in files["metrics"]} == {"0.5", "tuned"}
    one = next(run for run in runs if run.system == ("calm", "small", "both") and run.seed == 2)
    predicted = pq.read_table(paths.evaluation("mosei") / "predictions.parquet").to_pandas()
    mine = predicted[
        (predicted["variant"] == "calm") & (predicted["modality"] == "both") & (predicted["seed"] == 2) & (predicted["split"] == "test")
    ]
    assert list(predicted.columns) == [
        "id", "split", "speaker", "labels", "variant", "lm", "modality", "seed", "probabilities", "decided_0.5", "decided_tuned",
    ]  # fmt: skip
    targets, at_half = (multi_hot(mine[column], MULTI) for column in ("labels", "decided_0.5"))
    probabilities = np.stack(mine["probabilities"])
    np.testing.assert_array_equal(at_half, probabilities >= 0.5)
    np.testing.assert_array_equal(targets, made.truth["test"].targets)
    head = {"variant": "calm", "modality": "both", "seed": 2, "split": "test"}
    for name in ("weighted_accuracy", "accuracy", "f1_paper", "f1_macro", "f1_micro", "balanced_accuracy"):
        assert value(files["metrics"], **head, threshold="0.5", metric=name) == pytest.approx(metrics.score(name, targets, at_half))
    thresholds = next(row for row in files["thresholds"] if (row["variant"], row["modality"], row["seed"]) == ("calm", "both", 2))[
        "thresholds"
    ]
    tuned = multi_hot(mine["decided_tuned"], MULTI)
    np.testing.assert_array_equal(tuned, one.probabilities["test"] >= np.array([thresholds[name] for name in MULTI]))
    bins = next(row for row in files["calibration"] if {**head, **row} == {**row, **head})["bins"]
    assert sum(one["n"] for one in bins) == 45 * 3


def test_comparisons(msp):
    _, _, files = msp
    rows = files["comparisons"]
    pairs = {(tuple(row["a"].values()), tuple(row["b"].values())) for row in rows}
    for tuning in ("", "_frozen"):
        both, audio = (f"calm{tuning}", "small", "both"), (f"calm{tuning}", "small", "audio")
        for modality in ("audio", "text", "both"):
            assert ((f"calm{tuning}", "small", modality), (f"no_pretraining{tuning}", "small", modality)) in pairs
        assert {(both, audio), (both, (f"calm{tuning}", "small", "text"))} <= pairs
        assert {(audio, (name, "-", "audio")) for name in ("egemaps", "logmel_functionals")} <= pairs
    assert len(pairs) == 2 * 7
    assert {row["threshold"] for row in rows} == {"0.5", "tuned", "argmax"}
    row = next(
        row for row in rows
        if row["a"]["variant"] == "calm" and row["b"] == {"variant": "egemaps", "lm": "-", "modality": "audio"}
        and (row["metric"], row["threshold"]) == ("weighted_accuracy", "tuned")
    )  # fmt: skip
    wanted = {"split": "test", "threshold": "tuned", "metric": "weighted_accuracy"}
    calm = [one["value"] for one in files["metrics"] if {**wanted, "variant": "calm", "modality": "audio"}.items() <= one.items()]
    peer = value(files["metrics"], variant="egemaps", **wanted)
    assert row["difference"] == pytest.approx(np.mean(calm) - peer)
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["significant"] == (row["low"] > 0 or row["high"] < 0)
    assert (row["n"], row["speakers"], row["seeds_a"], row["seeds_b"]) == (45, 8, 2, 1)


def test_missing_and_broken_answers_are_named(place):
    def change(heads):
        lost = (heads["variant"] == "calm") & (heads["modality"] == "both") & (heads["seed"] == 1)
        heads = heads[~(lost & (heads["id"] == "u0150"))]
        broken = heads.index[(heads["variant"] == "calm_frozen") & (heads["seed"] == 2) & (heads["id"] == "u0151")]
        for row in broken:
            heads.at[row, "logits"] = np.full(4, np.nan, np.float32)
        return heads[
            ~((heads["variant"] == "no_pretraining") & (heads["seed"] == 2) & (heads["modality"] == "text") & (heads["split"] == "test"))
        ]

    _, _, files = evaluated("msp", change=change)
    missing = files["notes"]["missing"]
    assert {"variant": "calm", "lm": "small", "modality": "both", "seed": 1, "split": "test", "utterances": 1, "ids": ["u0150"]} in missing
    assert sum(one["ids"] == ["u0151"] for one in missing) == 3
    assert [(one["variant"], one["reason"]) for one in files["notes"]["not_evaluated"]] == [
        ("no_pretraining", "no prediction for any utterance")
    ]
    assert all(math.isfinite(row["value"]) for row in files["metrics"])
    assert {row["n"] for row in files["comparisons"]} == {43}  # what all runs answer


def test_no_validation_leaves_only_fixed_thresholds(place, monkeypatch):
    _, _, files = evaluated("msp", change=lambda heads: heads[heads["split"] == "test"])
    assert {row["threshold"] for row in files["metrics"] if row["lm"] == "small"} == {"0.5", "argmax"}
    assert any(one["reason"] == "no validation to tune on" for one in files["notes"]["not_evaluated"])
    assert "tuned" not in {row["threshold"] for row in files["comparisons"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda heads: heads.assign(logits=[row[:3] for row in heads["logits"]]), "has rows of 3 logits, the corpus has 4 classes"),
        (lambda heads: pd.concat([heads, heads.head(1)]), "two rows for one utterance"),
    ],
)
def test_logits_that_do_not_fit(place, change, message):
    with pytest.raises(ValueError, match=message):
        evaluated("msp", change=change)


def test_other_models_are_not_read_and_missing_ones_are_named(place):
    table("msp")
    settings = seen_of("msp")
    store(pd.DataFrame(), paths.heads("msp", "of_another_recipe"))
    with pytest.raises(ValueError, match="heads/msp/small/logits.parquet is missing: run the stage head for msp"):
        evaluate.logits_files(settings, "msp")
    store(pd.DataFrame(), paths.heads("msp", "small"))
    store(pd.DataFrame(), paths.baselines("msp"))
    assert [lm for lm, _ in evaluate.logits_files(settings, "msp")] == ["small", "-"]


def test_corpus_without_labels(place):
    corpus = Corpus(("a", "b"))
    corpus.add(Utterance("u", Path("x.wav"), 0.0, 1.0, split="test"))
    write_table(corpus, paths.utterances("msp"))
    with pytest.raises(ValueError, match="no labelled utterance"):
        evaluate.read_truth(paths.utterances("msp"), "msp", False)


def test_fifty_runs_in_seconds(place):
    frame = table("msp", rows=1600)
    store(
        answers(frame, ONE_HOT, ("calm", "no_pretraining", "calm_frozen", "no_pretraining_frozen"), 0.5, range(4)),
        paths.heads("msp", "small"),
    )
    store(answers(frame, ONE_HOT, ("egemaps", "logmel_functionals"), 0.3, [1], ["audio"]), paths.baselines("msp"))
    settings = seen_of("msp")
    begin = time.monotonic()
    _, runs = evaluate.evaluate(settings, "msp", evaluate.logits_files(settings, "msp"), paths.evaluation("msp"))
    assert len(runs) == 50
    assert time.monotonic() - begin < 15  # about 3 s on an idle core


def corpus_on_disk(name: str, rows: int = 64) -> None:
    """Buzzes whose pitch is the class, their log-mel, and one file that is missing."""
    rate, classes, logmel, shard = 16000, MULTI, LogMel(), {"id": [], "frames": [], "features": []}
    Path("audio").mkdir()
    corpus, moments = Corpus(classes, True), np.arange(8000) / rate
    draw = np.random.default_rng(0)
    for row in range(rows):
        kind, file = row % 3, Path("audio") / f"{row}.wav"
        pitch = 100 + 60 * kind + draw.normal(0, 8)
        samples = 0.1 * sum(np.sin(2 * np.pi * pitch * n * moments) / n for n in range(1, 9))
        split = "train" if row < 32 else "validation" if row < 48 else "test"
        corpus.add(Utterance(f"u{row}", file, 0.0, 0.5, f"s{row % 4}", None, split, "hm", [classes[kind]]))
        if row != 60:
            soundfile.write(file, samples, rate)
            values = logmel(samples)
            for key, one in zip(shard, (f"u{row}", len(values), values.astype(np.float16).ravel()), strict=True):
                shard[key].append(one)
    write_table(corpus, paths.utterances(name))
    paths.features(name).mkdir(parents=True)
    pq.write_table(
        pa.table({**shard, "features": pa.array(shard["features"], pa.list_(pa.float16()))}), paths.features(name) / "part-00000.parquet"
    )


def test_baselines_then_the_command(place):
    corpus_on_disk("mosei")
    paths.baselines("mosei").mkdir(parents=True)
    report, _ = baselines.answer(
        seen_of("mosei", "baselines"), paths.utterances("mosei"), paths.features("mosei"), paths.baselines("mosei")
    )
    heads = answers(pd.read_parquet(paths.utterances("mosei")), MULTI, ("calm", "no_pretraining"), 0.5)
    store(heads, paths.heads("mosei", "small"))
    assert report["baselines"]["egemaps"]["failed"] == {"u60": "AudioError: audio/60.wav does not exist"}
    assert report["baselines"]["logmel_functionals"]["failed"] == {"u60": "it has no log-mel frames"}
    logits = pd.read_parquet(paths.baselines("mosei") / "logits.parquet")
    assert list(logits.columns) == ["id", "split", "variant", "modality", "seed", "logits"]
    assert logits.groupby(["variant", "modality"]).size().to_dict() == {
        ("chance", "none"): 32, ("egemaps", "audio"): 32, ("logmel_functionals", "audio"): 32,
    }  # fmt: skip
    assert set(logits["seed"]) == {1}
    lost = logits[logits["id"] == "u60"].set_index("variant")["logits"]
    np.testing.assert_array_equal(lost["egemaps"], lost["chance"])  # the prior of training
    surroundings = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    command = [sys.executable, "-m", "pipeline.stages", "evaluate", "mosei"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mosei: 15 heads and baselines evaluated") and len(done.stdout.splitlines()) == 1
    rows = json.loads((paths.evaluation("mosei") / "metrics.json").read_text())
    for name in ("egemaps", "logmel_functionals"):
        assert value(rows, variant=name, split="test", threshold="argmax", metric="weighted_accuracy") > 0.9
    measured = json.loads(paths.measured("evaluate@mosei").read_text())
    assert measured["mlflow_run"] and measured["seconds"] > 0 and "mlflow_run" not in (paths.evaluation("mosei") / "notes.json").read_text()


def test_baselines_that_are_off(place):
    corpus_on_disk("mosei", 50)
    given = yaml.safe_load(Path("params.yaml").read_text())
    given["evaluate"]["baselines"] = []
    Path("params.yaml").write_text(yaml.safe_dump(given))
    settings = seen_of("mosei", "baselines")
    paths.baselines("mosei").mkdir(parents=True)
    report, _ = baselines.answer(settings, paths.utterances("mosei"), paths.features("mosei"), paths.baselines("mosei"))
    assert report["baselines"] == {}
    made = evaluate.read_truth(paths.utterances("mosei"), "mosei", True)
    assert list(evaluate.read_predictions(paths.baselines("mosei") / "logits.parquet", "-", made)) == []


def test_baselines_need_features(place):
    table("msp", rows=60)
    paths.baselines("msp").mkdir(parents=True)
    with pytest.raises(ValueError, match="egemaps: none of the 27 training utterances has features; the first: AudioError: gone.wav"):
        baselines.answer(seen_of("msp", "baselines"), paths.utterances("msp"), paths.features("msp"), paths.baselines("msp"))


def test_heads_with_a_softmax_are_calibrated_and_name_their_decision(place):
    given = yaml.safe_load((place / "params.yaml").read_text())
    given["head"] |= {"loss": "softmax", "decision": "argmax"}
    (place / "params.yaml").write_text(yaml.safe_dump(given))
    _, _, files = evaluated("msp")
    assert files["notes"]["decision"] == "argmax"
    temperatures = {row["variant"]: row.get("temperature") for row in files["thresholds"]}
    assert temperatures["calm"] > 0.1 and temperatures["chance"] is None
    table = pd.read_parquet(paths.evaluation("msp") / "predictions.parquet")
    sums = table.assign(sum=[sum(row) for row in table["probabilities"]]).groupby("variant")["sum"]
    assert sums.max()["calm"] == pytest.approx(1, abs=1e-5) == sums.min()["calm"] and sums.max()["egemaps"] > 1.1
    head = released.read(paths.evaluation("msp"), {"variant": "calm", "lm": "small", "modality": "both", "seed": 1})
    assert head.temperature == temperature_of(files, "calm", "both", 1) and head.decisions == ["tuned", "0.5", "argmax"]
    assert {row["threshold"] for row in released.figures(head, 20, 1)} == {"tuned", "0.5", "argmax"}
    assert (head.column("test", "decided_argmax").sum(axis=1) == 1).all()


def temperature_of(files: dict, variant: str, modality: str, seed: int) -> float:
    wanted = {"variant": variant, "modality": modality, "seed": seed}
    return next(row["temperature"] for row in files["thresholds"] if wanted.items() <= row.items())


def test_argmax_is_refused_where_an_utterance_may_have_several_classes(place):
    given = yaml.safe_load((place / "params.yaml").read_text())
    given["head"]["decision"] = "argmax"
    (place / "params.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(ValueError, match="head.decision is argmax, but utterances of mosei may have several classes"):
        evaluated("mosei", MULTI, one_hot=False)
