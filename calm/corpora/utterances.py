"""Utterances, the rows that were dropped and why, and the table that every corpus is written to."""

import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from calm.array_types import Bools
from calm.audio.opening import shown
from calm.storage import read_parquet, write_parquet

if TYPE_CHECKING:
    import pandas as pd  # otherwise imported by the functions, because inference does not need pandas

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # they would end lines of tables, and command the terminals that show them
LONGEST_NAME = 255  # bytes of a file's or a folder's name
SPLITS = ("train", "validation", "test")
SOFT = "target_"  # prefix of the columns of soft labels, `target_<class>`, 0..1: heads are trained towards them instead of `labels`

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.string()),  # path of the file, relative to the working folder if it is below it
        ("start", pa.float64()),  # seconds in that file
        ("end", pa.float64()),
        ("duration", pa.float64()),  # end - start
        ("speaker", pa.string()),
        ("gender", pa.string()),  # "female", "male" or null
        ("split", pa.string()),  # one of SPLITS
        ("text", pa.string()),  # with the corpus's casing; null: to be transcribed
        ("labels", pa.list_(pa.string())),  # classes that are present; []: none of the classes; null: not labelled
        ("fold", pa.int32()),  # in which it is tested, from 1; null: in none
        ("validates", pa.list_(pa.int32())),  # folds in which it is validation; null: there are no folds
    ]
)


@dataclass
class Utterance:
    """One utterance, from `start` to `end` in seconds of the file `audio`. An `end` of None is the end of the file."""

    id: str
    audio: Path
    start: float = 0.0
    end: float | None = None
    speaker: str = ""
    gender: str | None = None
    split: str = "train"
    text: str | None = None
    labels: list[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # further columns: raw scores, attributes, votes
    fold: int | None = None  # in which it is tested
    validates: list[int] | None = None  # folds in which it is validation

    @property
    def seconds(self) -> float:
        """Length. Raises ValueError where the end is that of a file which was not read yet: see `calm.corpora.checking.check`."""
        if self.end is None:
            raise ValueError(f"the end of {self.id} is not known before its audio is checked")
        return self.end - self.start


@dataclass
class Dropped:
    """A row that is not kept: its id, the reason in a few words, by which such rows are counted, and details."""

    id: str
    reason: str
    detail: str = ""
    fault: bool = True  # false: the row is sound, but the options exclude it (a song, another test set)


@dataclass
class Corpus:
    """A corpus as the `read` of its module returns it.

    `classes` are in their order; `one_hot` tells whether every labelled row has exactly one class. `corrections` counts, by a few words,
    what was corrected rather than dropped (clamped starts, scores above the scale). `checks` holds further facts for the report
    (unlabelled rows, votes that contradict the published consensus), as values that JSON can represent.
    """

    classes: tuple[str, ...] = ()
    one_hot: bool = False
    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    corrections: Counter[str] = field(default_factory=Counter)
    checks: dict[str, Any] = field(default_factory=dict)

    def add(self, utterance: Utterance) -> None:
        """Keep an utterance, with a negative start set to 0; drop it without an id, with times that are no numbers, or with broken text."""
        if not utterance.id.strip():
            return self.drop(str(utterance.audio)[:200], "no id")
        if not all(math.isfinite(time) for time in (utterance.start, utterance.end) if time is not None):
            return self.drop(utterance.id, "time is not a number", f"start {utterance.start}, end {utterance.end}")
        utterance.id, utterance.speaker = composed(utterance.id), composed(utterance.speaker)
        utterance.text = utterance.text and composed(utterance.text)
        utterance.labels = utterance.labels and [composed(name) for name in utterance.labels]
        texts = "".join([utterance.id, str(utterance.audio), utterance.speaker, utterance.text or "", *(utterance.labels or ())])
        if shown(texts) != texts:
            return self.drop(utterance.id, "name or text is not UTF-8", f"{utterance.audio}: {utterance.text}")
        if found := CONTROL.search("".join([utterance.id, utterance.speaker, *(utterance.labels or ())])):
            return self.drop(ascii(utterance.id)[1:-1], "a name has control characters", f"{found[0]!a} in its id, speaker or labels")
        utterance.text = utterance.text and (" ".join(CONTROL.sub(" ", utterance.text).split()) or None)
        if "\0" in str(utterance.audio) or any(len(os.fsencode(part)) > LONGEST_NAME for part in utterance.audio.parts):
            return self.drop(utterance.id[:80], "audio is not a path", str(utterance.audio)[:200])
        utterance.audio = located(utterance.audio)
        if utterance.start < 0:
            utterance.start = 0.0
            self.corrections["negative start set to 0"] += 1
        self.utterances.append(utterance)
        return None

    def note_outside(self, path: Path) -> None:
        """Count the audio files to which links or `..` lead out of the corpus's folder, or out of that of its table."""
        root = Path(os.path.realpath(path if path.is_dir() else path.parent))
        folders: dict[Path, Path] = {}
        outside = set()
        for audio in {row.audio for row in self.utterances}:
            folder = folders.setdefault(audio.parent, Path(os.path.realpath(audio.parent)))
            real = Path(os.path.realpath(audio)) if audio.is_symlink() else folder / audio.name
            outside |= {audio} if not real.is_relative_to(root) else set()
        if outside:
            self.checks["audio files outside the corpus's folder"] = len(outside)

    def drop(self, id: str, reason: str, detail: str = "") -> None:
        """Record a row that cannot be used."""
        self.dropped.append(Dropped(shown(id), reason, shown(detail)))

    def leave_out(self, id: str, reason: str, detail: str = "") -> None:
        """Record a sound row that the options exclude."""
        self.dropped.append(Dropped(shown(id), reason, shown(detail), fault=False))


def composed(text: str) -> str:
    """Text with accents as parts of their letters (NFC): one name written in two ways is still one speaker or class."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def located(path: Path) -> Path:
    """A path, or the file that differs from it only in how accents are written: macOS parts them from their letters in file names."""
    if str(path).isascii() or path.exists():
        return path
    folder = located(path.parent)
    try:
        alike = [other for other in folder.iterdir() if composed(other.name) == composed(path.name)]
    except OSError:
        return path
    return alike[0] if len(alike) == 1 else path


def frame_of(corpus: Corpus) -> "pd.DataFrame":
    """The kept utterances as a table: the columns of SCHEMA, then the further columns of the corpus. Ends must be known."""
    import pandas as pd

    rows = [{**{k: v for k, v in vars(u).items() if k != "extra"}, "audio": str(u.audio), **u.extra} for u in corpus.utterances]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*SCHEMA.names, *(key for row in rows for key in row)])))
    frame["duration"] = frame["end"] - frame["start"]
    frame["fold"] = frame["fold"].astype(float)  # as a column of integers with nulls is read
    return frame


def write_table(corpus: Corpus, path: Path) -> "pd.DataFrame":
    """Write the kept utterances to Parquet, whole or not at all, with the classes in the metadata of the schema; returns the table."""
    frame, schema = frame_of(corpus), SCHEMA
    extras = frame[[name for name in frame.columns if name not in SCHEMA.names]]
    for name, column in zip(extras.columns, pa.Table.from_pandas(extras, preserve_index=False).columns, strict=True):
        schema = schema.append(pa.field(name, column.type))
    schema = schema.with_metadata({"calm": json.dumps({"classes": corpus.classes, "one_hot": corpus.one_hot})})
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(schema.metadata)
    write_parquet(table, path)
    return frame


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """Read a table of utterances. `attrs` of the result has `classes` (tuple) and `one_hot` (bool)."""
    table = read_parquet(path, columns)
    meta = json.loads(table.schema.metadata[b"calm"])
    frame = table.replace_schema_metadata(None).to_pandas()
    frame.attrs = {"classes": tuple(meta["classes"]), "one_hot": meta["one_hot"]}
    return frame


def multi_hot(labels: Sequence[Sequence[str]], classes: Sequence[str], one_hot: bool = False) -> Bools:
    """Class names of each utterance as bool (utterances, classes).

    Raises ValueError for an unknown class, and with `one_hot` for an utterance without exactly one class.
    """
    columns = {name: column for column, name in enumerate(classes)}
    targets = np.zeros((len(labels), len(classes)), bool)
    for row, names in enumerate(labels):
        for name in names:
            if name not in columns:
                raise ValueError(f"label '{name}' is not one of the classes {', '.join(classes)}")
            targets[row, columns[name]] = True
    if one_hot and (faulty := int((targets.sum(axis=1) != 1).sum())):
        raise ValueError(f"{faulty} utterances have no class or several, although each must have exactly one")
    return targets
