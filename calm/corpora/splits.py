"""Splits for corpora without official ones: no speaker is in two splits, and a seed always gives the same splits."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from calm.array_types import Bools, Floats64, Ints
from calm.corpora.errors import CorpusError
from calm.corpora.utterances import Corpus, Utterance

MADE_HERE = "rows whose split was made here"  # a check of a corpus: their number


def shuffled(names: Iterable[str], seed: int | str) -> list[str]:
    """Distinct names, in an order that depends only on the seed and the names, not on their original order or on a library's generator."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def assign(utterances: list[Utterance], validation: float, test: float, seed: int, fixed: Mapping[str, str] | None = None) -> None:
    """Set the split of every utterance so that no speaker is in two splits and each class has about the same share in all.

    Speakers are dealt in turn, those with the most utterances first, each to the split that brings all classes nearest to their shares.
    Speakers in `fixed` keep their split. An utterance without a speaker counts as a speaker named by its file.
    """
    check_shares(validation, test)
    names = ("train", "validation", "test")
    placed = {speaker: names.index(split) for speaker, split in (fixed or {}).items()}
    chosen = deal(counts_by_speaker(utterances), np.array([1 - validation - test, validation, test]), seed, placed)
    for utterance in utterances:
        utterance.split = names[chosen[who(utterance)]]


def assign_missing(corpus: Corpus, validation: float, test: float, seed: int) -> None:
    """Give a split to the rows of a corpus that have none, beside those that have one; as `assign`."""
    without = [row for row in corpus.utterances if not row.split]
    corpus.checks[MADE_HERE] = len(without)
    assign(without, validation, test, seed, {who(row): row.split for row in corpus.utterances if row.split})


def deal(counts: Mapping[str, Floats64], shares: Floats64, seed: int, fixed: Mapping[str, int] | None = None) -> dict[str, int]:
    """Part of every speaker, from 0: in turn, those with the most utterances first, each where all classes come nearest to their shares.

    Args:
        counts: by speaker, see `counts_by_speaker`.
        shares: (parts,), that add to 1. Nobody is dealt to a share of 0.
        fixed: parts of speakers that are not dealt.
    """
    total = np.maximum(sum(counts.values(), np.zeros(1)), 1)
    dealt = np.zeros((len(shares), len(total)))  # parts x classes
    chosen = {}
    for speaker in sorted(shuffled(counts, seed), key=lambda name: (name not in (fixed or {}), -counts[name].sum())):
        options = [fixed[speaker]] if fixed and speaker in fixed else np.flatnonzero(shares).tolist()
        cost = [np.square((dealt + np.eye(len(shares))[[index]].T * counts[speaker]) / total - shares[:, None]).sum() for index in options]
        chosen[speaker] = options[int(np.argmin(cost))]
        dealt[chosen[speaker]] += counts[speaker]
    return chosen


def who(utterance: Utterance) -> str:
    """The speaker, or the audio file if the speaker is unknown."""
    return utterance.speaker or f"file {utterance.audio}"


def check_shares(validation: float, test: float = 0.0) -> None:
    """Raises CorpusError if the shares leave nothing to train on."""
    if validation < 0 or test < 0 or validation + test >= 1:
        raise CorpusError(f"validation_share {validation} and test_share {test} must be at least 0 and add to less than 1")


def counts_by_speaker(utterances: list[Utterance]) -> dict[str, Floats64]:
    """Counts by speaker, (1 + classes,): all utterances, then those of each class."""
    classes = sorted({name for utterance in utterances for name in utterance.labels or ()})
    column = {name: index + 1 for index, name in enumerate(classes)}
    counts: dict[str, Floats64] = defaultdict(lambda: np.zeros(len(classes) + 1))
    for utterance in utterances:
        counts[who(utterance)][[0, *(column[name] for name in set(utterance.labels or ()))]] += 1
    return dict(counts)


def nested(targets: Bools, share: float, seed: int) -> Ints:
    """Choose a share of the rows with about the same proportion of each combination of labels. Smaller shares are subsets of larger ones.

    Args:
        targets: (rows, classes).
        share: above 0, up to 1; at least one row is chosen if there are any.

    Returns:
        Row numbers in ascending order.
    """
    draw = np.random.default_rng(seed)
    _, kinds = np.unique(targets, axis=0, return_inverse=True)
    ties, position = draw.permutation(len(targets)), np.empty(len(targets))
    for kind in np.unique(kinds):
        rows = draw.permutation(np.flatnonzero(kinds.reshape(-1) == kind))
        position[rows] = (np.arange(len(rows)) + 0.5) / len(rows)  # spreads the rows of a kind evenly over the order
    order = np.lexsort((ties, position))
    return np.sort(order[: max(1, round(share * len(order)))])
