"""Which heads and baselines differ: paired bootstrap over the speakers of the test split."""

from collections import defaultdict
from itertools import product

import numpy as np

from calm.evaluation import resampling
from pipeline.evaluation.predictions import CorpusEvaluation, Predictions, System
from pipeline.paper import BASELINES, CALM_VARIANTS, FROZEN, KNOWN

METRICS = ("weighted_accuracy", "accuracy", "balanced_accuracy", "f1_paper", "f1_macro")


def compare(all_predictions: list[Predictions], evaluation: CorpusEvaluation, samples: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Compare on the utterances for which all heads and baselines have a prediction.

    Args:
        samples, seed: of the bootstrap.

    Returns:
        Differences: `a` and `b` are systems, `difference` is a - b of the metric's mean over seeds, `low` and `high` its 95 % interval.
        Intervals: of every system, `mean` of the metric over seeds, `low` and `high`.
    """
    all_predictions = [predictions for predictions in all_predictions if ("test", "0.5") in predictions.decisions]
    if not all_predictions:
        return [], []
    shared = np.logical_and.reduce([predictions.present("test") for predictions in all_predictions])
    if not shared.any():
        reason = "no test utterance has a prediction of every head and baseline"
        evaluation.notes["not_evaluated"].append({"comparisons": "all", "reason": reason})
        return [], []
    truth = evaluation.truth["test"]
    resamples = resampling.Resamples.of(truth.table["speaker"][shared].tolist(), samples, seed)
    drawn: dict = defaultdict(list)  # by system and threshold: the metrics of each seed on every resample
    for predictions in all_predictions:
        for (split, threshold), decisions in predictions.decisions.items():
            if split == "test":
                drawn[predictions.system, threshold].append(resamples.metrics(truth.targets[shared], decisions[shared], METRICS))
    about = {"corpus": evaluation.corpus, "synthetic": evaluation.synthetic, "split": "test"}
    size = {"n": int(shared.sum()), "speakers": resamples.speakers}
    return _differences(drawn, about, size), _intervals(drawn, about, size)


def _differences(drawn: dict, about: dict, size: dict) -> list[dict]:
    differences = []
    for (a, b), threshold, metric in product(_pairs({system for system, _ in drawn}), ("0.5", "tuned", "argmax"), METRICS):
        if drawn[a, threshold] and drawn[b, threshold]:
            first, second = ([values[metric] for values in drawn[system, threshold]] for system in (a, b))
            columns = {"a": a._asdict(), "b": b._asdict(), **about, "threshold": threshold, "metric": metric}
            seeds = {"seeds_a": len(first), "seeds_b": len(second)}
            differences.append({**columns, **resampling.difference(first, second), **size, **seeds})
    return differences


def _intervals(drawn: dict, about: dict, size: dict) -> list[dict]:
    intervals = []
    for (system, threshold), of_seeds in drawn.items():
        for metric in METRICS if of_seeds else ():
            values = [seed_values[metric] for seed_values in of_seeds]
            interval = resampling.difference(values, [np.zeros_like(values[0])])
            columns = {**about, **system._asdict(), "threshold": threshold, "metric": metric}
            bounds = {"mean": interval["difference"], "low": interval["low"], "high": interval["high"]}
            intervals.append({**columns, **bounds, **size, "seeds": len(of_seeds)})
    return intervals


def _pairs(systems: set[System]) -> list[tuple[System, System]]:
    """What CALM is compared with: every other row of its language model; audio and text alone; baselines. Frozen with frozen.

    Where CALM knows the tested speakers, baselines know them too.
    """
    pairs = []
    known = [system for system in systems if system.variant.removesuffix(FROZEN) == "calm" + KNOWN]
    for calm in sorted(known):
        pairs += [(calm, System(name, "-", "audio")) for name in BASELINES if name.endswith(KNOWN) and calm.modality == "audio"]
    for calm in sorted(system for system in systems if system.variant in CALM_VARIANTS):
        frozen = calm.variant.endswith(FROZEN)
        alike = [system for system in systems if system.variant.endswith(FROZEN) == frozen and system != calm]
        others = sorted(system for system in alike if (system.lm, system.modality) == (calm.lm, calm.modality))
        if calm.modality == "both":
            others += [calm._replace(modality="audio"), calm._replace(modality="text")]
        if calm.modality == "audio":
            others += [System(name, "-", "audio") for name in BASELINES if name != "chance" and not name.endswith(KNOWN)]
        pairs += [(calm, other) for other in others]
    return [(calm, other) for calm, other in pairs if other in systems]
