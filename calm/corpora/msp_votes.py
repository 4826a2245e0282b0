"""What MSP-Podcast's workers answered: a primary emotion, any number of secondary ones, and three attributes each.

`labels.txt` holds them in all releases; `labels_detailed` repeats them, in one column (`EmoDetail`, 1.7 to 1.11) or in several
(`EmoClass_Major`, `EmoClass_Second`; 1.6, 2.0), as CSV or JSON.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from calm.corpora.files import find, lines, read_text
from calm.corpora.utterances import Corpus, CorpusError

CODES = {"A": "angry", "S": "sad", "H": "happy", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt", "N": "neutral"}
CLASSES = tuple(CODES.values())
NO_CLASS = {"O": "other", "X": "no agreement"}

# The 17 secondary emotions and the class each counts for. The eight that are classes stand for themselves; the others follow the
# tree of Shaver, Schwartz, Kirson and O'Connor, "Emotion knowledge: further exploration of a prototype approach" (1987):
# amusement and excitement under joy, annoyance and frustration under anger, depression and disappointment under sadness. Three
# count for no class: confusion, which is in no branch of it; "Other", which is free text; and concern, the most frequent of all:
# as worry it would belong to fear, and in WHiSER (same annotation) would put fear into 88 % of the files, where 9 % have it named.
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
PRIMARY = {name.capitalize(): code for code, name in CODES.items()}  # the eight that a worker may choose as primary, beside Other

HEADER = re.compile(r"([^;]+);\s*([A-Z]);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);?\s*$")
ANSWER = re.compile(r"[^;]+;\s*([^;]*);(.*);\s*A:[^;]*;\s*V:[^;]*;\s*D:[^;]*;?\s*$")  # free text of "Other-..." may hold ";"


@dataclass(slots=True)
class Answer:
    """One worker's primary emotion and secondary ones, by the names of SECONDARY."""

    primary: str
    secondary: tuple[str, ...]


def parse(line: str) -> Answer | None:
    """`WORKER; primary; secondary,secondary; A:.; V:.; D:.;` or None where it is not of that form."""
    match = ANSWER.match(line.strip())
    return answer(match[1], match[2].rpartition(";")[2]) if match else None


def answer(primary: str, secondary: str) -> Answer | None:
    """An answer from its two fields, `Other-<free text>` cut to `Other`; None where the primary emotion is not one of the nine."""
    name = _name(primary)
    chosen = (_name(item) for item in secondary.split(","))  # free text may hold "," too: what is not in the table is left out
    return Answer(name, tuple(item for item in chosen if item in SECONDARY)) if name in PRIMARY or name == "Other" else None


@lru_cache(maxsize=4096)  # a release has a million answers and a few dozen names
def _name(text: str) -> str:
    name = text.strip().capitalize()
    return "Other" if name.startswith("Other") else name


def plurality(answers: list[Answer]) -> str:
    """Code of the primary emotion most workers chose: O for Other, X where two come first together."""
    votes = Counter(PRIMARY.get(item.primary, "O") for item in answers).most_common(2)
    return "X" if not votes or (len(votes) == 2 and votes[0][1] == votes[1][1]) else votes[0][0]


def present(answers: list[Answer], secondary: bool, workers: int) -> list[str]:
    """Classes that at least so many workers named as primary emotion or, if asked for, as a secondary one."""
    named = Counter()
    for item in answers:
        named.update({SECONDARY.get(name) for name in (item.primary, *(item.secondary if secondary else ()))})
    return [name for name in CLASSES if named[name] >= workers]


def shares(answers: list[Answer]) -> dict[str, int]:
    """Primary votes for each class, as columns of the table."""
    votes = Counter(SECONDARY[item.primary] for item in answers)
    return {f"votes_{name}": votes[name] for name in CLASSES}


def read_votes(folder: Path, corpus: Corpus) -> dict[str, list[Answer]]:
    """Every file's answers, from whichever file the release has; empty without one. A line that does not parse is counted and named."""
    votes, broken = {}, []
    try:
        for file, line, given in tqdm(_answers(folder, corpus), desc="votes", unit="answer", delay=2, leave=False):
            if given is None:
                broken.append(f"{file}: {line[:200]}")
            else:
                votes.setdefault(file, []).append(given)
    except (ValueError, AttributeError, csv.Error) as error:
        raise CorpusError(f"labels_detailed in {folder} does not parse ({error}): copy that of the release, or leave it out") from None
    corpus.checks["answers that do not parse"] = broken
    return votes


def _answers(folder: Path, corpus: Corpus) -> Iterator[tuple[str, str, Answer | None]]:
    """File, what was read and the answer (None: it does not parse)."""
    if path := find(folder, "labels.txt"):
        file = None
        for line in lines(read_text(path, corpus)):
            if match := HEADER.match(line):
                file = match[1].strip()
            else:
                yield file, line, parse(line)
    elif path := find(folder, "labels_detailed.csv"):
        for row in csv.DictReader(io.StringIO(read_text(path, corpus), newline="")):
            if "EmoDetail" in row:
                yield row.get("FileName"), str(row["EmoDetail"]), parse(row["EmoDetail"] or "")
            else:
                yield row.get("FileName"), str(row), answer(row.get("EmoClass_Major") or "", row.get("EmoClass_Second") or "")
    elif path := find(folder, "labels_detailed.json"):
        for file, workers in json.loads(read_text(path, corpus)).items():
            for worker, row in workers.items():
                yield file, worker, answer(row.get("EmoClass_Major") or "", row.get("EmoClass_Second") or "")


def read_headers(text: str) -> list[dict]:
    """The consensus as `labels.txt` itself gives it, with the names of `labels_consensus.csv`."""
    names = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom")
    return [dict(zip(names, match.groups(), strict=True)) for line in lines(text) if (match := HEADER.match(line))]
