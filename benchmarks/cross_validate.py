"""Cross-validation of frozen heads and baselines over speakers, without the test split: for choosing the settings of a recipe.

    python benchmarks/cross_validate.py --heads ravdess-small --row calm

Run `dvc repro pretrain` first. The speakers of the training and validation splits are divided into folds. Each fold is predicted by what
was trained on the other folds, with thresholds that were tuned on the predictions for the other folds. The baselines' strength C is
chosen on the fold itself, which favours them. Pretraining has seen the training split, without labels, which favours CALM.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from calm.corpora.utterances import read_table
from calm.evaluation import baselines, metrics, resampling, thresholds
from calm.evaluation.calibration import probabilities
from calm.training.forward import predict
from calm.training.sampling import mix
from pipeline import paths
from pipeline.heads.conditions import Condition, conditions
from pipeline.heads.networks import Networks
from pipeline.heads.training import by_seed, on_vectors
from pipeline.settings import load
from pipeline.state import visible

METRIC = "weighted_accuracy"
BASELINES = ("egemaps", "logmel_functionals")

# Predicts the rows of a mask (utterances,) after training on the other rows: probabilities (held out, ..., classes)
Predict = Callable[[np.ndarray], np.ndarray]


def main(
    heads: Annotated[str, typer.Option(help="An entry of `heads` in params.yaml.")],
    row: Annotated[list[str], typer.Option(help="Only this row of the entry; may be repeated.")] = [],  # noqa: B006
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 4,
    change: Annotated[list[str], typer.Option(help="Another value in the section `head`, NAME=VALUE; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Print AUC, log loss and weighted accuracy of every frozen condition and baseline, and the differences to the baselines."""
    settings = load()
    if heads not in settings.heads:
        raise typer.BadParameter(f"'{heads}' is not an entry of heads in params.yaml, which has {', '.join(settings.heads)}")
    seen, entry = visible(settings, "head", heads), settings.heads[heads]
    seen.head = seen.head.model_validate(seen.head.model_dump() | dict(assignment.split("=", 1) for assignment in change))
    with tempfile.TemporaryDirectory() as folder:
        networks = Networks(seen, entry.corpus, entry.model, Path(folder))
        rows = np.sort(np.concatenate([networks.splits["train"], networks.splits["validation"]]))
        speakers = networks.examples.table["speaker"].astype(str).to_numpy()[rows]
        targets, names = networks.targets[rows].astype(bool), sorted(set(speakers))
        fold = np.array([names.index(speaker) % folds for speaker in speakers])
        print(f"{len(rows)} utterances of {len(names)} speakers in {folds} folds, seeds {' '.join(map(str, seen.seeds))}")
        predictions = {
            name: [cross_validate(predict_fold, fold)]
            for name, predict_fold in baseline_predictors(networks, rows, targets, settings.features.workers).items()
        }
        for condition in conditions({name: entry.rows[name] for name in row or entry.rows}, seen.head):
            if condition.tuning == "frozen" and condition.row.network == "calm":
                by_seed = cross_validate(head_predictor(networks, condition, rows, Path(folder)), fold)
                predictions[f"{condition.name}, {condition.modality}"] = list(by_seed.transpose(1, 0, 2))
    show(predictions, targets, speakers, fold, settings.evaluate.bootstrap)


def cross_validate(predict_fold: Predict, fold: np.ndarray) -> np.ndarray:
    """Probabilities of all rows, each predicted after training on the other folds."""
    parts = {number: predict_fold(fold == number) for number in np.unique(fold)}
    whole = np.empty((len(fold), *next(iter(parts.values())).shape[1:]))
    for number, part in parts.items():
        whole[fold == number] = part
    return whole


def baseline_predictors(networks: Networks, rows: np.ndarray, targets: np.ndarray, workers: int | None) -> dict[str, Predict]:
    """What fits each baseline, by its name. Functionals are computed once for all folds."""
    table = read_table(paths.utterances(networks.corpus)).set_index("id", drop=False).loc[networks.examples.table["id"].iloc[rows]]
    segments = list(table[["audio", "start", "end"]].itertuples(index=False, name=None))
    functionals = {
        "egemaps": baselines.egemaps(segments, workers, networks.folder),
        "logmel_functionals": baselines.logmel_functionals(paths.features(networks.corpus), table["id"]),
    }

    def predictor(features: baselines.Extracted) -> Predict:
        return lambda held_out: baselines.regress(features, targets, ~held_out, held_out, networks.examples.one_hot).probabilities[held_out]

    return {name: predictor(features) for name, features in functionals.items()}


def head_predictor(networks: Networks, condition: Condition, rows: np.ndarray, folder: Path) -> Predict:
    """What trains the heads of all seeds; it returns (held out, seeds, classes). Vectors are computed once for all folds."""
    seeds, copies = networks.settings.seeds, 0 if condition.modality == "text" else networks.settings.head.frozen_copies
    plain = by_seed(networks, condition, seeds)
    augmented = [by_seed(networks, condition, seeds, rows, draw=mix(seeds[0], copy)) for copy in range(copies)]

    def predict_fold(held_out: np.ndarray) -> np.ndarray:
        networks.splits = {"train": rows[~held_out], "validation": rows[held_out], "test": rows[held_out]}
        vectors = torch.cat([plain, *(part[~held_out] for part in augmented)])
        sources = np.concatenate([np.arange(len(plain)), *[rows[~held_out]] * copies])
        with tempfile.TemporaryDirectory(dir=folder) as work:
            network, collator, _ = on_vectors(networks, condition, vectors, sources, seeds, Path(work))
        return probabilities(predict(network, rows[held_out], collator, 512), networks.settings.head.loss)

    return predict_fold


def decide(predictions: np.ndarray, targets: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Decisions in each fold at thresholds tuned on the others."""
    decisions = np.empty_like(targets)
    for number in np.unique(fold):
        held_out = fold == number
        decisions[held_out] = predictions[held_out] >= thresholds.tune_thresholds(targets[~held_out], predictions[~held_out])
    return decisions


def show(predictions: dict[str, list[np.ndarray]], targets: np.ndarray, speakers: np.ndarray, fold: np.ndarray, samples: int) -> None:
    """Print a line per system, mean over its seeds; differences have 95 % intervals over speakers."""
    resamples = resampling.Resamples.of(speakers.tolist(), samples, 0)
    drawn = {
        name: [resamples.metrics(targets, decide(seed, targets, fold), [METRIC])[METRIC] for seed in seeds]
        for name, seeds in predictions.items()
    }
    for name, seeds in predictions.items():
        auc = np.mean([metrics.auc_macro(targets, seed) for seed in seeds])
        loss = np.mean([-np.log(np.where(targets, seed, 1 - seed)).mean() for seed in seeds])  # binary, of each class
        accuracy = 100 * np.mean([values[0] for values in drawn[name]])
        line = f"{name:28s} AUC {auc:.4f}   log loss {loss:.4f}   weighted accuracy {accuracy:.1f} %"
        for baseline in BASELINES:
            if name not in BASELINES:
                interval = resampling.difference(drawn[name], drawn[baseline])
                low, high = ("?" if interval[end] is None else f"{100 * interval[end]:+.1f}" for end in ("low", "high"))
                line += f"   to {baseline} {100 * interval['difference']:+.1f} ({low} to {high})"
        print(line)


if __name__ == "__main__":
    typer.run(main)
