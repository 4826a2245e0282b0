"""The MLflow store: opened or set up, with one experiment per corpus or model, and one parent run per rebuild."""

import contextlib
import gc
import logging
import os
import platform
import sqlite3
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from calm.storage import replacing
from pipeline.tracking import provenance, relocation
from pipeline.uris import masked

TRAINING = "custom_model_development"  # MLflow's name for experiments whose runs, metrics and charts are shown
VIEW = "workflowType=machine_learning"  # of addresses on MLflow's page, which otherwise opens the view for language models


class TrackingError(SystemExit):
    """The store cannot be used; the message says what to do. If it is not caught, the stage ends with exit code 1."""


def connect(uri: str):
    """A client of the store; a new SQLite store is set up first, which takes some seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_DISABLE_AGENT_HINT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # give up after seconds, not minutes, if the server does not answer
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        _set_up(database)
        relocation.follow(database)
    return _client(uri)


def _client(uri: str):
    gc_enabled = gc.isenabled()
    gc.disable()  # it takes a fifth of the time of this import
    try:
        from mlflow.tracking.client import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=uri)
    finally:
        if gc_enabled:
            gc.enable()


def _set_up(database: Path) -> None:
    """Make a new SQLite store under another name, and rename it when it is whole: MLflow cannot go on with half a one.

    A store that was left half made, by a version that did not do so, is put aside.
    """
    if _is_whole(database):
        return
    with lock(f"sqlite:///{database}"):
        if _is_whole(database):
            return
        if database.exists() and database.stat().st_size:
            aside = database.with_name(f"{database.name}.half-made")
            print(f"the MLflow store {database.name} was left half made, without a run in it: it is {aside.name} now", file=sys.stderr)
            database.replace(aside)
        print(f"preparing the MLflow store {database.name}", file=sys.stderr, flush=True)
        with replacing(database) as partial:
            for left in partial.parent.glob(f"{partial.name}-*"):  # a journal of a set-up that was killed
                left.unlink()
            _client(f"sqlite:///{partial}").search_experiments()


def _is_whole(database: Path) -> bool:
    """Whether a file is a store with the experiment that MLflow creates last; True for what is no SQLite file, which MLflow names."""
    if not (database.exists() and database.stat().st_size):
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM experiments").fetchone()[0] > 0
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)
    except sqlite3.DatabaseError:
        return True


def experiment(client, name: str, uri: str) -> str:
    """Id of an experiment, which is created, or restored if it was deleted. MLflow's page opens it with runs, metrics and charts."""
    if existing := client.get_experiment_by_name(name):
        if existing.lifecycle_stage == "deleted":
            client.restore_experiment(existing.experiment_id)
        if "mlflow.experimentKind" not in existing.tags:
            client.set_experiment_tag(existing.experiment_id, "mlflow.experimentKind", TRAINING)
        return existing.experiment_id
    beside = Path(uri.removeprefix("sqlite:///")).resolve().parent / relocation.FOLDER / name
    local = str(beside) if uri.startswith("sqlite:") else None  # a server chooses the location of artifacts itself
    return client.create_experiment(name, artifact_location=local, tags={"mlflow.experimentKind": TRAINING})


REBUILD = "rebuild"  # kind of a run that stands for a rebuild
PROCESS = "calm.process"  # tag of a run: the host, the number and the start of the process that writes it, or that wrote to a rebuild last


def parent_run(client, experiment_id: str, tags: dict[str, str]) -> str:
    """Id of the rebuild's run, which the first of its stages creates."""
    rebuild = provenance.rebuild()
    existing = client.search_runs([experiment_id], f"tags.`calm.rebuild` = '{rebuild}'", max_results=1)
    if existing:
        client.set_tag(existing[0].info.run_id, PROCESS, process())
        client.update_run(existing[0].info.run_id, status="RUNNING")
        return existing[0].info.run_id
    copied = {key: value for key, value in tags.items() if key in ("mlflow.source.git.commit", "calm.synthetic", "calm.dirty")}
    own = {"calm.rebuild": rebuild, "calm.kind": REBUILD, PROCESS: process()}
    return client.create_run(experiment_id, tags={**copied, **own}, run_name=f"rebuild {rebuild.split(',')[0]}").info.run_id


def end_parent(client, experiment_id: str, parent: str) -> None:
    """Set the parent's status: unchanged while a stage is running, FAILED if the last attempt of a stage failed, else FINISHED."""
    runs = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", order_by=["attributes.start_time ASC"])
    states = set({run.info.run_name: run.info.status for run in runs}.values())
    if "RUNNING" not in states:
        client.set_terminated(parent, "FINISHED" if states == {"FINISHED"} else "FAILED")


def process() -> str:
    """This process as no other is named, on this machine or another one."""
    import psutil

    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.2f}"


def end_abandoned(client) -> int:
    """Set the runs to KILLED whose process on this machine is gone, which could not do it itself; returns their number.

    A rebuild whose last process is gone ends as its stages did.
    """
    experiments, ended, parents = [experiment.experiment_id for experiment in client.search_experiments()], 0, set()
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000):
        host, number, start = (run.data.tags.get(PROCESS, "") or "- 0 0").rsplit(" ", 2)
        if host != platform.node() or _goes_on(int(number), start):
            continue
        if run.data.tags.get("calm.kind") == REBUILD:
            parents.add((run.info.experiment_id, run.info.run_id))
            continue
        client.set_terminated(run.info.run_id, "KILLED")
        ended += 1
        if run.data.tags.get("calm.kind") == "stage":
            parents.add((run.info.experiment_id, run.data.tags["mlflow.parentRunId"]))
    for experiment_id, parent in parents:
        end_parent(client, experiment_id, parent)
    return ended


def _goes_on(number: int, start: str) -> bool:
    """Whether the process of this number that began then is there, and not only its entry, which its parent has not fetched."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        return f"{process.create_time():.2f}" == start and process.status() != psutil.STATUS_ZOMBIE
    return False


def absolute(uri: str, folder: Path) -> str:
    """The URI with an absolute path: a relative SQLite file is in the folder of `dvc.yaml`. Raises TrackingError for a file store."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{folder / uri.removeprefix('sqlite:///')}"
    if "://" not in uri or uri.startswith("file:"):
        raise TrackingError(f"tracking.uri is {masked(uri)!r}: use a database or a server, such as sqlite:///mlflow.db or http://...")
    return uri


def lock(uri: str):
    """A lock between the processes of this machine that use the same store."""
    from filelock import FileLock

    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///") + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, is_singleton=True)  # so that a process that holds it may take it again
    user = os.getuid() if hasattr(os, "getuid") else 0
    return FileLock(Path(tempfile.gettempdir()) / f"calm-{user}-{sha256(uri.encode()).hexdigest()[:12]}.lock", is_singleton=True)


@contextlib.contextmanager
def clear_errors(uri: str):
    """Whatever a store raises while it is opened becomes a TrackingError with a short message."""
    try:
        yield
    except (ImportError, TrackingError):
        raise
    except Exception as error:  # may come from SQLAlchemy, requests or MLflow
        raise TrackingError(
            f"MLflow store {masked(uri)} cannot be used: {short(error)}. Check tracking.uri or MLFLOW_TRACKING_URI."
        ) from None


def short(error: Exception) -> str:
    """The start of an error's message, on one line, without passwords."""
    return masked(" ".join(str(error).split()))[:200].rstrip(".")
