"""Rows of `calm predict`, and what is said of the model beside them. Neither torch nor pandas is imported."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from calm.corpora.files import AUDIO, walk
from calm.inference.classifier import Classifier

if TYPE_CHECKING:
    from calm.inference.recordings import Listener

ClassifierT = TypeVar("ClassifierT", bound=Classifier)
TABLES = (".csv", ".parquet")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs cells that begin so


def audio_in(paths: Sequence[Path]) -> list[Path]:
    """Files, with every folder replaced by the audio files below it. Raises ValueError for a folder without any."""
    files = []
    for path in paths:
        below = list(walk(path, *AUDIO)) if path.is_dir() else [path]
        if not below:
            raise ValueError(f"{path} has no audio files: name a folder of files that end in {', '.join(AUDIO)}")
        files += below
    return files


def for_speaker(classifier: ClassifierT, recordings: Sequence[Path]) -> ClassifierT:
    """The model for the person who speaks in these files and folders; as it is if there are none.

    Raises ValueError if nobody speaks in them, if one cannot be read, or if the model normalises every utterance by itself.
    """
    if not recordings:
        return classifier
    from calm.inference.recordings import Listener

    listener = Listener.of(classifier)
    return classifier.for_speaker(segment.samples for file in audio_in(recordings) for segment in listener(file))


def rows(classifier: Classifier, listener: "Listener", files: Sequence[Path], texts: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """A row for each segment of each file, or for each text where there are no files."""
    from calm.inference import recordings

    if files:
        yield from recordings.over_files(files, listener, lambda segment: recordings.classify_segment(classifier, segment), texts)
        return
    for text, answer in zip(texts or [], classifier(None, texts), strict=True):
        yield {"file": None, "fault": None, "text": text} | classifier.answer(answer)


def about(classifier: Classifier) -> dict[str, Any]:
    """The model, its version, its classes and by what it decides; `thresholds` by class, None where the likeliest class is decided."""
    thresholds = None if classifier.argmax else dict(zip(classifier.classes, classifier.thresholds.tolist(), strict=True))
    model: dict[str, Any] = {"model": str(classifier.folder), "version": classifier.version, "synthetic": classifier.synthetic}
    if classifier.speaker_seconds is not None:
        model["speaker_seconds"] = round(classifier.speaker_seconds, 1)
    return model | {"classes": classifier.classes, "decision": classifier.decision, "thresholds": thresholds}


def described(about: dict[str, Any]) -> str:
    """One line on the model."""
    thresholds = ", ".join(f"{name} {value:.2f}" for name, value in (about["thresholds"] or {}).items())
    means = {"argmax": "the likeliest class (argmax)", "tuned": f"thresholds tuned on validation: {thresholds}"}
    decided = means.get(about["decision"], f"thresholds: {thresholds}")
    known = f"; the speaker is known by {about['speaker_seconds']:g} s" if "speaker_seconds" in about else ""
    return f"model {about['model']}, version {about['version']}; decided by {decided}{known}"


def check_table(path: Path) -> None:
    """Raises ValueError if a table cannot be written to a path."""
    from calm.tools.console import check_folder_exists, need

    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{path} must end in {' or '.join(TABLES)}")
    if path.suffix.lower() == ".parquet":
        need("train", "a Parquet table")
    check_folder_exists(path)


def write(rows: Sequence[dict[str, Any]], classifier: Classifier, path: Path) -> None:
    """Write rows to a table, whole or not at all: the probability of each class, what is decided, by what, and by which model."""
    from calm.storage import replacing

    about_model = about(classifier)
    thresholds = about_model["thresholds"] or {}
    written = [
        {"file": row["file"], **{name: row.get(name) for name in ("start", "end", "text")}}
        | {name: row.get("probabilities", {}).get(name) for name in classifier.classes}
        | {"decided": None if row["fault"] else ", ".join(row["decided"]), "decision": classifier.decision}
        | {f"threshold_{name}": value for name, value in thresholds.items()}
        | {"version": about_model["version"], "fault": row["fault"]}
        for row in rows
    ]
    with replacing(path) as partial:
        if path.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(written), partial)
            return
        with partial.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(written[0]))
            table.writeheader()
            table.writerows({name: _safe(value) for name, value in row.items()} for row in written)


def _safe(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
