"""Which released model is meant: by a folder, an archive, a corpus, an entry of MLflow's registry or a name on the hub, or by nothing."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

MODELS = Path("data/models")  # of a project: <corpus>/<model>, each written by the stage `release`
VARIABLE = "CALM_MODEL"
REGISTERED = "models:/"
WAYS = "give --model a folder or an archive of a released model, a corpus of the project, models:/NAME@ALIAS, or OWNER/NAME on the hub"


def find(name: str | Path | None = None) -> Path:
    """Folder of a released model.

    Args:
        name: what `WAYS` names. None: what the environment variable CALM_MODEL names, else the only model of the project in the working
            folder, or of several for one corpus the registry's champion.

    Raises ValueError, one sentence that says what to do, if there is none.
    """
    name = str(name) if name else os.environ.get(VARIABLE)
    if not name:
        return _of_project()
    if name.startswith(REGISTERED):
        return _registered(name)
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        from calm.inference.archives import unpacked

        return unpacked(path)
    if (MODELS / name).is_dir() and "/" not in name:
        return _of_corpus(name)
    if name.count("/") == 1 and not path.parent.is_dir() and not name.startswith((".", "~")):
        from calm.inference import hub

        try:
            return hub.download(name)
        except hub.HubError as error:
            raise ValueError(f"{name} is neither here nor to be had from the hub ({error}): {WAYS}") from None
    raise ValueError(f"{name} is no released model: {WAYS}")


def _released(folder: Path) -> list[Path]:
    """Released models below a folder."""
    return sorted(file.parent for file in folder.glob("**/release.json") if (file.parent / "model.safetensors").is_file())


def _of_project() -> Path:
    corpora = sorted({folder.parent.name for folder in _released(MODELS)})
    if not corpora:
        raise ValueError(f"no model is named, and this folder has none in {MODELS}: make one by `calm train AUDIO -o PROJECT`, or {WAYS}")
    if len(corpora) > 1:
        raise ValueError(f"{MODELS} has models of several corpora: choose one by --model {' or --model '.join(corpora)}")
    return _of_corpus(corpora[0])


def _of_corpus(corpus: str) -> Path:
    """The only model of a corpus, or the champion of several."""
    folders = _released(MODELS / corpus)
    if not folders:
        raise ValueError(f"{MODELS / corpus} has no released model: `dvc repro` releases one")
    if len(folders) == 1:
        return folders[0]
    try:
        return _registered(f"{REGISTERED}calm-{corpus}@champion")
    except ValueError:
        raise ValueError(f"{MODELS / corpus} has {len(folders)} models: choose one of {', '.join(map(str, folders))}") from None


def _registered(name: str) -> Path:
    """A model of MLflow's registry, which MLFLOW_TRACKING_URI names, else the settings of the project in the working folder."""
    if not find_spec("mlflow"):
        raise ValueError(f"{name} is in MLflow's registry, and MLflow is not installed: pip install 'calm-speech[pipeline]'")
    settings = import_module("pipeline.settings")  # by name: the library itself never needs the pipeline
    uri = settings.load().tracking.uri if Path("params.yaml").exists() else "sqlite:///mlflow.db"
    return Path(import_module("pipeline.flows.scoring").model_folder(name, uri))
