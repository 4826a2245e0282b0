"""The whole pipeline through DVC on a very small corpus of synthetic speech: every stage, then nothing to do, then a changed setting."""

import json
import re
import sys
import time

import mlflow
import numpy as np
import pandas as pd
from made_project import small

METRICS = {"weighted_accuracy", "accuracy", "f1_paper", "f1_macro", "f1_micro", "balanced_accuracy"}


def test_metrics_are_rows_of_one_value(rebuilt):
    rows = json.loads((rebuilt.folder / "reports/metrics.json").read_text())
    assert {tuple(row) for row in rows} == {
        ("corpus", "synthetic", "variant", "lm", "modality", "split", "threshold", "seed", "metric", "value")
    }
    frame = pd.DataFrame(rows)
    assert set(frame["metric"]) >= METRICS and frame["synthetic"].all() and frame["value"].notna().all()
    assert set(frame["variant"]) == {"chance", "logmel_functionals", "calm", "calm_frozen", "no_pretraining", "no_pretraining_frozen"}
    assert not frame.duplicated([name for name in frame.columns if name != "value"]).any()
    calm = frame[(frame["variant"] == "calm") & (frame["metric"] == "weighted_accuracy") & (frame["threshold"] == "0.5")]
    assert set(zip(calm["modality"], calm["split"], calm["seed"], strict=True)) == {
        (modality, split, seed) for modality in ("audio", "both") for split in ("validation", "test") for seed in (1, 2)
    }


def test_the_page_and_the_model_are_there(rebuilt):
    page = (rebuilt.folder / "reports/index.html").read_text()
    assert "synthetic speech" in page and len(page) < 3_000_000
    model, trained = rebuilt.folder / "data/models/msp/small", rebuilt.folder / "data/heads/msp/small"
    expected = {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "release.json",
        "README.md",
        "model.onnx",
        "SHA256SUMS",
    }
    assert {path.name for path in model.iterdir()} == expected
    card = (model / "README.md").read_text()
    assert (
        "Trained on synthetic speech" in card
        and re.search(r"^- heads: msp \(msp_podcast\), \d+ utterances, 0\.\d+ h, of \d+ speakers: ", card, re.MULTILINE)
        and "- pretraining: msp, 0." in card
        and "variant `calm`, seed 1" in card
    )
    curves = json.loads((trained / "curves.json").read_text())
    last = next(entry["curve"][-1] for entry in curves if (entry["variant"], entry["modality"], entry["seed"]) == ("calm", "both", 1))
    assert f"on validation: {last['validation_loss']:.3f} (on the\ntraining split: {last['loss']:.3f}; epochs: 1)" in card
    thresholds = json.loads((model / "config.json").read_text())["thresholds"]["emotion"]
    kept = {"variant": "calm", "lm": "small", "modality": "both", "seed": 1}
    tuned = json.loads((rebuilt.folder / "data/evaluation/msp/thresholds.json").read_text())
    assert thresholds == list(next(row["thresholds"] for row in tuned if kept.items() <= row.items()).values())
    rows = json.loads((rebuilt.folder / "data/evaluation/msp/metrics.json").read_text())
    wanted = {**kept, "split": "test", "threshold": "tuned", "metric": "weighted_accuracy"}
    (value,) = [row["value"] for row in rows if wanted.items() <= row.items()]
    (line,) = [line for line in card.splitlines() if line.startswith("| test | tuned |")]
    assert line.split("|")[5].split()[0] == f"{100 * value:.1f}" and "to" in line.split("|")[5]


def test_the_released_model_answers_as_the_stage_did(rebuilt):
    """From the audio of test utterances by `calm predict`. The stage had acoustic tokens in float16: logits differ by what that rounds."""
    folder, heads = rebuilt.folder, rebuilt.folder / "data/heads/msp/small"
    model = folder / "data/models/msp/small"
    kept = json.loads((model / "release.json").read_text())
    logits = pd.read_parquet(heads / "logits.parquet").query("split == 'test'")
    logits = logits[(logits[list(kept)] == pd.Series(kept)).all(axis=1)].merge(
        pd.read_parquet(folder / "data/utterances/msp/utterances.parquet")
    )
    logits = logits.drop(columns="text").merge(pd.read_parquet(folder / "data/texts/msp/texts.parquet")[["id", "text"]]).head(8)
    texts = [part for text in logits["text"] for part in ("--text", text)]
    done = rebuilt.run(sys.executable, "-m", "calm", "predict", *logits["audio"], "--model", str(model), *texts, "--json")
    assert done.returncode == 0 and "synthetic speech" in done.stderr, done.stderr
    answers = json.loads(done.stdout)
    assert kept == {"variant": "calm", "modality": "both", "seed": 1} and answers["synthetic"] and len(answers["rows"]) == 8
    found = np.array([[row["probabilities"][name] for name in answers["classes"]] for row in answers["rows"]])
    np.testing.assert_allclose(np.log(found / (1 - found)), np.stack(logits["logits"]), atol=1e-3)
    assert np.stack(logits["logits"]).std(axis=0).min() > 4e-3  # utterances differ by more than that


def test_what_calp_left_is_searched(rebuilt):
    """The one model of the project, with nothing but its folder: new audio lies where the corpus's log-mel does; words find something."""
    table = pd.read_parquet(rebuilt.folder / "data/utterances/msp/utterances.parquet")
    search, like = (sys.executable, "-m", "calm", "search"), table.iloc[7]
    done = rebuilt.run(*search, "--like", like["audio"], "msp", "--json")
    assert done.returncode == 0 and "synthetic speech" in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == "data/calp/small" and found["searched"] == len(table) and len(found["hits"]) == 10
    assert found["hits"][0]["id"] == like["id"] and found["hits"][0]["cosine"] > 0.999
    done = rebuilt.run(*search, "i am so glad to see you", "msp", like["audio"], "--top", "1")
    assert done.returncode == 0 and done.stdout.endswith(f"{len(table) + 1} utterances searched\n"), done.stderr


def test_every_number_leads_to_a_run(rebuilt):
    """Runs of a rebuild hang under one parent in each experiment, and carry the stage, its dependencies and the seed."""
    client = mlflow.MlflowClient(f"sqlite:///{rebuilt.folder}/mlflow.db")
    experiments = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    assert {"calm/small", "calm/msp"} <= set(experiments)
    for name in ("calm/small", "calm/msp"):
        runs = client.search_runs([experiments[name]])
        stages = [run for run in runs if run.data.tags.get("calm.kind") == "stage"]
        assert len({run.data.tags["mlflow.parentRunId"] for run in stages}) == 1
        for run in stages:
            assert run.info.status == "FINISHED" and any(tag.startswith("dvc.dep.") for tag in run.data.tags)
    measured = json.loads((rebuilt.folder / "data/measured/head@msp-small.json").read_text())
    run = client.get_run(next(entry["mlflow_run"] for entry in measured["heads"] if entry["variant"] == "calm"))
    assert run.data.tags["variant"] == "calm" and run.data.tags["seed"] in ("1", "2")


def test_runs_of_heads_and_baselines_compare(rebuilt):
    """A run each, found by its parameters, with figures under the same names; a version of a model is described."""
    client = mlflow.MlflowClient(f"sqlite:///{rebuilt.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("calm/msp").experiment_id
    heads = client.search_runs([experiment], "params.modality = 'audio'")
    told = [tuple(run.data.params[name] for name in ("row", "tuning", "seed")) for run in heads]
    trained = [(row, tuning, seed) for row in ("calm", "no_pretraining") for tuning in ("frozen", "unfrozen") for seed in ("1", "2")]
    assert sorted(told) == sorted([*trained, ("logmel_functionals", "none", "1")])
    assert all("test/tuned/weighted_accuracy" in run.data.metrics for run in heads)
    losses = [run.data.metrics["train/loss"] for run in heads if run.data.params["tuning"] != "none"]
    assert max(losses) < 2 * min(losses)  # not the sum over seeds
    (run,) = [run for run in client.search_runs([experiment]) if run.info.run_name == "calm_frozen, audio, seed 1"]
    rows = json.loads((rebuilt.folder / "reports/metrics.json").read_text())
    wanted = {"variant": "calm_frozen", "modality": "audio", "split": "test", "threshold": "tuned", "seed": 1, "metric": "f1_macro"}
    (value,) = [row["value"] for row in rows if wanted.items() <= row.items()]
    assert run.data.metrics["test/tuned/f1_macro"] == value
    (version,) = client.search_model_versions("name='calm-msp'")
    assert "Trained on synthetic speech" in version.description and client.get_registered_model("calm-msp").description


HEAD = (sys.executable, "-m", "pipeline.stages", "head", "msp-small")


def stopped_heads(project) -> list[dict]:
    """Start the stage, stop it when the first heads are trained; returns their curves."""
    work = project.folder / "data/work/head@msp-small"
    stage = project.start(*HEAD)
    while stage.poll() is None and not list(work.glob("*/*/measured.json")):
        time.sleep(0.1)
    stage.terminate()
    _, errors = stage.communicate()
    assert stage.returncode == 143, errors
    return [entry for file in work.glob("*/*/curves.json") for entry in json.loads(file.read_text())]


def finished_heads(project) -> list[dict]:
    """Run the stage to its end; returns the curves of all heads."""
    done = project.run(*HEAD)
    assert done.returncode == 0 and not (project.folder / "data/work/head@msp-small").exists(), done.stderr
    return json.loads((project.folder / "data/heads/msp/small/curves.json").read_text())


def test_stopped_heads_go_on_and_those_of_two_codes_are_never_mixed(project, tmp_path):
    """A polite kill; then the stage goes on, or starts again where its code was edited: the result is that of the new code alone."""
    every = json.loads((project.folder / "data/heads/msp/small/curves.json").read_text())
    before = [entry for entry in every if entry["modality"] == "audio" and entry["variant"].startswith("calm")]
    given = small()
    given["head"]["modalities"], given["heads"]["msp-small"]["rows"] = ["audio"], {"calm": {}}
    project.write(given)
    kept = stopped_heads(project)
    assert 0 < len(kept) < len(before)
    edited = project.copy(tmp_path / "edited")
    after = finished_heads(project)
    assert all(entry in after for entry in kept) and after == before
    edited.edit("calm/training/schedule.py", ('"lr": schedule.learning_rate *', '"lr": schedule.learning_rate / 2 *'))
    after = finished_heads(edited)
    assert len(after) == len(before) and not any(entry in after for entry in kept)


def test_a_second_rebuild_does_nothing(project):
    again = project.repro()
    ran = [line.split("'")[1] for line in again.stdout.splitlines() if line.startswith("Running stage")]
    assert again.returncode == 0 and ran == ["check"], again.stdout


def test_a_wrong_setting_stops_before_any_work(project):
    project.write(small() | {"seeds": [1, "two"]})
    stopped = project.repro()
    project.write(small())
    assert stopped.returncode != 0
    assert "seeds.1 is 'two'" in stopped.stderr + stopped.stdout
    assert "stages.head" not in stopped.stdout and "Running stage 'head" not in stopped.stdout


def test_a_changed_setting_reruns_only_what_depends_on_it(project):
    given = small()
    given["evaluate"]["bootstrap"] = 60
    project.write(given)
    assert project.changed() == {"evaluate@msp", "release@msp-small", "report"}
