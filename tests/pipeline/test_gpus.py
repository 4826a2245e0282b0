"""Which GPUs a stage and each worker of the heads take, and what is refused, on hosts with GPUs by stand-ins."""

import os

import pytest
import torch

from calm import devices
from pipeline import settings, stage, state
from pipeline.execution import gpus
from pipeline.heads.worker import HeadWorker
from pipeline.settings import Compute
from pipeline.stages import check, head
from tests.pipeline import made_corpus


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def eight(monkeypatch):
    """A host of eight GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "count", lambda: 8)
    monkeypatch.setattr(devices, "fault", lambda: None)


def test_gpus_have_the_names_that_the_user_gave(eight, monkeypatch):
    assert gpus.names() == list("01234567")
    monkeypatch.setattr(devices, "count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937, 5,-1,3")  # CUDA stops at the first that is none
    assert gpus.names() == ["GPU-8932f937", "5"]
    monkeypatch.setattr(devices, "count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.names() == []


@pytest.mark.parametrize(
    ("compute", "workers", "expected"),
    [
        ({}, None, ["6", "GPU-8932f937", "2"]),
        ({"heads_per_gpu": 2}, None, ["6", "GPU-8932f937", "2"] * 2),
        ({"devices": {"head": 2}}, None, ["6", "GPU-8932f937"]),
        ({"heads_per_gpu": 2}, 4, ["6", "GPU-8932f937", "2", "6"]),
        ({"heads_per_gpu": 99}, None, ["6", "GPU-8932f937", "2"] * 5),  # no more than there are trainings
    ],
)
def test_each_worker_of_the_heads_takes_a_gpu_of_the_users_list(compute, workers, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,GPU-8932f937,2")
    monkeypatch.setattr(devices, "count", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(head, "read_table", lambda *_: None)
    monkeypatch.setattr(head, "folds_of", lambda _: [])
    taken = []

    class Pool:
        def __init__(self, worker: HeadWorker, processes: int, threads: int):
            for number in range(processes):
                with monkeypatch.context() as own:
                    own.setenv("CUDA_VISIBLE_DEVICES", os.environ["CUDA_VISIBLE_DEVICES"])
                    worker.set_up(number)
                    taken.append(os.environ["CUDA_VISIBLE_DEVICES"])

        def __enter__(self):
            return lambda items, ahead: [(tmp_path, "a run")] * len(items)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(head, "pool", Pool)
    # Five seeds of one row: 15 trainings with the network below, and 3 of frozen heads, which take all seeds at once
    rows = {"calm": {}}
    heads = {"x-small": {"corpus": "x", "model": "small", "rows": rows, "seeds": [1, 2, 3, 4, 5]}}
    changes = {"tuning": ["unfrozen"], "modalities": ["audio", "text", "both"], "workers": workers}
    loaded = made_corpus.project(["x"], heads=heads, head=changes, compute=compute)
    (tmp_path / "frames-1").touch()
    head.train_all(state.visible(loaded, "head", "x-small"), "x-small", tmp_path, None)
    assert taken == expected and not [*tmp_path.glob("frames-*")], "frames stay on the disk when all runs are done"


def test_more_gpus_than_there_are_is_refused_before_anything_starts(eight, monkeypatch, tmp_path):
    loaded = made_corpus.project(["x"], compute={"devices": {"pretrain": 16}}, pretrain={"batch": 32})
    with pytest.raises(ValueError, match=r"compute.devices.pretrain is 16, but this process sees 8 GPUs"):
        check.run(loaded)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    assert gpus.too_few(Compute(devices={"pretrain": 8}), "pretrain") is None
    monkeypatch.setattr(devices, "count", lambda: 0)  # processes that share a CPU are for trying things out
    assert gpus.too_few(Compute(devices={"pretrain": 16}), "pretrain") is None


def test_a_gpu_that_is_required(eight, monkeypatch, capsys):
    compute = Compute(require_gpu=True)
    assert gpus.refusal(compute, "calp") is None
    monkeypatch.setattr(devices, "count", lambda: 0)
    monkeypatch.setattr(devices, "fault", lambda: "the driver is old")
    assert "compute.require_gpu is true" in gpus.refusal(compute, "calp") and "the driver is old" in gpus.refusal(compute, "calp")
    loaded = made_corpus.project(["x"], compute={"require_gpu": True})
    with pytest.raises(SystemExit, match="calp@small: compute.require_gpu is true"):
        stage._look_for_gpus(loaded, "calp", "calp@small")
    stage._look_for_gpus(loaded, "ingest", "ingest@x")
    assert capsys.readouterr().err == ""
    stage._look_for_gpus(made_corpus.project(["x"]), "calp", "calp@small")
    assert capsys.readouterr().err == "calp@small: warning: the driver is old\n"


def test_where_a_stage_runs_changes_no_result():
    given = settings.load(made_corpus.ROOT / "params.yaml")
    other = given.model_copy(update={"compute": Compute(devices={"head": 4}, heads_per_gpu=3, require_gpu=True)})
    assert state.state(given, "head", "msp-small") == state.state(other, "head", "msp-small")
