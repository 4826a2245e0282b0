"""What every corpus module does with folders, text files and numbers."""

import csv
import math
import os
from collections.abc import Iterator
from itertools import zip_longest
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
    """A text file as UTF-8 (with or without byte order mark); lines that are not are read as Latin-1, and such files counted."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode()
    except UnicodeDecodeError:
        corpus.corrections["file read as Latin-1"] += 1
        return "\n".join(map(_decoded, data.replace(b"\r", b"\n").split(b"\n")))


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def lines(text: str) -> list[str]:
    """Lines that hold something. Not `splitlines`: to it, Latin-1's 0x85 and Unicode's separators end a line too."""
    return [line for line in text.replace("\r", "\n").split("\n") if line.strip()]


def csv_rows(text: str) -> Iterator[dict]:
    """Rows of a CSV by the names of its head, as of `csv.DictReader`: cells that lack are None, those too many lie under the key None.

    Line by line, for tables without line ends in their cells: a quote that is never closed then tears its own row and no other.
    """
    head = None
    for line in lines(text):
        cells = next(csv.reader([line]))
        if head is None:
            head = [name.strip() for name in cells]
        else:
            more = {None: cells[len(head) :]} if len(cells) > len(head) else {}
            yield dict(zip_longest(head, cells[: len(head)])) | more


def tidy(text: str | None) -> str | None:
    """Text in lower case with single spaces; None where nothing is left, so that it is transcribed."""
    return " ".join((text or "").split()).lower() or None


def number(value: object) -> float:
    """A float, or NaN where it is none. Not so `1_0`, which Python takes for 10 and a transcript for two fields."""
    try:
        return math.nan if "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
