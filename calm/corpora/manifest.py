"""One's own corpus: a table of utterances as CSV (or `.tsv`), Parquet or JSON lines, with a row an utterance.

Columns, of which only `audio` is needed:
    audio       path, relative to the table's folder
    start, end  seconds; the whole file without them
    id          else the path without its ending, and the interval
    text        else to be transcribed
    speaker, gender (female, male, f, m)
    split       train, validation, test (also valid, val, dev, development); else dealt by speaker, with the classes balanced
    labels      classes that are present, parted by ";" or "|" (or a list); empty: not labelled; ";" (or an empty list): none of them
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from calm.corpora.files import lines, number, read_text, tidy
from calm.corpora.splits import assign, check_shares, who
from calm.corpora.utterances import Corpus, CorpusError, Utterance

COLUMNS = ("audio", "start", "end", "id", "text", "speaker", "gender", "split", "labels")
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
    """Read a table of utterances. Raises CorpusError for another kind of file or one without a column `audio`.

    classes: all classes in their order, a label that is none of them is dropped; else every label that occurs, sorted.
    one_hot: whether each labelled row has exactly one class; else found out from the rows.
    validation_share, test_share, seed: for rows without a split; a speaker who has one in other rows keeps it.
    """
    check_shares(validation_share, test_share)
    corpus = Corpus(classes=tuple(classes or ()))
    rows = _rows(path, corpus)
    if not rows:
        raise CorpusError(f"{path} has no rows: write an utterance a row below the names of the columns")
    if not any("audio" in row for row in rows):
        raise CorpusError(f"{path} has no column 'audio': name each row's file in it (other columns: {', '.join(COLUMNS[1:])})")
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
    """A cell's value: None where it is empty, text without space around it."""
    value = value.strip() if isinstance(value, str) else value
    return None if value == "" or value != value else value


def _fault(row: dict, cells: dict, classes: tuple[str, ...]) -> tuple[str, str] | None:
    """Why a row is no utterance: reason and detail."""
    if None in row:
        return "row does not parse", str(row)[:200]
    if cells["audio"] is None:
        return "no audio named", str(row)[:200]
    if str(cells["split"] or "train").lower() not in SPLITS:
        return "unknown split", str(cells["split"])
    wrong = sorted(set(_labels(cells["labels"]) or ()) - set(classes)) if classes else ()
    return ("label outside its range", f"{', '.join(wrong)}: not among the classes") if wrong else None


def _utterance(cells: dict, folder: Path) -> Utterance:
    """An utterance of a row without fault; its times may still be no numbers."""
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
    )


def _labels(cell: object) -> list[str] | None:
    """Classes of a cell, None where it is empty."""
    if cell is None:
        return None
    names = cell if isinstance(cell, list) else str(cell).replace("|", ";").split(";")
    return list(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))


def _split(corpus: Corpus, validation: float, test: float, seed: int) -> None:
    """Deal the rows that came without a split; a speaker's own rows stay together."""
    fixed = {who(utterance): utterance.split for utterance in corpus.utterances if utterance.split}
    without = [utterance for utterance in corpus.utterances if not utterance.split]
    corpus.checks["rows whose split was made here"] = len(without)
    assign(without, validation, test, seed, fixed)


def _rows(path: Path, corpus: Corpus) -> list[dict]:
    """Rows of the table, by its ending. A row with more cells than the head has them under the key None."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json"):
        raise CorpusError(f"{path} is no manifest: give a file that ends in .csv, .tsv, .parquet or .jsonl")
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(path).to_pylist()
        elif kind in (".csv", ".tsv"):
            text = io.StringIO(read_text(path, corpus), newline="")
            # strict: a quote that is never closed would else take all rows below it into one cell
            rows = list(csv.DictReader(text, delimiter="," if kind == ".csv" else "\t", strict=True))
        else:
            rows = [_json(line) for line in lines(read_text(path, corpus))]
    except (ValueError, NotImplementedError, csv.Error) as error:  # pyarrow's errors are the first two
        raise CorpusError(f"{path} does not parse ({error}): write it anew") from None
    return [{key if key is None else str(key).strip().lower(): value for key, value in row.items()} for row in rows]


def _json(line: str) -> dict:
    """A row of JSON lines; one that does not parse has the key None, as a row of CSV with too many cells."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {None: line}
