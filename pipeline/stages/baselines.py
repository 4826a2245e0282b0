"""Stage `baselines`: what a user would pick instead of CALM, on the same utterances: chance, eGeMAPS, and functionals of the
log-mel and of a speech encoder's states."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from calm.audio.features import ENCODER
from calm.corpora.folds import folds_of, split_in
from calm.corpora.utterances import multi_hot, read_table
from calm.evaluation import baselines
from calm.storage import write_json, write_parquet
from pipeline import paths
from pipeline.settings import Settings
from pipeline.stage import checkpoints, measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking import systems
from pipeline.tracking.tracker import TrackedRun, stage_run

HELD_OUT = ("validation", "test")
NAMED = 50  # ids of utterances without features that a report names for each baseline; it counts all


def run(settings: Settings, corpus: str) -> str:
    """Write `logits.parquet` of the validation and test split, or of those of each fold, and `metrics.json` with choices and failures."""
    seen = visible(settings, "baselines", corpus)
    names, synthetic = seen.evaluate.baselines, seen.corpora[corpus].synthetic
    with (
        stage_run(seen, corpus, {"baselines": names}, synthetic, seen.seeds[0]) as tracked,
        checkpoints(settings, "baselines", corpus, paths.utterances(corpus), paths.fingerprint(corpus)) as work,
        whole(paths.baselines(corpus)) as folder,
    ):
        report, seconds = answer(seen, paths.utterances(corpus), paths.features(corpus), folder, work, seen.corpora[corpus].refit)
        write_json({**report, "synthetic": synthetic}, folder / "metrics.json")
        runs = [track(corpus, name, figures, seen.seeds[0], tracked) for name, figures in report["baselines"].items()]
        tracked.artifact(folder / "metrics.json")
        measure(address("baselines", corpus), mlflow_run=tracked.id, heads=runs, seconds_features=seconds)
    lacking = {name: count for name, figures in report["baselines"].items() if (count := figures["without_features"])}
    failures = "".join(f"; {name} has no features of {count} utterances" for name, count in lacking.items())
    return f"{corpus}: {', '.join(names) or 'no baseline'}{failures}"


def track(corpus: str, name: str, figures: dict, seed: int, tracked: TrackedRun) -> dict:
    """A run of MLflow for a baseline, with what was found in fitting it; returns its names and the run's id."""
    names = {"variant": name, "modality": modality_of(name), "seed": seed}
    fold = {"fold": systems.ALL_FOLDS} if "folds" in figures else {}
    with systems.opened(tracked, systems.parameters(corpus, "none", **names, **fold)) as run:
        run.log({key: value for key, value in figures.items() if isinstance(value, int | float)})
    return {**names, "mlflow_run": run.id}


def modality_of(name: str) -> str:
    """The input of a baseline."""
    return "none" if name == "chance" else "audio"


def answer(
    settings: Visible, utterances: Path, features: Path, folder: Path, work: Path | None = None, refit: bool = False
) -> tuple[dict, dict[str, float]]:
    """Fit every baseline of the settings and write `logits.parquet` to `folder`.

    Columns: id, split, variant, modality, seed, fold where the corpus has folds, logits (log-odds of each class). In `work` a stopped
    extraction keeps what it has.

    Returns:
        The report, and by baseline the seconds that its features took.
    """
    table = read_table(utterances)
    classes, one_hot = table.attrs["classes"], table.attrs["one_hot"]
    table = table[table["labels"].notna()].reset_index(drop=True)
    targets = multi_hot(table["labels"], classes, one_hot)
    folds = folds_of(table)
    places = {fold: split_in(table, fold or 0) for fold in folds or [None]}  # fold -> split of every utterance
    for fold, split in places.items():
        train, held_out = (split == "train").sum(), split.isin(HELD_OUT).sum()
        if not train or not held_out:
            raise ValueError(
                f"{utterances} has {train} labelled utterances in train and {held_out} in validation and test"
                f"{f' of fold {fold}' if fold else ''}: baselines need both"
            )
    trained_on = int((next(iter(places.values())) == "train").sum())
    report, seconds, parts = {"classes": classes, "train": trained_on, "baselines": {}}, {}, []
    for name in settings.evaluate.baselines:
        extracted, seconds[name] = _extract(name, settings, table, features, work)
        figures = {}
        for fold, split in places.items():
            probabilities, figures[fold] = _fit(name, extracted, split.to_numpy(), targets, one_hot, table["id"], refit)
            held_out = split.isin(HELD_OUT).to_numpy()
            columns = {"variant": name, "modality": modality_of(name), "seed": settings.seeds[0]}
            rows = table.loc[held_out, ["id"]].assign(split=split[held_out], **columns, **({"fold": fold} if fold else {}))
            parts.append(_logits(rows, baselines.log_odds(probabilities[held_out])))
        report["baselines"][name] = figures[None] if None in figures else _of_folds(figures)
    empty = _logits(table.loc[[], ["id", "split"]].assign(variant="", modality="", seed=0), np.empty((0, len(classes)), np.float32))
    write_parquet(pa.concat_tables(parts or [empty]), folder / "logits.parquet")
    return report, seconds


def _extract(
    name: str, settings: Visible, table: pd.DataFrame, features: Path, work: Path | None
) -> tuple[baselines.Extracted | None, float]:
    """Functionals of one baseline, None if it needs none, and the seconds that they took."""
    begin = time.monotonic()
    if name == "chance":
        return None, 0.0
    if name.endswith(baselines.KNOWN):
        extracted, seconds = _extract(name.removesuffix(baselines.KNOWN), settings, table, features, work)
        return baselines.of_known_speakers(extracted, table["speaker"]), seconds
    if name == "egemaps":
        segments = list(table[["audio", "start", "end"]].itertuples(index=False, name=None))
        extracted = baselines.egemaps(segments, settings.features.workers, work)
    elif name == "encoder_functionals":
        extracted = baselines.encoder_functionals(features / ENCODER, table["id"])
    else:
        extracted = baselines.logmel_functionals(features, table["id"])
    return extracted, time.monotonic() - begin


def _fit(
    name: str, extracted: baselines.Extracted | None, split: np.ndarray, targets: np.ndarray, one_hot: bool, ids: pd.Series, refit: bool
) -> tuple[np.ndarray, dict]:
    """Probabilities (utterances, classes) of one baseline, and figures about it."""
    train, validation = split == "train", split == "validation"
    if extracted is None:
        prior = baselines.prior(targets[train])
        return np.tile(prior, (len(targets), 1)), {"prior": prior.tolist(), "without_features": 0}
    if not (extracted.good & train).any():
        reason = next(iter(extracted.failed.values()), "")
        raise ValueError(f"{name}: none of the {train.sum()} training utterances has features; the first: {reason}")
    fitted = baselines.regress(extracted, targets, train, validation, one_hot, refit=refit)
    figures = {
        "functionals": extracted.values.shape[1],
        "c": fitted.strength,
        "validation_auc": fitted.validation_auc,
        "unconverged": fitted.unconverged,
        "constant_classes": fitted.constant,
        "without_features": fitted.without_features,
        "failed": {ids[row]: reason for row, reason in list(extracted.failed.items())[:NAMED]},
    }
    return fitted.probabilities, figures


def _of_folds(figures: dict[int, dict]) -> dict:
    """Figures of each fold, and the utterances without features, which are the same in all."""
    without = next(iter(figures.values()))["without_features"]
    return {"without_features": without, "folds": {str(fold): one for fold, one in figures.items()}}


def _logits(rows: pd.DataFrame, logits: np.ndarray) -> pa.Table:
    """The rows with their logits (utterances, classes) as a list column."""
    table = pa.Table.from_pandas(rows.astype({"seed": "int64"}), preserve_index=False)
    offsets = pa.array(np.arange(len(rows) + 1) * logits.shape[1], pa.int32())
    return table.append_column("logits", pa.ListArray.from_arrays(offsets, pa.array(logits.ravel(), pa.float32())))
