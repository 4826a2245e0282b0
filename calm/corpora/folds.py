"""Folds for cross-validation: in which one an utterance is tested, and in which ones it is validation.

Fold 0 stands for a training on everybody, which tests nobody: its splits are those of the column `split`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from calm.corpora.errors import CorpusError
from calm.corpora.splits import counts_by_speaker, deal, shuffled, who
from calm.corpora.utterances import Corpus, Utterance

if TYPE_CHECKING:
    import pandas as pd  # otherwise imported by the functions

IN_SEVERAL = "speakers tested in several folds, who are heard in training too"  # a check of the corpus, with their names
FEWEST = 3  # speakers of a corpus with folds
VALIDATION = 0.15  # share of the training speakers that a fold keeps for validation, one at least


def set_folds(corpus: Corpus, folds: int | Literal["given"] | None, seed: int = 1) -> None:
    """Set `fold`, `validates` and `split` of all utterances. Rows without a fold are never tested.

    Args:
        folds: their number at most, no speaker being in two, or that of the speakers if it is smaller; "given": those of the corpus;
            None: there are no folds, and splits stay.
        seed: of the choice of folds, and of the validation speakers of each.

    Raises CorpusError if there are no folds or too few speakers, and with None if the corpus has folds and no test split.
    """
    rows = corpus.utterances
    given = sorted({row.fold for row in rows if row.fold is not None})
    if folds is None:
        if given and not any(row.split == "test" for row in rows):
            raise CorpusError(f"it has {len(given)} folds and no test split: set its folds: given in params.yaml")
        for row in rows:
            row.fold = None
        return
    if folds == "given" and not given:
        raise CorpusError("it gives no folds: set its folds to a number, or give each row one")
    if folds != "given":
        _make(rows, folds, seed)
    numbers = sorted({row.fold for row in rows if row.fold is not None})
    chosen = {number: _validation([row for row in rows if row.fold != number or not number], number, seed) for number in (0, *numbers)}
    for row in rows:
        row.split = "validation" if who(row) in chosen[0] else "train"
        row.validates = [number for number in numbers if who(row) in chosen[number] and row.fold != number]
    tested = {(row.speaker, row.fold) for row in rows if row.speaker and row.fold is not None}
    if several := sorted(speaker for speaker, count in Counter(speaker for speaker, _ in tested).items() if count > 1):
        corpus.checks[IN_SEVERAL] = several


def _make(rows: list[Utterance], folds: int, seed: int) -> None:
    """Deal the speakers to folds of about the same size and share of each class; fewer speakers than folds get one each."""
    counts = counts_by_speaker(rows)
    if len(counts) < FEWEST:
        raise CorpusError(f"folds need {FEWEST} speakers or more, one to train on, to validate and to test; it has {len(counts)}")
    folds = min(folds, len(counts))
    chosen = deal(counts, np.full(folds, 1 / folds), seed)
    for row in rows:
        row.fold = chosen[who(row)] + 1


def _validation(rows: Sequence[Utterance], fold: int, seed: int) -> set[str]:
    """Speakers of a fold's training rows for validation, so chosen that the share of each class is about theirs of the speakers."""
    counts = counts_by_speaker([row for row in rows if row.labels is not None])
    if len(counts) < 2:
        raise CorpusError(f"fold {fold} has {len(counts)} labelled speakers to train on: folds need three speakers or more")
    names = shuffled(counts, f"{seed}/{fold}")
    shares = np.stack([counts[name] for name in names]) / np.maximum(sum(counts.values()), 1)  # (speakers, 1 + classes)
    chosen: list[int] = []
    taken = np.zeros(shares.shape[1])
    for step in range(1, max(1, round(VALIDATION * len(names))) + 1):
        cost = np.square(taken + shares - step / len(names)).sum(axis=1)
        cost[chosen] = np.inf
        chosen.append(int(cost.argmin()))
        taken = taken + shares[chosen[-1]]
    return {names[index] for index in chosen}


def folds_of(table: "pd.DataFrame") -> list[int]:
    """Numbers of the folds of a table of utterances, [] where it has none."""
    return sorted(int(fold) for fold in table["fold"].dropna().unique())


def split_in(table: "pd.DataFrame", fold: int) -> "pd.Series":
    """The split of every row in a fold; in fold 0 the column `split`."""
    if not fold:
        return table["split"]
    import pandas as pd

    held_out = [folds is not None and fold in folds for folds in table["validates"]]
    split = np.where(table["fold"] == fold, "test", np.where(held_out, "validation", "train"))
    return pd.Series(split, table.index, dtype=table["split"].dtype)


def counts(table: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """By fold, rows and speakers that are tested and validated in it."""
    result = {}
    for fold in folds_of(table):
        parts = {split: table[split_in(table, fold) == split] for split in ("test", "validation")}
        result[str(fold)] = {split: {"rows": len(part), "speakers": sorted(part["speaker"].unique())} for split, part in parts.items()}
    return result
