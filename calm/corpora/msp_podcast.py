"""MSP-Podcast, releases 1.6 to 2.0: a WAV a turn, the consensus of crowd workers, and each worker's own answers.

```
Audios/MSP-PODCAST_0001_0008.wav
Labels/labels.txt  labels_consensus.{csv,json}  labels_detailed.{csv,json}     also label, labels; labels_concensus up to 1.9
Partitions.txt     <set>; <file>            Speaker_ids.txt     Speaker_<n>; <gender> and <file>; <n>
Transcripts/<name>.txt
```
A row is a line of the consensus, or a file that only `Partitions.txt` has. Codes O (other) and X (no agreement, a fifth of the
corpus) are no class: such rows stay in train without a label, for pretraining, and are left out of validation and test.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tqdm import tqdm

from calm.corpora.files import csv_rows, lines, number, read_text, require, tidy
from calm.corpora.msp_votes import CLASSES, CODES, NO_CLASS, Answer, fractions, plurality, present, read_headers, read_votes, shares
from calm.corpora.utterances import Corpus, CorpusError, Utterance

SETS = {"train": "train", "development": "validation", "validation": "validation", "test1": "test", "test2": "test", "test3": "test"}
ATTRIBUTES = {"EmoAct": "activation", "EmoVal": "valence", "EmoDom": "dominance"}  # 1..7
NOTE = re.compile(r"\[[^\]]*\]")  # [inaudible 00:04:08]


@dataclass
class Published:
    """What the label files say beside the consensus: by file (answers, set, speaker), and gender by speaker."""

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
    """Read MSP-Podcast. Raises CorpusError for another layout.

    labels: `primary` is the published consensus, one class a row; `all` is every class that at least `min_workers` workers named
    as primary or secondary emotion, through the table SECONDARY of `msp_votes` (5.3: "a list of all emotions"); `votes` is the
    same from the primary emotions alone.
    soft: heads are trained towards the share of the workers that named each class (with `all` also as secondary emotion), columns
    `target_<class>`, where a row has answers; what a row is evaluated on stays `labels`.
    test: which of the test sets are the test split; the others are left out (their speakers overlap).
    transcripts: take the release's texts; else every text is null, to be transcribed.
    Extra columns: consensus (code), activation, valence, dominance (1..7), `votes_<class>` (workers), where they are published.
    """
    corpus = Corpus(classes=CLASSES, one_hot=labels == "primary")
    folder = require(path, "Labels", "labels", "label", what="labels")
    audio = require(path, "Audios", "Audio", what="a WAV a turn")
    texts = require(path, "Transcripts", what="texts; or set transcripts: false") if transcripts else None
    rows, known = read_consensus(folder, corpus)
    more = Published(read_votes(folder, corpus), read_partitions(path, corpus), *read_speakers(path, corpus))
    if (labels != "primary" or soft) and not more.votes:
        asked = "soft: true" if soft else f"labels: {labels}"
        raise CorpusError(
            f"{asked} needs the workers' answers and {folder} has no labels.txt or labels_detailed with any: "
            "use labels: primary, soft: false"
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
    """A cell's text, None where it says that nothing is known; a speaker as its number alone."""
    text = str(value or "").strip().removeprefix("Speaker_")
    return None if text.lower() in ("", "unknown", "na", "nan", "none") else text


def _split(row: dict, wanted: set[str], corpus: Corpus) -> str | None:
    """The split, or None where the row is not kept: of no set, of an unknown one, or of a test set that is not asked for."""
    name, given = Path(row["FileName"]).stem, row["Split_Set"]
    key = (given or "").lower().replace(" ", "")
    if given is None:
        return corpus.drop(name, "in no partition")
    if key not in SETS:
        return corpus.drop(name, "unknown partition", given)
    if SETS[key] == "test" and key not in wanted:
        return corpus.leave_out(name, "test set not asked for", given)
    return SETS[key]


def _fault(row: dict) -> tuple[str, str] | None:
    """Reason and detail where the consensus is no known code or an attribute no number from 1 to 7; a row without any is sound."""
    if row.get("EmoClass", "X") not in (*CODES, *NO_CLASS):
        return "label outside its range", f"EmoClass {row['EmoClass']!r}"
    for key in ATTRIBUTES:
        value = number(row.get(key, 1))
        if value != value:
            return "label is not a number", f"{key} {row[key]!r}"
        if not 1 <= value <= 7:
            return "label outside its range", f"{key} {row[key]!r}"
    return None


def _utterance(row: dict, split: str, audio: Path, more: Published) -> Utterance:
    """All of an utterance but text and labels."""
    file = row["FileName"]
    speaker = _known(row.get("SpkrID")) or more.speakers.get(file) or ""
    gender = (_known(row.get("Gender")) or more.genders.get(speaker) or "").lower()
    extra = {"consensus": row.get("EmoClass")} | {name: number(row.get(key)) for key, name in ATTRIBUTES.items()}
    extra |= shares(more.votes[file]) if file in more.votes else {}
    return Utterance(
        Path(file).stem, audio / file, speaker=speaker, gender=gender if gender in ("female", "male") else None, split=split, extra=extra
    )


def _label(row: dict, answers: list[Answer] | None, labels: str, workers: int) -> list[str] | None:
    """The classes, None where nothing (or no class) is published."""
    if labels != "primary":
        return None if answers is None else present(answers, labels == "all", workers)
    return [CODES[row["EmoClass"]]] if row.get("EmoClass") in CODES else None


def _add(corpus: Corpus, utterance: Utterance, row: dict, texts: Path | None) -> None:
    """Keep the row, with its text where texts are asked for; without a label only in train, and counted."""
    if utterance.labels is None:
        code = row.get("EmoClass")
        counts = corpus.checks.setdefault("rows without a label, kept in train only", Counter())
        counts[f"{NO_CLASS.get(code, 'no answers')} ({code}), {utterance.split}"] += 1
        if utterance.split != "train":
            return corpus.leave_out(utterance.id, "no class and not in train", f"{code} in {row['Split_Set']}")
    utterance.text = _text(texts / f"{utterance.id}.txt", corpus) if texts else None
    return corpus.add(utterance)


def _text(path: Path, corpus: Corpus) -> str | None:
    """A transcript without its notes in brackets; None, to be transcribed, where there is none."""
    if not path.is_file():
        corpus.corrections["transcript missing: to be transcribed"] += 1
        return None
    text, notes = NOTE.subn(" ", read_text(path, corpus))
    corpus.corrections["note in brackets cut from a transcript"] += notes
    return tidy(text)


def _checks(corpus: Corpus, rows: list[dict], more: Published) -> None:
    """The published consensus against the workers' plurality, the consensus's sets against the partition list's."""
    answered = [row for row in rows if "EmoClass" in row and row["FileName"] in more.votes]
    pairs = [(row["FileName"], row["EmoClass"], plurality(more.votes[row["FileName"]])) for row in answered]
    corpus.checks["consensus recomputed from the votes"] = {
        "compared": len(pairs),
        "different": [f"{file}: published {published}, votes {own}" for file, published, own in pairs if published != own],
    }
    listed = [row for row in rows if row["FileName"] in more.sets]
    corpus.checks["partition differs from Partitions.txt"] = [
        row["FileName"] for row in listed if (row["Split_Set"] or "").lower() != more.sets[row["FileName"]].lower()
    ]
    corpus.checks["speaker unknown"] = sum(not utterance.speaker for utterance in corpus.utterances)


def read_consensus(folder: Path, corpus: Corpus) -> tuple[list[dict], set[str]]:
    """Rows of the consensus as published, from CSV, JSON or the head lines of `labels.txt`; those that do not parse are dropped.

    Also the files that it names, in whichever row.
    """
    names = [f"labels_{name}.{kind}" for kind in ("csv", "json") for name in ("consensus", "concensus")]
    path = require(folder, *names, "labels.txt", what="the consensus")
    text = read_text(path, corpus)
    try:
        found = list({".csv": csv_rows, ".json": _rows_of_json, ".txt": read_headers}[path.suffix](text))
    except (ValueError, RecursionError, csv.Error) as error:
        raise CorpusError(f"{path} does not parse as MSP-Podcast's consensus ({error}): copy that of the release") from None
    rows, known = [], set()
    for index, row in enumerate(found, 1):
        row = {key: value.strip() if isinstance(value, str) else value for key, value in row.items()}
        id = Path(row.get("FileName") or "").stem
        if id and None not in row and None not in row.values():
            rows.append({**row, "EmoClass": row.get("EmoClass", row.get("EmoClass_Major", ""))})
        else:
            corpus.drop(id or f"{path.name} row {index}", "label row does not parse", str(row)[:200])
        known.add(row.get("FileName"))
    if not rows:
        raise CorpusError(f"{path} has no row with a FileName: it is not MSP-Podcast's consensus, copy that of the release")
    return rows, known


class Members(list):
    """A JSON object as pairs of name and value: a file that stands twice in it is seen twice."""


def _rows_of_json(text: str) -> Iterator[dict]:
    """An object of objects by file name (or of lists of one); what else a file has lies under the key None, as cells too many do."""
    files = json.loads(text, object_pairs_hook=Members)
    if not isinstance(files, Members):
        raise ValueError("it is no object by file name")
    for file, value in files:
        row = value[0] if type(value) is list and value else value
        yield {**(dict(row) if isinstance(row, Members) else {None: row}), "FileName": file}


def read_partitions(path: Path, corpus: Corpus) -> dict[str, str]:
    """Set of every file of `Partitions.txt`, `<one> and <other>`, which is no set, of a file in two; empty without it."""
    sets, broken = {}, []
    for name, file in _pairs(path / "Partitions.txt", corpus, broken):
        if not file.lower().endswith(".wav"):
            broken.append(f"{name}; {file}")
        elif (other := sets.setdefault(file, name)).lower() != name.lower():
            sets[file] = f"{other} and {name}"
    corpus.checks["lines of Partitions.txt that do not parse"] = broken
    return sets


def read_speakers(path: Path, corpus: Corpus) -> tuple[dict[str, str], dict[str, str]]:
    """Speaker of every file and gender of every speaker, of `Speaker_ids.txt`; empty without it."""
    broken = corpus.checks["lines of Speaker_ids.txt that do not parse"] = []
    pairs = [(key, _known(value)) for key, value in _pairs(path / "Speaker_ids.txt", corpus, broken)]
    speakers = {key: value for key, value in pairs if value and key.lower().endswith(".wav")}
    return speakers, {_known(key): value for key, value in pairs if value and not key.lower().endswith(".wav")}


def _pairs(path: Path, corpus: Corpus, broken: list[str]) -> Iterator[tuple[str, str]]:
    """`<one>; <other>` lines of a file, none where it is missing; other lines go to `broken`."""
    for line in lines(read_text(path, corpus)) if path.is_file() else ():
        key, mark, value = line.partition(";")
        if mark:
            yield key.strip(), value.strip()
        else:
            broken.append(line[:200])
