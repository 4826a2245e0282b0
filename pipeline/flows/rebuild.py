"""The `rebuild` flow: DVC's own graph, each stage one task (`dvc repro -s`), independent ones at the same time."""

import time
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from pipeline import settings
from pipeline.flows import artifacts, limits
from pipeline.flows.subprocesses import Children, Stopped


class StageFailed(RuntimeError):
    """A stage ended with an error; its output is in the log above."""


@dataclass(frozen=True)
class Stage:
    """A stage as DVC knows it. `limit`: "gpu" where `dvc.yaml` says so by `meta: {limit: gpu}`, else "cpu"."""

    name: str
    needs: tuple[str, ...]
    limit: str


@dataclass
class Run:
    """What the tasks of one flow run share; they are threads of the flow's process."""

    children: Children
    limits: limits.Limits
    settings: settings.Settings
    rebuild: str  # the name under which MLflow hangs the stages' runs


_run: Run


def stages(folder: Path = Path()) -> list[Stage]:
    """Stages of `dvc.yaml`, each after all that it needs."""
    import networkx
    from dvc.repo import Repo

    graph = Repo(str(folder)).index.graph
    found = {stage.addressing: stage for stage in networkx.topological_sort(graph.reverse(copy=False))}
    return [
        Stage(name, tuple(sorted(need.addressing for need in graph.successors(stage))), (stage.meta or {}).get("limit", "cpu"))
        for name, stage in found.items()
    ]


def chosen(everything: list[Stage], targets: list[str] | None) -> list[Stage]:
    """The targets and all that they need; all stages where no target is named. Raises ValueError for a name that is no stage's."""
    of = {stage.name: stage for stage in everything}
    wanted: set[str] = set()
    waiting = list(of) if targets is None else list(targets)
    for name in waiting:
        if name not in of:
            raise ValueError(f"'{name}' is no stage of dvc.yaml: there are {', '.join(of)}")
        if name not in wanted:
            wanted.add(name)
            waiting += of[name].needs
    return [stage for stage in everything if stage.name in wanted]


@flow(name="rebuild", task_runner=ThreadPoolTaskRunner())
def rebuild(targets: list[str] | None = None) -> None:
    """Rebuild results: every stage whose code, settings or data changed.

    A failed stage is tried again, from its last checkpoint; where it fails for good, what needs it is not run and the flow fails,
    after all else has run. A flow that is stopped lets its stages write checkpoints first.

    Args:
        targets: stages to bring up to date, with all that they need; None: all.
    """
    global _run
    given = settings.load()
    name = f"{time.strftime('%Y-%m-%d %H:%M:%S')} flow {runtime.flow_run.name}"
    _run = Run(Children(given.flows.stop_seconds), limits.of_server(), given, name)
    order, begin = chosen(stages(), targets), time.time()
    retries = {"retries": given.flows.retries, "retry_delay_seconds": exponential_backoff(given.flows.retry_seconds)}
    with _run.children.ended_with_the_flow():
        futures: dict[str, PrefectFuture] = {}
        for stage in order:
            started = run_stage.with_options(task_run_name=stage.name, **retries)
            needs = [futures[name] for name in stage.needs]
            futures[stage.name] = started.submit(stage.name, stage.limit, wait_for=needs)
        wait(list(futures.values()))
    states = {name: future.state for name, future in futures.items()}
    failed = [name for name, state in states.items() if state.is_failed() or state.is_crashed()]
    not_run = [name for name, state in states.items() if state.is_pending()]
    artifacts.of_rebuild(given, name, states, whole=targets is None and not failed, seconds=time.time() - begin)
    if failed:
        others = f"; not run for want of {'it' if len(failed) == 1 else 'them'}: {', '.join(not_run)}" if not_run else ""
        raise StageFailed(f"{', '.join(failed)} failed{others}")


def _worth_a_retry(task, task_run, state) -> bool:
    """A stage that failed, but not one that was stopped with its flow."""
    return not _run.children.stopped.is_set()


@task(cache_policy=NO_CACHE, retry_condition_fn=_worth_a_retry)
def run_stage(name: str, limit: str) -> float:
    """One stage by `dvc repro -s`; returns the seconds that it took once it had its slot."""
    log, devices = get_run_logger(), _run.settings.compute.devices.get(name.partition("@")[0], 1)
    with _run.limits.take(limit, devices, _run.children.stopped) as environment:
        begin = time.monotonic()
        code = _run.children.run(["dvc", "repro", "-s", name], {**environment, "CALM_REBUILD": _run.rebuild}, log.info)
    if code:
        raise StageFailed(f"{name} ended with exit code {code}")
    return time.monotonic() - begin


__all__ = ["Stage", "StageFailed", "Stopped", "rebuild", "stages"]
