"""Answers of MSP-Podcast's workers: a primary emotion, any number of secondary ones, and three attributes each.

In all releases they are in `labels.txt`; `labels_detailed` repeats them, in one column (`EmoDetail`, 1.7 to 1.11) or in several
(`EmoClass_Major`, `EmoClass_Second`; 1.6, 2.0), as CSV or JSON.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from calm.corpora.errors import CorpusError
from calm.corpora.files import Row, csv_rows, find, lines, read_text
from calm.corpora.utterances import SOFT, Corpus

CODES = {"A": "angry", "S": "sad", "H": "happy", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt", "N": "neutral"}
CLASSES = tuple(CODES.values())
NO_CLASS = {"O": "other", "X": "no agreement"}

# The 17 secondary emotions and the class each counts for. Eight are classes themselves; the others follow the tree of Shaver, Schwartz,
# Kirson and O'Connor, "Emotion knowledge: further exploration of a prototype approach" (1987): amusement and excitement under joy,
# annoyance and frustration under anger, depression and disappointment under sadness. Three count for no class: confusion, which is not in
# the tree; "Other", which is free text; and concern, the most frequent of all. As worry it would belong to fear, but in WHiSER (same
# annotation) 88 % of the files would then have fear, while workers named fear in 9 %.
SECONDARY = {
    "Angry": "angry",
    "Sad": "sad",
    "Happy": "happy",
    "Amused": "happy",
    "Neutral": "neutral",
    "Frustrated": "angry",
    "Depressed": "sad",
    "Surprise": "surprise",
    "Concerned": None,
    "Disgust": "disgust",
    "Disappointed": "sad",
    "Excited": "happy",
    "Confused": None,
    "Annoyed": "angry",
    "Fear": "fear",
    "Contempt": "contempt",
    "Other": None,
}
PRIMARY = {name.capitalize(): code for code, name in CODES.items()}  # a worker may choose one of these eight as primary emotion, or Other

NAMES = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom")  # fields of the first line of a block
HEADER = re.compile(r"(?!WORKER)([^;]+);\s*([A-Z]);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);?\s*$")
ANSWER = re.compile(r"[^;]+;\s*([^;]*);(.*);\s*A:[^;]*;\s*V:[^;]*;\s*D:[^;]*;?\s*$")  # the free text of "Other-..." may contain ";"


@dataclass(slots=True)
class Answer:
    """Primary and secondary emotions of one worker, by the names in SECONDARY."""

    primary: str
    secondary: tuple[str, ...]


def parse(line: str) -> Answer | None:
    """Answer in a line `WORKER; primary; secondary,secondary; A:.; V:.; D:.;`, or None if the line does not parse."""
    match = ANSWER.match(line.strip())
    return answer(match[1], match[2].rpartition(";")[2]) if match else None


def answer(primary: object, secondary: object) -> Answer | None:
    """Answer from its two fields, with `Other-<free text>` cut to `Other`; None if the primary emotion is none of the nine."""
    secondary = "" if secondary is None else secondary
    if not (isinstance(primary, str) and isinstance(secondary, str)):
        return None
    name = _name(primary)
    chosen = (_name(item) for item in secondary.split(","))  # free text may contain "," too: names not in the table are left out
    return Answer(name, tuple(item for item in chosen if item in SECONDARY)) if name in PRIMARY or name == "Other" else None


@lru_cache(maxsize=4096)  # a release has a million answers and a few dozen names
def _name(text: str) -> str:
    name = text.strip().capitalize()
    return "Other" if name.startswith("Other") else name


def plurality(answers: list[Answer]) -> str:
    """Code of the primary emotion that most workers chose: O for Other, X for a tie."""
    votes = Counter(PRIMARY.get(item.primary, "O") for item in answers).most_common(2)
    return "X" if not votes or (len(votes) == 2 and votes[0][1] == votes[1][1]) else votes[0][0]


def present(answers: list[Answer], secondary: bool, workers: int) -> list[str]:
    """Classes that at least `workers` workers named as primary or, if `secondary`, as secondary emotion."""
    named = _named(answers, secondary)
    return [name for name in CLASSES if named[name] >= workers]


def fractions(answers: list[Answer], secondary: bool) -> dict[str, float]:
    """Share of the workers that named each class, as columns of the table: soft labels. Workers who answered Other count in the total."""
    named = _named(answers, secondary)
    return {SOFT + name: named[name] / len(answers) for name in CLASSES}


def _named(answers: list[Answer], secondary: bool) -> Counter[str | None]:
    """Number of workers that named each class as primary or, if `secondary`, as secondary emotion."""
    named: Counter[str | None] = Counter()
    for item in answers:
        named.update({SECONDARY.get(name) for name in (item.primary, *(item.secondary if secondary else ()))})
    return named


def shares(answers: list[Answer]) -> dict[str, int]:
    """Number of primary votes for each class, as columns of the table."""
    votes = Counter(SECONDARY[item.primary] for item in answers)
    return {f"votes_{name}": votes[name] for name in CLASSES}


def read_votes(folder: Path, corpus: Corpus) -> dict[str, list[Answer]]:
    """Answers by file, from whichever label file the release has; empty without one.

    Answers that do not parse, or whose file is unknown, are listed in `checks`; repeated answers count once.
    """
    votes: dict[str, list[Answer]] = {}
    broken: list[str] = []
    seen: set[int] = set()
    try:
        for file, line, parsed in tqdm(_answers(folder, corpus), desc="votes", unit="answer", delay=2, leave=False):
            if parsed is None or not file:
                broken.append(f"{file or 'no file'}: {line[:200]}")
            elif (key := hash((file, line))) in seen:  # hashes instead of lines: a release has a million
                corpus.corrections["repeated answer counted once"] += 1
            else:
                seen.add(key)
                votes.setdefault(file, []).append(parsed)
    except (ValueError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise CorpusError(f"labels_detailed in {folder} does not parse ({error}): copy the file of the release, or remove it") from None
    corpus.checks["answers that do not parse"] = broken
    return votes


def _answers(folder: Path, corpus: Corpus) -> Iterator[tuple[str | None, str, Answer | None]]:
    """For each answer: its file (None: unknown), a text that differs between workers, and the answer (None: it does not parse)."""
    if path := find(folder, "labels.txt"):
        file = None
        for line in lines(read_text(path, corpus)):
            if row := read_header(line):
                file = None if None in row else row["FileName"]
            if not row or None in row:
                yield file, line, parse(line)
    elif path := find(folder, "labels_detailed.csv"):
        for number, row in enumerate(csv_rows(read_text(path, corpus)), 1):
            file, detail = (row.get("FileName") or "").strip(), row.get("EmoDetail")
            if "EmoDetail" in row:
                yield file, str(detail), None if None in row else parse(detail or "")
            else:
                named = any("worker" in str(name).lower() for name in row)
                text = str(row) if named else f"row {number}: {row}"  # rows without a worker may be equal and still be two answers
                yield file, text, None if None in row else answer(row.get("EmoClass_Major"), row.get("EmoClass_Second"))
    elif path := find(folder, "labels_detailed.json"):
        for file, workers in json.loads(read_text(path, corpus)).items():
            for worker, row in workers.items():
                yield file.strip(), worker, answer(row.get("EmoClass_Major"), row.get("EmoClass_Second"))


def read_headers(text: str) -> list[Row]:
    """The consensus in `labels.txt`, with the column names of `labels_consensus.csv`."""
    return [row for line in lines(text) if (row := read_header(line))]


def read_header(line: str) -> Row | None:
    """The first line of a block by NAMES, or None for an answer.

    A line that is neither has itself under the key None. It is taken for a broken first line, so that the answers below it do not count
    for the block above.
    """
    if match := HEADER.match(line):
        return dict(zip(NAMES, map(str.strip, match.groups()), strict=True))
    if line.startswith("WORKER") or ANSWER.match(line):
        return None
    return {"FileName": line.partition(";")[0].strip(), None: line}
