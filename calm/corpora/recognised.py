"""Which format a table or a folder has, by its files."""

from pathlib import Path

from calm.corpora import FORMATS
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


def format_of(path: Path) -> str:
    """Name of the format; of a folder without any sign, `class_folders`. Raises CorpusError if there is nothing."""
    if not path.exists():
        raise CorpusError(f"{path} is missing: give a table or a folder of recordings")
    if path.is_file():
        return "manifest"
    found = [format for format, names in SIGNS.items() if format in FORMATS and any((path / name).exists() for name in names)]
    return found[0] if found else "class_folders"
