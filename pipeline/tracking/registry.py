"""MLflow's model registry: every released model becomes a version of `calm-<corpus>`; the alias `champion` marks the one to use."""

import base64
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from calm.evaluation import resampling
from pipeline.tracking.tracker import TrackedRun

CHAMPION = "champion"
DESCRIPTION_LENGTH = 5000  # MLflow's limit
VALIDATION = "validation.parquet"  # a version's decisions on the validation split, which the next version is compared with


def name_of(corpus: str) -> str:
    """Name of a corpus's models in the registry."""
    return f"calm-{corpus}"


def register(
    run: TrackedRun, corpus: str, folder: Path, validation: pd.DataFrame, tags: dict[str, str], description: str, samples: int, seed: int
) -> str:
    """Register the model in `folder` as a new version, and as the champion if it is better; returns a few words on what was done.

    Args:
        description: of the version, Markdown for MLflow's page.
        validation: id, speaker, targets and decided (bool lists over the classes, at tuned thresholds) of the validation split.
        samples, seed: of the paired bootstrap over speakers (weighted accuracy; better: its 95 % interval lies above 0).
    """
    if not run.client:
        return "not registered"
    name = name_of(corpus)
    with tempfile.TemporaryDirectory(prefix="calm-registry-") as temporary:
        model = Path(temporary) / "model"
        save(folder, model)
        validation.to_parquet(model / VALIDATION)
        run.client.log_artifacts(run.id, str(model), "model")
    about = f"Emotions in the speech of `{corpus}`. The alias `{CHAMPION}` marks the version to use: `models:/{name}@{CHAMPION}`."
    if run.client.search_registered_models(f"name='{name}'"):
        run.client.update_registered_model(name, about)
    else:
        run.client.create_registered_model(name, description=about)
    source = f"{run.client.get_run(run.id).info.artifact_uri}/model"
    version = run.client.create_model_version(name, source, run.id, tags=tags, description=description[:DESCRIPTION_LENGTH]).version
    previous = champion(run, name)
    better, reason = (True, "the first") if previous is None else compare(validation, previous, samples, seed)
    if better:
        run.client.set_registered_model_alias(name, CHAMPION, version)
    return f"{name} version {version} is {'now' if better else 'not'} the champion ({reason})"


def champion(run: TrackedRun, name: str) -> pd.DataFrame | None:
    """Decisions of the present champion on the validation split; None if there is no champion."""
    from mlflow.exceptions import MlflowException

    try:
        version = run.client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None
    return pd.read_parquet(fetch(f"models:/{name}/{version.version}", run.uri) / VALIDATION)


def compare(new: pd.DataFrame, old: pd.DataFrame, samples: int, seed: int) -> tuple[bool, str]:
    """Whether the new decisions are better than the old ones on the utterances that both have, and why in a few words."""
    both = new.merge(old[["id", "decided"]], on="id", suffixes=("", "_old"))
    if both.empty or len(both["decided"].iloc[0]) != len(both["decided_old"].iloc[0]):
        return True, "the last champion has other utterances or classes"
    targets, decided, decided_old = (np.stack(both[column].to_list()).astype(bool) for column in ("targets", "decided", "decided_old"))
    result = resampling.bootstrap_difference(targets, [decided], [decided_old], both["speaker"].tolist(), samples=samples, seed=seed)
    if result["difference"] is None:
        return False, "weighted accuracy is not defined on their validation utterances: every class is in all of them, or in none"
    low, high = result["low"], result["high"]
    interval = "" if low is None else f", {100 * low:+.1f} to {100 * high:+.1f}"
    return low is not None and low > 0, f"{100 * result['difference']:+.1f} points on {len(both)} validation utterances{interval}"


def save(folder: Path, path: Path) -> None:
    """Write a released model in MLflow's format, with signature and input example."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    classes = next(iter(json.loads((folder / "config.json").read_text())["heads"].values()))
    inputs = Schema([ColSpec("string", name, required=False) for name in ("audio", "text")])
    mlflow.pyfunc.save_model(
        path,
        python_model=str(Path(__file__).with_name("serving.py")),
        artifacts={"model": str(folder)},
        signature=ModelSignature(
            inputs, Schema([*(ColSpec("double", name) for name in classes), ColSpec("string", "decided"), ColSpec("string", "decision")])
        ),
        input_example=example(),
        pip_requirements=["calm-speech"],
    )


def example() -> pd.DataFrame:
    """Input of an example request: half a second of a tone, and a text."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(2 * np.pi * 220 * np.arange(4000) / 8000), 8000, "PCM_16", format="WAV")
    return pd.DataFrame({"audio": [base64.b64encode(file.getvalue()).decode()], "text": ["hello"]})


def released_model(model: str, uri: str) -> Path:
    """Download a registered model; returns the folder that `release` wrote, inside what MLflow keeps. Raises ValueError as `fetch`."""
    from mlflow.models import Model

    folder = fetch(model, uri)
    return folder / Model.load(folder).flavors["python_function"]["artifacts"]["model"]["path"]


def fetch(model: str, uri: str) -> Path:
    """Download `models:/name/version` or `models:/name@alias`; returns the folder. Raises ValueError if there is no such model."""
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(uri)
    try:
        return Path(mlflow.artifacts.download_artifacts(model))
    except MlflowException as error:
        raise ValueError(f"{model} is not in MLflow's registry at {uri} ({error}): the stage `release` registers models") from None
