"""Figures of cross-validation: over the tested utterances of all folds, and the mean and spread over the folds.

By argmax they have the names of EmoBox (arXiv 2406.07162): UA is `balanced_accuracy`, WA `accuracy_argmax`, and macro F1 `macro_f1_argmax`.
"""

from collections import defaultdict

import numpy as np

from calm.evaluation import metrics, resampling
from pipeline.evaluation.predictions import CorpusEvaluation, Predictions

# Kind of thresholds -> name -> entry of `metrics.OF_COUNTS`. Of argmax decisions the micro F1 is the share of right answers.
FIGURES = {
    "argmax": {"balanced_accuracy": "balanced_accuracy", "accuracy_argmax": "f1_micro", "macro_f1_argmax": "f1_macro"},
    "tuned": {"weighted_accuracy": "weighted_accuracy"},
    "0.5": {"weighted_accuracy": "weighted_accuracy"},
}


def rows(all_predictions: list[Predictions], evaluation: CorpusEvaluation, samples: int, seed: int) -> list[dict]:
    """Rows of `folds.json`, one a system, kind of thresholds and metric, over the utterances that every seed has a prediction for.

    `pooled` is the mean over seeds on all tested utterances, `low` and `high` its 95 % interval over speakers. `folds` has the mean over
    seeds of each fold (null where the metric is not defined); `mean` and `spread` are mean and standard deviation over the folds.

    Args:
        samples, seed: of the bootstrap.
    """
    systems = defaultdict(list)
    for predictions in all_predictions:
        systems[predictions.system].append(predictions)
    lines = []
    for system, runs in systems.items():
        for threshold, names in FIGURES.items():
            decided = [run.decisions[key] for run in runs if (key := ("test", threshold)) in run.decisions]
            present = np.logical_and.reduce([run.present("test") for run in runs])
            if len(decided) < len(runs) or not present.any():
                continue
            table, targets = evaluation.truth["test"].table[present], evaluation.truth["test"].targets[present]
            by_seed = [decisions[present] for decisions in decided]
            resamples = resampling.Resamples.of(table["speaker"].tolist(), samples, seed)
            drawn = [resamples.metrics(targets, decisions, names.values()) for decisions in by_seed]
            for name, function in names.items():
                values = [of_seed[function] for of_seed in drawn]
                pooled = resampling.difference(values, [np.zeros_like(values[0])])
                figures = {"pooled": pooled["difference"], "low": pooled["low"], "high": pooled["high"]}
                figures |= over_folds(targets, by_seed, table["fold"].to_numpy(), function)
                size = {"n": len(table), "speakers": resamples.speakers, "seeds": len(runs)}
                lines.append({**system._asdict(), "threshold": threshold, "metric": name, **figures, **size})
    return lines


def over_folds(targets: np.ndarray, by_seed: list[np.ndarray], folds: np.ndarray, metric: str) -> dict:
    """`mean` and `spread` over folds of a metric's mean over seeds, and by fold in `folds`.

    Args:
        targets: bool (utterances, classes); by_seed: such decisions of each seed.
        folds: (utterances,) in which each is tested.
        metric: of `metrics.OF_COUNTS`.
    """
    values = {}
    for fold in np.unique(folds):
        chosen = folds == fold
        value = np.mean([metrics.score(metric, targets[chosen], decisions[chosen]) for decisions in by_seed])
        values[str(fold)] = float(value) if np.isfinite(value) else None
    known = [value for value in values.values() if value is not None]
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)) if known else None, "spread": spread, "folds": values}
