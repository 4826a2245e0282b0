"""LibriSpeech, any of its subsets, with or without transcripts: read speech without emotions, for pretraining.

```
<subset>/<speaker>/<chapter>/<speaker>-<chapter>-0000.flac     <speaker>-<chapter>.trans.txt     one line per utterance: <id> <TEXT>
<any folder>/<speaker>-<chapter>-0000.flac                     without a .trans.txt: the text is null, to be transcribed
SPEAKERS.TXT                                                   <id> | <F or M> | ... (gender is null without it)
```
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import lines, read_text, tidy, walk
from calm.corpora.layout import Part
from calm.corpora.splits import shuffled
from calm.corpora.utterances import Corpus, Utterance

LAYOUT = (
    Part(("**/*.trans.txt",), "texts", "every row is transcribed"),
    Part(("**/SPEAKERS.TXT",), "the readers' genders", "genders are unknown"),
)
NAME = re.compile(r"(\d+)-(\d+)-(\d+)")


def read(path: Path, *, validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.05, seed: int = 1) -> Corpus:
    """Read all LibriSpeech files below a folder. `validation_share` of the speakers, drawn by `seed`, are the validation split.

    Raises CorpusError if no file name is LibriSpeech's.
    """
    corpus = Corpus()
    texts = dict(_transcripts(path, corpus))
    genders = _genders(path, corpus)
    clips = set()  # paths without their suffix
    for file in walk(path, ".flac", ".wav"):
        match = NAME.fullmatch(file.stem)
        if match is None:
            corpus.drop(file.stem, "file name does not parse", str(file))
            continue
        clips.add(file.with_suffix(""))
        text = texts.get(file.with_suffix(""))
        corpus.add(Utterance(file.stem, file, speaker=match[1], gender=genders.get(match[1]), text=text))
    if not clips:
        raise CorpusError(f"{path} has no file named like 19-198-0000.flac: put a subset of LibriSpeech there")
    for name in sorted(set(texts) - clips):
        corpus.drop(name.name, "missing audio", f"{name}.flac")
    corpus.utterances.sort(key=lambda utterance: utterance.text is None)  # of two copies of a file, `ingest` keeps the first
    _split(corpus, validation_share, seed)
    corpus.checks["without a text, to be transcribed"] = sum(utterance.text is None for utterance in corpus.utterances)
    return corpus


def _split(corpus: Corpus, share: float, seed: int) -> None:
    """Deal whole speakers; at least one to validation if the share is above 0 and there are two speakers."""
    speakers = shuffled((utterance.speaker for utterance in corpus.utterances), seed)
    count = max(1, round(share * len(speakers))) if share and len(speakers) > 1 else 0
    held_out = set(speakers[:count])
    for utterance in corpus.utterances:
        utterance.split = "validation" if utterance.speaker in held_out else "train"


def _transcripts(path: Path, corpus: Corpus) -> Iterator[tuple[Path, str | None]]:
    """Path, without its suffix, and text of each transcribed utterance; a line that does not parse is dropped."""
    for file in walk(path, ".trans.txt"):
        for position, line in enumerate(lines(read_text(file, corpus)), 1):
            name, _, text = line.strip().partition(" ")
            if NAME.fullmatch(name):
                yield file.parent / name, tidy(text)
            else:
                corpus.drop(f"{file.name} line {position}", "transcript line does not parse", line[:200])


def _genders(path: Path, corpus: Corpus) -> dict[str, str]:
    """Gender by speaker, from all files SPEAKERS.TXT."""
    rows = [line.split("|") for file in walk(path, "speakers.txt") for line in lines(read_text(file, corpus)) if not line.startswith(";")]
    names = {"F": "female", "M": "male"}
    return {row[0].strip(): names[row[1].strip()] for row in rows if len(row) > 1 and row[1].strip() in names}
