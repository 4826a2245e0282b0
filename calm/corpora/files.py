"""What every corpus module does with folders, text files and numbers."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from calm.corpora.utterances import Corpus, CorpusError

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".aiff", ".aif", ".wma")


def find(folder: Path, *names: str) -> Path | None:
    """The first of these names that exists in a folder; releases spell their folders and files differently."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def require(folder: Path, *names: str, what: str) -> Path:
    """As `find`, but raises CorpusError naming what is missing where none of the names exists."""
    found = find(folder, *names)
    if found is None:
        raise CorpusError(f"{folder} has no {' or '.join(names)} ({what}): check that the corpus is complete and its path right")
    return found


def walk(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Every file below a folder with one of these endings (any case), in sorted order; linked folders are followed once."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(place)
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if name.lower().endswith(suffixes) and not name.startswith("."))


def read_text(path: Path, corpus: Corpus) -> str:
    """A text file as UTF-8 (with or without byte order mark), or else as Latin-1, which is counted."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        corpus.corrections["file read as Latin-1"] += 1
        return data.decode("latin-1")


def lines(text: str) -> list[str]:
    """Lines that hold something. Not `splitlines`: to it, Latin-1's 0x85 and Unicode's separators end a line too."""
    return [line for line in text.replace("\r", "\n").split("\n") if line.strip()]


def tidy(text: str | None) -> str | None:
    """Text in lower case with single spaces; None where nothing is left, so that it is transcribed."""
    return " ".join((text or "").split()).lower() or None


def number(value: object) -> float:
    """A float, or NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
