"""Stages that start themselves anew under torchrun: one run, one result, stops survived."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

from calm.training import checkpoints
from pipeline import settings, stage
from pipeline.execution import torchrun
from tests.pipeline import made_corpus

EPOCHS = 10


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calp = {"epochs": EPOCHS, "batch": 8, "checkpoint_minutes": 600}
    made_corpus.make(45, calp=calp, compute={"devices": {"calp": 2}}, features={"workers": 1})


def start() -> subprocess.Popen:
    """The stage, as DVC starts it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "CALM_REBUILD"))}
    environment |= {"PYTHONPATH": str(made_corpus.ROOT), "OMP_NUM_THREADS": "1"}
    stage = [sys.executable, "-m", "pipeline.stages", "calp", "small"]
    return subprocess.Popen(stage, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_calp_of_two_processes_is_stopped_and_goes_on(here):
    stage, told = start(), ""
    while stage.poll() is None and "epoch 2" not in told:
        told += stage.stderr.read(1)
    stage.terminate()
    output, errors = stage.communicate(timeout=100)
    assert stage.returncode == 143, told + errors
    assert output == "" and "Traceback" not in told + errors
    (checkpoint,) = Path("data/work/calp@small").glob("*/checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    first, second = checkpoints.read(checkpoint)["random"]
    assert not torch.equal(first["torch"], second["torch"])
    assert not list(Path("data/calp").glob("*"))

    stage = start()
    output, errors = stage.communicate(timeout=100)
    assert stage.returncode == 0, errors
    assert output.count("\n") == 1 and output.startswith(f"CALP small: {EPOCHS} epochs"), output
    assert f"{step}/{5 * EPOCHS}" in errors  # 36 training rows by 8: five steps an epoch; it goes on where it was stopped
    assert [path.name for path in Path("data/calp").iterdir()] == ["small"]
    assert not [path for path in Path("data/work").iterdir() if path.is_dir()]
    made = {path.name for path in Path("data/calp/small").iterdir()}
    inputs = {"preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert made == {"config.json", "model.safetensors", "metrics.json", "space.parquet", "SHA256SUMS", *inputs}
    assert len(json.loads(Path("data/calp/small/metrics.json").read_text())["curve"]) == EPOCHS
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "calm/small"]
    runs = client.search_runs([experiment.experiment_id], "tags.`calm.kind` = 'stage'")
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]


def test_a_batch_that_the_processes_cannot_share_is_refused(here):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("calp: 2", "calp: 3"))
    with pytest.raises(settings.SettingsError, match=r"compute.devices.calp is 3: it must divide calp.batch, 8"):
        settings.load()


def test_options_of_torchrun():
    assert torchrun.arguments(4, [], 60) == ["--standalone", "--nproc-per-node", "4", "--shutdown-timeout", "60"]
    assert torchrun.arguments(4, ["--max-restarts=1"], 0.2)[0] == "--standalone"
    for option in ("--nnodes=2", "--rdzv_backend=c10d", "--rdzv-endpoint=a:1", "--master-addr=a", "--node_rank=1"):
        assert torchrun.arguments(8, [option], 60) == ["--nproc-per-node", "8", "--shutdown-timeout", "60", option]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = settings.load(made_corpus.ROOT / "params.yaml")
    kept = Path("data/work/calp@small/other")
    kept.mkdir(parents=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    with stage.checkpoints(loaded, "calp", "small") as work, stage.whole(Path("out")) as folder:
        (folder / "file").touch()
        assert work.parent == kept.parent
    assert not Path("out").exists() and not folder.exists() and kept.exists()
    monkeypatch.setenv("RANK", "0")
    with stage.checkpoints(loaded, "calp", "small"), stage.whole(Path("out")) as folder:
        (folder / "file").touch()
        assert not kept.exists()
    assert Path("out/file").exists() and not kept.parent.exists()


def test_the_exit_code_is_that_of_the_process_that_failed(tmp_path):
    """Killed from without: 128 and the signal's number, as a shell tells it."""
    (tmp_path / "ends.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    run = [sys.executable, "-m", "pipeline.execution.torchrun", "--standalone", "--nproc-per-node", "2", str(tmp_path / "ends.py")]
    done = subprocess.run(run, cwd=made_corpus.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 137 and "was killed by SIGKILL" in done.stderr and "Traceback" not in done.stderr
