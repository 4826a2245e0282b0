"""A database in audformat: `db.yaml` and its tables, with the audio that they name. Read by the library `audformat`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import tidy
from calm.corpora.layout import Part
from calm.corpora.splits import assign_missing, check_shares
from calm.corpora.utterances import Corpus, Utterance

LAYOUT = (Part(("db.yaml",), "the database's header"),)
SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # types of audformat's splits
GENDERS = ("female", "male")
Share = Annotated[float, Field(ge=0, lt=1)]


def read(
    path: Path,
    *,
    label: str = "emotion",
    text: str = "transcription",
    speaker: str = "speaker",
    gender: str = "gender",
    tables: Sequence[str] | None = None,
    validation_share: Share = 0.1,
    test_share: Share = 0.2,
    seed: int = 1,
) -> Corpus:
    """Read a database. Raises CorpusError if it has no such scheme, or an utterance has two labels.

    label, text, speaker, gender: schemes. Only `label` must be there; without a value a row is unlabelled.
    tables: those to take labels from; default: all that have the scheme.
    validation_share, test_share, seed: for rows of tables without a split of type train, dev or test.
    """
    check_shares(validation_share, test_share)
    database = _load(path, label, tables)
    labels = _values(database, label, tables, path)
    splits = _splits(database, label, tables)
    columns = {name: _by_file(database, name) for name in (text, speaker, gender)}
    corpus = Corpus()
    for (file, start, end), value in labels.items():
        first, last = start.total_seconds(), None if end != end else end.total_seconds()  # NaT: the end of the file
        interval = f"[{first:g}-{'' if last is None else format(last, 'g')}]" if first or last is not None else ""
        known = {key: by_file.get(file) for key, by_file in columns.items()}
        utterance = Utterance(f"{file}{interval}", path / file, first, last)
        utterance.labels = [str(value)] if value == value and value is not None else None
        utterance.speaker, utterance.text = str(known[speaker] or ""), tidy(known[text])
        utterance.gender = known[gender] if known[gender] in GENDERS else None
        utterance.split = splits.get(file, "")
        corpus.add(utterance)
    corpus.classes = tuple(sorted({name for row in corpus.utterances for name in row.labels or ()}))
    corpus.one_hot = bool(corpus.classes)
    assign_missing(corpus, validation_share, test_share, seed)
    return corpus


def _load(path: Path, label: str, tables: Sequence[str] | None) -> Any:
    """The database, which has the scheme and the tables. Raises CorpusError."""
    import audformat

    try:
        database = audformat.Database.load(str(path))
    except Exception as error:  # of many kinds: the library does not check what it reads
        raise CorpusError(
            f"{path} does not load by audformat ({type(error).__name__}: {error}): give the folder with its db.yaml"
        ) from None
    if label not in database.schemes:
        raise CorpusError(f"{path} has no scheme '{label}': set the option label to one of {', '.join(database.schemes) or 'none'}")
    if unknown := sorted(set(tables or ()) - set(database.tables)):
        raise CorpusError(f"{path} has no table '{unknown[0]}': it has {', '.join(database.tables)}")
    return database


def _values(database: Any, scheme: str, tables: Sequence[str] | None, path: Path) -> Any:
    """A series of a scheme's values over (file, start, end)."""
    import audformat

    try:
        frame = database.get(scheme, tables=list(tables) if tables else None)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise CorpusError(f"{path}: tables disagree on {scheme} ({reason}): name those to use by the option tables") from None
    frame.index = audformat.utils.to_segmented_index(frame.index)
    return frame[scheme].astype(object)


def _by_file(database: Any, scheme: str) -> dict[str, Any]:
    """Values of a scheme by file; of several segments of a file the first; {} if the database has no such scheme."""
    try:
        series = database.get(scheme)[scheme].dropna()
    except (ValueError, KeyError):
        return {}
    return dict(zip(reversed(series.index.get_level_values("file")), reversed(list(series)), strict=True))


def _splits(database: Any, scheme: str, tables: Sequence[str] | None) -> dict[str, str]:
    """Splits by file, of the tables that belong to one."""
    found: dict[str, str] = {}
    for name in tables or database.tables:
        table = database.tables[name]
        kind = SPLITS.get(database.splits[table.split_id].type) if table.split_id else None
        if kind and any(column.scheme_id == scheme for column in table.columns.values()):
            found |= dict.fromkeys(table.files, kind)
    return found
