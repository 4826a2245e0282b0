"""The MLflow store itself: opened or set up, with one experiment a corpus or model, and one parent run a rebuild."""

import contextlib
import gc
import logging
import os
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from pipeline.tracking import provenance


class TrackingError(SystemExit):
    """The store cannot be used. One sentence that says what to do; not caught, it ends the stage with exit code 1."""


def connect(uri: str):
    """A client of the store; a new SQLite store is set up first, which takes some seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_DISABLE_AGENT_HINT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # seconds, not minutes, for a server that is away
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and not (database.exists() and database.stat().st_size):
        print(f"preparing the MLflow store {database.name}", file=sys.stderr, flush=True)
    collecting = gc.isenabled()
    gc.disable()  # a fifth of the time of this import
    try:
        from mlflow.tracking.client import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=uri)
    finally:
        if collecting:
            gc.enable()


def experiment(client, name: str, uri: str, folder: Path) -> str:
    """Id of an experiment, made (or taken out of the bin) if need be."""
    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
    local = str(folder / "mlruns" / name) if uri.startswith("sqlite:") else None  # a server knows its own place for artifacts
    return client.create_experiment(name, artifact_location=local)


def parent_run(client, experiment_id: str, tags: dict[str, str]) -> str:
    """The run of the rebuild, made by the first of its stages."""
    rebuild = provenance.rebuild()
    found = client.search_runs([experiment_id], f"tags.`calm.rebuild` = '{rebuild}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    own = {key: value for key, value in tags.items() if key in ("mlflow.source.git.commit", "calm.synthetic", "calm.dirty")}
    kind = {"calm.rebuild": rebuild, "calm.kind": "rebuild"}
    return client.create_run(experiment_id, tags={**own, **kind}, run_name=f"rebuild {rebuild.split(',')[0]}").info.run_id


def end_parent(client, experiment_id: str, parent: str) -> None:
    """RUNNING while one of its stages is, FAILED if the last try of a stage is; else FINISHED."""
    runs = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", order_by=["attributes.start_time ASC"])
    states = set({run.info.run_name: run.info.status for run in runs}.values())
    if "RUNNING" not in states:
        client.set_terminated(parent, "FINISHED" if states <= {"FINISHED"} else "FAILED")


def absolute(uri: str, folder: Path) -> str:
    """A SQLite file named relatively lies in the folder of `dvc.yaml`, wherever the stage was started."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{folder / uri.removeprefix('sqlite:///')}"
    if "://" not in uri or uri.startswith("file:"):
        raise TrackingError(f"tracking.uri is {uri!r}: MLflow keeps runs in a database or on a server: sqlite:///mlflow.db, http://...")
    return uri


def lock(uri: str):
    """A lock between the processes of this machine that use one store."""
    from filelock import FileLock

    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///") + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
    user = os.getuid() if hasattr(os, "getuid") else 0
    return FileLock(Path(tempfile.gettempdir()) / f"calm-{user}-{sha256(uri.encode()).hexdigest()[:12]}.lock")


@contextlib.contextmanager
def clear_errors(uri: str):
    """Whatever a store raises while it is opened becomes a TrackingError of one sentence."""
    try:
        yield
    except (ImportError, TrackingError):
        raise
    except Exception as error:  # a store may fail in many ways: SQLAlchemy's, requests', MLflow's own
        raise TrackingError(f"MLflow store {uri} cannot be used: {short(error)}. Check tracking.uri or MLFLOW_TRACKING_URI.") from error


def short(error: Exception) -> str:
    """The start of an error's message, in one line."""
    return " ".join(str(error).split())[:200].rstrip(".")
