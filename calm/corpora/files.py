"""Folders, text files, tables and numbers, as all readers of corpora need them."""

import codecs
import csv
import math
import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calm.audio.opening import POINTER
from calm.corpora.errors import CorpusError

if TYPE_CHECKING:
    from calm.corpora.utterances import Corpus  # imports PyArrow, which a model in use does not need

Row = dict[str | None, Any]  # of a table: cells by column name, and under None what fits no column
OTHERS = {  # what may be given a name that ends in .csv, by its first bytes
    b"PK\x03\x04": "a workbook of Excel or an archive: save the sheet as CSV, in UTF-8",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel: save the sheet as CSV, in UTF-8",
    b"\x1f\x8b": "compressed: unpack it with gunzip",
    b"BZh": "compressed: unpack it with bunzip2",
    b"\xfd7zXZ": "compressed: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "compressed: unpack it with unzstd",
    b"PAR1": "Parquet: let its name end in .parquet",
    b"SQLite format 3": "a database: write the table as CSV",
}
AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".aiff", ".aif", ".wma")


def find(folder: Path, *names: str) -> Path | None:
    """The first of these names that exists in a folder, since releases differ in how they spell folders and files."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def require(folder: Path, *names: str, what: str) -> Path:
    """Like `find`, but raises CorpusError that says what is missing if none of the names exists."""
    path = find(folder, *names)
    if path is None:
        raise CorpusError(f"{folder} has no {' or '.join(names)} ({what}): check that the corpus is complete and its path is right")
    return path


def walk(folder: Path, *suffixes: str) -> Iterator[Path]:
    """All files below a folder with one of these suffixes (in any case), in sorted order.

    Hidden files are skipped. Links to folders are followed, and each real folder is visited once.
    """
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # such as a link to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if name.lower().endswith(suffixes) and not name.startswith("."))


def read_text(path: Path, corpus: "Corpus") -> str:
    """A text file in UTF-8 or, by its byte order mark, UTF-16. Lines that are not UTF-8 are read as Windows-1252, and such files counted.

    Raises CorpusError for a pointer of Git LFS, what is no regular file, and what is no text.
    """
    if path.exists() and not path.is_file():
        raise CorpusError(f"{path} cannot be read: it is {'a folder' if path.is_dir() else 'a pipe or a device'}, not a file")
    data = path.read_bytes()
    if data.startswith(POINTER):
        raise CorpusError(f"{path} is a pointer of Git LFS, not the file: fetch it with `git lfs pull`")
    if found := next((what for start, what in OTHERS.items() if data.startswith(start)), None):
        raise CorpusError(f"{path} is not text but {found}")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        corpus.corrections["file read as UTF-16"] += 1
        return data.decode("utf-16", "replace")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError:
        corpus.corrections["file read as Windows-1252"] += 1
        return "\n".join(map(_decoded, data.replace(b"\r", b"\n").split(b"\n")))


def _decoded(line: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")  # five bytes mean nothing in Windows-1252


def lines(text: str) -> list[str]:
    """Lines that are not blank. Not `splitlines`, which also splits at 0x85 and at Unicode's separators."""
    return [line for line in text.replace("\r", "\n").split("\n") if line.strip()]


def csv_rows(text: str) -> Iterator[Row]:
    """Rows of a CSV by column name, as `csv.DictReader` gives them: missing cells are None, surplus cells are a list under the key None.

    For tables without line ends in their cells. Each line is parsed on its own, so that an unclosed quote breaks only its own row.
    """
    head = None
    for line in lines(text):
        cells = next(csv.reader([line]))
        if head is None:
            head = [name.strip() for name in cells]
        else:
            surplus = {None: cells[len(head) :]} if len(cells) > len(head) else {}
            yield dict(zip_longest(head, cells[: len(head)])) | surplus


def tidy(text: str | None) -> str | None:
    """Text with single spaces, or None if it is blank, so that the utterance is transcribed.

    Casing is kept, except that a text in upper case throughout (LibriSpeech's) has no casing to keep and becomes lower case.
    """
    text = " ".join((text or "").split())
    return (text.lower() if text.isupper() else text) or None


def number(value: Any) -> float:
    """A value as a float, or NaN if it is not a number. `1_0`, which Python reads as 10, counts as none: transcripts join fields by "_"."""
    try:
        return math.nan if "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
