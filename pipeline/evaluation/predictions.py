"""What `evaluate` evaluates: the labelled utterances of a corpus, and the answers of every head and baseline to them."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from calm.corpora.utterances import read_table
from calm.evaluation import metrics

SPLITS = ("validation", "test")
NAMED = 20  # ids that the notes name of those that a run lacks; they count all


class System(NamedTuple):
    """What is compared: the runs of all its seeds."""

    variant: str
    lm: str  # its language model's name in the tables; "-" for baselines
    modality: str


@dataclass
class Truth:
    """Labelled utterances of one split."""

    table: pd.DataFrame  # id, speaker, labels, gender, duration
    targets: np.ndarray  # bool (utterances, classes)


@dataclass
class Run:
    """One head or baseline of one seed: its answers on each split, and what `evaluate` makes of them."""

    system: System
    seed: int
    logits: dict[str, np.ndarray]  # split -> (utterances, classes), finite
    probabilities: dict[str, np.ndarray]  # split -> (utterances, classes); a row of NaN where the run has no answer
    thresholds: np.ndarray | None = None
    decisions: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # (split, threshold) -> bool (utterances, classes)

    def answered(self, split: str) -> np.ndarray:
        """Which utterances have an answer: bool (utterances,)."""
        return np.isfinite(self.probabilities[split]).all(axis=1)

    @property
    def name(self) -> dict:
        """Its columns in every table."""
        return {**self.system._asdict(), "seed": self.seed}


@dataclass
class Evaluation:
    """The corpus, and what is written of it."""

    corpus: str
    synthetic: bool
    classes: tuple[str, ...]
    one_hot: bool
    truth: dict[str, Truth]
    rows: list[dict] = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    left_out: dict = field(default_factory=lambda: defaultdict(list))


def read_truth(path: Path, corpus: str, synthetic: bool) -> Evaluation:
    """Labelled utterances of validation and test; raises ValueError where there are none."""
    table = read_table(path, ["id", "speaker", "split", "labels", "gender", "duration"])
    classes, truth, counted = table.attrs["classes"], {}, {}
    for split in SPLITS:
        of = table[table["split"] == split]
        rows = of[of["labels"].notna()].reset_index(drop=True)
        targets = metrics.multi_hot(rows["labels"], classes, table.attrs["one_hot"])
        positives = dict(zip(classes, targets.sum(axis=0).tolist(), strict=True))
        counted[split] = {"labelled": len(rows), "unlabelled": len(of) - len(rows), "speakers": rows["speaker"].nunique()}
        counted[split]["positives"] = positives
        if len(rows):
            truth[split] = Truth(rows, targets)
            never = metrics.decided(targets, np.zeros_like(targets), classes).values
            counted[split]["never_anything"] = {name: never[name] for name in metrics.OF_COUNTS if name in never}
    if not truth:
        raise ValueError(f"{path} has no labelled utterance in validation or test: there is nothing to evaluate on")
    made = Evaluation(corpus, synthetic, classes, table.attrs["one_hot"], truth)
    made.notes = {"corpus": corpus, "synthetic": synthetic, "classes": classes, "one_hot": made.one_hot, "utterances": counted}
    return made


def read_runs(file: Path, lm: str, made: Evaluation) -> Iterator[Run]:
    """Runs of one file of logits. Utterances that a run lacks, or whose logits are no numbers, are noted; unlabelled ones are left.

    Raises ValueError for logits of another number of classes and for an utterance that stands twice.
    """
    table = pq.read_table(file, columns=["id", "split", "variant", "modality", "seed", "logits"])
    lists = table.column("logits").combine_chunks()
    logits, lengths = lists.flatten().to_numpy(zero_copy_only=False), lists.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != len(made.classes)).any():
        found = ", ".join(map(str, sorted(set(lengths.tolist()))))
        raise ValueError(f"{file} has rows of {found} logits, the corpus has {len(made.classes)} classes: run its stage anew")
    logits = logits.reshape(-1, len(made.classes)).astype(np.float64)
    about = table.drop_columns("logits").to_pandas()
    for (variant, modality, seed), rows in about.groupby(["variant", "modality", "seed"], sort=True).indices.items():
        one, of = Run(System(variant, lm, modality), int(seed), {}, {}), about.iloc[rows]
        for split, truth in made.truth.items():
            chosen = (of["split"] == split).to_numpy()
            place = pd.Index(truth.table["id"]).get_indexer(of["id"][chosen])
            known = place >= 0  # others are not labelled
            if len(np.unique(place[known])) < known.sum():
                raise ValueError(f"{file} has two rows for one utterance of {variant}, {modality}, seed {seed}: run its stage anew")
            answers = np.full(truth.targets.shape, np.nan)
            answers[place[known]] = logits[rows[chosen]][known]
            finite = np.isfinite(answers).all(axis=1, keepdims=True)
            one.logits[split] = np.where(finite, answers, 0)
            one.probabilities[split] = np.where(finite, _sigmoid(one.logits[split]), np.nan)
            if not finite.all():
                lacking = truth.table["id"][~finite[:, 0]]
                about_it = {"utterances": len(lacking), "ids": lacking[:NAMED].tolist()}
                made.notes["missing"].append({**one.name, "split": split, **about_it})
        yield one


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    size = np.exp(-np.abs(logits))  # never overflows
    return np.where(logits >= 0, 1, size) / (1 + size)
