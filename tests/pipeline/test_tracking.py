"""MLflow tracking on a SQLite store in a temporary folder, and once on a server."""

import contextlib
import hashlib
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.settings import Tracking
from pipeline.tracking import provenance, store, systems, tracker

REPOSITORY = Path(__file__).parents[2]
SETTINGS = SimpleNamespace(tracking=SimpleNamespace(uri="sqlite:///mlflow.db", system_metrics_seconds=1, utterances=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One store for all tests of this file, because setting one up takes seconds."""
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(autouse=True)
def surroundings(folder, monkeypatch, request):
    for name in ("MLFLOW_TRACKING_URI", "DVC_STAGE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("CALM_REBUILD", request.node.name)


@pytest.fixture
def client(folder):
    from mlflow.tracking.client import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def parent_of(client, run):
    return client.get_run(run.data.tags["mlflow.parentRunId"])


def test_stage_with_heads(client, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_STAGE", "head@mosei-small")
    model = tmp_path / ".model.partial"
    model.mkdir()
    (model / "config.json").write_text("{}")
    digest = {"mosei": "a" * 32}
    with tracker.stage_run(SETTINGS, "mosei", {"head": {"epochs": 8, "batch": 32}}, synthetic=True, seed=1, digest=digest) as run:
        for step in range(1500):
            run.log({"train/loss": 1 / (step + 1)}, step)
        with run.child("calm, audio, seed 1", {"hidden": 64}, {"modality": "audio"}) as head:
            head.log({"validation/weighted accuracy (%)": 71.5, "nan": float("nan")}, 3)
        run.artifact(model)
    stored, part = client.get_run(run.id), client.get_run(head.id)
    assert (stored.info.run_name, stored.info.status) == ("head@mosei-small", "FINISHED")
    assert stored.data.params == {"head.epochs": "8", "head.batch": "32"}
    tags = stored.data.tags
    assert (tags["dvc.stage"], tags["seed"], tags["calm.synthetic"]) == ("head@mosei-small", "1", "true")
    assert [(item.dataset.name, item.dataset.digest) for item in stored.inputs.dataset_inputs] == [("mosei", "a" * 32)]
    history = client.get_metric_history(run.id, "train/loss")
    assert [item.step for item in history] == list(range(1500)) and history[9].value == pytest.approx(0.1)
    assert part.data.tags["mlflow.parentRunId"] == run.id and part.data.tags["modality"] == "audio"
    assert part.data.params == {"hidden": "64"} and part.data.metrics["validation/weighted accuracy ___"] == 71.5
    assert client.get_experiment(stored.info.experiment_id).name == "calm/mosei"
    parent = parent_of(client, stored)
    assert parent.data.tags["calm.rebuild"] == "test_stage_with_heads" and parent.info.status == "FINISHED"
    assert (folder / "mlruns/calm/mosei" / run.id / "artifacts/model/config.json").exists()


def test_stages_of_one_rebuild_share_a_parent(client):
    runs = []
    for experiment in ("mosei", "mosei", "msp"):
        with tracker.stage_run(SETTINGS, experiment, {}, synthetic=False) as run:
            runs.append(run)
            assert parent_of(client, client.get_run(run.id)).info.status == "RUNNING"
    parents = [parent_of(client, client.get_run(run.id)).info.run_id for run in runs]
    assert parents[0] == parents[1] != parents[2]  # one per experiment


def test_failed_stage(client):
    with pytest.raises(ValueError, match="no data"), tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False) as run:
        run.log({"loss": 1.0}, 1)
        with run.child("part") as part:
            raise ValueError("no data")
    stored = client.get_run(run.id)
    assert stored.info.status == client.get_run(part.id).info.status == parent_of(client, stored).info.status == "FAILED"
    assert stored.data.metrics["loss"] == 1.0
    with tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False):
        pass
    assert parent_of(client, stored).info.status == "FINISHED"  # the stage's last attempt counts


def test_a_store_that_fails_later_does_not_stop_the_stage(capsys, monkeypatch):
    from mlflow.exceptions import MlflowException

    def refuse(*args, **options):
        raise MlflowException("database is locked")

    with tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False) as run:
        monkeypatch.setattr(run.client, "log_batch", refuse)
        monkeypatch.setattr(run.client, "create_run", refuse)
        run.log({"loss": 1.0}, 1)
        run.flush()
        with run.child("part") as part:
            part.log({"loss": 1.0}, 1)
    warnings = capsys.readouterr().err
    assert warnings.count("database is locked") == 1 and "1 numbers" in warnings


def test_system_metrics(client):
    with tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False) as run:
        time.sleep(2.5)
    assert client.get_run(run.id).data.metrics["system/system_memory_usage_megabytes"] > 0


def test_figure(folder):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False) as run:
        run.figure(Figure(figsize=(1, 1)), "curve")
    assert (folder / "mlruns/calm/mosei" / run.id / "artifacts/figures/curve.png").stat().st_size > 0


def test_numbers_of_a_training(client):
    with tracker.stage_run(SETTINGS, "small", {}, synthetic=False) as run:
        run.training({"loss": 0.5, "learning_rate": 1e-3, "epoch": 2, "validation_loss": 0.6, "validation_mlm_loss": 0.1}, 7)
        run.training({"loss": 4.0, "validation_loss": 4.1}, 7, "calp")
    expected = {"train/loss": 0.5, "train/learning_rate": 1e-3, "validation/loss": 0.6, "validation/mlm_loss": 0.1, "epoch": 2}
    expected |= {"train/calp_loss": 4.0, "validation/calp_loss": 4.1}
    stored = client.get_run(run.id).data.metrics
    assert {name: stored[name] for name in expected} == expected
    assert client.get_metric_history(run.id, "train/loss")[0].step == 7


def test_a_head_and_its_figures_are_one_run_that_a_search_by_parameters_finds(client):
    about = systems.parameters("mosei", "small", "calm_frozen", "audio", 2)
    figures = [("test", "tuned", "weighted_accuracy", 0.7), ("test", "0.5", "auc_macro", None)]
    with tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False) as run, systems.opened(run, about, {"pooling": "cls"}) as head:
        head.training({"loss": 0.5}, 1)
    with tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False) as run:
        systems.add_figures(run, head.id, about, figures, {"table": "table-1"})
        systems.add_figures(run, "0" * 32, systems.parameters("mosei", "none", "egemaps", "audio", 2), figures, {})  # of another store
    experiment = client.get_run(run.id).info.experiment_id
    assert client.get_experiment(experiment).tags["mlflow.experimentKind"] == "custom_model_development"
    found = {run.data.params["row"]: run for run in client.search_runs([experiment], "params.modality = 'audio' and params.seed = '2'")}
    assert set(found) == {"calm", "egemaps"} and {run.info.status for run in found.values()} == {"FINISHED"}
    assert {run.data.params["tuning"] for run in found.values()} == {"frozen", "none"} and found["calm"].info.run_id == head.id
    assert "mlflow.parentRunId" not in found["calm"].data.tags  # else the page would hide it below the stage
    assert found["calm"].data.metrics == {"train/loss": 0.5, "test/tuned/weighted_accuracy": 0.7}
    assert found["egemaps"].data.metrics == {"test/tuned/weighted_accuracy": 0.7} and found["calm"].data.tags["table"] == "table-1"


def test_artifacts_are_found_after_the_folder_moved(client, folder, tmp_path):
    with tracker.stage_run(SETTINGS, "moved", {}, synthetic=False) as run:
        run.artifact(__file__)
    client.create_registered_model("calm-moved")
    client.create_model_version("calm-moved", f"{client.get_run(run.id).info.artifact_uri}/model", run.id)
    shutil.copytree(folder, tmp_path / "new place")
    other = store.connect(f"sqlite:///{tmp_path}/new place/mlflow.db")
    new = f"{tmp_path}/new place/mlruns/calm/moved"
    assert other.get_experiment_by_name("calm/moved").artifact_location == new
    assert other.get_model_version("calm-moved", "1").source == f"{new}/{run.id}/artifacts/model"
    assert other.get_run(run.id).info.artifact_uri == f"{new}/{run.id}/artifacts"
    assert [item.path for item in other.list_artifacts(run.id)] == [Path(__file__).name]
    (tmp_path / "alone").mkdir()
    shutil.copy(folder / "mlflow.db", tmp_path / "alone")  # without its artifacts: they stay where they are
    other = store.connect(f"sqlite:///{tmp_path}/alone/mlflow.db")
    assert other.get_experiment_by_name("calm/moved").artifact_location == f"{folder}/mlruns/calm/moved"


def test_only_the_first_process_of_several_writes(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with tracker.stage_run(SETTINGS, "mosei", {}, synthetic=False) as run:
        run.log({"loss": 1.0}, 1)
        run.artifact(__file__)
        with run.child("part") as part:
            part.log({"loss": 1.0}, 1)
    assert run.id == part.id == ""


STAGE = """
import sys, time
from types import SimpleNamespace
from pipeline.tracking import tracker
settings = SimpleNamespace(tracking=SimpleNamespace(uri="sqlite:///mlflow.db", system_metrics_seconds=5, utterances=False))
with tracker.stage_run(settings, "both", {}, synthetic=True) as run:
    print(run.id, flush=True)
    time.sleep(float(sys.argv[1]))
"""


def start(folder: Path, seconds: float = 0.0, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(folder), **environment}
    command = [sys.executable, "-c", STAGE, str(seconds)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_a_fresh_store_and_one_parent(tmp_path):
    from mlflow.tracking.client import MlflowClient

    started = [start(tmp_path, 1, DVC_STAGE=name) for name in ("calp@small", "calp@large")]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert sum("preparing the MLflow store" in err for _, err in outputs) == 1
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = [client.get_run(out.strip()) for out, _ in outputs]
    assert {run.info.run_name for run in runs} == {"calp@small", "calp@large"}
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) == 1
    assert parent_of(client, runs[0]).info.status == "FINISHED"
    assert len(client.search_runs([runs[0].info.experiment_id])) == 3


def test_runs_of_a_killed_process_end_with_the_next_start(folder, client):
    process, living = start(folder, 60), start(folder, 60)
    run, other = (one.stdout.readline().strip() for one in (process, living))
    process.kill()  # and not fetched, so that its entry stays
    process.stdout.read()
    assert client.get_run(run).info.status == "RUNNING"
    gone = {"calm.kind": "rebuild", "calm.process": f"{platform.node()} {process.pid} 0.00"}
    without_stage = client.create_run(client.get_run(run).info.experiment_id, tags=gone).info.run_id
    assert start(folder).wait(60) == 0
    assert client.get_run(run).info.status == "KILLED" and client.get_run(other).info.status == "RUNNING"
    assert client.get_run(without_stage).info.status == "FAILED"
    process.communicate()
    living.terminate()
    living.communicate()


def test_a_store_is_made_whole_or_not_at_all(tmp_path, folder, client):
    """A set-up that is killed leaves nothing that the next one minds; one left half made by an older version is put aside."""
    client.search_experiments()
    process = start(tmp_path)
    while not list(tmp_path.glob(".mlflow.db.partial*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (tmp_path / "mlflow.db").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as half:
        half.execute("CREATE TABLE jobs (id INTEGER)")
    again = start(tmp_path)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0 and "left half made" in said and (tmp_path / "mlflow.db.half-made").exists()


def test_tables_of_utterances_stay_here(folder, client, tmp_path):
    (tmp_path / "made").mkdir()
    for name in ("space.parquet", "metrics.json"):
        (tmp_path / "made" / name).write_text("{}")
    for allowed in (False, True):
        settings = SimpleNamespace(tracking=SimpleNamespace(**vars(SETTINGS.tracking) | {"utterances": allowed}))
        with tracker.stage_run(settings, "mosei", {}, synthetic=False) as run:
            run.artifact(tmp_path / "made")
            run.artifact(tmp_path / "made/space.parquet")
        names = {item.path for item in [*client.list_artifacts(run.id), *client.list_artifacts(run.id, "made")]}
        assert names == {"made", "made/metrics.json"} | ({"made/space.parquet", "space.parquet"} if allowed else set())


def test_passwords_are_never_shown(tmp_path):
    """Of a URI in the environment, whatever its password holds; one in the settings is refused."""
    process = start(tmp_path, MLFLOW_TRACKING_URI="http://ann:S3cr3t@x@127.0.0.1:1", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    said = "".join(process.communicate(timeout=120))
    assert process.returncode == 1 and "http://ann:***@127.0.0.1:1 cannot be used" in said and "S3cr3t" not in said
    with pytest.raises(ValueError, match="a password stands in it"):
        Tracking(uri="postgresql://ann:S3cr3t@host/mlflow")


def test_sigterm_is_recorded_as_killed(tmp_path, folder, client):
    process = start(folder, 60)
    run = process.stdout.readline().strip()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143 and client.get_run(run).info.status == "KILLED"


def test_file_store_is_refused_in_one_sentence(tmp_path):
    process = start(tmp_path, MLFLOW_TRACKING_URI=f"file://{tmp_path}/mlruns")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1 and message.count("\n") == 1 and "sqlite:///mlflow.db" in message


def test_a_store_that_is_not_a_database(tmp_path):
    (tmp_path / "mlflow.db").write_text("something else entirely, " * 100)
    process = start(tmp_path)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 1 and "cannot be used" in message.splitlines()[-1] and "Traceback" not in message


def test_server(tmp_path, monkeypatch, folder, client):
    client.search_experiments()
    shutil.copy(folder / "mlflow.db", tmp_path / "server.db")  # already set up, which takes seconds
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with tracker.stage_run(SETTINGS, "mosei", {"a": 1}, synthetic=True) as run:
            run.log({"loss": 0.5}, 3)
            run.artifact(__file__)
        stored = run.client.get_run(run.id)
        assert stored.data.metrics["loss"] == 0.5 and stored.info.status == "FINISHED"
        assert [item.path for item in run.client.list_artifacts(run.id)] == ["test_tracking.py"]
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def test_under_dvc(tmp_path, folder, client):
    """A `dvc repro` of two stages gives one parent run, and the hashes that DVC writes to `dvc.lock`."""
    from mlflow.tracking.client import MlflowClient
    from yaml import safe_load

    client.search_experiments()
    shutil.copy(folder / "mlflow.db", tmp_path)  # already set up, which takes seconds
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("speech")
    (tmp_path / "stage.py").write_text(f"{STAGE}\nopen(sys.argv[2], 'w').write('written')\n")
    deps = "\n      ".join(["- stage.py", "- raw"])
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n  first:\n    matrix: {{corpus: [mosei]}}\n    cmd: {sys.executable} stage.py 0 ${{item.corpus}}.txt\n"
        f"    deps:\n      {deps}\n    outs:\n      - ${{item.corpus}}.txt\n"
        f"  second:\n    cmd: {sys.executable} stage.py 0 end.txt\n    deps:\n      - mosei.txt\n    outs:\n      - end.txt\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DVC_NO_ANALYTICS": "1"}
    for name in ("CALM_REBUILD", "DVC_ROOT"):
        environment.pop(name, None)
    begin = int(time.time() * 1000)
    for arguments in (["init", "--no-scm", "-q"], ["repro"]):
        command = [sys.executable, "-m", "dvc", *arguments]
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stdout + process.stderr
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("calm/both").experiment_id
    runs = {run.info.run_name: run.data.tags for run in client.search_runs([experiment], f"attributes.start_time > {begin}")}
    assert set(runs) >= {"first@mosei", "second"} and len(runs) == 3
    lock = safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    for stage in ("first@mosei", "second"):
        assert {f"dvc.dep.{dep['path']}": dep["md5"] for dep in lock[stage]["deps"]}.items() <= runs[stage].items()
    assert runs["first@mosei"]["mlflow.parentRunId"] == runs["second"]["mlflow.parentRunId"]


def test_hashes_of_a_file_and_of_outputs(tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text("x = 1")
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "data/state").mkdir(parents=True)
    (tmp_path / "data/state/head.json").write_text("{}")
    outs = (
        "[{path: data/x, md5: abc.dir}, {path: data/state, md5: s.dir}, {path: data/texts/a, md5: a.dir}, {path: data/texts/b, md5: b.dir}]"
    )
    (tmp_path / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  a:\n    outs: {outs}\n")
    monkeypatch.setattr(
        provenance, "dependency_paths", lambda folder: {"head": ["code.py", "data/state/head.json", "data/x", "data/texts/."]}
    )
    files = {"code.py": hashlib.md5(b"x = 1").hexdigest(), "data/state/head.json": hashlib.md5(b"{}").hexdigest()}
    outputs = {"data/x": "abc.dir", "data/texts/a": "a.dir", "data/texts/b": "b.dir"}
    assert provenance.dependencies(tmp_path, "head") == {**files, **outputs}
    assert provenance.dependencies(tmp_path, "unknown") == {}


def test_git_state(tmp_path):
    assert provenance.git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit, changed = provenance.git_state(tmp_path)
    assert len(commit) == 40 and not changed
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path) == (commit, True)
