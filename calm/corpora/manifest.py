"""Your own corpus: a table with one row per utterance, as CSV (or `.tsv`), Parquet or JSON lines.

Columns, of which only `audio` is required:
    audio       path, relative to the folder of the table
    start, end  seconds; default: the whole file
    id          default: the path without its suffix, and the interval
    text        default: to be transcribed
    speaker, gender (female, male, f, m)
    split       train, validation, test (also valid, val, dev, development); default: dealt by speaker, with balanced classes
    fold        number of the fold in which the row is tested, from 1, where the corpus's folds are `given`; empty: in none
    labels      classes that are present, separated by ";" or "|" (or a list); empty: not labelled; ";" (or an empty list): none of them
"""

import csv
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import lines, number, read_text, tidy
from calm.corpora.layout import Part
from calm.corpora.splits import assign, check_shares, who
from calm.corpora.utterances import Corpus, Utterance

LAYOUT: tuple[Part, ...] = ()  # a single file; rows without what they need are reported by `read`
COLUMNS = ("audio", "start", "end", "id", "text", "speaker", "gender", "split", "fold", "labels")
SPLITS = dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation") | {"train": "train", "test": "test"}
GENDERS = {"female": "female", "f": "female", "male": "male", "m": "male"}
Share = Annotated[float, Field(ge=0, lt=1)]


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
    rows = _rows(path, corpus)
    if not rows:
        raise CorpusError(f"{path} has no rows: write one utterance per row below the names of the columns")
    if not any("audio" in row for row in rows):
        raise CorpusError(f"{path} has no column 'audio': add one with the file of each row (other columns: {', '.join(COLUMNS[1:])})")
    corpus.checks["columns not read"] = sorted({key for row in rows for key in row if key is not None} - set(COLUMNS))
    for index, row in enumerate(rows, 1):
        cells = {name: _cell(row.get(name)) for name in COLUMNS}
        if fault := _fault(row, cells, corpus.classes):
            corpus.drop(str(cells["id"] or cells["audio"] or f"row {index}"), *fault)
        else:
            corpus.add(_utterance(cells, path.parent))
    labelled = [utterance.labels for utterance in corpus.utterances if utterance.labels is not None]
    corpus.classes = corpus.classes or tuple(sorted({name for labels in labelled for name in labels}))
    corpus.one_hot = bool(labelled) and all(len(labels) == 1 for labels in labelled) if one_hot is None else one_hot
    _split(corpus, validation_share, test_share, seed)
    return corpus


def _cell(value: object) -> object:
    """Value of a cell: None if it is empty, and text without surrounding space."""
    value = value.strip() if isinstance(value, str) else value
    return None if value == "" or value != value else value


def _fault(row: dict, cells: dict, classes: tuple[str, ...]) -> tuple[str, str] | None:
    """Reason and detail if a row cannot be an utterance, or None."""
    if None in row:
        return "row does not parse", str(row)[:200]
    if cells["audio"] is None:
        return "no audio named", str(row)[:200]
    if str(cells["split"] or "train").lower() not in SPLITS:
        return "unknown split", str(cells["split"])
    if cells["fold"] is not None and not (number(cells["fold"]) >= 1 and number(cells["fold"]) % 1 == 0):
        return "fold is not a number from 1", str(cells["fold"])
    wrong = sorted(set(_labels(cells["labels"]) or ()) - set(classes)) if classes else ()
    return ("label outside its range", f"{', '.join(wrong)}: not among the classes") if wrong else None


def _utterance(cells: dict, folder: Path) -> Utterance:
    """The utterance of a row without fault. Its times may still be NaN."""
    audio, start, end = str(cells["audio"]), cells["start"], cells["end"]
    start, end = 0.0 if start is None else number(start), None if end is None else number(end)
    whole = cells["start"] is None and end is None
    interval = "" if whole else f"[{start:.10g}-{'' if end is None else format(end, '.10g')}]"
    return Utterance(
        id=str(cells["id"] or Path(audio).as_posix().removesuffix(Path(audio).suffix) + interval),
        audio=folder / audio,
        start=start,
        end=end,
        speaker=str(cells["speaker"] or ""),
        gender=GENDERS.get(str(cells["gender"]).lower()),
        split=SPLITS.get(str(cells["split"]).lower(), ""),
        text=tidy(str(cells["text"] or "")),
        labels=_labels(cells["labels"]),
        fold=None if cells["fold"] is None else int(number(cells["fold"])),
    )


def _labels(cell: object) -> list[str] | None:
    """Classes in a cell, or None if it is empty."""
    if cell is None:
        return None
    names = cell if isinstance(cell, list) else str(cell).replace("|", ";").split(";")
    return list(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))


def _split(corpus: Corpus, validation: float, test: float, seed: int) -> None:
    """Deal the rows without a split to splits. Rows of one speaker stay together."""
    fixed = {who(utterance): utterance.split for utterance in corpus.utterances if utterance.split}
    without = [utterance for utterance in corpus.utterances if not utterance.split]
    corpus.checks["rows whose split was made here"] = len(without)
    assign(without, validation, test, seed, fixed)


def audio_files(path: Path) -> list[str]:
    """Distinct names in the column `audio`, relative to the folder of the table; none if the table cannot be read.

    Much faster than `read`, for `calm.corpora.fingerprint`.
    """
    try:
        rows = _rows(path, Corpus(), only="audio")
    except (CorpusError, OSError):
        return []
    cells = (_cell(row.get("audio")) for row in rows)
    return list(dict.fromkeys(str(cell) for cell in cells if cell is not None))


def _rows(path: Path, corpus: Corpus, only: str | None = None) -> list[dict]:
    """Rows of the table. Surplus cells of a row are under the key None. `only`: the one column that must be in the rows."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json"):
        raise CorpusError(f"{path} is not a manifest: give a file that ends in .csv, .tsv, .parquet or .jsonl")
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq

            names = [name for name in pq.read_schema(path).names if _column(name) == only] if only else None
            rows = pq.read_table(path, columns=names).to_pylist()
        elif kind in (".csv", ".tsv"):
            text = io.StringIO(read_text(path, corpus), newline="")
            # strict: otherwise an unclosed quote would swallow all rows below it
            rows = list(csv.DictReader(text, delimiter="," if kind == ".csv" else "\t", strict=True))
        else:
            rows = [_json(line) for line in lines(read_text(path, corpus))]
    except (ValueError, NotImplementedError, csv.Error) as error:  # pyarrow's errors are the first two
        raise CorpusError(f"{path} does not parse ({error}): write the table again") from None
    return [{_column(key): value for key, value in row.items()} for row in rows]


@lru_cache(maxsize=1024)
def _column(name: str | None) -> str | None:
    """Name of a column in lower case without surrounding space; None, the key of surplus cells, stays."""
    return name if name is None else str(name).strip().lower()


def _json(line: str) -> dict:
    """Row in a line of JSON. A line that does not parse is under the key None, like surplus cells of a CSV."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {None: line}
