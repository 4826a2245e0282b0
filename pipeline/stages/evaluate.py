"""Stage `evaluate`: metrics of every head and baseline (appendix B and the standard ones) on validation and test.

Thresholds: "0.5" for every class; "tuned", one a class, on the validation split of the same run; "argmax", the likeliest class
alone, where every utterance has exactly one. What needs no threshold (auc_macro, average_precision_macro, ece) stands with "0.5".

On a corpus with folds an utterance has the logits of the fold in which it is tested, and the thresholds tuned on that fold's validation.
Figures are over the utterances of all folds; `folds.json` has those by fold, with their mean and spread.
"""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa

from calm.evaluation import calibration, metrics, thresholds
from calm.storage import write_json, write_parquet
from pipeline import paths
from pipeline.evaluation import folds, groups, runs
from pipeline.evaluation.comparisons import compare
from pipeline.evaluation.predictions import (
    CorpusEvaluation,
    Predictions,
    calibrate,
    probabilities_of_everybody,
    read_predictions,
    read_truth,
)
from pipeline.settings import Settings
from pipeline.stage import measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking.tracker import stage_run


def run(settings: Settings, corpus: str) -> str:
    """Evaluate one corpus; writes metrics, thresholds, predictions, comparisons, calibration and notes."""
    seen = visible(settings, "evaluate", corpus)
    params, synthetic = {"evaluate": seen.evaluate}, seen.corpora[corpus].synthetic
    with (
        stage_run(seen, corpus, params, synthetic, seen.seeds[0]) as tracked,
        whole(paths.evaluation(corpus)) as folder,
    ):
        evaluation, predictions = evaluate(seen, corpus, logits_files(seen, corpus), folder)
        for name in ("metrics.json", "comparisons.json", "thresholds.json", "notes.json"):
            tracked.artifact(folder / name)
        runs.track(seen, evaluation, predictions, tracked)
        measure(address("evaluate", corpus), mlflow_run=tracked.id)
    missing = f"; {len(evaluation.notes['missing'])} lack utterances (notes.json)" if evaluation.notes["missing"] else ""
    return f"{corpus}: {len(predictions)} heads and baselines evaluated, {len(evaluation.rows)} values{missing}"


def logits_files(settings: Visible, corpus: str) -> list[tuple[str, Path]]:
    """Files of logits with their language model's name, that of the baselines with "-"; raises ValueError if one is missing.

    Folders of models that the settings no longer name are not read.
    """
    models = [heads.model for heads in settings.heads.values() if heads.corpus == corpus]
    files = [(settings.lm[model], paths.heads(corpus, model) / "logits.parquet") for model in models]
    files.append(("-", paths.baselines(corpus) / "logits.parquet"))
    for name, file in files:
        if not file.exists():
            raise ValueError(f"{file} is missing: run the stage {'baselines' if name == '-' else 'head'} for {corpus} first")
    return files


def evaluate(settings: Visible, corpus: str, files: list[tuple[str, Path]], folder: Path) -> tuple[CorpusEvaluation, list[Predictions]]:
    """All of the stage but its tracking: reads `files` (language model's name, file of logits), writes to `folder`."""
    evaluation = read_truth(paths.utterances(corpus), corpus, settings.corpora[corpus].synthetic)
    evaluation.notes["not_evaluated"] = []
    all_predictions = [predictions for lm, file in files for predictions in read_predictions(file, lm, evaluation)]
    evaluation.notes["decision"] = decision_of(settings, evaluation)
    for predictions in all_predictions:
        if settings.head.loss == "softmax" and predictions.system.lm != "-":
            calibrate(predictions, evaluation)
        decide(predictions, evaluation, settings)
        score(predictions, evaluation)
    comparisons, intervals = compare(all_predictions, evaluation, settings.evaluate.bootstrap, settings.seeds[0])
    language = settings.transcribe.language or "en"
    write_json(evaluation.rows, folder / "metrics.json")
    write_json(_thresholds(all_predictions, evaluation), folder / "thresholds.json")
    write_parquet(_table(all_predictions, evaluation), folder / "predictions.parquet", compression="zstd")
    write_json(comparisons, folder / "comparisons.json")
    write_json(intervals, folder / "intervals.json")
    if evaluation.folds:
        write_json(folds.rows(all_predictions, evaluation, settings.evaluate.bootstrap, settings.seeds[0]), folder / "folds.json")
    write_json(groups.rows(all_predictions, evaluation, paths.texts(corpus), language), folder / "buckets.json")
    write_json(_calibration(all_predictions, evaluation), folder / "calibration.json")
    evaluation.notes["left_out"] = [{**dict(what), "runs": names} for what, names in evaluation.left_out.items()]
    write_json(evaluation.notes, folder / "notes.json")
    return evaluation, all_predictions


def decision_of(settings: Visible, evaluation: CorpusEvaluation) -> str:
    """The kind of thresholds by which released models decide. Raises ValueError for argmax where an utterance may have several classes."""
    if settings.head.decision == "argmax" and not evaluation.one_hot:
        raise ValueError(f"head.decision is argmax, but utterances of {evaluation.corpus} may have several classes or none: use thresholds")
    return "argmax" if settings.head.decision == "argmax" else "tuned"


def decide(predictions: Predictions, evaluation: CorpusEvaluation, settings: Visible) -> None:
    """Tune thresholds on each fold's validation, and decide at all thresholds; without a validation split, not at tuned ones."""
    notes = evaluation.notes["not_evaluated"]
    tune = partial(thresholds.tune_thresholds, resamples=settings.evaluate.threshold_resamples, seed=settings.seeds[0])
    if "validation" in evaluation.truth:
        truth, present = evaluation.truth["validation"], predictions.present("validation")
        for fold in evaluation.folds or [0]:
            if (rows := present & (truth.table["fold"] == fold).to_numpy()).any():
                predictions.thresholds[fold] = tune(truth.targets[rows], predictions.probabilities["validation"][rows])
    if predictions.everybody is not None:
        predictions.thresholds[0] = tune(predictions.everybody[0], probabilities_of_everybody(predictions))
    for split, probabilities in predictions.probabilities.items():
        if not predictions.present(split).any():
            notes.append({**predictions.columns, "split": split, "reason": "no prediction for any utterance"})
            continue
        predictions.decisions[split, "0.5"] = probabilities >= 0.5
        of_rows = evaluation.truth[split].table["fold"]
        if not set(of_rows) <= set(predictions.thresholds):
            notes.append({**predictions.columns, "split": split, "threshold": "tuned", "reason": "no validation to tune on"})
        else:
            predictions.decisions[split, "tuned"] = probabilities >= np.stack([predictions.thresholds[fold] for fold in of_rows])
        if evaluation.one_hot:
            predictions.decisions[split, "argmax"] = thresholds.likeliest(predictions.logits[split])


def score(predictions: Predictions, evaluation: CorpusEvaluation) -> None:
    """Rows of metrics, over the utterances that have a prediction."""
    names = {"corpus": evaluation.corpus, "synthetic": evaluation.synthetic, **predictions.system._asdict()}
    for (split, threshold), decisions in predictions.decisions.items():
        present = predictions.present(split)
        targets = evaluation.truth[split].targets[present]
        results = [metrics.decided(targets, decisions[present], evaluation.classes, argmax=threshold == "argmax")]
        if threshold == "0.5":
            results.append(metrics.ranked(targets, predictions.probabilities[split][present], evaluation.classes))
        place = {"split": split, "threshold": threshold}
        for result in results:
            for name, value in result.values.items():
                evaluation.rows.append({**names, **place, "seed": predictions.seed, "metric": name, "value": value})
            for name, classes in result.left_out.items():
                key = {**place, "metric": name, "classes": tuple(classes), "defined": name in result.values}
                evaluation.left_out[tuple(key.items())].append(f"{' '.join(predictions.system)} {predictions.seed}")


def _thresholds(all_predictions: list[Predictions], evaluation: CorpusEvaluation) -> list[dict]:
    """Tuned thresholds of every head and baseline by class, and the temperature of a softmax, by fold; fold 0 is the released network."""
    return [
        {
            **predictions.columns,
            **({"fold": fold} if evaluation.folds else {}),
            "thresholds": dict(zip(evaluation.classes, tuned.tolist(), strict=True)),
            **({"temperature": predictions.temperatures[fold]} if fold in predictions.temperatures else {}),
        }
        for predictions in all_predictions
        for fold, tuned in predictions.thresholds.items()
    ]


def _calibration(all_predictions: list[Predictions], evaluation: CorpusEvaluation) -> list[dict]:
    """Bins of a reliability diagram of every head, baseline and split."""
    rows = []
    for predictions, split in product(all_predictions, evaluation.truth):
        if (present := predictions.present(split)).any():
            bins = calibration.reliability_diagram(evaluation.truth[split].targets[present], predictions.probabilities[split][present])
            rows.append({**predictions.columns, "split": split, "bins": bins})
    return rows


def _table(all_predictions: list[Predictions], evaluation: CorpusEvaluation) -> pa.Table:
    """A row a prediction: id, split, speaker, labels, the system and seed, probabilities in the order of the classes, and decisions."""
    parts = []
    for predictions, split in product(all_predictions, evaluation.truth):
        present = predictions.present(split)
        table, probabilities = evaluation.truth[split].table[present], predictions.probabilities[split][present]
        size = len(table)
        columns = {
            "id": pa.array(table["id"], pa.string()),
            "split": pa.array([split] * size, pa.string()),
            "speaker": pa.array(table["speaker"], pa.string()),
            **({"fold": pa.array(table["fold"], pa.int32())} if evaluation.folds else {}),
            "labels": _lists(evaluation.truth[split].targets[present], evaluation.classes),
            **{key: pa.array([value] * size, pa.int64() if key == "seed" else pa.string()) for key, value in predictions.columns.items()},
            "probabilities": pa.ListArray.from_arrays(
                pa.array(np.arange(size + 1) * len(evaluation.classes), pa.int32()), pa.array(probabilities.ravel(), pa.float32())
            ),
        }
        for threshold in ("0.5", "tuned", *(["argmax"] if evaluation.one_hot else [])):
            decisions = predictions.decisions.get((split, threshold))
            empty = pa.nulls(size, pa.list_(pa.string()))
            columns[f"decided_{threshold}"] = empty if decisions is None else _lists(decisions[present], evaluation.classes)
        parts.append(pa.table(columns))
    return pa.concat_tables(parts).replace_schema_metadata({"classes": "\n".join(evaluation.classes)})


def _lists(chosen: np.ndarray, classes: tuple[str, ...]) -> pa.ListArray:
    """Bool (utterances, classes) as lists of class names."""
    offsets = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(classes, pa.string()).take(pa.array(np.nonzero(chosen)[1])))
