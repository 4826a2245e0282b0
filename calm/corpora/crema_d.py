"""CREMA-D: 91 actors, twelve sentences, six emotions. All annotation is in the file names.

```
AudioWAV/1001_IEO_ANG_HI.wav        <actor>_<sentence>_<emotion>_<intensity>
AudioMP3/ VideoFlash/               of a whole clone, not read
VideoDemographics.csv               ActorID, Age, Sex, ... (gender is null without it)
```
"""

import csv
import io
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import AUDIO, find, read_text, tidy, walk
from calm.corpora.layout import Part
from calm.corpora.splits import assign
from calm.corpora.utterances import Corpus, Utterance

LAYOUT = (
    Part(("AudioWAV",), "the clips", "they are looked for everywhere below the folder"),
    Part(("VideoDemographics.csv",), "the actors' genders", "genders are unknown"),
)
EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}  # X: misspelt in one file name
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")
Share = Annotated[float, Field(ge=0, lt=1)]


def read(path: Path, *, validation_share: Share = 0.15, test_share: Share = 0.2, seed: int = 1) -> Corpus:
    """Read CREMA-D. It has no official splits: actors are dealt to splits by the shares and the seed, with balanced classes.

    Extra column: intensity. Raises CorpusError if no file name is CREMA-D's.
    """
    corpus = Corpus(classes=tuple(EMOTIONS.values()), one_hot=True)
    genders = _genders(path / "VideoDemographics.csv", corpus)
    for file in walk(find(path, "AudioWAV") or path, *AUDIO):  # a whole clone has the same clips as MP3 and as video beside it
        match = NAME.fullmatch(file.stem)
        if match is None:
            corpus.drop(file.stem, "file name does not parse", str(file))
        elif match[2] not in SENTENCES or match[3] not in EMOTIONS or match[4] not in INTENSITIES:
            corpus.drop(file.stem, "label outside its range", str(file))
        else:
            utterance = Utterance(file.stem, file, speaker=match[1], gender=genders.get(match[1]), text=tidy(SENTENCES[match[2]]))
            utterance.labels, utterance.extra = [EMOTIONS[match[3]]], {"intensity": INTENSITIES[match[4]]}
            corpus.add(utterance)
    if not corpus.utterances:
        raise CorpusError(f"{path} has no file named like 1001_IEO_ANG_HI.wav: put CREMA-D's AudioWAV there")
    assign(corpus.utterances, validation_share, test_share, seed)
    return corpus


def _genders(path: Path, corpus: Corpus) -> dict[str, str]:
    """Gender by actor; empty if the file is missing."""
    rows = csv.DictReader(io.StringIO(read_text(path, corpus), newline="")) if path.is_file() else ()
    known = {str(row.get("ActorID")).strip(): str(row.get("Sex")).strip().lower() for row in rows}
    return {actor: gender for actor, gender in known.items() if gender in ("female", "male")}
