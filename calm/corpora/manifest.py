"""Your own corpus: a table with one row per utterance, as CSV (or `.tsv`), Parquet or JSON (lines, or an array).

Columns, of which only `audio` is required:
    audio       path, relative to the folder of the table; in Parquet also the bytes of a file, as `datasets` writes them
    start, end  seconds, also as 0,5 or 1:02.5 or "500 ms", or in `start_ms`, `end_ms`; default: the whole file
    id          default: the path without its suffix, and the interval
    text        default: to be transcribed
    speaker, gender (female, male, f, m)
    split       train, validation, test (also valid, val, dev, development); default: dealt by speaker, with balanced classes
    fold        number of the fold in which the row is tested, from 1, where the corpus's folds are `given`; empty: in none
    labels      classes that are present, separated by ";", "|" or "," (or a list, also one written as text); empty: not labelled;
                ";" (or an empty list): none of them
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import Row, number, tidy
from calm.corpora.layout import Part
from calm.corpora.splits import assign_missing, check_shares
from calm.corpora.tables import MAY_BE_MEANT, meant, rows_of
from calm.corpora.utterances import Corpus, Utterance

LAYOUT: tuple[Part, ...] = ()  # a single file; rows without what they need are reported by `read`
COLUMNS = ("audio", "start", "end", "id", "text", "speaker", "gender", "split", "fold", "labels")
MILLISECONDS = {"start": "start_ms", "end": "end_ms"}  # columns that are read where the one in seconds is absent
SPLITS = dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation") | {"train": "train", "test": "test"}
NESTED = (dict, list, tuple, bytes)
GENDERS = {"female": "female", "f": "female", "male": "male", "m": "male"}
Share = Annotated[float, Field(ge=0, lt=1)]
MOST_FOLDS = 2**31  # the table of utterances has 32 bits for their numbers
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)")  # hours, minutes, seconds
UNIT = re.compile(r"(.*?)\s*(ms|s|sec|seconds?)", re.IGNORECASE)
# A list of Python, JSON or NumPy, written as text.
LIST = re.compile(r"(?:array|set|frozenset)?\(?\s*[\[({](.*)[\])}]\s*(?:,\s*dtype=[^()]*)?\)?", re.DOTALL)
QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")

NOT_KNOWN = ("NA", "N/A", "nan", "NaN", "<NA>")
MISSING = ("nan", "<na>")  # as pandas writes it as text; "none" may be a class
NO_LIST = re.compile(r"\{.*:.*\}|\[[^\]]*|[^\[]*\]", re.DOTALL)  # a dict, or a piece of a list


def read(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    one_hot: bool | None = None,
    validation_share: Share = 0.1,
    test_share: Share = 0.2,
    seed: int = 1,
) -> Corpus:
    """Read a table of utterances. Raises CorpusError for other kinds of files and for a table without a column `audio`.

    classes: all classes in their order, and rows with other labels are dropped; default: all labels in the table, sorted.
    one_hot: whether each labelled row has exactly one class; default: determined from the rows.
    validation_share, test_share, seed: for rows without a split; a speaker with a split in other rows keeps it.
    """
    check_shares(validation_share, test_share)
    corpus = Corpus(classes=tuple(classes or ()))
    rows = rows_of(path, corpus, "audio")
    if not rows:
        raise CorpusError(f"{path} has no rows: write one utterance per row below the names of the columns")
    _check_columns(path, rows, corpus)
    for index, row in enumerate(rows, 1):
        cells = _cells(row)
        _empty_missing(cells, corpus)
        if fault := _fault(row, cells, corpus.classes):
            named = cells["id"] if cells["id"] is not None else cells["audio"]
            corpus.drop(f"row {index}" if named is None else str(named)[:200], *fault)
        else:
            corpus.add(_utterance(cells, path.parent, corpus.classes))
    labelled = [utterance.labels for utterance in corpus.utterances if utterance.labels is not None]
    corpus.classes = corpus.classes or tuple(sorted({name for labels in labelled for name in labels}))
    corpus.one_hot = bool(labelled) and all(len(labels) == 1 for labels in labelled) if one_hot is None else one_hot
    assign_missing(corpus, validation_share, test_share, seed)
    corpus.checks |= {
        "classes with names that are alike": _alike(corpus.classes),
        "speakers with names that are alike": _alike({utterance.speaker for utterance in corpus.utterances}),
    }
    return corpus


def _alike(names: Iterable[str]) -> list[str]:
    """Names that differ only in case, or in characters that are not seen, as "a = A"."""
    groups = defaultdict(list)
    for name in sorted(names):
        groups["".join(letter for letter in name.casefold() if letter.isprintable())].append(name)
    return [" = ".join(map(ascii, group)) for group in groups.values() if len(group) > 1]


def _check_columns(path: Path, rows: list[Row], corpus: Corpus) -> None:
    """Name the columns that are not read, and what they may mean. Raises CorpusError where it is hardly anything else."""
    found = list(dict.fromkeys(key for row in rows for key in row if key))
    absent = [name for name in COLUMNS if name not in found and MILLISECONDS.get(name) not in found]
    others = [name for name in found if name not in COLUMNS and not (name in MILLISECONDS.values() and name[:-3] not in found)]
    hints = {name: hint for name in others if (hint := meant(name, COLUMNS, absent))}
    if "audio" in absent:
        advice = next((f"rename '{name}'" for name, (column, _) in hints.items() if column == "audio"), "add one with the file of each row")
        raise CorpusError(f"{path} has no column 'audio', its columns are {', '.join(map(repr, found)) or 'none'}: {advice}")
    if sure := [f"'{name}' to '{column}'" for name, (column, certain) in hints.items() if certain]:
        raise CorpusError(f"{path} has columns that are not read, though they seem to be meant: rename {', '.join(sure)}, or remove them")
    corpus.checks["columns not read"] = sorted(others)
    if hints:
        corpus.checks[MAY_BE_MEANT] = {name: column for name, (column, _) in hints.items()}


def _cells(row: Row) -> dict[str, Any]:
    """Cells by column: None if empty, text without surrounding space, and times in seconds (NaN if they are no number)."""
    cells = {name: _cell(row.get(name)) for name in COLUMNS}
    for name, in_ms in MILLISECONDS.items():
        if name not in row and (value := _cell(row.get(in_ms))) is not None:
            cells[name] = _seconds(value) / 1000
        elif cells[name] is not None:
            cells[name] = _seconds(cells[name])
    return cells


def _empty_missing(cells: dict[str, Any], corpus: Corpus) -> None:
    """Empty the cells in which R or pandas wrote that a value is missing. Of labels see `_labels`; times must be numbers."""
    for name in ("text", "speaker", "gender"):
        if cells[name] in NOT_KNOWN:
            cells[name] = None
            corpus.corrections["cells with NA or nan read as empty"] += 1


def _cell(value: object) -> object:
    """Value of a cell: None if it is empty, text without surrounding space, and whole numbers without a point, as a CSV has them."""
    if isinstance(value, bytes):  # text of Parquet without its type
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    if isinstance(value, dict) and isinstance(value.get("path"), str) and not value.get("bytes"):
        return value["path"]  # an audio column of `datasets`, as JSON
    return value


def _seconds(value: object) -> float:
    """Seconds in a cell: a number with a point or a comma, `h:m:s` or `m:s`, also with its unit; NaN if it is none of them."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return number(value)
    unit = UNIT.fullmatch(value)
    text = unit[1] if unit else value
    text = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    clock = CLOCK.fullmatch(text)
    seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3]) if clock else number(text)
    return seconds / 1000 if unit and unit[2].lower() == "ms" else seconds


def _fault(row: Row, cells: dict[str, Any], classes: tuple[str, ...]) -> tuple[str, str] | None:
    """Reason and detail if a row cannot be an utterance, or None."""
    if None in row:
        return "row does not parse", str(row)[:200]
    if cells["audio"] is None:
        return "no audio named", str(row)[:200]
    if isinstance(cells["audio"], dict | list | bytes):
        return "audio is not a path", f"{str(cells['audio'])[:80]}: give the path of a file, or bytes in Parquet"
    if cells["split"] is not None and str(cells["split"]).lower() not in SPLITS:
        return "unknown split", str(cells["split"])
    for name in ("start", "end"):
        if isinstance(cells[name], float) and not math.isfinite(cells[name]):
            return "time is not a number", f"{name} is {row.get(name, row.get(MILLISECONDS[name]))!r}"
    if cells["fold"] is not None and not (1 <= number(cells["fold"]) < MOST_FOLDS and number(cells["fold"]) % 1 == 0):
        return "fold is not a number from 1", str(cells["fold"])
    if shaped := next((name for name in ("id", "text", "speaker", "gender") if isinstance(cells[name], NESTED)), None):
        return "cell is not text", f"{shaped} is {str(cells[shaped])[:80]}"
    nested = isinstance(cells["labels"], list | tuple) and any(isinstance(own, NESTED) for own in cells["labels"])
    if nested or isinstance(cells["labels"], bytes):
        return "labels are no list", f"{str(cells['labels'])[:80]}: write the names of the classes that hold"
    if NO_LIST.fullmatch(str(cells["labels"]).strip()) and str(cells["labels"]) not in classes:
        return "labels are no list", f"{str(cells['labels'])[:80]}: write the names of the classes that hold, with ; between them"
    wrong = sorted(set(_labels(cells["labels"], classes) or ()) - set(classes)) if classes else ()
    return ("label outside its range", f"{', '.join(wrong)}: not among the classes") if wrong else None


def _utterance(cells: dict[str, Any], folder: Path, classes: tuple[str, ...]) -> Utterance:
    """The utterance of a row without fault."""
    audio, start, end = str(cells["audio"]), 0.0 if cells["start"] is None else cells["start"], cells["end"]
    whole = cells["start"] is None and end is None
    interval = "" if whole else f"[{start:.10g}-{'' if end is None else format(end, '.10g')}]"
    return Utterance(
        id=Path(audio).as_posix().removesuffix(Path(audio).suffix) + interval if cells["id"] is None else str(cells["id"]),
        audio=folder / audio,
        start=start,
        end=end,
        speaker="" if cells["speaker"] is None else str(cells["speaker"]),
        gender=GENDERS.get(str(cells["gender"]).lower()),
        split=SPLITS.get(str(cells["split"]).lower(), ""),
        text=None if cells["text"] is None else tidy(str(cells["text"])),
        labels=_labels(cells["labels"], classes),
        fold=None if cells["fold"] is None else int(number(cells["fold"])),
    )


def _labels(cell: object, classes: tuple[str, ...] = ()) -> list[str] | None:
    """Classes in a cell, or None if it is empty, or holds what programs write for a value that is missing."""
    if cell is None or (str(cell).strip(" []()'\"").lower() in MISSING and str(cell) not in classes):
        return None
    if isinstance(cell, list | tuple):
        names = [_cell(name) for name in cell]
    elif str(cell) in classes:
        names = [cell]
    elif match := LIST.fullmatch(str(cell)):
        quoted = [first or second for first, second in QUOTED.findall(match[1])]
        names = quoted or [name for name in re.split(r"[\s,;|]+", match[1]) if name.lower() not in ("nan", "none", "null")]
    else:
        names = re.split(r"[;|,]", str(cell))
    return list(dict.fromkeys(str(name).strip() for name in names if name is not None and str(name).strip()))


def audio_files(path: Path) -> list[str]:
    """Distinct names in the column `audio`, relative to the folder of the table; none if the table cannot be read.

    Much faster than `read`, for `calm.corpora.fingerprint`.
    """
    try:
        rows = rows_of(path, Corpus(), "audio", only=True)
    except (CorpusError, OSError):
        return []
    cells = (_cell(row.get("audio")) for row in rows)
    return list(dict.fromkeys(str(cell) for cell in cells if cell is not None))
