"""Corpora on disk: which format a table or folder has, and which parts of it are missing."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calm.corpora import FORMATS, module, option_values
from calm.corpora.errors import CorpusError

SIGNS = {  # format: files that only its folders have
    "audformat": ("db.yaml",),
    "datasets": ("dataset_dict.json", "dataset_info.json"),
    "mosei": ("CMU_MOSEI_Labels.csd",),
    "msp_podcast": ("Labels/labels_consensus.csv", "Labels/labels_concensus.csv"),
    "meld": ("train_sent_emo.csv", "train/train_sent_emo.csv"),
    "iemocap": ("Session1/dialog/EmoEvaluation",),
    "ravdess": ("Actor_01",),
    "crema_d": ("AudioWAV",),
}


@dataclass(frozen=True)
class Part:
    """A file or folder below the corpus's folder, present if any of `names` exists.

    Names are glob patterns, the usual name first. An option of the format may stand in them in braces: "{folds}/train_videos.txt".
    """

    names: tuple[str, ...]
    what: str
    without: str = ""  # what is lost if the part is missing; "": the corpus cannot be used


def format_of(path: Path) -> str:
    """Name of the format; of a folder without any sign, `class_folders`. Raises CorpusError if there is nothing."""
    if not path.exists():
        raise CorpusError(f"{path} is missing: give a table or a folder of recordings")
    if path.is_file():
        return "manifest"
    found = [format for format, names in SIGNS.items() if format in FORMATS and any((path / name).exists() for name in names)]
    return found[0] if found else "class_folders"


def missing(format: str, path: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Missing parts of a corpus as dicts with name, what, without and required; required parts come first."""
    values = option_values(format, options)
    absent = [part for part in module(format).LAYOUT if not any(_exists(path, name.format(**values)) for name in part.names)]
    absent.sort(key=lambda part: bool(part.without))
    return [
        {
            "name": part.names[0].format(**values).removeprefix("**/"),
            "what": part.what,
            "without": part.without,
            "required": not part.without,
        }
        for part in absent
    ]


def _exists(path: Path, pattern: str) -> bool:
    # Not Path.glob: it refuses absolute patterns and, unlike the readers, does not follow links.
    return next(glob.iglob(str(Path(glob.escape(str(path))) / pattern), recursive=True), None) is not None  # noqa: PTH207
