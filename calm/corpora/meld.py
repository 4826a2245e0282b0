"""MELD: scenes of the series Friends, seven emotions, official splits.

```
train/train_sent_emo.csv  dev_sent_emo.csv  test_sent_emo.csv      Utterance, Speaker, Emotion, Dialogue_ID, Utterance_ID ...
train/train_splits/dia0_utt0.mp4  dev/dev_splits_complete/...  test/output_repeated_splits_test/...
```
Clips may be audio of the same names. Tables lie beside the folders, or in them.
"""

import csv
import io
from pathlib import Path

from calm.corpora.errors import CorpusError
from calm.corpora.files import AUDIO, Row, find, read_text, tidy, walk
from calm.corpora.layout import Part
from calm.corpora.utterances import Corpus, Utterance

LAYOUT = tuple(Part((f"{name}_sent_emo.csv", f"{name}/{name}_sent_emo.csv"), f"the table of {name}") for name in ("train", "dev", "test"))
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
CLASSES = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
COLUMNS = {"Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"}
QUOTES = str.maketrans("‘’“”–—", "''\"\"--")  # as the language model knows them


def read(path: Path) -> Corpus:
    """Read MELD. Speakers are heard in several splits, as its authors published it. Extra columns: sentiment, dialogue.

    Raises CorpusError if a table is missing or has other columns.
    """
    corpus = Corpus(classes=CLASSES, one_hot=True)
    for name in SPLITS:
        table = find(path, f"{name}_sent_emo.csv", f"{name}/{name}_sent_emo.csv")
        if table is None:
            raise CorpusError(f"{path} has no {name}_sent_emo.csv: put MELD's three tables beside its folders train, dev and test")
        rows = list(csv.DictReader(io.StringIO(read_text(table, corpus).translate(QUOTES), newline="")))
        if not rows or COLUMNS - set(rows[0]):
            raise CorpusError(f"{table} has no rows, or lacks the columns {', '.join(sorted(COLUMNS))}: copy it again from MELD's release")
        clips = _clips(path, name)
        for row in rows:
            _add(corpus, name, row, clips, path)
    return corpus


def _clips(path: Path, name: str) -> dict[str, Path]:
    """Clips of a split by stem: those of its own folder, else of any folder with its name; audio before video."""
    folders = [folder for folder in (path / name / FOLDERS[name], path / FOLDERS[name], path / name) if folder.is_dir()]
    files = sorted(walk(folders[0], *AUDIO), key=lambda file: file.suffix.lower() == ".mp4", reverse=True) if folders else []
    return {file.stem: file for file in files}


def _add(corpus: Corpus, name: str, row: Row, clips: dict[str, Path], path: Path) -> None:
    stem = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
    emotion, id = str(row["Emotion"]).strip().lower(), f"{name}/{stem}"
    if emotion not in CLASSES:
        return corpus.drop(id, "label outside its range", emotion)
    utterance = Utterance(id, clips.get(stem, path / name / FOLDERS[name] / f"{stem}.mp4"), split=SPLITS[name], labels=[emotion])
    utterance.speaker, utterance.text = str(row["Speaker"]).strip(), tidy(row["Utterance"])
    utterance.extra = {"sentiment": row.get("Sentiment"), "dialogue": f"{name}/{row['Dialogue_ID']}"}
    return corpus.add(utterance)
