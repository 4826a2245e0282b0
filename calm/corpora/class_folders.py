"""A folder of audio whose folders are the classes: `angry/*.wav`, `happy/*.wav`, or `train/angry/*.wav`.

Files that lie in no folder are not labelled, and a folder that holds only such files is for pretraining.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from calm.corpora.errors import CorpusError
from calm.corpora.files import AUDIO, walk
from calm.corpora.layout import Part
from calm.corpora.manifest import SPLITS
from calm.corpora.splits import assign_missing, check_shares
from calm.corpora.utterances import Corpus, Utterance

LAYOUT: tuple[Part, ...] = ()  # any folder with audio
Share = Annotated[float, Field(ge=0, lt=1)]


def _pattern(text: str) -> str:
    """Raises ValueError for what is no regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is no regular expression ({error})") from None
    return text


def read(
    path: Path,
    *,
    labels: bool = True,
    speaker: Annotated[str, AfterValidator(_pattern)] | None = None,
    validation_share: Share = 0.1,
    test_share: Share = 0.2,
    seed: int = 1,
) -> Corpus:
    """Read a folder of audio. Raises CorpusError if there is none in it.

    labels: false: the names of folders are no classes, and nothing is labelled.
    speaker: regular expression that finds the speaker in a file's path below the folder: its first group, else all that it matches.
        Files in which it finds nothing are dropped. Default: each file counts as a speaker of its own.
    validation_share, test_share, seed: of the splits, unless the first folders are train, validation and test.
    """
    check_shares(validation_share, test_share)
    corpus, found = Corpus(), re.compile(speaker) if speaker else None
    files = [(file, file.relative_to(path)) for file in walk(path, *AUDIO)] if path.is_dir() else []
    if not files:
        raise CorpusError(f"{path} is no folder with audio: give one with files that end in {', '.join(AUDIO)}")
    by_split = all(len(name.parts) > 1 and name.parts[0].lower() in SPLITS for _, name in files)
    for file, name in files:
        folders = name.parts[by_split:-1]
        who_speaks = found.search(name.as_posix()) if found else None
        if found and not who_speaks:
            corpus.drop(name.as_posix(), "no speaker in its name", f"{name}: '{speaker}' finds nothing")
            continue
        corpus.add(
            Utterance(
                id=name.as_posix(),
                audio=file,
                speaker=who_speaks[1 if who_speaks.re.groups else 0] or "" if who_speaks else "",
                split=SPLITS[name.parts[0].lower()] if by_split else "",
                labels=[folders[0]] if labels and folders else None,
            )
        )
    corpus.classes = tuple(sorted({name for row in corpus.utterances for name in row.labels or ()}))
    corpus.one_hot = bool(corpus.classes)
    assign_missing(corpus, validation_share, test_share, seed)
    return corpus
