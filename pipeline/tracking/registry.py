"""MLflow's model registry: every released model becomes a version of `calm-<corpus>`; the alias `champion` marks the one to use."""

import base64
import hmac
import io
import secrets
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from calm.evaluation import resampling
from calm.storage import read_json, read_parquet, replacing, write_parquet
from pipeline import paths
from pipeline.tracking.store import short
from pipeline.tracking.tracker import TrackedRun
from pipeline.uris import masked

CHAMPION = "champion"
DESCRIPTION_LENGTH = 5000  # MLflow's limit
VALIDATION = "validation.parquet"  # of a version's run: decisions on the validation split, which the next version is compared with


def name_of(corpus: str) -> str:
    """Name of a corpus's models in the registry."""
    return f"calm-{corpus}"


def register(
    run: TrackedRun,
    corpus: str,
    folder: Path,
    decisions: pd.DataFrame,
    tags: dict[str, str],
    description: str,
    samples: int,
    seed: int,
    newest: bool = False,
) -> str:
    """Register the model in `folder` as a new version, and as the champion if it is better; returns a few words on what was done.

    Args:
        decisions: id, speaker, targets and decided (bool lists over the classes, at tuned thresholds) of the validation split.
        description: of the version, Markdown for MLflow's page.
        samples, seed: of the paired bootstrap over speakers (weighted accuracy; better: its 95 % interval lies above 0).
        newest: whether it becomes the champion in any case.
    """
    if not run.client:
        return "not registered"
    name, compared = name_of(corpus), pseudonymous(decisions)
    with tempfile.TemporaryDirectory(prefix="calm-registry-") as temporary:
        model = Path(temporary) / "model"
        save(folder, model)
        run.client.log_artifacts(run.id, str(model), "model")
        write_parquet(pa.Table.from_pandas(compared.assign(classes=[classes(folder)] * len(compared))), Path(temporary) / VALIDATION)
        run.client.log_artifact(run.id, str(Path(temporary) / VALIDATION))
    about = f"Emotions in the speech of `{corpus}`. The alias `{CHAMPION}` marks the version to use: `models:/{name}@{CHAMPION}`."
    if run.client.search_registered_models(f"name='{name}'"):
        run.client.update_registered_model(name, about)
    else:
        run.client.create_registered_model(name, description=about)
    source = f"{run.client.get_run(run.id).info.artifact_uri}/model"
    version = run.client.create_model_version(name, source, run.id, tags=tags, description=description[:DESCRIPTION_LENGTH]).version
    better, reason = _is_better(run, name, compared, classes(folder), samples, seed)
    if better or newest:
        run.client.set_registered_model_alias(name, CHAMPION, version)
    reason += "; tracking.champion is newest" if newest and not better else ""
    return f"{name} version {version} is {'now' if better or newest else 'not'} the champion ({reason})"


def _is_better(run: TrackedRun, name: str, new: pd.DataFrame, names: list[str], samples: int, seed: int) -> tuple[bool, str]:
    """Whether a model is better than the present champion, and why in a few words."""
    from mlflow.exceptions import MlflowException

    try:
        version = run.client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return True, "the first"
    try:
        old = read_parquet(Path(run.client.download_artifacts(version.run_id, VALIDATION))).to_pandas()
    except (MlflowException, OSError) as error:
        return False, f"what version {version.version} decided is not known: {short(error)}"
    if len(old) and list(old["classes"].iloc[0]) != names:
        return False, f"version {version.version} has other classes"
    return compare(new, old, samples, seed)


def compare(new: pd.DataFrame, old: pd.DataFrame, samples: int, seed: int) -> tuple[bool, str]:
    """Whether the new decisions are better than the old ones on the same utterances, and why in a few words."""
    if set(new["id"]) != set(old["id"]):
        return False, f"the champion decided on other utterances: {len(set(new['id']) & set(old['id']))} of {len(new)} are the same"
    both = new.merge(old[["id", "decided", "targets"]], on="id", suffixes=("", "_old"))
    targets, decided, targets_old, decided_old = (
        np.stack(both[column].to_list()).astype(bool) for column in ("targets", "decided", "targets_old", "decided_old")
    )
    if targets.shape != targets_old.shape or (targets != targets_old).any():
        return False, "the champion decided on other labels"
    result = resampling.bootstrap_difference(targets, [decided], [decided_old], both["speaker"].tolist(), samples=samples, seed=seed)
    if result["difference"] is None:
        return False, "weighted accuracy is not defined on their validation utterances: every class is in all of them, or in none"
    low, high = result["low"], result["high"]
    interval = "" if low is None else f", {100 * low:+.1f} to {100 * high:+.1f}"
    return low is not None and low > 0, f"{100 * result['difference']:+.1f} points on {len(both)} validation utterances{interval}"


def pseudonymous(decisions: pd.DataFrame) -> pd.DataFrame:
    """Decisions with ids and speakers that only this project can tell: their keyed digests, by a key that is no part of a release."""
    key = _key()
    digests = {
        column: [hmac.new(key, f"{column} {value}".encode(), "sha256").hexdigest()[:24] for value in decisions[column]]
        for column in ("id", "speaker")
    }
    return decisions.assign(**digests).sort_values("id", ignore_index=True)


def _key() -> bytes:
    """The project's key, made when it is first needed. Without it, later models are compared with none of before."""
    file = paths.registry_key()
    if not file.exists():
        with replacing(file) as partial:
            partial.touch(mode=0o600)
            partial.write_bytes(secrets.token_bytes(32))
    return file.read_bytes()


def classes(folder: Path) -> list[str]:
    """Names of a released model's classes."""
    return next(iter(read_json(folder / "config.json")["heads"].values()))


def save(folder: Path, path: Path) -> None:
    """Write a released model in MLflow's format, with signature and input example."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    answers = [*(ColSpec("double", name) for name in classes(folder)), ColSpec("string", "decided"), ColSpec("string", "decision")]
    mlflow.pyfunc.save_model(
        path,
        python_model=str(Path(__file__).with_name("serving.py")),
        artifacts={"model": str(folder)},
        signature=ModelSignature(outputs=Schema(answers)),  # for inputs see `serving`
        input_example=example(),
        pip_requirements=["calm-speech"],
    )
    about = path / "MLmodel"  # in which MLflow notes where the files came from
    content = yaml.safe_load(about.read_text(encoding="utf-8"))
    flavor = content["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    flavor["artifacts"]["model"]["uri"] = folder.name
    about.write_text(yaml.safe_dump(content), encoding="utf-8")


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


def version_of(model: str, uri: str) -> str:
    """`models:/name/version` for `models:/name@alias`, so that it is known later which version it was. Raises ValueError as `fetch`."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking.client import MlflowClient

    name, at, alias = model.removeprefix("models:/").partition("@")
    try:
        return f"models:/{name}/{MlflowClient(uri).get_model_version_by_alias(name, alias).version}" if at else model
    except MlflowException as error:
        raise ValueError(_missing(model, uri, error)) from None


def fetch(model: str, uri: str) -> Path:
    """Download `models:/name/version` or `models:/name@alias`; returns the folder. Raises ValueError if there is no such model."""
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(uri)
    try:
        return Path(mlflow.artifacts.download_artifacts(model))
    except MlflowException as error:
        raise ValueError(_missing(model, uri, error)) from None


def _missing(model: str, uri: str, error: Exception) -> str:
    return f"{model} is not in MLflow's registry at {masked(uri)} ({short(error)}): the stage `release` registers models"
