"""Splits for corpora that come without them: no speaker in two of them, the same for the same seed."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from calm.corpora.utterances import CorpusError, Utterance


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Names in an order that depends on the seed and each name only, not on the order they came in or on a library's generator."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def assign(utterances: list[Utterance], validation: float, test: float, seed: int, fixed: Mapping[str, str] | None = None) -> None:
    """Set every utterance's split so that no speaker is in two and each class has about the same share in all.

    Speakers are dealt one by one, those with the most utterances first, each to the split that comes nearest to its share of
    every class. `fixed` speakers keep the split they have. An utterance without a speaker counts as a speaker of its own file.
    """
    check_shares(validation, test)
    shares = np.array([1 - validation - test, validation, test])
    counts = _counts(utterances)  # speaker -> (classes,)
    total = np.maximum(sum(counts.values(), np.zeros(1)), 1)
    dealt = np.zeros((3, len(total)))  # splits x classes
    chosen = {}
    names = ("train", "validation", "test")
    for speaker in sorted(shuffled(counts, seed), key=lambda name: (name not in (fixed or {}), -counts[name].sum())):
        options = [names.index(fixed[speaker])] if fixed and speaker in fixed else np.flatnonzero(shares).tolist()
        cost = [np.square((dealt + np.eye(3)[[index]].T * counts[speaker]) / total - shares[:, None]).sum() for index in options]
        index = options[int(np.argmin(cost))]
        dealt[index] += counts[speaker]
        chosen[speaker] = names[index]
    for utterance in utterances:
        utterance.split = chosen[who(utterance)]


def who(utterance: Utterance) -> str:
    """The speaker, or the audio file where the speaker is not known."""
    return utterance.speaker or f"file {utterance.audio}"


def check_shares(validation: float, test: float = 0.0) -> None:
    """Raises CorpusError where the shares leave nothing to train on."""
    if validation < 0 or test < 0 or validation + test >= 1:
        raise CorpusError(f"validation_share {validation} and test_share {test} must be at least 0 and add to less than 1")


def _counts(utterances: list[Utterance]) -> dict[str, np.ndarray]:
    """For each speaker: utterances in all, and of each class (the empty label is a class here)."""
    classes = sorted({name for utterance in utterances for name in utterance.labels or ()})
    column = {name: index + 1 for index, name in enumerate(classes)}
    counts = defaultdict(lambda: np.zeros(len(classes) + 1))
    for utterance in utterances:
        counts[who(utterance)][[0, *(column[name] for name in set(utterance.labels or ()))]] += 1
    return dict(counts)


def nested(targets: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows of a share of a corpus that has each combination of labels about as often as the whole; smaller shares lie in larger ones.

    Args:
        targets: (rows, classes); share: above 0, up to 1; at least one row is chosen where there is one.
    Returns:
        Row numbers in order.
    """
    draw = np.random.default_rng(seed)
    _, kinds = np.unique(targets, axis=0, return_inverse=True)
    ties, place = draw.permutation(len(targets)), np.empty(len(targets))
    for kind in np.unique(kinds):
        rows = draw.permutation(np.flatnonzero(kinds.reshape(-1) == kind))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)  # its rows lie evenly over the whole order
    order = np.lexsort((ties, place))
    return np.sort(order[: max(1, round(share * len(order)))])
