"""The MLflow store: opened or set up, with one experiment per corpus or model, and one parent run per rebuild."""

import contextlib
import gc
import logging
import os
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from pipeline.tracking import provenance, relocation

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
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and not (database.exists() and database.stat().st_size):
        print(f"preparing the MLflow store {database.name}", file=sys.stderr, flush=True)
    gc_enabled = gc.isenabled()
    gc.disable()  # it takes a fifth of the time of this import
    try:
        from mlflow.tracking.client import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        if uri.startswith("sqlite:") and database.exists() and database.stat().st_size:
            relocation.follow(database)
        return MlflowClient(tracking_uri=uri)
    finally:
        if gc_enabled:
            gc.enable()


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


def parent_run(client, experiment_id: str, tags: dict[str, str]) -> str:
    """Id of the rebuild's run, which the first of its stages creates."""
    rebuild = provenance.rebuild()
    existing = client.search_runs([experiment_id], f"tags.`calm.rebuild` = '{rebuild}'", max_results=1)
    if existing:
        client.update_run(existing[0].info.run_id, status="RUNNING")
        return existing[0].info.run_id
    copied = {key: value for key, value in tags.items() if key in ("mlflow.source.git.commit", "calm.synthetic", "calm.dirty")}
    own = {"calm.rebuild": rebuild, "calm.kind": "rebuild"}
    return client.create_run(experiment_id, tags={**copied, **own}, run_name=f"rebuild {rebuild.split(',')[0]}").info.run_id


def end_parent(client, experiment_id: str, parent: str) -> None:
    """Set the parent's status: unchanged while a stage is running, FAILED if the last attempt of a stage failed, else FINISHED."""
    runs = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", order_by=["attributes.start_time ASC"])
    states = set({run.info.run_name: run.info.status for run in runs}.values())
    if "RUNNING" not in states:
        client.set_terminated(parent, "FINISHED" if states <= {"FINISHED"} else "FAILED")


def absolute(uri: str, folder: Path) -> str:
    """The URI with an absolute path: a relative SQLite file is in the folder of `dvc.yaml`. Raises TrackingError for a file store."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{folder / uri.removeprefix('sqlite:///')}"
    if "://" not in uri or uri.startswith("file:"):
        raise TrackingError(f"tracking.uri is {uri!r}: use a database or a server, such as sqlite:///mlflow.db or http://...")
    return uri


def lock(uri: str):
    """A lock between the processes of this machine that use the same store."""
    from filelock import FileLock

    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///") + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
    user = os.getuid() if hasattr(os, "getuid") else 0
    return FileLock(Path(tempfile.gettempdir()) / f"calm-{user}-{sha256(uri.encode()).hexdigest()[:12]}.lock")


@contextlib.contextmanager
def clear_errors(uri: str):
    """Whatever a store raises while it is opened becomes a TrackingError with a short message."""
    try:
        yield
    except (ImportError, TrackingError):
        raise
    except Exception as error:  # may come from SQLAlchemy, requests or MLflow
        raise TrackingError(f"MLflow store {uri} cannot be used: {short(error)}. Check tracking.uri or MLFLOW_TRACKING_URI.") from error


def short(error: Exception) -> str:
    """The start of an error's message, on one line."""
    return " ".join(str(error).split())[:200].rstrip(".")
