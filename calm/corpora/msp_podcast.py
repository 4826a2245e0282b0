"""MSP-Podcast, releases 1.6 to 2.0: a WAV per turn, the consensus of crowd workers, and the answers of each worker.

```
Audios/MSP-PODCAST_0001_0008.wav
Labels/labels.txt  labels_consensus.{csv,json}  labels_detailed.{csv,json}     also label, labels; labels_concensus up to 1.9
Partitions.txt     <set>; <file>            Speaker_ids.txt     Speaker_<n>; <gender> and <file>; <n>
Transcripts/<name>.txt
```
A row is a line of the consensus, or a file that is only in `Partitions.txt`. Codes O (other) and X (no agreement, a fifth of the
corpus) are not classes: such rows stay in train without a label, for pretraining, and are left out of validation and test.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from tqdm import tqdm

from calm.corpora.errors import CorpusError
from calm.corpora.files import Row, csv_rows, lines, number, read_text, require, tidy
from calm.corpora.layout import Part
from calm.corpora.msp_votes import CLASSES, CODES, NO_CLASS, Answer, fractions, plurality, present, read_headers, read_votes, shares
from calm.corpora.utterances import Corpus, Utterance

SETS = {"train": "train", "development": "validation", "validation": "validation", "test1": "test", "test2": "test", "test3": "test"}
ATTRIBUTES = {"EmoAct": "activation", "EmoVal": "valence", "EmoDom": "dominance"}  # 1..7
NOTE = re.compile(r"\[[^\]]*\]")  # [inaudible 00:04:08]
LAYOUT = (
    Part(("Audios", "Audio"), "a WAV per turn"),
    Part(
        ("Labels/labels_consensus.csv", "[Ll]abel*/labels_con[cs]ensus.*", "[Ll]abel*/labels.txt"),
        "the consensus: classes, attributes, sets",
    ),
    Part(
        ("Labels/labels.txt", "[Ll]abel*/labels.txt", "[Ll]abel*/labels_detailed.*"),
        "every worker's answers",
        "no lists of all emotions and no votes: labels: primary only",
    ),
    Part(("Transcripts",), "texts", "every row is transcribed; transcripts: true is refused"),
    Part(("Partitions.txt",), "the set of every file", "only files whose set is in the consensus are used"),
    Part(("Speaker_ids.txt",), "speakers and their genders", "only those in the consensus are known"),
)


@dataclass
class Published:
    """Contents of the label files other than the consensus: answers, set and speaker by file, and gender by speaker."""

    votes: dict[str, list[Answer]]
    sets: dict[str, str]
    speakers: dict[str, str]
    genders: dict[str, str]


def read(
    path: Path,
    *,
    labels: Literal["primary", "all", "votes"] = "primary",
    min_workers: Annotated[int, Field(ge=1)] = 1,
    soft: bool = False,
    test: Sequence[Literal["Test1", "Test2", "Test3"]] = ("Test1",),
    transcripts: bool = False,
) -> Corpus:
    """Read MSP-Podcast. Raises CorpusError if the layout differs.

    labels: `primary` is the published consensus, one class per row; `all` is every class that at least `min_workers` workers named
    as primary or secondary emotion, through the table SECONDARY of `msp_votes` (5.3: "a list of all emotions"); `votes` is the
    same from the primary emotions alone.
    soft: train heads towards the share of the workers that named each class (with `all` also as secondary emotion), columns
    `target_<class>`, if the row has answers; rows are still evaluated on `labels`.
    test: the test sets that form the test split; the others are left out (their speakers overlap).
    transcripts: use the texts of the release; otherwise every text is null, to be transcribed.
    Extra columns, as far as they are published: consensus (code), activation, valence, dominance (1..7), `votes_<class>` (workers).
    """
    corpus = Corpus(classes=CLASSES, one_hot=labels == "primary")
    folder = require(path, "Labels", "labels", "label", what="labels")
    audio = require(path, "Audios", "Audio", what="a WAV per turn")
    texts = require(path, "Transcripts", what="texts; or set transcripts: false") if transcripts else None
    rows, known = read_consensus(folder, corpus)
    more = Published(read_votes(folder, corpus), read_partitions(path, corpus), *read_speakers(path, corpus))
    if (labels != "primary" or soft) and not more.votes:
        option = "soft: true" if soft else f"labels: {labels}"
        raise CorpusError(
            f"{option} needs the workers' answers, and {folder} has no labels.txt or labels_detailed with answers: "
            "set labels: primary and soft: false"
        )
    rows += [{"FileName": file} for file in more.sets if file not in known]
    for row in tqdm(rows, desc="labels", unit="file", delay=2, leave=False):
        row["Split_Set"] = _known(row.get("Split_Set")) or _known(more.sets.get(row["FileName"]))
        split = _split(row, {name.lower() for name in test}, corpus)
        if split and (fault := _fault(row)):
            corpus.drop(Path(row["FileName"]).stem, *fault)
        elif split:
            utterance = _utterance(row, split, audio, more)
            answers = more.votes.get(row["FileName"])
            utterance.labels = _label(row, answers, labels, min_workers)
            utterance.extra |= fractions(answers, labels == "all") if soft and answers else {}
            _add(corpus, utterance, row, texts)
    _checks(corpus, rows, more)
    return corpus


def _known(value: object) -> str | None:
    """Text of a cell, or None if it says that the value is unknown; a speaker is reduced to the number."""
    text = str(value or "").strip().removeprefix("Speaker_")
    return None if text.lower() in ("", "unknown", "na", "nan", "none") else text


def _split(row: Row, wanted: set[str], corpus: Corpus) -> str | None:
    """The split; None, with the row dropped or left out, if its set is missing, unknown, or a test set that is not wanted."""
    name, partition = Path(row["FileName"]).stem, row["Split_Set"]
    key = (partition or "").lower().replace(" ", "")
    if partition is None:
        corpus.drop(name, "in no partition")
        return None
    if key not in SETS:
        corpus.drop(name, "unknown partition", partition)
        return None
    if SETS[key] == "test" and key not in wanted:
        corpus.leave_out(name, "test set not asked for", partition)
        return None
    return SETS[key]


def _fault(row: Row) -> tuple[str, str] | None:
    """Reason and detail if the consensus code is unknown or an attribute is not a number from 1 to 7. Both may be absent."""
    if row.get("EmoClass", "X") not in (*CODES, *NO_CLASS):
        return "label outside its range", f"EmoClass {row['EmoClass']!r}"
    for key in ATTRIBUTES:
        value = number(row.get(key, 1))
        if value != value:
            return "label is not a number", f"{key} {row[key]!r}"
        if not 1 <= value <= 7:
            return "label outside its range", f"{key} {row[key]!r}"
    return None


def _utterance(row: Row, split: str, audio: Path, more: Published) -> Utterance:
    """An utterance without its text and labels."""
    file = row["FileName"]
    speaker = _known(row.get("SpkrID")) or more.speakers.get(file) or ""
    gender = (_known(row.get("Gender")) or more.genders.get(speaker) or "").lower()
    extra = {"consensus": row.get("EmoClass")} | {name: number(row.get(key)) for key, name in ATTRIBUTES.items()}
    extra |= shares(more.votes[file]) if file in more.votes else {}
    return Utterance(
        Path(file).stem, audio / file, speaker=speaker, gender=gender if gender in ("female", "male") else None, split=split, extra=extra
    )


def _label(row: Row, answers: list[Answer] | None, labels: str, workers: int) -> list[str] | None:
    """The classes, or None if nothing, or no class, is published."""
    if labels != "primary":
        return None if answers is None else present(answers, labels == "all", workers)
    return [CODES[row["EmoClass"]]] if row.get("EmoClass") in CODES else None


def _add(corpus: Corpus, utterance: Utterance, row: Row, texts: Path | None) -> None:
    """Keep the row, with its text if there is a folder of texts. Rows without a label are counted, and kept in train only."""
    if utterance.labels is None:
        code = row.get("EmoClass")
        counts = corpus.checks.setdefault("rows without a label, kept in train only", Counter())
        counts[f"{NO_CLASS.get(str(code), 'no answers')} ({code}), {utterance.split}"] += 1
        if utterance.split != "train":
            return corpus.leave_out(utterance.id, "no class and not in train", f"{code} in {row['Split_Set']}")
    utterance.text = _text(texts / f"{utterance.id}.txt", corpus) if texts else None
    return corpus.add(utterance)


def _text(path: Path, corpus: Corpus) -> str | None:
    """A transcript without its notes in brackets, or None, to be transcribed, if the file is missing or blank."""
    if not path.is_file():
        corpus.corrections["transcript missing: to be transcribed"] += 1
        return None
    text, notes = NOTE.subn(" ", read_text(path, corpus))
    corpus.corrections["note in brackets cut from a transcript"] += notes
    return tidy(text)


def _checks(corpus: Corpus, rows: list[Row], more: Published) -> None:
    """Compare the published consensus with the workers' plurality, and the sets of the consensus with those of the partition list."""
    answered = [row for row in rows if "EmoClass" in row and row["FileName"] in more.votes]
    pairs = [(row["FileName"], row["EmoClass"], plurality(more.votes[row["FileName"]])) for row in answered]
    corpus.checks["consensus recomputed from the votes"] = {
        "compared": len(pairs),
        "different": [f"{file}: published {published}, votes {voted}" for file, published, voted in pairs if published != voted],
    }
    listed = [row for row in rows if row["FileName"] in more.sets]
    corpus.checks["partition differs from Partitions.txt"] = [
        row["FileName"] for row in listed if (row["Split_Set"] or "").lower() != more.sets[row["FileName"]].lower()
    ]
    corpus.checks["speaker unknown"] = sum(not utterance.speaker for utterance in corpus.utterances)


def read_consensus(folder: Path, corpus: Corpus) -> tuple[list[Row], set[str]]:
    """Rows of the published consensus, and all file names in it.

    Read from CSV, JSON or the first lines of the blocks of `labels.txt`. Rows that do not parse are dropped.
    """
    names = [f"labels_{name}.{kind}" for kind in ("csv", "json") for name in ("consensus", "concensus")]
    path = require(folder, *names, "labels.txt", what="the consensus")
    text = read_text(path, corpus)
    try:
        parsed = list({".csv": csv_rows, ".json": _rows_of_json, ".txt": read_headers}[path.suffix](text))
    except (ValueError, RecursionError, csv.Error) as error:
        raise CorpusError(f"{path} does not parse as MSP-Podcast's consensus ({error}): copy the file of the release") from None
    rows: list[Row] = []
    known: set[str] = set()
    for index, row in enumerate(parsed, 1):
        row = {key: value.strip() if isinstance(value, str) else value for key, value in row.items()}
        id = Path(row.get("FileName") or "").stem
        if id and None not in row and None not in row.values():
            rows.append({**row, "EmoClass": row.get("EmoClass", row.get("EmoClass_Major", ""))})
        else:
            corpus.drop(id or f"{path.name} row {index}", "label row does not parse", str(row)[:200])
        known |= {row["FileName"]} if row.get("FileName") else set()
    if not rows:
        raise CorpusError(f"{path} has no row with a FileName and is not MSP-Podcast's consensus: copy the file of the release")
    return rows, known


class Members(list[tuple[str, Any]]):
    """A JSON object as pairs of name and value, so that a file that is in it twice is seen twice."""


def _rows_of_json(text: str) -> Iterator[Row]:
    """Rows of an object that maps file names to objects, or to lists of one object; any other value goes under the key None."""
    files = json.loads(text, object_pairs_hook=Members)
    if not isinstance(files, Members):
        raise ValueError("it is not an object by file name")
    for file, value in files:
        row = value[0] if type(value) is list and value else value
        yield {**(dict(row) if isinstance(row, Members) else {None: row}), "FileName": file}


def read_partitions(path: Path, corpus: Corpus) -> dict[str, str]:
    """Set of every file in `Partitions.txt`; empty without it. A file in two sets gets "<first> and <second>", which is no valid set."""
    sets: dict[str, str] = {}
    broken: list[str] = []
    for name, file in _pairs(path / "Partitions.txt", corpus, broken):
        if not file.lower().endswith(".wav"):
            broken.append(f"{name}; {file}")
        elif (other := sets.setdefault(file, name)).lower() != name.lower():
            sets[file] = f"{other} and {name}"
    corpus.checks["lines of Partitions.txt that do not parse"] = broken
    return sets


def read_speakers(path: Path, corpus: Corpus) -> tuple[dict[str, str], dict[str, str]]:
    """Speaker of every file and gender of every speaker, from `Speaker_ids.txt`; empty without it."""
    broken: list[str] = []
    corpus.checks["lines of Speaker_ids.txt that do not parse"] = broken
    pairs = [(key, _known(value)) for key, value in _pairs(path / "Speaker_ids.txt", corpus, broken)]
    speakers = {key: value for key, value in pairs if value and key.lower().endswith(".wav")}
    people = [(_known(key), value) for key, value in pairs if not key.lower().endswith(".wav")]
    return speakers, {key: value for key, value in people if key and value}


def _pairs(path: Path, corpus: Corpus, broken: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs from the lines `<key>; <value>` of a file, none if it is missing; other lines are added to `broken`."""
    for line in lines(read_text(path, corpus)) if path.is_file() else ():
        key, semicolon, value = line.partition(";")
        if semicolon:
            yield key.strip(), value.strip()
        else:
            broken.append(line[:200])
