"""The table that every corpus becomes: one row an utterance, and what was dropped on the way, by reason."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pandas as pd  # else where it is needed: a model in use does not
from calm.storage import write_parquet

SPLITS = ("train", "validation", "test")
SOFT = "target_"  # and a class: columns of soft labels, 0..1, towards which heads are trained in place of `labels`

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.string()),  # path of the file that holds it, relative to the working folder where it lies below it
        ("start", pa.float64()),  # seconds in that file
        ("end", pa.float64()),
        ("duration", pa.float64()),  # end - start
        ("speaker", pa.string()),
        ("gender", pa.string()),  # "female", "male" or null
        ("split", pa.string()),  # one of SPLITS
        ("text", pa.string()),  # lower-cased; null: to be transcribed
        ("labels", pa.list_(pa.string())),  # classes that are present; []: none of them; null: not labelled
    ]
)


@dataclass
class Utterance:
    """One utterance. `end` may be None until the audio's header was read: it then means the end of the file."""

    id: str
    audio: Path
    start: float = 0.0
    end: float | None = None
    speaker: str = ""
    gender: str | None = None
    split: str = "train"
    text: str | None = None
    labels: list[str] | None = None
    extra: dict = field(default_factory=dict)  # more columns: raw scores, attributes, votes


@dataclass
class Dropped:
    """A row that was there and is not kept: its id, a reason in a few words (counted by it), and what was found."""

    id: str
    reason: str
    detail: str = ""
    fault: bool = True  # false: nothing is wrong with it, the options do not ask for it (a song, another test set)


@dataclass
class Corpus:
    """What a corpus module's `read` returns.

    `classes` in their order; `one_hot` says whether a row has exactly one class. `corrections` counts what was mended
    rather than dropped (clamped starts, scores above the scale), by a few words each; `checks` holds what is only to be
    known (unlabelled rows, votes against the published consensus), as anything that JSON can hold.
    """

    classes: tuple[str, ...] = ()
    one_hot: bool = False
    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    corrections: Counter = field(default_factory=Counter)
    checks: dict = field(default_factory=dict)

    def add(self, utterance: Utterance) -> None:
        """Keep a row; one without a number as a time, or that no table can hold, is dropped; a negative start becomes 0 and is counted."""
        if not all(math.isfinite(time) for time in (utterance.start, utterance.end) if time is not None):
            return self.drop(utterance.id, "time is not a number", f"start {utterance.start}, end {utterance.end}")
        written = "".join([utterance.id, str(utterance.audio), utterance.speaker, utterance.text or "", *(utterance.labels or ())])
        if _readable(written) != written:
            return self.drop(utterance.id, "name or text is not UTF-8", f"{utterance.audio}: {utterance.text}")
        if utterance.start < 0:
            utterance.start = 0.0
            self.corrections["negative start set to 0"] += 1
        self.utterances.append(utterance)
        return None

    def drop(self, id: str, reason: str, detail: str = "") -> None:
        """Name and count a row that cannot be used."""
        self.dropped.append(Dropped(_readable(id), reason, _readable(detail)))

    def leave_out(self, id: str, reason: str, detail: str = "") -> None:
        """Name and count a row that could be used and was not asked for."""
        self.dropped.append(Dropped(_readable(id), reason, _readable(detail), fault=False))


def _readable(text: str) -> str:
    """Text with its bytes that are not UTF-8 (in names of files and of HDF5, escapes in JSON) written out."""
    return text.encode("utf-8", "backslashreplace").decode()


class CorpusError(ValueError):
    """A corpus that cannot be used: missing, of another layout, or with too few good rows. One sentence that says what to do."""


def frame_of(corpus: Corpus) -> "pd.DataFrame":
    """The kept utterances as a table: the columns of SCHEMA, then the corpus's own. Ends must be known."""
    import pandas as pd

    rows = [{**{k: v for k, v in vars(u).items() if k != "extra"}, "audio": str(u.audio), **u.extra} for u in corpus.utterances]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*SCHEMA.names, *(key for row in rows for key in row)])))
    frame["duration"] = frame["end"] - frame["start"]
    return frame


def write_table(corpus: Corpus, path: Path) -> "pd.DataFrame":
    """Write the kept utterances to Parquet under a temporary name, then rename. Classes go into the schema's metadata."""
    frame, schema = frame_of(corpus), SCHEMA
    extras = frame[[name for name in frame.columns if name not in SCHEMA.names]]
    for name, column in zip(extras.columns, pa.Table.from_pandas(extras, preserve_index=False).columns, strict=True):
        schema = schema.append(pa.field(name, column.type))
    schema = schema.with_metadata({"calm": json.dumps({"classes": corpus.classes, "one_hot": corpus.one_hot})})
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(schema.metadata)
    write_parquet(table, path)
    return frame


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """Read a table of utterances; `frame.attrs` holds `classes` (tuple) and `one_hot` (bool)."""
    table = pq.read_table(path, columns=list(columns) if columns else None)
    meta = json.loads(table.schema.metadata[b"calm"])
    frame = table.replace_schema_metadata(None).to_pandas()
    frame.attrs = {"classes": tuple(meta["classes"]), "one_hot": meta["one_hot"]}
    return frame


def multi_hot(labels: Sequence[Sequence[str]], classes: Sequence[str], one_hot: bool = False) -> np.ndarray:
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
