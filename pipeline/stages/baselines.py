"""Stage `baselines`: what a user would pick instead of CALM, on the same utterances: chance, eGeMAPS, and functionals of the
log-mel and of a speech encoder's states."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from calm.audio.features import ENCODER
from calm.corpora.utterances import multi_hot, read_table
from calm.evaluation import baselines
from calm.storage import write_json, write_parquet
from pipeline import paths
from pipeline.settings import Settings
from pipeline.stage import checkpoints, measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking.tracker import stage_run

NAMED = 50  # ids of utterances without features that a report names for each baseline; it counts all


def run(settings: Settings, corpus: str) -> str:
    """Write `logits.parquet` of the validation and test split, and `metrics.json` with the choices and the failures."""
    seen = visible(settings, "baselines", corpus)
    names, synthetic = seen.evaluate.baselines, seen.corpora[corpus].synthetic
    with (
        stage_run(seen, corpus, {"baselines": names}, synthetic, seen.seeds[0]) as tracked,
        checkpoints(settings, "baselines", corpus, paths.utterances(corpus), paths.fingerprint(corpus)) as work,
        whole(paths.baselines(corpus)) as folder,
    ):
        report, seconds = answer(seen, paths.utterances(corpus), paths.features(corpus), folder, work)
        write_json({**report, "synthetic": synthetic}, folder / "metrics.json")
        for name, figures in report["baselines"].items():
            tracked.log({f"{name}/{key}": value for key, value in figures.items() if isinstance(value, int | float)})
        tracked.artifact(folder / "metrics.json")
        measure(address("baselines", corpus), mlflow_run=tracked.id, seconds_features=seconds)
    lacking = {name: count for name, figures in report["baselines"].items() if (count := figures["without_features"])}
    failures = "".join(f"; {name} has no features of {count} utterances" for name, count in lacking.items())
    return f"{corpus}: {', '.join(names) or 'no baseline'}{failures}"


def answer(settings: Visible, utterances: Path, features: Path, folder: Path, work: Path | None = None) -> tuple[dict, dict[str, float]]:
    """Fit every baseline of the settings and write `logits.parquet` to `folder`.

    Columns: id, split, variant, modality, seed, logits (log-odds of each class). In `work` a stopped extraction keeps what it has.

    Returns:
        The report, and by baseline the seconds that its features took.
    """
    table = read_table(utterances)
    classes, one_hot = table.attrs["classes"], table.attrs["one_hot"]
    table = table[table["labels"].notna()].reset_index(drop=True)
    targets = multi_hot(table["labels"], classes, one_hot)
    train, held_out = (table["split"] == "train").to_numpy(), table["split"].isin(("validation", "test")).to_numpy()
    if not train.any() or not held_out.any():
        raise ValueError(
            f"{utterances} has {train.sum()} labelled utterances in train and {held_out.sum()} in validation and test: baselines need both"
        )
    report, seconds, parts = {"classes": classes, "train": int(train.sum()), "baselines": {}}, {}, []
    for name in settings.evaluate.baselines:
        probabilities, report["baselines"][name], seconds[name] = _fit(name, settings, table, targets, one_hot, features, work)
        columns = {"variant": name, "modality": "none" if name == "chance" else "audio", "seed": settings.seeds[0]}
        rows = table.loc[held_out, ["id", "split"]].assign(**columns)
        parts.append(_logits(rows, baselines.log_odds(probabilities[held_out])))
    empty = _logits(table.loc[[], ["id", "split"]].assign(variant="", modality="", seed=0), np.empty((0, len(classes)), np.float32))
    write_parquet(pa.concat_tables(parts or [empty]), folder / "logits.parquet")
    return report, seconds


def _fit(
    name: str, settings: Visible, table: pd.DataFrame, targets: np.ndarray, one_hot: bool, features: Path, work: Path | None
) -> tuple[np.ndarray, dict, float]:
    """Probabilities (utterances, classes) of one baseline, figures about it, and the seconds that its features took."""
    begin = time.monotonic()
    train, validation = ((table["split"] == split).to_numpy() for split in ("train", "validation"))
    if name == "chance":
        prior = baselines.prior(targets[train])
        return np.tile(prior, (len(targets), 1)), {"prior": prior.tolist(), "without_features": 0}, 0.0
    if name == "egemaps":
        segments = list(table[["audio", "start", "end"]].itertuples(index=False, name=None))
        extracted = baselines.egemaps(segments, settings.features.workers, work)
    elif name == "encoder_functionals":
        extracted = baselines.encoder_functionals(features / ENCODER, table["id"])
    else:
        extracted = baselines.logmel_functionals(features, table["id"])
    seconds = time.monotonic() - begin
    if not (extracted.good & train).any():
        reason = next(iter(extracted.failed.values()), "")
        raise ValueError(f"{name}: none of the {train.sum()} training utterances has features; the first: {reason}")
    fitted = baselines.regress(extracted, targets, train, validation, one_hot)
    figures = {
        "functionals": extracted.values.shape[1],
        "c": fitted.strength,
        "validation_auc": fitted.validation_auc,
        "unconverged": fitted.unconverged,
        "constant_classes": fitted.constant,
        "without_features": fitted.without_features,
        "failed": {table["id"][row]: reason for row, reason in list(extracted.failed.items())[:NAMED]},
    }
    return fitted.probabilities, figures, seconds


def _logits(rows: pd.DataFrame, logits: np.ndarray) -> pa.Table:
    """The rows with their logits (utterances, classes) as a list column."""
    table = pa.Table.from_pandas(rows.astype({"seed": "int64"}), preserve_index=False)
    offsets = pa.array(np.arange(len(rows) + 1) * logits.shape[1], pa.int32())
    return table.append_column("logits", pa.ListArray.from_arrays(offsets, pa.array(logits.ravel(), pa.float32())))
