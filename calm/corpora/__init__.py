"""Readers of corpora: one module per format, each with `read(path, **options) -> Corpus` and `LAYOUT`, the parts of the corpus on disk.

`FORMATS` is the only list of the formats. docs/adding-a-corpus.md describes how to add one. Nothing heavy is imported here, so that the
command line can name the formats.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_type_hints

from calm.corpora.errors import CorpusError

if TYPE_CHECKING:
    from calm.corpora.utterances import Corpus

FORMATS = {  # name of a format -> its module, imported when it is used
    "mosei": "calm.corpora.mosei",
    "msp_podcast": "calm.corpora.msp_podcast",
    "ravdess": "calm.corpora.ravdess",
    "crema_d": "calm.corpora.crema_d",
    "librispeech": "calm.corpora.librispeech",
    "emobox": "calm.corpora.emobox",
    "manifest": "calm.corpora.manifest",
    "class_folders": "calm.corpora.class_folders",
    "meld": "calm.corpora.meld",
    "iemocap": "calm.corpora.iemocap",
    "audformat": "calm.corpora.audformat_database",
    "datasets": "calm.corpora.hf_datasets",
}


def module(format: str) -> ModuleType:
    """Module of a format. Raises CorpusError for an unknown format."""
    if format not in FORMATS:
        raise CorpusError(f"There is no corpus format '{format}': choose one of {', '.join(FORMATS)}")
    return import_module(FORMATS[format])


def reader(format: str) -> "Callable[..., Corpus]":
    """Function `read` of a format. Raises CorpusError for an unknown format."""
    read: Callable[..., Corpus] = module(format).read
    return read


def check_options(format: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a format, checked against the signature of its `read` and converted, without touching the corpus.

    Raises CorpusError that names the option, its value and what is allowed.
    """
    from pydantic import TypeAdapter, ValidationError

    read = reader(format)
    hints = {name: kind for name, kind in get_type_hints(read, include_extras=True).items() if name not in ("path", "return")}
    checked = {}
    for name, value in options.items():
        if name not in hints:
            raise CorpusError(f"Format {format} has no option '{name}': it has {', '.join(hints) or 'none'}")
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            default = inspect.signature(read).parameters[name].default
            raise CorpusError(f"Option '{name}' of format {format} is {value!r}: {fault} (the default is {default!r})") from None
    return checked


def option_values(format: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of a format by name: those in `options`, and the defaults of the others."""
    parameters = inspect.signature(reader(format)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name != "path"} | options


def read_corpus(format: str, path: Path, **options: Any) -> "Corpus":
    """Read a corpus of any format. Raises CorpusError, one sentence that says what to do, if the corpus cannot be used."""
    checked = check_options(format, options)
    if not Path(path).exists():
        raise CorpusError(f"{path} is missing: put or link the {format} corpus there, or set its path to where it is")
    try:
        corpus = reader(format)(Path(path), **checked)
        corpus.note_outside(Path(path))
        return corpus
    except OSError as error:
        fault = error.strerror or error
        raise CorpusError(f"{error.filename or path} cannot be read ({fault}): check the file and its permissions") from None
