"""Scores the files of an inbox into a Parquet table, each file exactly once; `score_new` runs this in a process of its own.

`python -m pipeline.flows.scoring INBOX SCORES MODEL`. The table is a folder of Parquet files, one per batch, each written under a
temporary name and then renamed; the files named in them are done. However often the process is killed, the table has either all rows
of a file, once, or none yet. A file that cannot be read, or that has no speech, has a row that says so.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset
from filelock import FileLock, Timeout
from tqdm import tqdm

from calm.storage import write_parquet

BATCH = 32  # files per Parquet file
SETTLE_SECONDS = 5  # a file that changed more recently may still be being copied
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
    """A file of the inbox."""

    file: str
    size: int
    modified_ns: int


def new_files(inbox: Path, scores: Path) -> list[InboxFile]:
    """Files in the inbox that are not in the table and are no longer being written, sorted by name."""
    done = set(map(InboxFile._make, _columns(scores, InboxFile._fields)))
    now, settled = time.time(), []
    for folder, folders, names in os.walk(inbox):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or name.endswith(PARTIAL):
                continue
            path = Path(folder) / name
            stat = path.stat()
            if now - stat.st_mtime >= SETTLE_SECONDS:
                settled.append(InboxFile(path.relative_to(inbox).as_posix(), stat.st_size, stat.st_mtime_ns))
    return sorted(set(settled) - done)


def score(inbox: Path, scores: Path, model: str) -> tuple[int, int]:
    """Score the new files; returns how many were scored, and how many of these have a fault.

    Raises ValueError if the model cannot be loaded, and Timeout if another process scores into the same table.
    """
    scores.mkdir(parents=True, exist_ok=True)
    with FileLock(scores / ".lock", timeout=0):
        known = dict(_columns(scores, ("file", "sha256")))
        # A file that was only touched has a new time but the same content.
        files = [new for new in new_files(inbox, scores) if new.file not in known or digest(inbox / new.file) != known[new.file]]
        if not files:
            return 0, 0
        scorer, total, faults = Scorer(model), 0, 0
        with tqdm(total=len(files), desc="Scoring", unit="file", delay=2) as bar:
            for first in range(0, len(files), BATCH):
                batch = files[first : first + BATCH]
                rows = [row for file in batch for row in scorer.rows(inbox, file)]
                name = hashlib.sha256("\n".join(f"{row['file']} {row['sha256']}" for row in rows).encode()).hexdigest()[:16]
                write_parquet(pa.Table.from_pylist(rows, SCHEMA), scores / f"scores-{name}.parquet")
                total += len(batch)
                faults += sum(row["fault"] is not None for row in rows)
                bar.update(len(batch))
    return total, faults


def digest(path: Path) -> str:
    """SHA-256 of a file's content; "" if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


class Scorer:
    """The model, Whisper if the model uses text, and the settings of both."""

    def __init__(self, model: str):
        from calm.asr import engines
        from calm.audio.pauses import Pauses
        from calm.inference.loading import load_classifier
        from calm.inference.recordings import Listener
        from pipeline import settings

        loaded, self.model = settings.load(), model
        self.classifier = load_classifier(model_folder(model, loaded.tracking.uri))
        section, cut, whisper = loaded.transcribe, loaded.ingest.cut, None
        if self.classifier.needs_text:
            options = {"compute_type": section.compute_type, "beam": section.beam, "language": section.language}
            device = "cuda" if engines.gpus(section.engine) else "cpu"
            name = engines.resolve(section.engine, section.model)
            whisper = engines.load(section.engine, name, **options, window=section.window_seconds, device=device)
        pauses = Pauses(**cut.model_dump()) if cut else Pauses()
        self.listener = Listener(self.classifier.sample_rate, whisper, pauses, section.no_speech_threshold)

    def rows(self, inbox: Path, file: InboxFile) -> Iterator[dict]:
        """Rows of one file: one per piece between pauses, or one that says what is wrong."""
        from calm.audio.decoding import AudioError
        from calm.inference.recordings import NO_SPEECH, classify_segment

        try:
            results = [classify_segment(self.classifier, segment) for segment in self.listener(inbox / file.file)]
        except AudioError as error:
            results = [{"fault": str(error)}]
        columns = {**file._asdict(), "sha256": digest(inbox / file.file), "model": self.model, "scored": datetime.now(UTC)}
        for result in results or [{"fault": NO_SPEECH}]:
            yield dict.fromkeys(SCHEMA.names) | {"flags": []} | columns | result


def model_folder(model: str, tracking_uri: str) -> Path:
    """Folder of a released model: the folder itself, or what MLflow's registry has under `models:/...`."""
    if not model.startswith("models:/"):
        return Path(model)
    from pipeline.tracking import provenance, registry, store

    uri = store.absolute(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri, provenance.root())
    with store.clear_errors(uri):
        store.connect(uri)
    return registry.released_model(model, uri)


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
    try:
        total, faults = score(Path(inbox), Path(scores), model)
    except Timeout:
        print("another process is scoring into this table: nothing was done")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    else:
        print(f"{total} files scored" + (f", {faults} of them without a result (see the column `fault`)" if faults else ""))


if __name__ == "__main__":
    main()
