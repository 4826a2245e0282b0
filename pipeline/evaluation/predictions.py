"""What `evaluate` evaluates: the labelled utterances of a corpus, and the predictions of every head and baseline for them."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from calm.corpora.folds import folds_of, split_in
from calm.corpora.utterances import multi_hot, read_table
from calm.evaluation import calibration, metrics
from calm.storage import read_parquet

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

    table: pd.DataFrame  # id, speaker, labels, gender, duration, fold (0: there are none)
    targets: np.ndarray  # bool (utterances, classes)


@dataclass
class Predictions:
    """Those of one head or baseline of one seed on each split, and what was decided by them."""

    system: System
    seed: int
    logits: dict[str, np.ndarray]  # split -> (utterances, classes), finite
    probabilities: dict[str, np.ndarray]  # split -> (utterances, classes); a row of NaN where there is no prediction
    everybody: tuple[np.ndarray, np.ndarray] | None = None  # validation of the released network: targets, logits
    thresholds: dict[int, np.ndarray] = field(default_factory=dict)  # tuned ones by fold (0: no folds, or the network that is released)
    temperatures: dict[int, float] = field(default_factory=dict)  # by fold, of a softmax: by which its logits are divided
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
    truth: dict[str, Truth]  # with folds: an utterance once a fold in which it is validated, or tested
    folds: list[int] = field(default_factory=list)
    everybody: Truth | None = None  # with folds: validation of the network that is trained on everybody
    rows: list[dict] = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    left_out: dict = field(default_factory=lambda: defaultdict(list))


def read_truth(path: Path, corpus: str, synthetic: bool) -> CorpusEvaluation:
    """Labelled utterances of validation and test; raises ValueError if there are none."""
    table = read_table(path, ["id", "speaker", "split", "labels", "gender", "duration", "fold", "validates"])
    classes, one_hot, folds, truth, counts = table.attrs["classes"], table.attrs["one_hot"], folds_of(table), {}, {}
    for split in SPLITS:
        part = pd.concat([_of_split(table, split, fold) for fold in folds or [0]], ignore_index=True)
        rows = part[part["labels"].notna()].reset_index(drop=True)
        targets = multi_hot(rows["labels"], classes, one_hot)
        positives = dict(zip(classes, targets.sum(axis=0).tolist(), strict=True))
        counts[split] = {"labelled": len(rows), "unlabelled": len(part) - len(rows), "speakers": rows["speaker"].nunique()}
        counts[split]["positives"] = positives
        if len(rows):
            truth[split] = Truth(rows, targets)
            never = metrics.decided(targets, np.zeros_like(targets), classes).values
            counts[split]["never_anything"] = {name: never[name] for name in metrics.OF_COUNTS if name in never}
    if not truth:
        raise ValueError(f"{path} has no labelled utterance in validation or test: there is nothing to evaluate on")
    evaluation = CorpusEvaluation(corpus, synthetic, classes, one_hot, truth, folds)
    if folds:
        rows = _of_split(table[table["labels"].notna()], "validation", 0).reset_index(drop=True)
        evaluation.everybody = Truth(rows, multi_hot(rows["labels"], classes, one_hot))
    evaluation.notes = {
        "corpus": corpus,
        "synthetic": synthetic,
        "classes": classes,
        "one_hot": evaluation.one_hot,
        "utterances": counts,
        "missing": [],
    }
    if folds:
        evaluation.notes["folds"] = folds
    return evaluation


def _of_split(table: pd.DataFrame, split: str, fold: int) -> pd.DataFrame:
    """Utterances of a split in a fold."""
    return table[split_in(table, fold) == split].drop(columns="validates").assign(fold=fold)


def read_predictions(file: Path, lm: str, evaluation: CorpusEvaluation) -> Iterator[Predictions]:
    """Predictions of one file of logits, by variant, modality and seed.

    Labelled utterances without a prediction, or whose logits are not finite, are noted; predictions of unlabelled ones are left out.

    Raises ValueError for logits of another number of classes and for an utterance that stands twice.
    """
    names, has_folds = ["id", "split", "variant", "modality", "seed", "logits"], "fold" in pq.read_schema(file).names
    if has_folds != bool(evaluation.folds):
        raise ValueError(f"{file} and the corpus do not agree on whether there are folds: run its stage again")
    table = read_parquet(file, [*names, *(["fold"] if has_folds else [])])
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
        if has_folds and (chosen := (part["fold"] == 0).to_numpy()).any():
            place = pd.Index(part["id"][chosen]).get_indexer(evaluation.everybody.table["id"])
            predictions.everybody = evaluation.everybody.targets[place >= 0], logits[rows[chosen]][place[place >= 0]]
        for split, truth in evaluation.truth.items():
            chosen = (part["split"] == split).to_numpy()
            place = _keys(truth.table, has_folds).get_indexer(_keys(part[chosen], has_folds))
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


def _keys(table: pd.DataFrame, has_folds: bool) -> pd.Index:
    """What tells the rows of a split apart: the id, and the fold where there are some."""
    return pd.MultiIndex.from_frame(table[["id", "fold"]]) if has_folds else pd.Index(table["id"])


def calibrate(predictions: Predictions, evaluation: CorpusEvaluation) -> None:
    """Probabilities of a head that was trained with a softmax, by a temperature fitted on each fold's validation; 1 without any."""
    truth, folds = evaluation.truth, evaluation.folds or [0]
    predictions.temperatures = {fold: _temperature(predictions, evaluation, fold) for fold in folds}
    if predictions.everybody is not None:
        predictions.temperatures[0] = calibration.fit_temperature(*predictions.everybody)
    for split, logits in predictions.logits.items():
        present = predictions.present(split)[:, None]
        temperatures = truth[split].table["fold"].map(predictions.temperatures).to_numpy(float)[:, None]
        predictions.probabilities[split] = np.where(present, calibration.probabilities(logits / temperatures, "softmax"), np.nan)


def _temperature(predictions: Predictions, evaluation: CorpusEvaluation, fold: int) -> float:
    """The one that fits a fold's validation; 1 without any."""
    if "validation" not in predictions.logits:
        return 1.0
    truth = evaluation.truth["validation"]
    rows = predictions.present("validation") & (truth.table["fold"] == fold).to_numpy()
    return calibration.fit_temperature(truth.targets[rows], predictions.logits["validation"][rows]) if rows.any() else 1.0


def probabilities_of_everybody(predictions: Predictions) -> np.ndarray:
    """Those of the released network on its validation, (utterances, classes)."""
    _, logits = predictions.everybody
    if 0 not in predictions.temperatures:
        return calibration.probabilities(logits)
    return calibration.probabilities(logits / predictions.temperatures[0], "softmax")
