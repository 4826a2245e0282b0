"""Tables as CSV (or `.tsv`), Parquet or JSON, whatever program wrote them: their rows as dicts."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from calm.corpora import embedded
from calm.corpora.errors import CorpusError
from calm.corpora.files import Row, lines, read_text
from calm.corpora.utterances import Corpus

KINDS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
MAY_BE_MEANT = "columns not read that may be meant"  # a check of the corpus: the name of each, and the column that is absent
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # Excel's, above the names of the columns
ENDINGS = {  # what a column's name may carry and still hardly mean anything else
    "audio": ("s", "_path", "_file", "_filename", "_name"),
    "start": ("_time", "_s", "_sec", "_seconds", "s"),
    "end": ("_time", "_s", "_sec", "_seconds", "s"),
    "speaker": ("_id", "_name", "_code", "s", "id"),
}
SYNONYMS = {
    "audio": ("file", "filename", "path", "filepath", "wav", "clip", "recording"),
    "start": ("begin", "onset", "from"),
    "end": ("stop", "offset", "to"),
    "text": ("transcript", "transcription", "sentence", "words"),
    "speaker": ("spk", "client", "subject", "actor"),
    "gender": ("sex",),
    "split": ("set", "subset", "partition"),
    "labels": ("emotion", "class", "category", "target"),
}


def rows_of(path: Path, corpus: Corpus, key: str, only: bool = False) -> list[Row]:
    """Rows of a table by column name, in lower case. Surplus cells of a row, or a row that does not parse, are under the key None.

    Args:
        path: of the table.
        corpus: what is corrected or found is noted here.
        key: a column that must be in the table, by which the separator of cells is found; of audio it may hold the bytes.
        only: whether no other column need be in the rows.

    Raises CorpusError if the file is no table, or two of its columns have one name.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise CorpusError(f"{path} is not a manifest: give a file that ends in .csv, .tsv, .parquet or .jsonl")
    try:
        if kind == ".parquet":
            rows = _parquet(path, key, only)
        elif kind in (".csv", ".tsv"):
            rows = _csv(path, _text(path, corpus), corpus, key)
        else:
            rows = _json(path, _text(path, corpus))
    except (ValueError, NotImplementedError, csv.Error) as error:  # pyarrow's errors are the first two
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path} does not parse ({error}): write the table again") from None
    return [{_column(name): value for name, value in row.items()} for row in rows]


@lru_cache(maxsize=1024)
def _column(name: str | None) -> str | None:
    """Name of a column in lower case without surrounding space; None, the key of surplus cells, stays."""
    return name if name is None else str(name).strip().lower()


def _check_names(path: Path, names: Iterable[str]) -> None:
    """Raises CorpusError if two columns have one name."""
    if twice := sorted(name for name, count in Counter(map(_column, names)).items() if name and count > 1):
        raise CorpusError(f"{path} has two columns {' and two '.join(map(repr, twice))}: remove or rename one of them")


def _parquet(path: Path, key: str, only: bool) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    _check_names(path, schema.names)
    field = next((own for own in schema if _column(own.name) == key), None)
    audio = field if field is not None and (pa.types.is_struct(field.type) or embedded.is_bytes(field.type)) else None
    names = [name for name in schema.names if (_column(name) == key if only else True) and not (audio is not None and name == audio.name)]
    rows: list[Row] = pq.read_table(path, columns=names).to_pylist()
    if audio is None:
        return rows
    if only:
        return [{key: name} for name in embedded.paths(path, audio)]
    files = embedded.unpack(path, audio)
    return [{**row, key: name} for row, name in zip(rows, files, strict=True)] if names else [{key: name} for name in files]


def _text(path: Path, corpus: Corpus) -> str:
    """Text of a table. Raises CorpusError for UTF-16 without its mark, and for UTF-32."""
    text = read_text(path, corpus)
    if "\0" in next(iter(lines(text)), ""):
        raise CorpusError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark: save it as UTF-8")
    return text


def _csv(path: Path, text: str, corpus: Corpus, key: str) -> list[Row]:
    usual = separator = "," if path.suffix.lower() == ".csv" else "\t"
    text = text.lstrip("\r\n")
    first, _, rest = text.partition("\n")
    if told := SEPARATOR_LINE.fullmatch(first.strip("\r")):
        text, separator = rest, told[1]
    head = next(iter(lines(text)), "")
    separator = next((mark for mark in (separator, *SEPARATORS) if key in _cells(head, mark)), separator)
    if separator != usual:
        corpus.checks["cells separated by"] = SEPARATORS.get(separator, repr(separator))
    # strict: otherwise an unclosed quote would swallow all rows below it
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    _check_names(path, reader.fieldnames or ())
    return list(reader)


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [str(_column(cell)) for cell in next(csv.reader([line], delimiter=separator))]
    except (csv.Error, StopIteration):
        return []


def _json(path: Path, text: str) -> list[Row]:
    """Rows of JSON lines, of an array of objects, or of a single object."""
    try:
        whole = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        rows = [_row(line) for line in lines(text)]
        if rows and all(None in row for row in rows):
            raise CorpusError(f"{path} does not parse as JSON ({error}): write an object a row, or an array of objects") from None
        return rows
    if isinstance(whole, dict) and whole and None not in whole and all(isinstance(value, dict | list) for value in whole.values()):
        raise CorpusError(f"{path} is an object of columns: write an object a row (of pandas: orient='records')")
    rows = [_object(row) for row in (whole if isinstance(whole, list) else [whole])]
    if rows and all(None in row for row in rows):
        raise CorpusError(f"{path} holds no sound object of JSON: write an object a row, with each name once, or an array of objects")
    return rows


def _row(line: str) -> Row:
    """Row in a line of JSON. A line that does not parse is under the key None, like surplus cells of a CSV."""
    try:
        row = _object(json.loads(line, object_pairs_hook=_unique))
    except (ValueError, RecursionError):
        return {None: line}
    return {None: line} if None in row else row


def _unique(pairs: list[tuple[str, object]]) -> Row:
    """An object of JSON; one with two keys that are alike has all under the key None."""
    return dict(pairs) if len({_column(name) for name, _ in pairs}) == len(pairs) else {None: pairs}


def _object(value: object) -> Row:
    """An object as it is; under the key None what is none, or has two keys of one name, itself or in a cell."""
    sound = isinstance(value, dict) and not any(isinstance(own, dict) and None in own for own in (value, *value.values()))
    return value if isinstance(value, dict) and sound else {None: str(value)}


def meant(name: str, known: Iterable[str], absent: Iterable[str]) -> tuple[str, bool] | None:
    """The absent column that another name may mean, and whether it hardly means anything else (an ending more or less, a slip)."""
    absent, alike = list(absent), re.sub(r"[ -]", "_", name)
    for column in absent:
        if alike in (column.removesuffix("s"), *(column + ending for ending in ENDINGS.get(column, ("s",)))):
            return column, True
    if close := get_close_matches(name, [column for column in known if len(column) > 3], 1, 0.82):
        return (close[0], True) if close[0] in absent else None
    words = {alike, alike.removesuffix("s"), alike.partition("_")[0]}
    return next(((column, False) for column in absent if words & set(SYNONYMS.get(column, ()))), None)
