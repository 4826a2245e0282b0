"""Appendix B's metrics and the standard ones, of every head and baseline, on validation and test, at three kinds of thresholds.

Thresholds: "0.5" for every class; "tuned", one a class, on the validation split of the same run; "argmax", the likeliest class
alone, where every utterance has exactly one. What needs no threshold (auc_macro, average_precision_macro, ece) stands with "0.5".
"""

import time
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa

from calm import storage
from calm.evaluation import metrics, resampling, thresholds
from calm.storage import write_parquet
from pipeline import paths, stage
from pipeline.evaluation import groups
from pipeline.evaluation.predictions import Evaluation, Run, System, read_runs, read_truth
from pipeline.paper import tables_of
from pipeline.settings import Settings
from pipeline.tracking import registry, tracker

COMPARED = ("weighted_accuracy", "accuracy", "balanced_accuracy", "f1_paper", "f1_macro")
BASELINES = ("egemaps", "logmel_functionals")


def run(settings: Settings, corpus: str) -> str:
    """Evaluate one corpus; writes metrics, thresholds, predictions, comparisons, calibration and notes."""
    begin, synthetic = time.monotonic(), settings.corpora[corpus].synthetic
    with (
        tracker.stage_run(settings, corpus, {"evaluate": settings.evaluate}, synthetic, settings.seeds[0]) as tracked,
        stage.whole(paths.evaluation(corpus)) as folder,
    ):
        made, runs = evaluate(settings, corpus, logits_files(settings, corpus), folder, tracked.id)
        tracked.log(means(made.rows))
        for name in ("metrics.json", "comparisons.json", "thresholds.json", "notes.json"):
            tracked.artifact(folder / name)
        track(made, runs, tracked)
        released = [heads for heads in settings.heads.values() if heads.corpus == corpus and heads.release]
        registered = [register(settings, made, runs, heads.model, tracked) for heads in released]
    missing = f"; {len(made.notes['missing'])} lack utterances (notes.json)" if made.notes["missing"] else ""
    said = f"{corpus}: {len(runs)} runs evaluated, {len(made.rows)} values in {time.monotonic() - begin:.1f} s{missing}"
    return "; ".join([said, *registered])


def register(settings: Settings, made: Evaluation, runs: list[Run], name: str, tracked: tracker.Run) -> str:
    """Put the released model of the heads on the model `name` in MLflow's registry; returns what was done in a few words."""
    model = paths.heads(made.corpus, name) / "model"
    kept = storage.read_json(model / "release.json")
    system = System(kept["variant"], settings.lm(name), kept["modality"])
    (one,) = [one for one in runs if one.system == system and one.seed == kept["seed"]]
    if ("validation", "tuned") not in one.decisions:
        return f"the model on {name} is not registered, as nothing was decided on validation"
    truth = made.truth["validation"]
    columns = {"targets": list(truth.targets), "decided": list(one.decisions["validation", "tuned"])}
    validation = truth.table[["id", "speaker"]].assign(**columns)[one.answered("validation")]
    tags = {**{key: str(value) for key, value in one.name.items()}, "calm.synthetic": str(made.synthetic).lower()}
    return registry.register(tracked, made.corpus, model, validation, tags, settings.evaluate.bootstrap, settings.seeds[0])


def logits_files(settings: Settings, corpus: str) -> list[tuple[str, Path]]:
    """Files of logits with their language model's name, that of the baselines with "-"; raises ValueError where one is missing.

    Folders of models that the settings no longer name are not read.
    """
    models = [heads.model for heads in settings.heads.values() if heads.corpus == corpus]
    files = [(settings.lm(model), paths.heads(corpus, model) / "logits.parquet") for model in models]
    files.append(("-", paths.baselines(corpus) / "logits.parquet"))
    for name, file in files:
        if not file.exists():
            raise ValueError(f"{file} is missing: run the stage {'baselines' if name == '-' else 'head'} for {corpus} first")
    return files


def evaluate(
    settings: Settings, corpus: str, files: list[tuple[str, Path]], folder: Path, mlflow_run: str = ""
) -> tuple[Evaluation, list[Run]]:
    """All of the stage but its tracking: reads `files` (language model's name, file of logits), writes to `folder`."""
    made = read_truth(paths.utterances(corpus), corpus, settings.corpora[corpus].synthetic)
    made.notes |= {"mlflow_run": mlflow_run, "missing": [], "not_evaluated": []}
    runs = [one for lm, file in files for one in read_runs(file, lm, made)]
    for one in runs:
        decide(one, made)
        measure(one, made)
    comparisons, intervals = compare(runs, made, settings.evaluate.bootstrap, settings.seeds[0])
    storage.write_json(made.rows, folder / "metrics.json")
    storage.write_json(_thresholds(runs, made), folder / "thresholds.json")
    write_parquet(_predictions(runs, made), folder / "predictions.parquet", compression="zstd")
    storage.write_json(comparisons, folder / "comparisons.json")
    storage.write_json(intervals, folder / "intervals.json")
    storage.write_json(groups.rows(runs, made, paths.texts(corpus), settings.transcribe.language or "en"), folder / "buckets.json")
    storage.write_json(_calibration(runs, made), folder / "calibration.json")
    made.notes["left_out"] = [{**dict(what), "runs": of} for what, of in made.left_out.items()]
    storage.write_json(made.notes, folder / "notes.json")
    return made, runs


def track(made: Evaluation, runs: list[Run], tracked: tracker.Run) -> None:
    """A run of MLflow for every run that was evaluated, with the figures of the report and its place in the paper's tables."""
    values = defaultdict(dict)
    for row in made.rows:
        if row["metric"] in metrics.OF_COUNTS or row["metric"] in ("auc_macro", "ece"):
            of = System(row["variant"], row["lm"], row["modality"]), row["seed"]
            values[of][f"{row['split']}/{row['threshold']}/{row['metric']}"] = row["value"]
    for one in runs:
        inputs = {run.system.modality for run in runs if run.system[:2] == one.system[:2]}
        place = {"table": tables_of(one.system.variant, one.system.modality, inputs), "row": one.system.variant}
        tags = {key: str(value) for key, value in {**one.name, **place}.items()}
        with tracked.child(f"{' '.join(one.system)} {one.seed}", tags=tags) as run:
            run.log(values[one.system, one.seed])


def decide(one: Run, made: Evaluation) -> None:
    """Tune thresholds on validation and decide at all thresholds; where there is no validation, not at tuned ones."""
    if "validation" in made.truth and (answered := one.answered("validation")).any():
        one.thresholds = thresholds.tune_thresholds(made.truth["validation"].targets[answered], one.probabilities["validation"][answered])
    for split, probabilities in one.probabilities.items():
        if not one.answered(split).any():
            made.notes["not_evaluated"].append({**one.name, "split": split, "reason": "no answer to any utterance"})
            continue
        one.decisions[split, "0.5"] = probabilities >= 0.5
        if one.thresholds is None:
            made.notes["not_evaluated"].append({**one.name, "split": split, "threshold": "tuned", "reason": "no validation to tune on"})
        else:
            one.decisions[split, "tuned"] = probabilities >= one.thresholds
        if made.one_hot:
            one.decisions[split, "argmax"] = thresholds.likeliest(one.logits[split])


def measure(one: Run, made: Evaluation) -> None:
    """Rows of metrics of a run, over the utterances that it answers."""
    for (split, threshold), decisions in one.decisions.items():
        answered = one.answered(split)
        targets = made.truth[split].targets[answered]
        results = [metrics.decided(targets, decisions[answered], made.classes, argmax=threshold == "argmax")]
        if threshold == "0.5":
            results.append(metrics.ranked(targets, one.probabilities[split][answered], made.classes))
        head = {"corpus": made.corpus, "synthetic": made.synthetic, **one.system._asdict(), "split": split, "threshold": threshold}
        for result in results:
            made.rows += [{**head, "seed": one.seed, "metric": name, "value": value} for name, value in result.values.items()]
            for name, classes in result.left_out.items():
                what = {"split": split, "threshold": threshold, "metric": name, "classes": tuple(classes), "defined": name in result.values}
                made.left_out[tuple(what.items())].append(f"{' '.join(one.system)} {one.seed}")


def compare(runs: list[Run], made: Evaluation, samples: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Paired bootstrap over the speakers of the test split, on the utterances that all runs answer.

    Returns:
        Differences: `a` and `b` are systems, `difference` is a - b of the metric's mean over seeds, `low` and `high` its 95 % interval.
        Intervals: of every system, `mean` of the metric over seeds, `low` and `high`.
    """
    runs = [one for one in runs if ("test", "0.5") in one.decisions]
    if not runs:
        return [], []
    shared = np.logical_and.reduce([one.answered("test") for one in runs])
    if not shared.any():
        made.notes["not_evaluated"].append({"comparisons": "all", "reason": "no test utterance is answered by every run"})
        return [], []
    truth = made.truth["test"]
    resamples = resampling.Resamples.of(truth.table["speaker"][shared].tolist(), samples, seed)
    values: dict = defaultdict(list)
    for one in runs:
        for (split, threshold), decisions in one.decisions.items():
            if split == "test":
                values[one.system, threshold].append(resamples.metrics(truth.targets[shared], decisions[shared], COMPARED))
    size = {"n": int(shared.sum()), "speakers": resamples.speakers}
    about = {"corpus": made.corpus, "synthetic": made.synthetic, "split": "test"}
    differences, intervals = [], []
    for (a, b), threshold, metric in product(_pairs({one.system for one in runs}), ("0.5", "tuned", "argmax"), COMPARED):
        if values[a, threshold] and values[b, threshold]:
            first, second = ([found[metric] for found in values[system, threshold]] for system in (a, b))
            seeds = {"seeds_a": len(first), "seeds_b": len(second)}
            what = {**about, "threshold": threshold, "metric": metric}
            differences.append({"a": a._asdict(), "b": b._asdict(), **what, **resampling.difference(first, second), **size, **seeds})
    for (system, threshold), found in values.items():
        for metric in COMPARED if found else ():
            drawn = [of_seed[metric] for of_seed in found]
            of = resampling.difference(drawn, [np.zeros_like(drawn[0])])
            what = {**system._asdict(), "threshold": threshold, "metric": metric}
            intervals.append({**about, **what, "mean": of["difference"], "low": of["low"], "high": of["high"], **size, "seeds": len(found)})
    return differences, intervals


def _pairs(systems: set[System]) -> list[tuple[System, System]]:
    """CALM against every other row of its language model; both modalities against each; audio against the baselines; frozen as unfrozen."""
    pairs = []
    for a in sorted(system for system in systems if system.variant in ("calm", "calm_frozen")):
        frozen = a.variant.endswith("_frozen")
        alike = [system for system in systems if system.variant.endswith("_frozen") == frozen and system != a]
        others = sorted(system for system in alike if (system.lm, system.modality) == (a.lm, a.modality))
        if a.modality == "both":
            others += [a._replace(modality="audio"), a._replace(modality="text")]
        if a.modality == "audio":
            others += [System(name, "-", "audio") for name in BASELINES]
        pairs += [(a, b) for b in others if b in systems]
    return pairs


def _thresholds(runs: list[Run], made: Evaluation) -> list[dict]:
    """Tuned thresholds of every run by class."""
    tuned = [one for one in runs if one.thresholds is not None]
    return [{**one.name, "thresholds": dict(zip(made.classes, one.thresholds.tolist(), strict=True))} for one in tuned]


def _calibration(runs: list[Run], made: Evaluation) -> list[dict]:
    """Bins of a reliability diagram of every run and split."""
    rows = []
    for one, split in product(runs, made.truth):
        if (answered := one.answered(split)).any():
            bins = thresholds.calibration(made.truth[split].targets[answered], one.probabilities[split][answered])
            rows.append({**one.name, "split": split, "bins": bins})
    return rows


def _predictions(runs: list[Run], made: Evaluation) -> pa.Table:
    """One row an answer: id, split, speaker, labels, the run, probabilities in the order of the classes, and classes decided on."""
    parts = []
    for one, split in product(runs, made.truth):
        answered = one.answered(split)
        table, probabilities = made.truth[split].table[answered], one.probabilities[split][answered]
        size = len(table)
        columns = {
            "id": pa.array(table["id"], pa.string()),
            "split": pa.array([split] * size, pa.string()),
            "speaker": pa.array(table["speaker"], pa.string()),
            "labels": _lists(made.truth[split].targets[answered], made.classes),
            **{key: pa.array([value] * size, pa.int64() if key == "seed" else pa.string()) for key, value in one.name.items()},
            "probabilities": pa.ListArray.from_arrays(
                pa.array(np.arange(size + 1) * len(made.classes), pa.int32()), pa.array(probabilities.ravel(), pa.float32())
            ),
        }
        for threshold in ("0.5", "tuned", *(["argmax"] if made.one_hot else [])):
            decisions = one.decisions.get((split, threshold))
            empty = pa.nulls(size, pa.list_(pa.string()))
            columns[f"decided_{threshold}"] = empty if decisions is None else _lists(decisions[answered], made.classes)
        parts.append(pa.table(columns))
    return pa.concat_tables(parts).replace_schema_metadata({"classes": "\n".join(made.classes)})


def _lists(chosen: np.ndarray, classes: tuple[str, ...]) -> pa.ListArray:
    """Bool (utterances, classes) as lists of class names."""
    offsets = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(classes, pa.string()).take(pa.array(np.nonzero(chosen)[1])))


def means(rows: list[dict]) -> dict[str, float]:
    """Means over seeds of the metrics of the report, by a name for MLflow."""
    found = defaultdict(list)
    for row in rows:
        if row["metric"] in metrics.OF_COUNTS:
            found["/".join(row[key] for key in ("split", "threshold", "variant", "lm", "modality", "metric"))].append(row["value"])
    return {name: float(np.mean(values)) for name, values in found.items()}


if __name__ == "__main__":
    stage.start(run, corpus=lambda settings: settings.targets)
