"""The `rebuild` flow: DVC's own graph, each stage one task (`dvc repro -s`), independent stages at the same time."""

import time
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from pipeline import repro, settings
from pipeline.flows import artifacts, limits
from pipeline.flows.subprocesses import Subprocesses


class StageFailed(RuntimeError):
    """A stage ended with an error; its output is in the log above."""


@dataclass(frozen=True)
class Stage:
    """A stage as DVC knows it. `limit` is "gpu" if `dvc.yaml` says so by `meta: {limit: gpu}`, else "cpu"."""

    name: str
    needs: tuple[str, ...]
    limit: str


@dataclass
class FlowState:
    """What the tasks of one flow run share. They are threads of the flow's process."""

    subprocesses: Subprocesses
    limits: limits.Limits
    settings: settings.Settings
    rebuild: str  # the name under which MLflow groups the stages' runs


_state: FlowState


def stages(folder: Path = Path()) -> list[Stage]:
    """Stages of `dvc.yaml`, each after all the stages that it needs."""
    import networkx
    from dvc.repo import Repo

    graph = Repo(str(folder)).index.graph
    ordered = {stage.addressing: stage for stage in networkx.topological_sort(graph.reverse(copy=False))}
    return [
        Stage(name, tuple(sorted(need.addressing for need in graph.successors(stage))), (stage.meta or {}).get("limit", "cpu"))
        for name, stage in ordered.items()
    ]


def select(everything: list[Stage], targets: list[str] | None) -> list[Stage]:
    """The targets and all that they need; all stages if `targets` is None. Raises ValueError for a name that is not a stage."""
    by_name = {stage.name: stage for stage in everything}
    needed: set[str] = set()
    queue = list(by_name) if targets is None else list(targets)
    for name in queue:
        if name not in by_name:
            raise ValueError(f"'{name}' is not a stage of dvc.yaml, which has {', '.join(by_name)}")
        if name not in needed:
            needed.add(name)
            queue += by_name[name].needs
    return [stage for stage in everything if stage.name in needed]


@flow(name="rebuild", task_runner=ThreadPoolTaskRunner())
def rebuild(targets: list[str] | None = None) -> None:
    """Rebuild results: every stage whose code, settings or data changed.

    A failed stage is tried again, from its last checkpoint. If it fails for good, the stages that need it are not run, and the flow
    fails after all others have run. A flow that is stopped lets its stages write checkpoints first.

    Args:
        targets: stages to bring up to date, with all that they need; None: all.
    """
    global _state
    loaded = settings.load()
    name = f"{time.strftime('%Y-%m-%d %H:%M:%S')} flow {runtime.flow_run.name}"
    _state = FlowState(Subprocesses(loaded.flows.stop_seconds), limits.read(), loaded, name)
    repro.mend_lock()
    order, begin = select(stages(), targets), time.time()
    retries = {"retries": loaded.flows.retries, "retry_delay_seconds": exponential_backoff(loaded.flows.retry_seconds)}
    with _state.subprocesses.stopped_with_flow():
        futures: dict[str, PrefectFuture] = {}
        for stage in order:
            stage_task = run_stage.with_options(task_run_name=stage.name, **retries)
            needs = [futures[name] for name in stage.needs]
            futures[stage.name] = stage_task.submit(stage.name, stage.limit, wait_for=needs)
        wait(list(futures.values()))
    states = {name: future.state for name, future in futures.items()}
    failed = [name for name, state in states.items() if state.is_failed() or state.is_crashed()]
    not_run = [name for name, state in states.items() if state.is_pending()]
    artifacts.create(loaded, name, states, complete=targets is None and not failed, seconds=time.time() - begin)
    if failed:
        others = f"; not run, because they need {'it' if len(failed) == 1 else 'them'}: {', '.join(not_run)}" if not_run else ""
        raise StageFailed(f"{', '.join(failed)} failed{others}")


def _should_retry(task, task_run, state) -> bool:
    """True for a stage that failed, False for one that was stopped with its flow."""
    return not _state.subprocesses.stopped.is_set()


@task(cache_policy=NO_CACHE, retry_condition_fn=_should_retry)
def run_stage(name: str, limit: str) -> float:
    """One stage by `dvc repro -s`; returns the seconds that it took once it had its slot."""
    log, devices = get_run_logger(), _state.settings.compute.devices.get(name.partition("@")[0], 1)
    with _state.limits.take(limit, devices, _state.subprocesses.stopped) as environment:
        begin = time.monotonic()
        repro.mend_lock()
        code = _state.subprocesses.run(["dvc", "repro", "-s", name], {**environment, "CALM_REBUILD": _state.rebuild}, log.info)
    if code:
        raise StageFailed(f"{name} ended with exit code {code}")
    return time.monotonic() - begin
