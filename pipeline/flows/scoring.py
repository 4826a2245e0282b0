"""Scores the files of an inbox into a Parquet table, each file exactly once; `score_new` runs this in a process of its own.

`python -m pipeline.flows.scoring INBOX SCORES MODEL`. The table is a folder of Parquet files, one per batch, each written under a
temporary name and then renamed; the files named in them are done. However often the process is killed, the table has either all rows
of a file, once, or none yet. A file that cannot be read, or that has no speech, has a row that says so. A file that changes while it is
read is left for the next run.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.dataset
from filelock import FileLock, Timeout
from tqdm import tqdm

from calm.corpora.files import walk
from calm.storage import read_json, write_json, write_parquet
from pipeline.execution import alone

if TYPE_CHECKING:
    from calm.array_types import Floats32

BATCH = 32  # files per Parquet file
SETTLE_SECONDS = 5  # a file that changed more recently may still be being copied
KNOWN_BY = 20  # recordings that make a speaker known: more of them changed little (benchmarks/known_speakers.py)
TRIES = 3  # after which a file is given up that ends the process
PARTIAL = (".partial", ".part", ".tmp", ".crdownload")

SCHEMA = pa.schema(
    [
        ("file", pa.string()),  # relative to the inbox
        ("sha256", pa.string()),
        ("size", pa.int64()),  # bytes
        ("modified_ns", pa.int64()),
        ("start", pa.float64()),  # seconds; long recordings are cut at their pauses
        ("end", pa.float64()),
        ("text", pa.string()),
        ("flags", pa.list_(pa.string())),  # of the transcript; see the stage `transcribe`
        ("probabilities", pa.map_(pa.string(), pa.float64())),  # by class
        ("decided", pa.list_(pa.string())),  # classes
        ("decision", pa.string()),  # by which they are decided: "tuned" thresholds, "0.5" or "argmax"
        ("fault", pa.string()),  # why the file has no probabilities
        ("model", pa.string()),
        ("scored", pa.timestamp("s", "UTC")),
    ]
)


class InboxFile(NamedTuple):
    """An entry of the inbox as the table names it: bytes of its name that are not UTF-8 are written as \\xff."""

    file: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path, inbox: Path, stat: os.stat_result) -> "InboxFile":
        return cls(shown(str(path.relative_to(inbox))), stat.st_size, stat.st_mtime_ns)


class Deferred(Exception):
    """A file changed while it was read, so that it has no rows yet."""


def new_files(inbox: Path, scores: Path) -> dict[InboxFile, Path]:
    """Entries of the inbox that are not in the table and are no longer being written, sorted by name, with their paths."""
    done = set(map(InboxFile._make, _columns(scores, InboxFile._fields)))
    now, settled = time.time(), {}
    for folder, folders, names in os.walk(inbox):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if stat := _settled(path, now):
                settled[InboxFile.of(path, inbox, stat)] = path
    return {new: settled[new] for new in sorted(settled) if new not in done}


def shown(text: str) -> str:
    r"""A text with names of files in it, whose bytes that are not UTF-8 become \xff."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _settled(path: Path, now: float) -> os.stat_result | None:
    """As `_stat`; None too for a hidden entry, and for one that is still being written."""
    stat = None if path.name.startswith(".") or path.name.endswith(PARTIAL) else _stat(path)
    return stat if stat and now - stat.st_mtime >= SETTLE_SECONDS else None


def _stat(path: Path) -> os.stat_result | None:
    """What a path leads to; of a link to nothing the link itself; None for what is gone."""
    for follow in (True, False):
        with contextlib.suppress(OSError):
            return path.stat(follow_symlinks=follow)
    return None


def score(inbox: Path, scores: Path, model: str) -> tuple[int, int, int]:
    """Score the new files; returns how many were scored, how many of these have a fault, and how many are left for the next run.

    Raises ValueError if the model cannot be loaded, and Timeout if another process scores into the same table.
    """
    scores.mkdir(parents=True, exist_ok=True)
    with FileLock(scores / ".lock", timeout=0):
        known = dict(_columns(scores, ("file", "sha256")))
        # A file that was only touched has a new time but the same content.
        new = [(entry, path) for entry, path in new_files(inbox, scores).items() if (known.get(entry.file) or "-") != digest(path)]
        if not new:
            return 0, 0, 0
        scorer, tries, total, faults = Scorer(model, inbox), Tries(scores / ".tried.json"), 0, 0
        with tqdm(total=len(new), desc="Scoring", unit="file", delay=2) as bar:
            for first in range(0, len(new), BATCH):
                rows = []
                for entry, path in new[first : first + BATCH]:
                    scorer.meet(path, tries)
                    with contextlib.suppress(Deferred), tries.of(entry):
                        rows += scorer.rows(entry, path, tries.before(entry))
                        total += 1
                    bar.update()
                if rows:
                    name = hashlib.sha256("\n".join(f"{row['file']} {row['sha256']}" for row in rows).encode()).hexdigest()[:16]
                    write_parquet(pa.Table.from_pylist(rows, SCHEMA), scores / f"scores-{name}.parquet")
                faults += sum(row["fault"] is not None for row in rows)
    return total, faults, len(new) - total


class Tries:
    """How often files were begun and never ended, because the process did not outlive them; kept in a file, for the next process."""

    def __init__(self, file: Path):
        self.file, self.counts = file, {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.counts = read_json(file)

    def before(self, entry: InboxFile) -> int:
        """How often an entry was begun and never ended; a try that is going on does not count."""
        return self.counts.get(json.dumps(entry), 0)

    @contextlib.contextmanager
    def of(self, entry: InboxFile) -> Iterator[None]:
        """One try. A file that ends well is forgotten, one that was given up is not: another file may end the process before its row
        is written."""
        key, times = json.dumps(entry), self.before(entry)
        write_json(self.counts | {key: times + 1}, self.file)
        try:
            yield
        finally:
            if times < TRIES:
                self.counts.pop(key, None)
            write_json(self.counts, self.file)


def digest(path: Path) -> str:
    """SHA-256 of a file's content; "" if it is no regular file, or cannot be opened."""
    try:
        if not path.is_file():  # to open a pipe would wait for its other end
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


class Scorer:
    """The model, Whisper if the model uses text, and the settings of both; and the model for each speaker whom a subfolder names."""

    def __init__(self, model: str, inbox: Path):
        from calm.asr import engines
        from calm.audio.pauses import Pauses
        from calm.inference.loading import load_classifier
        from calm.inference.recordings import Listener
        from pipeline import settings

        loaded = settings.load()
        folder, self.model = model_folder(model, loaded.tracking.uri)
        self.classifier = load_classifier(folder)
        section, cut, whisper = loaded.transcribe, loaded.ingest.cut, None
        if self.classifier.needs_text:
            options = {"compute_type": section.compute_type, "beam": section.beam, "language": section.language}
            device = "cuda" if engines.gpus(section.engine) else "cpu"
            name = engines.resolve(section.engine, section.model)
            whisper = engines.load(section.engine, name, **options, window=section.window_seconds, device=device)
        pauses = Pauses(**cut.model_dump()) if cut else Pauses()
        self.listener = Listener.of(self.classifier, whisper, pauses=pauses, no_speech_threshold=section.no_speech_threshold)
        self.inbox, self.by_speaker, self.speakers = inbox, loaded.flows.speaker_folders, {}
        if self.by_speaker and self.classifier.extractor.normalise == "utterance":
            raise ValueError(
                f"{model} normalises every utterance by its own frames, so that no speaker is known: set flows.speaker_folders: false"
            )

    def rows(self, entry: InboxFile, path: Path, times: int) -> list[dict]:
        """Rows of one file: one per piece between pauses, or one that says what is wrong.

        `times`: how often the file has ended the process that read it. Raises Deferred if the file changes meanwhile.
        """
        from calm.inference.recordings import NO_SPEECH

        before = digest(path)
        results = [{"fault": fault}] if (fault := _unusable(path, times)) else self._results(path)
        stat = _stat(path)
        if stat is None or (stat.st_size, stat.st_mtime_ns) != (entry.size, entry.modified_ns) or digest(path) != before:
            raise Deferred
        columns = {**entry._asdict(), "sha256": before, "model": self.model, "scored": datetime.now(UTC)}
        return [dict.fromkeys(SCHEMA.names) | {"flags": []} | columns | result for result in results or [{"fault": NO_SPEECH}]]

    def _results(self, path: Path) -> list[dict]:
        from calm.inference.recordings import classify_segment

        try:
            classifier = self.speakers.get(self._speaker(path), self.classifier)
            return [classify_segment(classifier, segment) for segment in self.listener(path)]
        except (ValueError, OSError) as error:  # of which AudioError is one
            return [{"fault": shown(str(error))}]

    def meet(self, path: Path, tries: Tries) -> None:
        """Get to know the speaker whom the file's folder names, by the newest recordings there; from then on it is known."""
        speaker = self._speaker(path)
        if speaker is None or speaker in self.speakers:
            return
        self.speakers[speaker] = self.classifier
        with contextlib.suppress(ValueError):  # nobody speaks in the recordings
            self.speakers[speaker] = self.classifier.for_speaker(self._heard(self.inbox / speaker, tries))

    def _speaker(self, path: Path) -> str | None:
        """The subfolder of the inbox that a file lies in or below; None of a file beside them."""
        speaker, *below = path.relative_to(self.inbox).parts
        return speaker if self.by_speaker and below else None

    def _heard(self, folder: Path, tries: Tries) -> "Iterator[Floats32]":
        """Speech of the newest recordings in a folder; none of one that cannot be read or that ends processes, whose own row says why."""
        untranscribed = replace(self.listener, whisper=None)
        for path, stat in newest(folder):
            entry = InboxFile.of(path, self.inbox, stat)
            heard = []
            if tries.before(entry) < TRIES:
                with tries.of(entry), contextlib.suppress(ValueError, OSError):
                    heard = [segment.samples for segment in untranscribed(path)]
            yield from heard


def newest(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The newest settled files of a folder and those below it, at most `KNOWN_BY`, newest first and then by name."""
    now = time.time()
    entries = [(path, stat) for path in walk(folder, "") if path.is_file() and (stat := _settled(path, now))]
    return sorted(entries, key=lambda entry: (-entry[1].st_mtime_ns, entry[0]))[:KNOWN_BY]


def _unusable(path: Path, times: int) -> str | None:
    """Why an entry is not even opened; None if it is."""
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if not path.is_file():
        return "not a regular file"
    return f"reading it ended the process {times} times" if times >= TRIES else None


def model_folder(model: str, tracking_uri: str) -> tuple[Path, str]:
    """Folder of a released model, and its name with the version that an alias stands for now.

    The folder is the one that is named, or what MLflow's registry has under `models:/...`.
    """
    if not model.startswith("models:/"):
        return Path(model), model
    from pipeline.tracking import provenance, registry, store

    uri = store.absolute(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri, provenance.root())
    with store.clear_errors(uri):
        store.connect(uri)
    version = registry.version_of(model, uri)
    return registry.released_model(version, uri), version


def rows_of(scores: Path, files: list[InboxFile]) -> list[dict]:
    """Rows of the table that belong to these files, by file and start."""
    parts = sorted(map(str, scores.glob("scores-*.parquet")))
    if not parts:
        return []
    named = pyarrow.dataset.field("file").isin([file.file for file in files])
    rows = pyarrow.dataset.dataset(parts, schema=SCHEMA).to_table(filter=named).to_pylist()
    return sorted(
        (row for row in rows if InboxFile(*map(row.get, InboxFile._fields)) in set(files)), key=lambda row: (row["file"], row["start"] or 0)
    )


def _columns(scores: Path, names: tuple[str, ...]) -> list[tuple]:
    """Some columns of the table, as rows; [] if there is no table yet."""
    files = sorted(map(str, scores.glob("scores-*.parquet")))
    if not files:
        return []
    table = pyarrow.dataset.dataset(files, schema=SCHEMA).to_table(columns=list(names))
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def main() -> None:
    inbox, scores, model = sys.argv[1:]
    alone.end_with_starter()
    try:
        total, faults, left = score(Path(inbox), Path(scores), model)
    except Timeout:
        print("another process is scoring into this table: nothing was done")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    else:
        said = [f"{total} files scored"] + [f"{faults} of them without a result (see the column `fault`)"] * bool(faults)
        print(", ".join(said + [f"{left} changed meanwhile and are left for the next run"] * bool(left)))


if __name__ == "__main__":
    main()
