"""The flows on real servers: Prefect's, MLflow's and the worker are started and ended as a user does it."""

import io
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from made_flows import STAGES, Flows, until
from made_project import small

from pipeline import paths
from pipeline.flows import scoring
from pipeline.flows.subprocesses import read_lines

EPOCHS = 5  # of CALP, long enough to be killed in
QUICK = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.3"}  # seconds, else 10 and 2


@pytest.fixture(scope="module")
def flows(rebuilt, tmp_path_factory):
    flows = Flows(rebuilt.copy(tmp_path_factory.mktemp("flows") / "project", **QUICK))
    started = flows.command("up")
    assert started.returncode == 0, started.stderr
    flows.started = started.stdout
    yield flows
    ended = flows.command("down")
    assert ended.returncode == 0, ended.stderr
    assert not flows.processes("prefect", "mlflow", "pipeline.flows", "dvc", "work.py")
    for port in flows.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)), f"something still listens on {port}"


@pytest.fixture(scope="module")
def first(flows):
    """A flow, run by its command, over stages that wait for each other, fail once, and always fail."""
    run = flows.command("rebuild", "second-gpu", "last", "flaky", "descendant")
    lines = [json.loads(line) for line in (flows.folder / "times.jsonl").read_text().splitlines()]
    return run, {name: (begin, end) for name, begin, end in lines}


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    return min(first[1], second[1]) - max(first[0], second[0])


def test_up_prints_the_addresses(flows):
    for port in flows.ports:
        assert f"http://127.0.0.1:{port}" in flows.started
    assert "gpu 1" in flows.started and "cpu 2" in flows.started
    assert "audio to score: data/inbox" in flows.started and (flows.folder / "data/inbox").is_dir()
    assert "is running already" in flows.command("up").stdout


def test_two_gpu_stages_never_overlap_while_cpu_stages_do(first):
    _, times = first
    assert overlap(times["first-gpu"], times["second-gpu"]) < 0
    assert overlap(times["first-cpu"], times["first-gpu"]) > 0
    assert times["last"][0] > max(times["first-gpu"][1], times["first-cpu"][1])


def test_a_stage_that_fails_once_continues(flows, first):
    run, _ = first
    assert (flows.folder / "flaky.out").read_text() == "after 1 stops"
    assert "flaky continues from 0" in run.stderr and "flaky continues from 1" in run.stderr


def test_a_failed_stage_stops_only_its_descendants(flows, first):
    run, times = first
    assert run.returncode == 1 and "descendant" not in times and not (flows.folder / "descendant.out").exists()
    assert set(times) == {"first-gpu", "second-gpu", "first-cpu", "last", "flaky"}
    assert "broken failed; not run, because they need it: descendant" in run.stderr


def test_a_missing_limit_stops_the_flow_with_what_to_do(flows):
    flows.ask("DELETE", "v2/concurrency_limits/gpu")
    stopped = flows.command("rebuild", "second-gpu")
    assert stopped.returncode == 1
    assert "no global concurrency limit gpu" in stopped.stderr and "pipeline.flows limits" in stopped.stderr
    assert "gpu: 1" in flows.command("limits").stdout
    assert flows.command("rebuild", "second-gpu").returncode == 0


def test_an_unknown_stage_is_refused(flows):
    refused = flows.command("rebuild", "nothing")
    assert refused.returncode == 1 and "'nothing' is not a stage of dvc.yaml" in refused.stderr


def test_a_study_is_rebuilt_in_a_working_copy(flows):
    project = flows.project
    (flows.folder / "recipes").mkdir()
    (flows.folder / "recipes/other.yaml").write_text(yaml.safe_dump(flows.settings | {"title": "Another recipe"}))
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["add", "--all"], [*who, "commit", "--quiet", "--message", "All"]):
        assert project.run("git", *command).returncode == 0
    before = (flows.folder / "dvc.lock").read_bytes()
    first = flows.command("study", "--recipe", "recipes/other.yaml", "second-gpu")
    assert first.returncode == 0, first.stderr
    copy = flows.folder / "data/studies/other"
    assert (copy / "second-gpu.out").exists() and "Another recipe" in (copy / "params.yaml").read_text()
    assert (copy / "data/servers").resolve() == flows.folder / "data/servers"
    assert (flows.folder / "dvc.lock").read_bytes() == before
    second = flows.command("study", "--recipe", "recipes/other.yaml", "second-gpu")
    assert second.returncode == 0 and "continues from" not in second.stderr  # nothing has changed
    refused = flows.command("study", "--recipe", "recipes/gone.yaml")
    assert refused.returncode == 1 and "recipes/gone.yaml is missing" in refused.stderr


def stopped_while_running(flows, name: str, stop) -> str:
    """Let the worker run a long stage, stop it by `stop`, and wait until none of its processes is left; returns the flow run."""
    run = flows.trigger(name)
    until(lambda: f"{name} continues from" in flows.log(run), f"{name} runs")
    assert flows.slots()["gpu"] == 1
    stop(run)
    until(lambda: not flows.processes("prefect.engine", "flows.supervisor", "dvc repro", "work.py"), f"{name} has ended")
    assert (flows.folder / f"checkpoint-{name}").read_text() == "1"  # it has written its checkpoint
    until(lambda: flows.slots() == {"gpu": 0, "cpu": 0}, "no slot is taken", 15)
    return run


def test_a_cancelled_flow_ends_its_stage_after_a_checkpoint(flows):
    def cancel(run):
        flows.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"})

    run = stopped_while_running(flows, "long", cancel)
    until(lambda: flows.state(run) == "Cancelled", "the run is cancelled")
    again = flows.trigger("long")
    until(lambda: flows.state(again) == "Completed", "the next run completes")
    assert (flows.folder / "long.out").read_text() == "after 1 stops"


def test_a_schedule_fires_and_its_run_succeeds(flows):
    """`score_new` is due every minute in these settings, and finds nothing."""

    def fired():
        runs = flows.post("flow_runs/filter", flows={"name": {"any_": ["score_new"]}}, sort="START_TIME_DESC")
        return [run for run in runs if run["auto_scheduled"] and run["state"]["name"] == "Completed"]

    until(fired, "a scheduled run completes")


@pytest.fixture
def calp_alone(flows):
    """No stages but `check` and `calp`, of which both flows of a test would else go through all that is up to date before them."""
    before = (flows.folder / "dvc.yaml").read_text()
    pipeline = yaml.safe_load(before)
    pipeline["stages"] = {name: pipeline["stages"][name] for name in ("check", "calp")}
    (flows.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    yield
    (flows.folder / "dvc.yaml").write_text(before)


@pytest.mark.usefixtures("calp_alone")
def test_kill_9_of_the_worker_in_calp_and_a_second_start_end_in_the_undisturbed_result(flows, tmp_path):
    longer = json.loads(json.dumps(flows.settings))
    longer["calp"] |= {"epochs": EPOCHS, "checkpoint_minutes": 0.001}  # after every step
    undisturbed = flows.project.copy(tmp_path / "undisturbed")
    for project in (undisturbed, flows.project):
        project.write(longer)
    alone = undisturbed.run("dvc", "repro", "calp@small")
    assert alone.returncode == 0, alone.stderr
    run, work = flows.trigger("calp@small"), flows.folder / paths.work("calp@small")
    until(lambda: list(work.glob("*/checkpoint-*")), "a checkpoint is written")
    worker = flows.worker()
    worker.send_signal(signal.SIGKILL)
    until(lambda: not flows.processes("prefect.engine", "flows.supervisor", "pipeline.stages calp"), "nothing continues without its worker")
    assert flows.state(run) == "Crashed" and list(work.glob("*/checkpoint-*"))
    until(lambda: flows.slots() == {"gpu": 0, "cpu": 0}, "no slot is taken", 15)
    assert flows.command("up").returncode == 0
    again = flows.trigger("calp@small")
    until(lambda: flows.state(again) == "Completed", "the second start completes")
    weights = [(project.folder / "data/calp/small/model.safetensors").read_bytes() for project in (undisturbed, flows.project)]
    assert weights[0] == weights[1]
    curves = [
        json.loads((project.folder / "data/calp/small/metrics.json").read_text())["curve"] for project in (undisturbed, flows.project)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == EPOCHS


def test_sigterm_to_the_worker_ends_its_flows_after_a_checkpoint(flows):
    worker = flows.worker()
    run = stopped_while_running(flows, "longer", lambda run: worker.terminate())
    assert flows.state(run) == "Crashed"
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker has ended")
    assert flows.command("rebuild", "longer").returncode == 0 and (flows.folder / "longer.out").read_text() == "after 1 stops"


def test_a_whole_rebuild_leaves_its_artifacts(flows):
    pipeline = yaml.safe_load((flows.folder / "dvc.yaml").read_text())
    pipeline["stages"] = {name: stage for name, stage in pipeline["stages"].items() if name not in STAGES}
    (flows.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    flows.project.write(small() | {"flows": flows.settings["flows"]})
    rows = json.loads((flows.folder / "reports/metrics.json").read_text())
    changed = {"variant": "calm", "modality": "audio", "split": "test", "threshold": "tuned", "metric": "weighted_accuracy"}
    before = [row | ({"value": row["value"] - 0.0125} if changed.items() <= row.items() else {}) for row in rows]
    last = flows.folder / "data/rebuilds/last-metrics.json"
    last.parent.mkdir()
    last.write_text(json.dumps(before))
    rebuilt = flows.command("rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr[-3000:]
    artifacts = {artifact["key"]: artifact["data"] for artifact in flows.post("artifacts/latest/filter")}
    assert {row["stage"] for row in json.loads(artifacts["stage-times"])} >= {"check", "calp@small", "report"}
    assert "| CALM | audio + text |" in artifacts["results"] and "Synthetic speech" in artifacts["results"]
    assert (flows.folder / "reports/index.html").resolve().as_uri() in artifacts["results"]
    (line,) = [line for line in artifacts["difference"].splitlines() if line.startswith("| msp")]
    assert line.startswith("| msp | CALM small | audio |") and line.endswith("| +1.25 |")
    assert "mlflow-runs" in artifacts and json.loads(last.read_text()) == rows


def test_files_of_the_inbox_are_scored_once(flows):
    """A killed run and another one give every file its rows once. Silence and unreadable files have a row that says so."""
    import numpy as np
    import pandas as pd
    import soundfile

    inbox, scores = flows.folder / "data/inbox", flows.folder / "data/scores"
    speech = sorted((flows.folder / "data/raw/msp-synthetic").rglob("*.wav"))[:5]
    for path in speech:
        shutil.copy(path, inbox / path.name)
    soundfile.write(inbox / "silence.wav", np.zeros(16000), 16000)
    (inbox / "torn.wav").write_bytes(b"RIFF")
    (inbox / ".hidden.wav").write_bytes(b"RIFF")
    for path in inbox.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    (inbox / "still-copied.wav").write_bytes(b"RIFF")
    os.utime(inbox / "still-copied.wav", (time.time() + 600,) * 2)
    flows.project.write(flows.settings)
    # A second slot, because that of the killed flow is free only after a minute.
    flows.ask("PATCH", "v2/concurrency_limits/gpu", limit=2)
    killed = flows.project.start(sys.executable, "-m", "pipeline.flows", "score-new", "--inbox", str(inbox))
    until(lambda: flows.processes("flows.scoring"), "scoring runs")
    killed.kill()
    killed.communicate()
    until(lambda: not flows.processes("flows.scoring"), "scoring has ended with its flow")
    scored = flows.command("score-new", "--inbox", str(inbox))
    assert scored.returncode == 0, scored.stderr
    table = pd.read_parquet(scores)
    expected = {path.name for path in speech} | {"silence.wav", "torn.wav"}
    assert set(table["file"]) == expected
    assert not table.duplicated(["file", "start"]).any()
    faults = table[table["fault"].notna()].set_index("file")["fault"]
    assert set(faults.index) == {"silence.wav", "torn.wav"} and faults["silence.wav"] == "no speech"
    speech_rows = table[table["fault"].isna()]
    told = {artifact["key"]: artifact["data"] for artifact in flows.post("artifacts/latest/filter")}
    listed = {row["file"]: row["answer"] for row in json.loads(told["scored-files"])}
    assert "reports/index.html" in told["scores"] and listed["silence.wav"] == "no speech" and set(listed) <= expected
    assert speech_rows["text"].str.len().gt(0).all() and all(len(row) == 8 for row in speech_rows["probabilities"])
    (inbox / "still-copied.wav").unlink()
    os.utime(inbox / speech[0].name, (time.time() - 30,) * 2)  # touched, not changed
    assert scoring.new_files(inbox, scores)
    assert scoring.score(inbox, scores, "no model is loaded") == (0, 0, 0)
    assert len(pd.read_parquet(scores)) == len(table)


def test_a_progress_bar_is_logged_once_in_a_while():
    printed = b"begin\r\n" + b"".join(b"\r%d of 50" % number for number in range(50)) + b"\nend"
    assert list(read_lines(io.BufferedReader(io.BytesIO(printed)))) == ["begin", "0 of 50", "49 of 50", "end"]


def test_the_supervisor_ends_a_command_with_its_flow(tmp_path):
    """Even a command that ignores SIGTERM, after the seconds that it may take."""
    import subprocess

    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    command = [sys.executable, "-m", "pipeline.flows.supervisor", "0.5", sys.executable, "-c", stubborn]
    supervisor = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert supervisor.stdout.readline() == b"on\n"
    (child,) = psutil.Process(supervisor.pid).children()
    supervisor.stdin.close()
    assert supervisor.wait(10) == 143
    assert not child.is_running()
    supervisor.stdout.close()
