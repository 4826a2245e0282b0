"""What the commands of `calm` share: loading models, reporting errors, printing results. Heavy libraries are imported when used."""

import contextlib
import gc
import json
import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    import torch

    from calm.inference.classifier import Classifier
    from calm.inference.recordings import Listener
    from calm.inference.torch_classifier import Predictor
    from calm.tools.search import CalpEncoder, SearchResult

PARTS = {  # extra of the package: modules that only it brings, the first of which stands for it
    "train": ("torch",),
    "transcribe": ("faster_whisper", "ctranslate2"),
    "pipeline": ("dvc", "grimp", "mlflow", "prefect", "jinja2", "yaml"),
    "app": ("gradio", "uvicorn"),
}
OTHERS = "train"  # brings the other modules
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # characters that command a terminal; not tabs and line ends


def say(text: object, err: bool = False) -> None:
    """Print a text, in which names of files and labels may have any characters; `err`: as an error."""
    typer.echo(UNSEEN.sub(lambda found: ascii(found[0])[1:-1], str(text)), err=err)


class Model(Protocol):
    """What a command loads."""

    @property
    def synthetic(self) -> bool: ...


ModelT = TypeVar("ModelT", bound=Model)
ClassifierT = TypeVar("ClassifierT", bound="Classifier")
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """End the command with one sentence and exit code 2 if the input cannot be used, or if a part of the installation is missing.

    Silences Transformers and tokenizers too, which must not be imported yet.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        part = next((part for part, modules in PARTS.items() if module in modules), OTHERS)
        say(f"{module} is not installed: pip install 'calm-speech[{part}]'", err=True)
        raise typer.Exit(2) from None
    except (ValueError, OSError) as error:
        say(str(error), err=True)
        raise typer.Exit(2) from None


def need(part: str, what: str) -> None:
    """Raises ValueError with the line that installs a part of the installation, if `what` needs it and it is missing."""
    if not find_spec(PARTS[part][0]):
        raise ValueError(f"{what} needs a part that is not installed: pip install 'calm-speech[{part}]'")


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import and load without garbage collection: nothing can be freed, and looking for it takes a fifth of a short command's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def parse_option(text: str) -> tuple[str, object]:
    """`NAME=VALUE` as a pair. The value is read as JSON, or is a string if it is not JSON."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# Models


def load_classifier(model: str | None, device: str) -> "Classifier":
    """A model for predictions alone, in the fastest way there is; see `calm.inference.finding.find`."""

    def load() -> "Classifier":
        from calm.inference.finding import find
        from calm.inference.loading import load_compiled

        folder = find(model)
        return load_compiled(folder, device) or _load_predictor(folder, device)

    return load_on(device, load)


def load_predictor(model: str | None, device: str) -> "Predictor":
    """A model in torch, for everything that is computed before the heads."""
    from calm.inference.finding import find

    return load_on(device, lambda: _load_predictor(find(model), device))


def load_encoder(model: Path | None, device: str) -> "CalpEncoder":
    """A CALP model; None: the only one of the project."""

    def load() -> "CalpEncoder":
        from calm.tools.search import CalpEncoder

        return CalpEncoder(model or _only_calp_model(), _torch_device(device))

    return load_on(device, load)


def load_on(device: str, load: Callable[[], ModelT]) -> ModelT:
    """Return what `load` loads on a device. Raises ValueError if the device does not exist."""
    with without_garbage_collection():
        try:
            loaded = load()
        except (RuntimeError, AssertionError) as error:  # torch raises these for an unknown or absent device
            raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from None
    if loaded.synthetic:
        say("note: the model was trained on synthetic speech; its results for people's speech mean nothing", err=True)
    return loaded


def _load_predictor(model: Path, device: str) -> "Predictor":
    need("train", f"{model}, which has no ONNX graph for this device,")
    from calm.inference.torch_classifier import Predictor

    return Predictor(model, _torch_device(device))


def _torch_device(device: str) -> "str | torch.device":
    """The device for torch. Also turns off Transformers' progress bars, which would show the work of a second."""
    from transformers.utils import logging

    from calm.inference.torch_classifier import resolve_device

    logging.disable_progress_bar()
    return resolve_device(device)


def _only_calp_model() -> Path:
    from calm.tools.search import DATA, models

    folders = models()
    if len(folders) != 1:
        state = f"holds {', '.join(folder.name for folder in folders)}" if folders else "holds no model"
        raise ValueError(f"--model was not given and {DATA / 'calp'} {state}: name one (the stage `calp` writes it)")
    return folders[0]


def prepare(
    load: Callable[[str | None, str], ClassifierT],
    model: str | None,
    device: str,
    files: list[Path],
    texts: list[str] | None,
    transcribe: bool,
    whisper: str,
    language: str | None,
) -> tuple[ClassifierT, "Listener"]:
    """The model that `load` loads, and a listener for its recordings. Raises ValueError if the options do not go together."""
    if not files and not texts:
        raise ValueError("neither files nor --text were given: name audio files, or give a text")
    if transcribe and (texts or not files):
        raise ValueError("--transcribe is for files without --text: leave one of them out")
    if files and texts and len(texts) != len(files):
        raise ValueError(f"{len(files)} files and {len(texts)} texts: repeat --text once per file, in the order of the files")
    predictor = load(model, device)
    if predictor.modality == "text" and not texts and not transcribe:
        raise ValueError("this model was trained on text alone: give --text or --transcribe")
    if predictor.modality == "audio" and not files:
        raise ValueError("this model was trained on audio alone: name audio files")
    if predictor.modality == "both" and not (files and (texts or transcribe)):
        absent = "no text (--text or --transcribe)" if files else "no audio"
        say(f"note: the model was trained on audio and text, and gets {absent}", err=True)
    from calm.inference.recordings import Listener, load_whisper

    if transcribe:
        need("transcribe", "--transcribe")
    return predictor, Listener.of(predictor, load_whisper(whisper, language) if transcribe else None)


# Output


def check_folder_exists(path: Path) -> None:
    """Raises ValueError if the folder of an output file does not exist."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path.parent} does not exist: make the folder first, or write elsewhere")


def unreadable(row: dict[str, Any]) -> bool:
    """Whether a row stands for a file that could not be read. That nobody speaks in a file is a result."""
    from calm.inference.voice import NO_SPEECH

    return row["fault"] not in (None, NO_SPEECH)


def print_prediction(row: dict[str, Any]) -> None:
    """Print one line of a prediction; faults of files go to standard error."""
    if row["fault"]:
        say(row["fault"] if unreadable(row) else f"{row['file']}: {row['fault']}", err=unreadable(row))
        return
    ordered = sorted(row["probabilities"].items(), key=lambda item: -item[1])
    place = f"{row['file']} {row['start']:.2f}-{row['end']:.2f} s: " if row["file"] else ""
    quoted = f'   "{row["text"]}"' if row["text"] else ""
    decided = f"   → {', '.join(row['decided']) or 'no class'} ({row['decision']})"
    say(place + "  ".join(f"{name} {value:.2f}" for name, value in ordered) + decided + quoted)


def print_hits(result: "SearchResult") -> None:
    """Print the table of a `SearchResult`, and a line that says what was searched."""
    say(f"{'rank':>4}  {'cosine':>6}  {'seconds':>7}  {'at':>8}  utterance")
    for hit in result.hits:
        place = hit.id or f"{hit.file} {hit.start:.2f}-{hit.end:.2f} s"
        quoted = f'   "{hit.text}"' if hit.text else ""
        say(f"{hit.rank:>4}  {hit.cosine:>6.3f}  {hit.seconds:>7.2f}  {hit.at:>8.2f}  {place}{quoted}")
    silent = f", {len(result.silent)} files without speech" if result.silent else ""
    faulty = f", {len(result.faults)} files not read" if result.faults else ""
    say(f"{result.searched} utterances searched{silent}{faulty}")
