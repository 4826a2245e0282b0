"""One name for one emotion, where the corpora's own names differ: for training on one corpus and testing on another."""

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
    """Emotions that both know: name, column among the classes that were trained, and among those to be tested; in the latter's order."""
    known = {SAME.get(name, name): column for column, name in enumerate(trained)}
    names = [SAME.get(name, name) for name in tested]
    return [(name, known[name], column) for column, name in enumerate(names) if name in known]
