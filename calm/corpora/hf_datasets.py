"""A data set of Hugging Face's `datasets` on disk, as `save_to_disk` writes it: one, or a dictionary of splits.

Audio that is stored in the data set is written to files in `<folder>.audio` beside it, once.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import tidy
from calm.corpora.layout import Part
from calm.corpora.manifest import GENDERS, SPLITS
from calm.corpora.splits import assign_missing, check_shares
from calm.corpora.utterances import Corpus, Utterance
from calm.storage import replacing

LAYOUT = (Part(("dataset_dict.json", "dataset_info.json"), "what `save_to_disk` writes"),)
Share = Annotated[float, Field(ge=0, lt=1)]


def read(
    path: Path,
    *,
    audio: str = "audio",
    label: str | None = "label",
    text: str | None = "text",
    speaker: str | None = "speaker",
    gender: str | None = "gender",
    validation_share: Share = 0.1,
    test_share: Share = 0.2,
    seed: int = 1,
) -> Corpus:
    """Read a data set. Raises CorpusError if it cannot be loaded, or has no such column of audio.

    audio, label, text, speaker, gender: columns; all but audio may be missing. A label is a name, a number of a `ClassLabel`, or a list.
    validation_share, test_share, seed: for a data set without splits called train, validation and test, or the like.
    """
    check_shares(validation_share, test_share)
    corpus, names = Corpus(), {"label": label, "text": text, "speaker": speaker, "gender": gender}
    for split, part in _load(path, audio).items():
        kept = {kind: column for kind, column in names.items() if column in part.column_names}
        corpus.checks["columns not read"] = sorted(set(part.column_names) - {audio, *kept.values()})
        files = _files(part, audio, path.with_name(f"{path.name}.audio"), corpus, split)
        for row, (id, file) in enumerate(files):
            if file is None:
                corpus.drop(id, "no audio named")
                continue
            cells = {kind: part[column][row] for kind, column in kept.items()}
            utterance = Utterance(id, file, speaker=str(cells.get("speaker") or ""), split=SPLITS.get(split.lower(), ""))
            utterance.gender, utterance.text = GENDERS.get(str(cells.get("gender")).lower()), tidy(cells.get("text"))
            utterance.labels = _labels(part.features[label], cells["label"]) if "label" in kept else None
            corpus.add(utterance)
    labelled = [row.labels for row in corpus.utterances if row.labels is not None]
    corpus.classes = tuple(sorted({name for labels in labelled for name in labels}))
    corpus.one_hot = bool(labelled) and all(len(labels) == 1 for labels in labelled)
    assign_missing(corpus, validation_share, test_share, seed)
    return corpus


def _load(path: Path, audio: str) -> dict[str, Any]:
    """The data set by split, "" where it has none. Raises CorpusError if it cannot be loaded, or has no such column of audio."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise CorpusError(f"{path} is no data set on disk ({error}): write it by save_to_disk") from None
    parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    for part in parts.values():
        if audio not in part.column_names:
            raise CorpusError(f"{path} has no column '{audio}': set the option audio to one of {', '.join(part.column_names)}")
    return parts


def _files(part: Any, audio: str, folder: Path, corpus: Corpus, split: str) -> Iterator[tuple[str, Path | None]]:
    """Id and file of every row; bytes are written to a file that is named by their SHA-256."""
    import datasets

    column = part.select_columns([audio])
    if isinstance(part.features[audio], datasets.Audio):
        column = column.cast_column(audio, datasets.Audio(decode=False))
    for row, cells in enumerate(column):
        cell = cells[audio] or {}
        cell = {"path": cell} if isinstance(cell, str) else cell
        name, data = cell.get("path") or "", cell.get("bytes")
        id = f"{split or 'row'}/{row}"
        if not data:
            yield id, Path(name) if name else None
            continue
        file = folder / f"{hashlib.sha256(data).hexdigest()[:20]}{Path(name).suffix}"
        if not file.exists():
            with replacing(file) as partial:
                partial.write_bytes(data)
            corpus.corrections["audio written to a file"] += 1
        yield id, file


def _labels(feature: Any, value: Any) -> list[str] | None:
    """Names of the classes of a cell."""
    if value is None:
        return None
    inner = getattr(feature, "feature", feature)  # of a list of labels
    values = value if isinstance(value, list) else [value]
    names = getattr(inner, "int2str", None)
    if names and any(isinstance(one, int) and one < 0 for one in values):
        return None  # -1 stands for no label
    return list(dict.fromkeys(names(one) if names and isinstance(one, int) else str(one) for one in values))
