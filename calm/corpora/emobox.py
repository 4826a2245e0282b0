"""EmoBox's metadata (arXiv 2406.07162) of one of its data sets, as published, beside the data set's own audio.

```
<metadata>/<dataset>.jsonl                                   all rows; without it, those of the folds
<metadata>/label_map.json                                    the data set's names of the emotions -> EmoBox's
<metadata>/fold_1/<dataset>_{train,valid,test}_fold_1.jsonl  ...
```
A row has `key`, `wav` (the audio, below the corpus's folder), `emo`, and sometimes `speaker`. The rows of a fold's test list are tested in
that fold, and rows in no test list are trained on in every fold. A list `valid` counts only where there is a single fold.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from os.path import normpath
from pathlib import Path
from typing import NamedTuple

from calm.corpora import ravdess
from calm.corpora.errors import CorpusError
from calm.corpora.files import AUDIO, Row, lines, read_text, walk
from calm.corpora.layout import Part
from calm.corpora.utterances import Corpus, Utterance, composed

LAYOUT: tuple[Part, ...] = ()  # `read` says what of the metadata and of the audio is missing
LIST = re.compile(r"(?P<dataset>.+)_(?P<part>train|valid|test)_fold_(?P<fold>\d+)\.jsonl")
WITHOUT_AUDIO = "rows without audio, of speakers or folders that have none"  # a check of the corpus, with their numbers
SPEAKER = ("speaker", "spk", "speaker_id")  # the keys under which rows may name one
IEMOCAP = re.compile(r"(Ses\d\d)[FM]_.*_([FM])\d+")

Place = tuple[int | None, str]  # fold in which a row is tested, and its split where there is a single fold


class Person(NamedTuple):
    """What a file name tells of who speaks, and of the words."""

    speaker: str = ""
    gender: str | None = None
    text: str | None = None


def read(path: Path, *, metadata: Path = Path("metadata")) -> Corpus:
    """Read a data set by EmoBox's metadata. Speakers of RAVDESS, EmoDB and IEMOCAP are known from the file names.

    metadata: folder with the label map and the folds, relative to the corpus's folder (`..` goes up in the path as written).

    Audio that is not where `wav` says is searched by its name with any suffix. Rows of speakers (or folders) without any audio are left out
    and named; a single file that is missing is a fault. Raises CorpusError for metadata that is missing or does not parse.
    """
    folder = Path(normpath(path / metadata))
    corpus = Corpus(one_hot=True)
    dataset, parts = _lists(folder)
    names = _label_map(folder / "label_map.json", corpus)
    listed = {key: list(_rows(file, corpus)) for key, file in parts.items()}
    whole = folder / f"{dataset}.jsonl"
    rows = list(_rows(whole, corpus)) if whole.exists() else [row for rows in listed.values() for row in rows]
    rows = list({row["key"]: row for row in rows}.values())
    emotions = {_label(row, names) for row in rows}
    corpus.classes = tuple(name for name in dict.fromkeys(names.values()) if name in emotions)
    corpus.checks["data set"] = dataset
    places = _places(listed, rows, corpus)
    _add(corpus, rows, dataset, names, places, Audio(path))
    return corpus


def _lists(folder: Path) -> tuple[str, dict[tuple[int, str], Path]]:
    """Name of the data set, and its lists by fold and part."""
    found = {file: LIST.fullmatch(file.name) for file in sorted(folder.glob("fold_*/*.jsonl"))}
    parts = {(int(match["fold"]), match["part"]): file for file, match in found.items() if match}
    datasets = {match["dataset"] for match in found.values() if match}
    if not any(part == "test" for _, part in parts):
        raise CorpusError(f"{folder} has no fold_1/<dataset>_test_fold_1.jsonl: set metadata to EmoBox's folder of one data set")
    if len(datasets) > 1:
        raise CorpusError(f"{folder} has folds of {', '.join(sorted(datasets))}: set metadata to EmoBox's folder of one data set")
    return datasets.pop(), dict(sorted(parts.items()))


def _label_map(file: Path, corpus: Corpus) -> dict[str, str]:
    """EmoBox's name of an emotion by the data set's, in lower case: EmoDB's map says "Neutral" where its rows say "neutral"."""
    if not file.exists():
        raise CorpusError(f"{file} is missing: EmoBox has one beside the folds of each data set")
    try:
        return {str(name).lower(): str(label) for name, label in json.loads(read_text(file, corpus)).items()}
    except (ValueError, AttributeError, RecursionError):
        raise CorpusError(f"{file} does not parse: it must map names of emotions to names") from None


def _rows(file: Path, corpus: Corpus) -> Iterator[Row]:
    """Rows of a list; others are dropped."""
    for number, line in enumerate(lines(read_text(file, corpus)), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("key"), str) and isinstance(row.get("wav"), str) and row["key"].strip():
            yield row
        else:
            corpus.drop(f"{file.name}:{number}", "row does not parse", line[:200])


def _label(row: Row, names: dict[str, str]) -> str | None:
    return names.get(str(row.get("emo", "")).lower())


def _places(listed: dict[tuple[int, str], list[Row]], rows: list[Row], corpus: Corpus) -> dict[str, Place]:
    """Fold in which a row is tested, and its split where there is a single fold, by the row's key."""
    keys = {place: {row["key"] for row in of_list} for place, of_list in listed.items()}
    folds, everything = sorted({fold for fold, _ in keys}), {row["key"] for row in rows}
    tested: Counter[str] = Counter()
    places: dict[str, Place] = {}
    for fold in folds:
        test, valid = keys.get((fold, "test"), set()), keys.get((fold, "valid"), set())
        tested.update(test)
        places |= {key: (fold, "test" if len(folds) == 1 else "train") for key in test - places.keys()}
        if len(folds) == 1:
            places |= dict.fromkeys(valid - test, (None, "validation"))
        if apart := everything - test - valid - keys.get((fold, "train"), set()):
            corpus.checks[f"in no list of fold {fold}, and trained on"] = len(apart)
    if several := sorted(key for key, count in tested.items() if count > 1):
        corpus.checks["in the test list of several folds, tested in the first"] = several
    corpus.checks["tested, by fold"] = {str(fold): sum(place[0] == fold for place in places.values()) for fold in folds}
    return places


class Audio:
    """Audio files of a corpus by where the metadata says they are."""

    def __init__(self, root: Path):
        self.root = root
        self.by_stem: defaultdict[str, list[Path]] | None = None  # read when it is needed

    def find(self, wav: str) -> list[Path]:
        """The file at `wav` below the root; else those of the same name with any suffix whose folders are most alike; [] without one."""
        named = self.root / wav
        if named.exists():
            return [named]
        if self.by_stem is None:
            self.by_stem = defaultdict(list)
            for file in walk(self.root, *AUDIO):
                self.by_stem[composed(file.stem)].append(file)
        alike = [(_shared_end(file.parent.parts, named.parent.parts), file) for file in self.by_stem[composed(named.stem)]]
        return [file for count, file in alike if count == max(alike)[0]]


def _shared_end(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many of their last parts two paths have in common."""
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return count


def _add(corpus: Corpus, rows: list[Row], dataset: str, names: dict[str, str], places: dict[str, Place], audio: Audio) -> None:
    """Keep the rows whose audio is there, and say of all others why not."""
    found = {row["key"]: audio.find(row["wav"]) for row in rows}
    people = {row["key"]: _person(row, dataset) for row in rows}
    groups = {row["key"]: people[row["key"]].speaker or str(Path(row["wav"]).parent) for row in rows}
    present = {groups[key] for key, files in found.items() if files}
    absent = Counter(group for group in groups.values() if group not in present)
    if absent:
        corpus.checks[WITHOUT_AUDIO] = dict(sorted(absent.items()))
    for row in rows:
        key, files, person = row["key"], found[row["key"]], people[row["key"]]
        fold, split = places.get(key, (None, "train"))
        label = _label(row, names) if row.get("emo") else None
        if groups[key] in absent:
            corpus.leave_out(key, "speaker or folder without audio", f"{groups[key]}: {row['wav']}")
        elif len(files) != 1:
            corpus.drop(key, "several audio files of this name" if files else "no audio file", row["wav"])
        elif row.get("emo") and label is None:
            corpus.drop(key, "label outside its range", str(row["emo"]))
        else:
            labels = None if label is None else [label]
            corpus.add(Utterance(key, files[0], 0.0, None, *person[:2], split, person.text, labels, fold=fold))


def _person(row: Row, dataset: str) -> Person:
    """From the metadata, or for known data sets from the file's name."""
    known, stem = Person(), Path(row["wav"]).stem
    if dataset == "ravdess" and (match := ravdess.NAME.fullmatch(stem)):
        sentence, actor = int(match[5]), int(match[7])
        text = ravdess.SENTENCES[sentence - 1] if sentence in (1, 2) else None
        known = Person(match[7], "male" if actor % 2 else "female", text)
    elif dataset == "emodb":
        known = Person(stem[:2])
    elif dataset == "iemocap" and (match := IEMOCAP.fullmatch(stem)):
        known = Person(match[1] + match[2], {"F": "female", "M": "male"}[match[2]])
    named = next((str(row[key]) for key in SPEAKER if row.get(key) not in (None, "")), known.speaker)
    return known._replace(speaker=named)
