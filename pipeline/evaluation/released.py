"""The predictions of a released head, as `evaluate` wrote them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from calm.evaluation.resampling import Resamples, difference
from calm.storage import read_json, read_parquet

METRICS = ("weighted_accuracy", "accuracy", "f1_macro")  # on the card, and of a transfer


@dataclass
class Released:
    """Labelled utterances of each split with what the head says of them."""

    classes: list[str]
    thresholds: np.ndarray  # (classes,), tuned on validation; with folds on that of the network that is released
    tables: dict[str, pd.DataFrame]  # split -> id, speaker; targets, probabilities, decided_<kind of thresholds>: (classes,) a row
    temperature: float | None = None  # of a softmax

    @property
    def decisions(self) -> list[str]:
        """Kinds of thresholds at which there are decisions: "tuned", "0.5" and, where every utterance has one class, "argmax"."""
        return [kind for kind in ("tuned", "0.5", "argmax") if all(f"decided_{kind}" in table for table in self.tables.values())]

    def column(self, split: str, name: str) -> np.ndarray:
        """(utterances, classes)."""
        return np.stack(self.tables[split][name].to_list())


def read(folder: Path, columns: dict) -> Released:
    """From a folder that `evaluate` wrote. On a corpus with folds the predictions are those of the folds' networks.

    Args:
        columns: variant, lm, modality and seed of the head.

    Raises:
        ValueError: the head was not evaluated, or has no tuned thresholds.
    """
    table = read_parquet(folder / "predictions.parquet", filters=[(name, "==", value) for name, value in columns.items()])
    thresholds = read_json(folder / "thresholds.json")
    names = ", ".join(map(str, columns.values()))
    if not len(table):
        raise ValueError(f"{folder} has no predictions of {names}: run the stage evaluate again")
    classes = table.schema.metadata[b"classes"].decode().split("\n")
    tuned = [row for row in thresholds if all(row[name] == value for name, value in columns.items()) and not row.get("fold")]
    if not tuned:
        raise ValueError(f"{names} has no tuned thresholds, as the corpus has no labelled validation split: set release: false")
    frame, tables = table.to_pandas(), {}
    for split, rows in frame.groupby("split", sort=False):
        part = rows[["id", "speaker", "probabilities"]].reset_index(drop=True)
        decided = [name for name in rows if name.startswith("decided_")]
        for target, source in (("targets", "labels"), *((name, name) for name in decided)):
            part[target] = [np.isin(classes, chosen) for chosen in rows[source]]
        tables[split] = part
    return Released(classes, np.array([tuned[0]["thresholds"][name] for name in classes]), tables, tuned[0].get("temperature"))


def figures(released: Released, samples: int, seed: int) -> list[dict]:
    """Metrics of each kind of decisions, one a row, with their 95 % intervals over speakers (`low`, `high`)."""
    rows = []
    for split, table in released.tables.items():
        resamples, targets = Resamples.of(table["speaker"].tolist(), samples, seed), released.column(split, "targets")
        for threshold in released.decisions:
            drawn = resamples.metrics(targets, released.column(split, f"decided_{threshold}"), METRICS)
            for metric in METRICS:
                interval = difference([drawn[metric]], [np.zeros_like(drawn[metric])])
                columns = {"split": split, "threshold": threshold, "metric": metric, "value": interval["difference"]}
                size = {"n": len(table), "speakers": resamples.speakers}
                rows.append({**columns, "low": interval["low"], "high": interval["high"], **size})
    return rows
