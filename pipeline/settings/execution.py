"""Settings of the report, the tracking, and where and when stages run: none changes the method."""

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.settings.base import Positive, Section
from pipeline.uris import without_password

Uri = Annotated[str, AfterValidator(without_password)]


def _schedule(cron: str) -> str:
    """A schedule that Prefect's server takes. Raises ValueError that says what is wrong."""
    from cronsim import CronSim, CronSimError

    form = 'write cron\'s five fields, such as "0 2 * * *" for every day at 2'
    if len(cron.split()) != 5:
        raise ValueError(f"it has {len(cron.split())} fields: {form}")
    if unknown := re.search(r"\dL|LW", cron.upper()):  # CronSim knows them, Prefect does not
        raise ValueError(f"{unknown[0]} is unknown to Prefect: {form}")
    try:
        CronSim(cron, datetime(2000, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()}: {form}") from None
    return cron


def _time_zone(name: str) -> str:
    """A name of the IANA database. Raises ValueError with names like it."""
    from difflib import get_close_matches
    from zoneinfo import available_timezones

    if name not in (known := available_timezones()):
        near = " or ".join(get_close_matches(name, known, 2)) or "a name such as Europe/Paris"
        raise ValueError(f"there is no such time zone: write {near}")
    return name


Schedule = Annotated[str, AfterValidator(_schedule)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]


def _below(folder: Path) -> Path:
    """A folder that is not the project's own. Raises ValueError."""
    if folder == Path():
        raise ValueError("it is the project's own folder: name another one, such as data/inbox")
    return folder


Folder = Annotated[Path, AfterValidator(_below)]
Port = Annotated[int, Field(gt=0, lt=2**16)]


class Report(Section):
    """The page of results."""

    examples: int = Field(0, ge=0, le=12)
    """Utterances of each corpus whose spectrogram the page shows. More than 0: the page also plays utterances of the test split, those that
    went most wrong first, as many as fit, and shows their texts. A corpus's licence may forbid sharing such a page."""


class Tracking(Section):
    """MLflow."""

    uri: Uri = "sqlite:///mlflow.db"
    """Where runs are stored, without a password. The environment variable MLFLOW_TRACKING_URI takes precedence, and may have one."""
    utterances: bool = False
    """Whether tables with a row an utterance (ids, speakers, texts) go to MLflow too."""
    champion: Literal["better", "newest"] = "better"
    """Which released model the registry's alias `champion` names: the last one that a paired bootstrap found better on the same utterances
    and classes as its predecessor, or the newest."""
    system_metrics_seconds: Positive = 5
    """Seconds between samples of the system metrics."""


class Compute(Section):
    """Where stages run. None of these settings changes the method, so a change reruns nothing: see docs/scale.md."""

    dask: str | None = None
    """Address of a Dask scheduler that runs the shards of features, transcribe and embed: "tcp://host:8786". null: local processes."""
    devices: dict[Literal["calp", "pretrain", "head"], Positive] = {}
    """GPUs of a host that a stage uses. `calp` and `pretrain`: as many processes train a model together by torchrun; default 1. `head`:
    each trains heads of its own; default: all that there are, and 1 in a flow."""
    heads_per_gpu: Positive = 1
    """Heads trained at the same time on one GPU, which a single small one leaves mostly idle."""
    require_gpu: bool = False
    """true: stages for a GPU (all that train, `transcribe`, `embed`, `transfer`) end at once where PyTorch sees none. false: they use the
    CPU."""
    torchrun: list[str] = []
    """Further options of torchrun, for several hosts: [--nnodes=2, --rdzv-backend=c10d, --rdzv-endpoint=host:29500]."""


class Flows(Section):
    """Prefect: when the flows run, and how many stages run at once (`pipeline/flows`)."""

    timezone: TimeZone = "UTC"
    """Time zone of the schedules."""
    rebuild: Schedule | None = "0 2 * * *"
    """Schedule of the flow `rebuild`, in cron's five fields. null: only on request."""
    study: Schedule | None = "0 4 * * 0"
    """Schedule of the flow `study`. null: only on request."""
    study_recipe: Path = Path("recipes/study.yaml")
    """Settings of the flow `study`, a file like `params.yaml`."""
    score_new: Schedule | None = "*/5 * * * *"
    """Schedule of the flow `score_new`. null: only on request."""
    cpu: Positive | None = None
    """Stages without a GPU that run at once. null: one for every two cores, but at least 2."""
    gpu: Positive | None = None
    """Stages with a GPU that run at once. null: one per GPU, or 1 without any."""
    retries: int = Field(2, ge=0)
    """Retries of a failed stage, each from its last checkpoint."""
    retry_seconds: Annotated[float, Field(gt=0)] = 10
    """Delay before the first retry, doubled before each further one."""
    stop_seconds: Annotated[float, Field(gt=0)] = 60
    """Time that a stopped stage has to write its checkpoint."""
    inbox: Folder = Path("data/inbox")
    """Folder of the audio that `score_new` scores."""
    speaker_folders: bool = False
    """Whether each subfolder of the inbox is named by the one speaker of its recordings. The model then hears the newest 20 of them first,
    without labels, as `calm predict --speaker` does."""
    scores: Folder = Path("data/scores")
    """Folder of the Parquet table that `score_new` writes."""
    model: str | None = None
    """Model of `score_new`: models:/name@alias, or a folder. null: the champion of the first of `targets`."""
    work_pool: str = "calm"
    """Work pool that `python -m pipeline.flows deploy` deploys to."""
    prefect_port: Port = 4200
    """Port of Prefect's server."""
    mlflow_port: Port = 5000
    """Port of MLflow's server."""
    prefect_database: Uri | None = None
    """Prefect's database, "postgresql+asyncpg://...". null: SQLite under data/servers. The environment variable
    PREFECT_API_DATABASE_CONNECTION_URL takes precedence, and may have a password."""
    mlflow_database: Uri | None = None
    """MLflow's database, "postgresql://...". null: the SQLite file of `tracking.uri`. The environment variable MLFLOW_BACKEND_STORE_URI
    takes precedence, and may have a password."""
