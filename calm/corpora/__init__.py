"""Readers of corpora: one module a format, each with `read(path, **options) -> Corpus`.

docs/adding-a-corpus.md says what a new one takes.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from calm.corpora.utterances import Corpus, CorpusError

FORMATS = {  # format: the module whose `read` knows it, imported when it is needed
    "mosei": "calm.corpora.mosei",
    "msp_podcast": "calm.corpora.msp_podcast",
    "ravdess": "calm.corpora.ravdess",
    "crema_d": "calm.corpora.crema_d",
    "librispeech": "calm.corpora.librispeech",
    "manifest": "calm.corpora.manifest",
}


def reader(format: str) -> Callable[..., Corpus]:
    """The `read` of a format. Raises CorpusError where there is no such format."""
    if format not in FORMATS:
        raise CorpusError(f"There is no corpus format '{format}': choose one of {', '.join(FORMATS)}")
    return import_module(FORMATS[format]).read


def check_options(format: str, options: dict) -> dict:
    """Options of a format, checked against the signature of its `read` without touching the corpus.

    Raises CorpusError that names the option, what was given and what is allowed.
    """
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


def read_corpus(format: str, path: Path, **options) -> Corpus:
    """Read a corpus of any format. Raises CorpusError, one sentence that says what to do, where it cannot be used."""
    checked = check_options(format, options)
    if not Path(path).exists():
        raise CorpusError(f"{path} is missing: put or link the {format} corpus there, or give the path where it lies")
    try:
        return reader(format)(Path(path), **checked)
    except OSError as error:
        fault = error.strerror or error
        raise CorpusError(f"{error.filename or path} cannot be read ({fault}): check the file and its permissions") from None
