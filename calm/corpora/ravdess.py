"""RAVDESS, the audio-only speech files. All annotation is in the file names.

```
[Audio_Speech_Actors_01-24/]Actor_01/03-01-06-02-01-02-01.wav   (.flac as well)
```
The seven fields: modality (03: audio only), channel (01 speech, 02 song), emotion, intensity (1, 2), sentence (1, 2), repetition
(1, 2), actor (1-24, odd: male). Song and other modalities are left out.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from calm.corpora.errors import CorpusError
from calm.corpora.files import AUDIO, walk
from calm.corpora.layout import Part
from calm.corpora.utterances import Corpus, Utterance

LAYOUT = tuple(
    Part((f"**/Actor_{actor:02d}", f"**/03-01-*-{actor:02d}.*"), "the clips of one of 24 actors", "no split can have this actor")
    for actor in range(1, 25)
)
CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # fields 01 to 08
SENTENCES = ("Kids are talking by the door", "Dogs are sitting by the door")
NAME = re.compile("-".join([r"(\d\d)"] * 7))


def read(
    path: Path,
    *,
    train: Sequence[int] = tuple(range(1, 15)),
    validation: Sequence[int] = (15, 16),
    test: Sequence[int] = tuple(range(17, 21)),
) -> Corpus:
    """Read RAVDESS. `train`, `validation` and `test` are lists of actors; actors in none of them are left out and named.

    Extra columns: intensity (1 normal, 2 strong), repetition. Raises CorpusError if no file name is RAVDESS's or an actor is in two
    splits.
    """
    splits = _splits(train=train, validation=validation, test=test)
    corpus = Corpus(classes=CLASSES, one_hot=True)
    parsed = 0
    for file in walk(path, *AUDIO):
        match = NAME.fullmatch(file.stem)
        parsed += match is not None
        if match:
            _add(corpus, file, [int(field) for field in match.groups()], splits)
        else:
            corpus.drop(file.stem, "file name does not parse", str(file))
    if not parsed:
        raise CorpusError(f"{path} has no file named like 03-01-06-02-01-02-01.wav: unpack RAVDESS's Audio_Speech_Actors_01-24 there")
    return corpus


def _splits(**actors: Sequence[int]) -> dict[int, str]:
    """Split by actor."""
    splits: dict[int, str] = {}
    for split, numbers in actors.items():
        for actor in numbers:
            if splits.setdefault(actor, split) != split:
                raise CorpusError(f"RAVDESS's actor {actor} is in {splits[actor]} and in {split}: remove it from one of them")
    return splits


def _add(corpus: Corpus, file: Path, fields: list[int], splits: dict[int, str]) -> None:
    """Keep a file, or drop it with its reason."""
    modality, channel, emotion, intensity, sentence, repetition, actor = fields
    if modality != 3 or channel != 1:
        return corpus.leave_out(file.stem, "song" if channel == 2 else "not audio-only speech", str(file))
    if not (1 <= emotion <= 8 and intensity in (1, 2) and sentence in (1, 2)):
        return corpus.drop(file.stem, "label outside its range", str(file))
    if actor not in splits:
        return corpus.leave_out(file.stem, "actor in no split", f"actor {actor}")
    gender = "male" if actor % 2 else "female"
    extra = {"intensity": intensity, "repetition": repetition}
    text, labels = SENTENCES[sentence - 1], [CLASSES[emotion - 1]]
    return corpus.add(Utterance(file.stem, file, 0.0, None, f"{actor:02d}", gender, splits[actor], text, labels, extra))
