"""IEMOCAP: ten actors in five sessions, two in each.

```
Session1/dialog/EmoEvaluation/Ses01F_impro01.txt     [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
Session1/dialog/transcriptions/Ses01F_impro01.txt    Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
```
The values of the evaluation are valence, activation and dominance, 1 to 5.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import lines, read_text, tidy
from calm.corpora.layout import Part
from calm.corpora.utterances import Corpus, Utterance

LAYOUT = (
    Part(("Session?/dialog/EmoEvaluation/*.txt",), "the evaluations"),
    Part(("Session?/sentences/wav/*/*.wav",), "the utterances"),
    Part(("Session?/dialog/transcriptions/*.txt",), "the transcripts", "every row will be transcribed"),
)
CODES = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "neu": "neutral",
    "fru": "frustrated",
    "fea": "fear",
    "sur": "surprise",
    "dis": "disgust",
}
NO_CLASS = ("xxx", "oth")  # no agreement, and none of these
FOUR = ("angry", "happy", "sad", "neutral")  # with excited as happy, as most papers have it
NUMBER = r"(\d+(?:\.\d+)?)"
EVALUATION = re.compile(rf"\[{NUMBER} - {NUMBER}\]\t(\S+)\t(\w+)\t\[{NUMBER}, {NUMBER}, {NUMBER}\]")
TRANSCRIPT = re.compile(r"(Ses\S+) \[[^\]]*\]:(.*)")
NAME = re.compile(r"Ses0([1-5])[FM]_\w+_([FM])\w*\d+")
GENDERS = {"F": "female", "M": "male"}
Session = Annotated[int, Field(ge=1, le=5)]


def read(path: Path, *, classes: Literal["four", "all"] = "four", validation: Session = 4, test: Session = 5) -> Corpus:
    """Read IEMOCAP. A session is a fold, for `folds: given`; without folds, one session is for validation and one for testing.

    classes: four: angry, happy (excited included), sad, neutral, and other rows are unlabelled; all: nine classes as they are.
    validation, test: numbers of sessions.

    Extra columns: valence, activation, dominance. Raises CorpusError if there are no evaluations, or one session is for both.
    """
    if validation == test:
        raise CorpusError(f"validation and test are both session {test}: choose two")
    corpus = Corpus(classes=FOUR if classes == "four" else tuple(CODES.values()), one_hot=True)
    files = sorted(file for file in path.glob("Session[1-5]/dialog/EmoEvaluation/*.txt") if not file.name.startswith("."))
    if not files:
        raise CorpusError(f"{path} has no Session1/dialog/EmoEvaluation: set its path to the folder that holds Session1 to Session5")
    splits = {str(validation): "validation", str(test): "test"}
    for file in files:
        texts = _transcripts(file.parents[1] / "transcriptions" / file.name, corpus)
        for line in lines(read_text(file, corpus)):
            if line.startswith("["):
                _add(corpus, line, texts, file.parents[2] / "sentences" / "wav", splits)
    return corpus


def _transcripts(file: Path, corpus: Corpus) -> dict[str, str]:
    """Texts by utterance."""
    found = [TRANSCRIPT.match(line) for line in lines(read_text(file, corpus))] if file.is_file() else []
    return {match[1]: match[2] for match in found if match}


def _add(corpus: Corpus, line: str, texts: dict[str, str], wav: Path, splits: dict[str, str]) -> None:
    if line.startswith("[START_TIME"):
        return None
    match = EVALUATION.match(line)
    if not match or not (name := NAME.fullmatch(match[3])):
        return corpus.drop(match[3] if match else line[:40], "evaluation does not parse", line[:200])
    if match[4] not in (*CODES, *NO_CLASS):
        return corpus.drop(match[3], "label outside its range", match[4])
    label = CODES.get(match[4])
    label = "happy" if label == "excited" and "excited" not in corpus.classes else label
    utterance = Utterance(match[3], wav / match[3].rpartition("_")[0] / f"{match[3]}.wav", speaker=f"{name[1]}{name[2]}")
    utterance.gender, utterance.fold, utterance.split = GENDERS[name[2]], int(name[1]), splits.get(name[1], "train")
    utterance.text, utterance.labels = tidy(texts.get(match[3])), [label] if label in corpus.classes else None
    utterance.extra = {key: float(value) for key, value in zip(("valence", "activation", "dominance"), match.groups()[4:], strict=True)}
    return corpus.add(utterance)
