"""Common names for emotions that corpora name differently, for training on one corpus and testing on another."""

from collections.abc import Sequence

SAME = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}


def shared(trained: Sequence[str], tested: Sequence[str]) -> list[tuple[str, int, int]]:
    """Emotions in both lists of classes: common name, column in `trained`, column in `tested`; in the order of `tested`."""
    known = {SAME.get(name, name): column for column, name in enumerate(trained)}
    names = [SAME.get(name, name) for name in tested]
    return [(name, known[name], column) for column, name in enumerate(names) if name in known]
