"""What `evaluate` evaluates: the labelled utterances of a corpus, and the predictions of every head and baseline for them."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from calm.corpora.utterances import multi_hot, read_table
from calm.evaluation import calibration, metrics

SPLITS = ("validation", "test")
NAMED = 20  # ids of utterances without a prediction that the notes name; they count all


class System(NamedTuple):
    """What is compared: a head or baseline, with all its seeds."""

    variant: str
    lm: str  # its language model's name in the tables; "-" for baselines
    modality: str


@dataclass
class Truth:
    """Labelled utterances of one split."""

    table: pd.DataFrame  # id, speaker, labels, gender, duration
    targets: np.ndarray  # bool (utterances, classes)


@dataclass
class Predictions:
    """Those of one head or baseline of one seed on each split, and what was decided by them."""

    system: System
    seed: int
    logits: dict[str, np.ndarray]  # split -> (utterances, classes), finite
    probabilities: dict[str, np.ndarray]  # split -> (utterances, classes); a row of NaN where there is no prediction
    thresholds: np.ndarray | None = None
    temperature: float | None = None  # by which the logits of a softmax are divided
    decisions: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # (split, threshold) -> bool (utterances, classes)

    def present(self, split: str) -> np.ndarray:
        """Which utterances have a prediction: bool (utterances,)."""
        return np.isfinite(self.probabilities[split]).all(axis=1)

    @property
    def columns(self) -> dict:
        """Variant, language model, modality and seed, as every table has them."""
        return {**self.system._asdict(), "seed": self.seed}


@dataclass
class CorpusEvaluation:
    """A corpus, the truth, and what is written about its predictions."""

    corpus: str
    synthetic: bool
    classes: tuple[str, ...]
    one_hot: bool
    truth: dict[str, Truth]
    rows: list[dict] = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    left_out: dict = field(default_factory=lambda: defaultdict(list))


def read_truth(path: Path, corpus: str, synthetic: bool) -> CorpusEvaluation:
    """Labelled utterances of validation and test; raises ValueError if there are none."""
    table = read_table(path, ["id", "speaker", "split", "labels", "gender", "duration"])
    classes, truth, counts = table.attrs["classes"], {}, {}
    for split in SPLITS:
        part = table[table["split"] == split]
        rows = part[part["labels"].notna()].reset_index(drop=True)
        targets = multi_hot(rows["labels"], classes, table.attrs["one_hot"])
        positives = dict(zip(classes, targets.sum(axis=0).tolist(), strict=True))
        counts[split] = {"labelled": len(rows), "unlabelled": len(part) - len(rows), "speakers": rows["speaker"].nunique()}
        counts[split]["positives"] = positives
        if len(rows):
            truth[split] = Truth(rows, targets)
            never = metrics.decided(targets, np.zeros_like(targets), classes).values
            counts[split]["never_anything"] = {name: never[name] for name in metrics.OF_COUNTS if name in never}
    if not truth:
        raise ValueError(f"{path} has no labelled utterance in validation or test: there is nothing to evaluate on")
    evaluation = CorpusEvaluation(corpus, synthetic, classes, table.attrs["one_hot"], truth)
    evaluation.notes = {
        "corpus": corpus,
        "synthetic": synthetic,
        "classes": classes,
        "one_hot": evaluation.one_hot,
        "utterances": counts,
        "missing": [],
    }
    return evaluation


def read_predictions(file: Path, lm: str, evaluation: CorpusEvaluation) -> Iterator[Predictions]:
    """Predictions of one file of logits, by variant, modality and seed.

    Labelled utterances without a prediction, or whose logits are not finite, are noted; predictions of unlabelled ones are left out.

    Raises ValueError for logits of another number of classes and for an utterance that stands twice.
    """
    table = pq.read_table(file, columns=["id", "split", "variant", "modality", "seed", "logits"])
    lists = table.column("logits").combine_chunks()
    logits, lengths = lists.flatten().to_numpy(zero_copy_only=False), lists.value_lengths().to_numpy(zero_copy_only=False)
    classes = len(evaluation.classes)
    if (lengths != classes).any():
        numbers = ", ".join(map(str, sorted(set(lengths.tolist()))))
        raise ValueError(f"{file} has rows of {numbers} logits, the corpus has {classes} classes: run its stage again")
    logits = logits.reshape(-1, classes).astype(np.float64)
    frame = table.drop_columns("logits").to_pandas()
    for (variant, modality, seed), rows in frame.groupby(["variant", "modality", "seed"], sort=True).indices.items():
        predictions, part = Predictions(System(variant, lm, modality), int(seed), {}, {}), frame.iloc[rows]
        for split, truth in evaluation.truth.items():
            chosen = (part["split"] == split).to_numpy()
            place = pd.Index(truth.table["id"]).get_indexer(part["id"][chosen])
            known = place >= 0  # others are not labelled
            if len(np.unique(place[known])) < known.sum():
                raise ValueError(f"{file} has two rows for one utterance of {variant}, {modality}, seed {seed}: run its stage again")
            placed = np.full(truth.targets.shape, np.nan)
            placed[place[known]] = logits[rows[chosen]][known]
            finite = np.isfinite(placed).all(axis=1, keepdims=True)
            predictions.logits[split] = np.where(finite, placed, 0)
            predictions.probabilities[split] = np.where(finite, calibration.probabilities(predictions.logits[split]), np.nan)
            if not finite.all():
                lacking = truth.table["id"][~finite[:, 0]]
                note = {"split": split, "utterances": len(lacking), "ids": lacking[:NAMED].tolist()}
                evaluation.notes["missing"].append(predictions.columns | note)
        yield predictions


def calibrate(predictions: Predictions, evaluation: CorpusEvaluation) -> None:
    """Probabilities of a head that was trained with a softmax, by a temperature fitted on validation; 1 without such a split."""
    present, predictions.temperature = {split: predictions.present(split) for split in predictions.logits}, 1.0
    if "validation" in present and (chosen := present["validation"]).any():
        targets = evaluation.truth["validation"].targets[chosen]
        predictions.temperature = calibration.fit_temperature(targets, predictions.logits["validation"][chosen])
    for split, logits in predictions.logits.items():
        shares = calibration.probabilities(logits / predictions.temperature, "softmax")
        predictions.probabilities[split] = np.where(present[split][:, None], shares, np.nan)
