"""What `evaluate` adds to the MLflow runs of heads and baselines: the figures of the report, under the same names in every run."""

from collections import defaultdict
from collections.abc import Iterator

from calm.evaluation import metrics
from calm.storage import read_json
from pipeline import paths
from pipeline.evaluation.predictions import CorpusEvaluation, Predictions
from pipeline.paper import tables_of
from pipeline.state import Visible, address
from pipeline.tracking import systems
from pipeline.tracking.tracker import TrackedRun

RANKED = ("auc_macro", "ece")  # besides what is counted
Figure = tuple[str, str, str, float | None]  # split, kind of thresholds, metric, value


def track(settings: Visible, evaluation: CorpusEvaluation, all_predictions: list[Predictions], tracked: TrackedRun) -> None:
    """Log the figures of every head and baseline, and its place in the paper's tables, into the run in which it was trained.

    On a corpus with folds, each fold's run gets the figures of the fold, and a run of its own those of all folds.
    """
    trained, figures = trained_in(settings, evaluation.corpus), defaultdict(list)
    for row in evaluation.rows:
        if row["metric"] in metrics.OF_COUNTS or row["metric"] in RANKED:
            key = row["variant"], row["lm"], row["modality"], row["seed"]
            figures[key].append((row["split"], row["threshold"], row["metric"], row["value"]))
    for predictions in all_predictions:
        system, seed = predictions.system, predictions.seed
        inputs = {other.system.modality for other in all_predictions if other.system[:2] == system[:2]}
        tags = {"lm": system.lm, "table": tables_of(system.variant, system.modality, inputs)}
        model, known = trained.get((*system, seed), ("none", {}))
        names = {"corpus": evaluation.corpus, "model": model, "variant": system.variant, "modality": system.modality, "seed": seed}
        for fold, run in known.items() if evaluation.folds else ():
            if fold:  # 0 is the network that is released, which nobody is left to test
                systems.add_figures(tracked, run, systems.parameters(**names, fold=fold), of_fold(predictions, evaluation, fold), tags)
        whole = systems.parameters(**names, **({"fold": systems.ALL_FOLDS} if evaluation.folds else {}))
        systems.add_figures(tracked, known.get(None), whole, figures[*system, seed], tags)


def trained_in(settings: Visible, corpus: str) -> dict[tuple, tuple[str, dict[int | None, str]]]:
    """Of every head and baseline (variant, language model's name, modality, seed) its model, and its runs by fold (None: no folds).

    Rows of `together`, and what another machine trained, have no runs here.
    """
    stages = [(address("head", name), entry.model, settings.lm[entry.model]) for name, entry in settings.heads.items()]
    found: dict[tuple, tuple[str, dict[int | None, str]]] = {}
    for stage, model, lm in [*stages, (address("baselines", corpus), "none", "-")]:
        file = paths.measured(stage)
        for head in read_json(file).get("heads", []) if file.exists() else []:
            _, runs = found.setdefault((head["variant"], lm, head["modality"], head["seed"]), (model, {}))
            runs[head.get("fold")] = head.get("mlflow_run")
    return found


def of_fold(predictions: Predictions, evaluation: CorpusEvaluation, fold: int) -> Iterator[Figure]:
    """Figures over the utterances that a fold tests, or that validate in it."""
    for (split, threshold), decisions in predictions.decisions.items():
        truth = evaluation.truth[split]
        rows = predictions.present(split) & (truth.table["fold"] == fold).to_numpy()
        if rows.any():
            targets = truth.targets[rows]
            values = metrics.decided(targets, decisions[rows], evaluation.classes, argmax=threshold == "argmax").values
            if threshold == "0.5":
                values |= metrics.ranked(targets, predictions.probabilities[split][rows], evaluation.classes).values
            yield from ((split, threshold, name, value) for name, value in values.items() if name in metrics.OF_COUNTS or name in RANKED)
