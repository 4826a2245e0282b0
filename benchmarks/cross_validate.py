"""Frozen heads and the baselines on speakers that neither has heard, without the test split: for the choice of a recipe's settings.

    python benchmarks/cross_validate.py --heads ravdess-small --row calm

After `dvc repro pretrain`. The speakers of the training and validation splits are dealt into folds; each fold is answered by what was
trained on the others, and decided at thresholds that were tuned on the others' answers. The baselines' strength C is chosen on the
fold itself, which favours them; pretraining has heard the training split, without labels, which favours CALM.
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
from calm.inference.classifier import probabilities
from calm.training.forward import predict
from calm.training.trainer import mix
from pipeline import paths
from pipeline.heads.networks import Bench, Condition, conditions
from pipeline.settings import load
from pipeline.stages import head

METRIC = "weighted_accuracy"


def main(
    heads: Annotated[str, typer.Option(help="An entry of `heads` in params.yaml.")],
    row: Annotated[list[str], typer.Option(help="Only this row of the entry; may be repeated.")] = [],  # noqa: B006
    folds: Annotated[int, typer.Option(help="How many.")] = 4,
    change: Annotated[list[str], typer.Option(help="Another value of the section `head`, NAME=VALUE; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Print AUC, log loss and weighted accuracy of every frozen condition and baseline, and how far the last lies from the baselines'."""
    settings = load()
    of = settings.heads[heads]
    settings = settings.for_model(of.model).for_target(of.corpus)
    changed = settings.head.model_validate(settings.head.model_dump() | dict(one.split("=", 1) for one in change))
    settings = settings.model_copy(update={"head": changed})
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(settings, of.corpus, of.model, Path(folder))
        rows = np.sort(np.concatenate([bench.splits["train"], bench.splits["validation"]]))
        speakers, targets = bench.examples.table["speaker"].astype(str).to_numpy()[rows], bench.targets[rows].astype(bool)
        names = sorted(set(speakers))
        fold = np.array([names.index(speaker) % folds for speaker in speakers])
        print(f"{len(rows)} utterances of {len(names)} speakers in {folds} folds, seeds {' '.join(map(str, settings.seeds))}")
        found = {name: [by_fold(answer, fold)] for name, answer in of_baselines(bench, rows, targets).items()}
        for condition in conditions({name: of.rows[name] for name in row or of.rows}, changed):
            if condition.tuning == "frozen" and condition.row.network == "calm":
                answers = by_fold(of_heads(bench, condition, rows, Path(folder)), fold)
                found[f"{condition.name}, {condition.modality}"] = list(answers.transpose(1, 0, 2))
    show(found, targets, speakers, fold, settings.evaluate.bootstrap)


def by_fold(answer: Callable[[np.ndarray], np.ndarray], fold: np.ndarray) -> np.ndarray:
    """Probabilities of all rows, each from what was trained on the folds that it is not in (`answer` of a mask of rows to hold out)."""
    parts = {number: answer(fold == number) for number in np.unique(fold)}
    whole = np.empty((len(fold), *next(iter(parts.values())).shape[1:]))
    for number, part in parts.items():
        whole[fold == number] = part
    return whole


def of_baselines(bench: Bench, rows: np.ndarray, targets: np.ndarray) -> dict[str, Callable]:
    """By name what fits a baseline and answers to the rows that were held out."""
    table = read_table(paths.utterances(bench.corpus)).set_index("id", drop=False).loc[bench.examples.table["id"].iloc[rows]]
    segments = list(table[["audio", "start", "end"]].itertuples(index=False, name=None))
    extracted = {
        "egemaps": baselines.egemaps(segments, bench.settings.features.workers, bench.folder),
        "logmel_functionals": baselines.logmel_functionals(paths.features(bench.corpus), table["id"]),
    }

    def fitted(features: baselines.Extracted) -> Callable:
        return lambda held: baselines.regress(features, targets, ~held, held, bench.examples.one_hot).probabilities[held]

    return {name: fitted(features) for name, features in extracted.items()}


def of_heads(bench: Bench, condition: Condition, rows: np.ndarray, folder: Path) -> Callable:
    """What trains the heads of all seeds and answers: (rows held out, seeds, classes). Vectors are computed once for all folds."""
    seeds, copies = bench.settings.seeds, 0 if condition.modality == "text" else bench.settings.head.frozen_copies
    plain = head.pooled(bench, condition, seeds, np.arange(len(bench.targets)))
    changed = [head.pooled(bench, condition, seeds, rows, mix(seeds[0], copy)) for copy in range(copies)]

    def answer(held: np.ndarray) -> np.ndarray:
        bench.splits = {"train": rows[~held], "validation": rows[held], "test": rows[held]}
        vectors = torch.cat([plain, *(part[~held] for part in changed)])
        of = np.concatenate([np.arange(len(plain)), *[rows[~held]] * copies])
        with tempfile.TemporaryDirectory(dir=folder) as work:
            network, collator, _ = head.on_vectors(bench, condition, vectors, of, seeds, Path(work))
        return probabilities(predict(network, rows[held], collator, 512))

    return answer


def decided(answers: np.ndarray, targets: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Decisions of each fold at thresholds tuned on the others."""
    decisions = np.empty_like(targets)
    for number in np.unique(fold):
        held = fold == number
        decisions[held] = answers[held] >= thresholds.tune_thresholds(targets[~held], answers[~held])
    return decisions


def show(found: dict[str, list[np.ndarray]], targets: np.ndarray, speakers: np.ndarray, fold: np.ndarray, samples: int) -> None:
    """A line a variant, mean over its seeds; differences with 95 % intervals over speakers."""
    resamples = resampling.Resamples.of(speakers.tolist(), samples, 0)
    drawn = {
        name: [resamples.metrics(targets, decided(run, targets, fold), [METRIC])[METRIC] for run in runs] for name, runs in found.items()
    }
    for name, runs in found.items():
        auc = np.mean([metrics.auc_macro(targets, run) for run in runs])
        loss = np.mean([-np.log(np.where(targets, run, 1 - run)).mean() for run in runs])  # of each class by itself
        line = f"{name:28s} AUC {auc:.4f}   log loss {loss:.4f}   weighted accuracy {100 * np.mean([run[0] for run in drawn[name]]):.1f} %"
        for baseline in ("egemaps", "logmel_functionals"):
            if name not in ("egemaps", "logmel_functionals"):
                apart = resampling.difference(drawn[name], drawn[baseline])
                line += f"   to {baseline} {100 * apart['difference']:+.1f} ({100 * apart['low']:+.1f} to {100 * apart['high']:+.1f})"
        print(line)


if __name__ == "__main__":
    typer.run(main)
