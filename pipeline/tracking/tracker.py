"""MLflow tracking of the stages: one run per stage, with nested runs, and one parent run per rebuild.

    with tracker.stage_run(settings, "mosei", params, synthetic=True, seed=1) as run:
        run.log({"loss": 0.3}, step=10)
        with run.child("calm, audio, seed 1", params, {"seed": 1}) as head:
            head.log({"loss": 0.2}, step=1)

Metrics are collected in memory and sent together every few seconds, because a call per step would cost 8 ms each. If the store fails
during training, the stage continues: sending is tried again later, and at the end stderr says what was not sent.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from pipeline.tracking import provenance, store
from pipeline.tracking.store import short
from pipeline.uris import masked

FLUSH_SECONDS = 5.0
ROWS = (".parquet",)  # files that have a row an utterance
TAG_LENGTH, PARAM_LENGTH, DIGEST_LENGTH = 5000, 6000, 36  # MLflow's limits


class TrackedRun:
    """One MLflow run. Under torchrun only the first process writes; in the others, `client` is None and the methods do nothing."""

    def __init__(self, client=None, id: str = "", experiment: str = "", uri: str = "", rows: bool = False):
        self.client, self.id, self.experiment, self.uri, self.rows = client, id, experiment, uri, rows
        self._metrics, self._params, self._last_sent, self._warned = [], [], time.monotonic(), False

    def __reduce__(self):
        return _attach, (self.id, self.experiment, self.uri, self.rows)  # another process needs a client of its own

    def __repr__(self) -> str:
        return f"run {self.id} of experiment {self.experiment} in {masked(self.uri)}"

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log the numbers of one step (None: 0). They are sent by the first call after FLUSH_SECONDS, or at the end of the run."""
        if not self.client:
            return
        now = int(time.time() * 1000)
        self._metrics += [(_key(name), float(value), now, step or 0) for name, value in metrics.items()]
        if time.monotonic() - self._last_sent > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the collected metrics and parameters."""
        if not self.client:
            return
        from mlflow.entities import Metric, Param

        self._last_sent = time.monotonic()
        while self._metrics or self._params:
            metrics, params = self._metrics[:900], self._params[:100]  # at most 1000 in one call
            entities = {"metrics": [Metric(*item) for item in metrics], "params": [Param(*item) for item in params]}
            if not self._try(self.client.log_batch, self.id, **entities):
                return
            del self._metrics[: len(metrics)], self._params[: len(params)]

    def artifact(self, path: str | Path) -> None:
        """Store a copy of a file, or of a folder under its name; the folder `.name.partial`, not renamed yet, is stored as `name`.

        Tables of utterances, with their speakers and texts, are left out unless `tracking.utterances` says otherwise.
        """
        path = Path(path)
        if self.client and path.is_dir():
            name = Path(path.name.removeprefix(".").removesuffix(".partial"))
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                if self.rows or file.suffix not in ROWS:
                    self._try(self.client.log_artifact, self.id, str(file), (name / file.parent.relative_to(path)).as_posix())
        elif self.client and (self.rows or path.suffix not in ROWS):
            self._try(self.client.log_artifact, self.id, str(path))

    def figure(self, figure, name: str) -> None:
        """Store a matplotlib figure as `figures/<name>`; .png is added if there is no suffix."""
        if self.client:
            self._try(self.client.log_figure, self.id, figure, f"figures/{name if Path(name).suffix else name + '.png'}")

    @contextlib.contextmanager
    def child(self, name: str, params: dict | None = None, tags: dict | None = None, nested: bool = True):
        """A run of a part of this one, with the same methods, for example of one head.

        Args:
            nested: MLflow's page shows it below this one, and only when that is unfolded; else beside it, with `calm.stage_run` as a tag.
        """
        children = []
        if self.client:
            tags = {"mlflow.parentRunId" if nested else "calm.stage_run": self.id, "calm.kind": "part", **(tags or {})}
            self._try(lambda: children.append(_start(self.client, self.experiment, self.uri, name, params or {}, tags)))
        run = children[0] if children else TrackedRun()
        with _ending(run):
            yield run

    def has(self, id: str) -> bool:
        """Whether a run of this id is in the store, and not deleted."""
        return bool(self.client) and self._try(lambda: self._must_be_active(id), quietly=True)

    def _must_be_active(self, id: str) -> None:
        from mlflow.exceptions import MlflowException

        if self.client.get_run(id).info.lifecycle_stage != "active":
            raise MlflowException(f"run {id} is deleted")

    @contextlib.contextmanager
    def again(self, id: str):
        """A run of the same experiment that has ended already, to log more into it. Its status stays."""
        run = TrackedRun(self.client, id, self.experiment, self.uri)
        try:
            yield run
        finally:
            run.flush()

    def tag(self, tags: dict) -> None:
        """Set tags."""
        for key, value in tags.items() if self.client else ():
            self._try(self.client.set_tag, self.id, key, str(value)[:TAG_LENGTH])

    def training(self, numbers: dict[str, float], step: int, objective: str = "") -> None:
        """Log what a training tells after an epoch: held-out losses under `validation/`, the epoch as it is, the others under `train/`.

        `train/loss` is that of a head. Other objectives are named: `train/calp_loss`.
        """
        self.log({_of_training(name, objective): value for name, value in numbers.items()}, step)

    def _try(self, call, *args, quietly: bool = False, **options) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            call(*args, **options)
        except (MlflowException, OSError) as error:
            if quietly:
                return False
            if not self._warned:
                print(f"MLflow: {self} did not accept what was logged ({short(error)}). The stage continues.", file=sys.stderr)
            self._warned = True
            return False
        return True

    def _end(self, status: str) -> None:
        self.flush()
        if self._metrics:
            print(f"MLflow: {len(self._metrics)} numbers of {self} were not sent.", file=sys.stderr)
        if self.client:
            self._try(self.client.set_terminated, self.id, status)


@contextlib.contextmanager
def stage_run(settings, experiment: str, params: dict, synthetic: bool, seed: int | None = None, digest: dict[str, str] | None = None):
    """The MLflow run of this DVC stage, in the experiment `calm/<experiment>`, under the parent run of its rebuild.

    The run ends as FINISHED, or as FAILED or KILLED if the body raises.

    Args:
        params: parameters to log; nested keys are joined by dots.
        digest: hashes by name of data set; None: the DVC dependencies under `data/`.
    Raises:
        TrackingError: the store cannot be used.
    """
    if int(os.environ.get("RANK", "0")):
        yield TrackedRun()
        return
    folder, stage = provenance.root(), provenance.stage_name()
    uri = store.absolute(os.environ.get("MLFLOW_TRACKING_URI") or settings.tracking.uri, folder)
    tags, hashes = _tags(folder, stage, synthetic, seed)
    lock = store.lock(uri)
    with store.clear_errors(uri):
        with lock:  # so that stages that start at the same time share one store, one experiment and one parent
            client = store.connect(uri)
            store.end_abandoned(client)
            experiment_id = store.experiment(client, f"calm/{experiment}", uri)
            parent = store.parent_run(client, experiment_id, tags)
            tags = {"mlflow.parentRunId": parent, "calm.kind": "stage", **tags}
            run = _start(client, experiment_id, uri, stage, params, tags)
            run.rows = settings.tracking.utterances
        _log_data(run, digest or {path: value for path, value in hashes.items() if path.startswith("data/")})
    monitor = _monitor(run, settings.tracking.system_metrics_seconds)
    try:
        with _ending(run, before=monitor.finish):
            yield run
    finally:
        with lock:
            run._try(store.end_parent, client, experiment_id, parent)


def _attach(id: str, experiment: str, uri: str, rows: bool) -> TrackedRun:
    return TrackedRun(store.connect(uri), id, experiment, uri, rows) if id else TrackedRun()


def _start(client, experiment_id: str, uri: str, name: str, params: dict, tags: dict) -> TrackedRun:
    texts = {key: str(value)[:TAG_LENGTH] for key, value in {**tags, store.PROCESS: store.process()}.items()}
    run = TrackedRun(client, client.create_run(experiment_id, tags=texts, run_name=name).info.run_id, experiment_id, uri)
    run._params = [(_key(key), str(value)[:PARAM_LENGTH]) for key, value in _flat(params)]
    return run


def _log_data(run: TrackedRun, digest: dict[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput

    sets = [Dataset(name[:500], value[:DIGEST_LENGTH], "local", name) for name, value in digest.items()]
    if sets:
        run.client.log_inputs(run.id, [DatasetInput(item, []) for item in sets])


def _monitor(run: TrackedRun, seconds: float):
    """Start a thread that logs the machine's CPU, memory, disk, network and GPU."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.id, sampling_interval=seconds, tracking_uri=run.uri)
    monitor.start()
    return monitor


@contextlib.contextmanager
def _ending(run: TrackedRun, before=lambda: None):
    """Set the run's status when the body ends. SIGTERM becomes an exit, so that it is recorded too."""
    previous_handler = None
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        previous_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except SystemExit as exit:
        status = {None: "FINISHED", 0: "FINISHED", 143: "KILLED"}.get(exit.code, "FAILED")
        raise
    finally:
        before()
        run._end(status)
        if previous_handler is not None:
            signal.signal(signal.SIGTERM, previous_handler)


def _tags(folder: Path, stage: str, synthetic: bool, seed: int | None) -> tuple[dict[str, str], dict[str, str]]:
    """Tags of a stage's run, which include its dependencies as `dvc.dep.<path>`, and the hashes of these by path."""
    hashes = provenance.dependencies(folder, stage) if "DVC_STAGE" in os.environ else {}
    tags = {"dvc.stage": stage, "calm.synthetic": str(synthetic).lower(), "mlflow.source.name": stage, "mlflow.source.type": "LOCAL"}
    if seed is not None:
        tags["seed"] = str(seed)
    if state := provenance.git_state(folder):
        tags |= {"mlflow.source.git.commit": state[0], "calm.dirty": str(state[1]).lower()}
    return {**tags, **{f"dvc.dep.{_key(path)}": value for path, value in hashes.items()}}, hashes


def _flat(params: dict, prefix: str = ""):
    for key, value in params.items():
        value = value.model_dump() if hasattr(value, "model_dump") else value
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _of_training(name: str, objective: str) -> str:
    if name == "epoch":
        return name
    part, name = ("validation", name.removeprefix("validation_")) if name.startswith("validation_") else ("train", name)
    return f"{part}/{objective}_loss" if name == "loss" and objective else f"{part}/{name}"


def _key(name: str) -> str:
    """A name that MLflow accepts: letters, digits, spaces and _ - . / :"""
    return "".join(letter if letter.isalnum() or letter in "_-./: " else "_" for letter in str(name))[:250]
