"""Kills: stages, rebuilds and flows are killed in their run time, and end as if undisturbed."""

import contextlib
import json
import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.faults.processes import Wrong, family, finished, kill, started, wait_for_end
from tests.faults.project import REBUILD, compare, with_servers

FLOWS = (sys.executable, "-m", "pipeline.flows")
STARTS = 4  # seconds in which a stage loads what it needs
EARLY = 0.15  # share of kills of DVC or a flow that may come before its stage
WAYS = ("alone", "repro", "alone", "flow", "repro", "alone", "repro")  # how a stage is run while it is killed, in turn


@dataclass
class Stage:
    """A stage of `dvc.yaml`: its name, its command, its results, and the seconds that it ran undisturbed."""

    name: str
    command: list[str]
    outs: list[str]
    seconds: float

    def run(self, way: str) -> tuple[str, ...]:
        """A command that runs this stage alone."""
        if way == "alone":
            return (sys.executable, *self.command[1:])
        return (*FLOWS, "rebuild") if way == "flow" else (*REBUILD, self.name, "--", "--single-item")


def stages(base: Path) -> list[Stage]:
    """Stages of an undisturbed rebuild, each after all those that it needs."""
    import networkx
    from dvc.repo import Repo

    with contextlib.chdir(base), Repo() as repo:
        ordered = list(networkx.topological_sort(repo.index.graph.reverse(copy=False)))
        found = []
        for stage in ordered:
            measured = base / "data/measured" / f"{stage.addressing}.json"
            seconds = json.loads(measured.read_text())["seconds"] if measured.exists() else 1
            found.append(Stage(stage.addressing, shlex.split(stage.cmd), [str(out) for out in stage.outs], seconds))
        return found


def kills(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """Each stage is killed several times, by itself, under DVC and in a flow, before it is finished; then the other flows."""
    order, folder, killed = stages(base), fresh("kills"), Counter()
    with with_servers(folder, cpu=50, gpu=50):  # a killed flow keeps its slot for a minute
        servers = frozenset(process.pid for process in family(folder))
        others = max(1, length // 20)
        each = max(1, -(-(length - 2 * others) // len(order)))
        for stage in order:
            for _ in range(each):
                killed[kill_stage(folder, stage, WAYS[killed.total() % len(WAYS)], chance, servers)] += 1
            finished(folder, *REBUILD, stage.name, "--", "--single-item")
        finished(folder, *REBUILD)
        compare(base, folder)
        killed["score_new"] = kill_score_new(folder, others, chance, servers)
        killed["study"] = kill_study(base, folder, others, chance, servers)
    wait_for_end(folder)
    refuse_running(folder)
    shutil.rmtree(folder)
    hit = ", ".join(f"{count} {what}" for what, count in killed.items())
    return f"{killed.total()} kills, {each} of each of {len(order)} stages ({hit})"


def kill_stage(folder: Path, stage: Stage, way: str, chance: random.Random, servers: frozenset[int]) -> str:
    """Run a stage until a kill has hit it; returns how it was run and what was killed."""
    with only(folder, stage) if way == "flow" else contextlib.nullcontext():
        while True:
            process = started(folder, *stage.run(way))
            early = way != "alone" and chance.random() < EARLY
            within = "" if early or way == "alone" else " ".join(stage.command[1:])
            what = kill(folder, process, chance, STARTS if early else STARTS + stage.seconds, within, servers)
            if not process.returncode:
                _start_over(folder, stage)
            if what:
                print(f"{stage.name}, {way}: killed {what}", file=sys.stderr, flush=True)
                return f"{way}: {what}"


@contextlib.contextmanager
def only(folder: Path, stage: Stage) -> Iterator[None]:
    """No stages but `check` and one other: a flow would else go through all that is up to date before it."""
    file = folder / "dvc.yaml"
    before = file.read_text()
    pipeline = yaml.safe_load(before)
    pipeline["stages"] = {name: pipeline["stages"][name] for name in {"check": 0, stage.name.partition("@")[0]: 0}}
    file.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    yield
    file.write_text(before)


def _start_over(folder: Path, stage: Stage) -> None:
    """Remove a stage's results, and what DVC knows of it."""
    for out in stage.outs:
        path = folder / out
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(folder / ".dvc/cache/runs", ignore_errors=True)
    if (lock := folder / "dvc.lock").exists():
        known = yaml.safe_load(lock.read_text())
        known["stages"].pop(stage.name, None)
        lock.write_text(yaml.safe_dump(known))


def kill_score_new(folder: Path, count: int, chance: random.Random, servers: frozenset[int]) -> int:
    """The flow that scores an inbox; returns how often it was killed."""
    fill_inbox(folder)
    return killed_scoring(
        folder, (*FLOWS, "score-new", "--inbox", "inbox", "--model", "data/models/msp/small"), "data/scores", count, chance, servers
    )


def kill_study(base: Path, folder: Path, count: int, chance: random.Random, servers: frozenset[int]) -> int:
    """The flow that rebuilds a recipe in a working copy, as far as CALP; returns how often it was killed."""
    shutil.copy(folder / "params.yaml", folder / "same.yaml")
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for command in (("add", "calm", "pipeline", "dvc.yaml", "params.yaml", ".dvc/config"), (*who, "commit", "--quiet", "--message", "All")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    shutil.rmtree(folder / ".dvc/cache/runs")  # which has the results
    study, killed = (*FLOWS, "study", "--recipe", "same.yaml", "calp@small"), 0
    for number in range(count):
        stage = ("ingest", "transcribe", "features", "calp")[number % 4]
        killed += bool(kill(folder, started(folder, *study), chance, STARTS, f"pipeline.stages {stage}", servers))
    finished(folder, *study)
    weights = "data/calp/small/model.safetensors"
    if (folder / "data/studies/same" / weights).read_bytes() != (base / weights).read_bytes():
        raise Wrong("the study's weights differ from the undisturbed rebuild")
    return killed


def refuse_running(folder: Path) -> None:
    """Raises Wrong where MLflow holds a run for one that goes on, though nothing runs."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        if running := store.execute("select count(*) from runs where status = 'RUNNING'").fetchone()[0]:
            raise Wrong(f"{running} runs in MLflow are RUNNING, though nothing runs")


def scoring(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """However often the scoring of an inbox is killed, every file has its rows exactly once."""
    shutil.copytree(base, folder := base.with_name("scoring"), symlinks=True)
    fill_inbox(folder)
    command = (sys.executable, "-m", "pipeline.flows.scoring", "inbox", "scores", "data/models/msp/small")
    killed = killed_scoring(folder, command, "scores", max(2, length // 10), chance, frozenset())
    shutil.rmtree(folder)
    return f"{killed} kills of scoring"


def fill_inbox(folder: Path) -> None:
    (folder / "inbox").mkdir()
    for file in sorted(folder.glob("data/raw/*/Audios/*.wav"))[:40]:
        shutil.copy(file, folder / "inbox")
        os.utime(folder / "inbox" / file.name, (time.time() - 60,) * 2)


def killed_scoring(folder: Path, command: tuple[str, ...], scores: str, count: int, chance: random.Random, servers: frozenset[int]) -> int:
    """Kill what scores the inbox, let it end, and look at its table; returns how often it was killed."""
    import pandas as pd

    killed = sum(bool(kill(folder, started(folder, *command), chance, STARTS, "flows.scoring", servers)) for _ in range(count))
    finished(folder, *command)
    table = pd.read_parquet(folder / scores)
    if table.duplicated(["file", "start"]).any() or table["file"].nunique() != len(list((folder / "inbox").iterdir())):
        raise Wrong("a file was not scored exactly once")
    return killed
