"""Rows of `metrics.json`, their means over seeds, and the result table of a corpus. Imports nothing heavy."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from calm.storage import replacing
from pipeline.paper import BASELINES, FROZEN, GROUPS, KNOWN, MODALITIES, SEPARATE_GROUPS, VARIANTS
from pipeline.report.table import Score, Table, best_cells, group_starts

COLUMNS = ("corpus", "synthetic", "variant", "lm", "modality", "split", "threshold", "seed", "metric", "value")  # of `metrics.json`
WEIGHTED_ACCURACY, UNWEIGHTED_ACCURACY = "weighted_accuracy", "balanced_accuracy"
LEADING = {WEIGHTED_ACCURACY: "weighted accuracy", UNWEIGHTED_ACCURACY: "unweighted accuracy"}  # what `leading` may be, in words
METRICS = (WEIGHTED_ACCURACY, "accuracy", UNWEIGHTED_ACCURACY, "f1_paper", "f1_macro", "f1_micro")
EXTRA_METRICS = {"0.5": ("auc_macro",), "argmax": ("accuracy_argmax",)}  # shown at one kind of thresholds only
THRESHOLDS = {"tuned": "thresholds tuned on validation", "0.5": "threshold 0.5", "argmax": "the most likely class"}


class Key(NamedTuple):
    """What a line of the result table is about."""

    variant: str
    lm: str  # "" for baselines
    modality: str

    @classmethod
    def from_row(cls, row: dict) -> "Key":
        """Key of a row of `metrics.json`."""
        return cls(row["variant"], "" if row["lm"] in (None, "-") else row["lm"], row["modality"] or "none")

    @property
    def group(self) -> str:
        """The variant's group in GROUPS. A variant in none of them is a group of its own."""
        name = self.variant.removesuffix(FROZEN)
        return next((group for group, titles in GROUPS.items() if name in titles), name)

    @property
    def title(self) -> str:
        """The variant's title."""
        return VARIANTS.get(self.variant, self.variant.replace("_", " "))

    @property
    def knows(self) -> bool:
        """Whether tested speakers are known by their recordings, without labels."""
        return self.variant.removesuffix(FROZEN).endswith(KNOWN)

    @property
    def input(self) -> str:
        """Title of the model's input."""
        return MODALITIES.get(self.modality, "–")

    @property
    def full_title(self) -> str:
        """The variant's title with its language model."""
        return f"{self.title} ({self.lm})" if self.lm else self.title


def sort_rows(rows: Iterable[dict]) -> list[dict]:
    """Rows in a fixed order, with their keys in a fixed order."""
    rows = [{key: row.get(key) for key in COLUMNS} for row in rows]
    return sorted(rows, key=lambda row: [(row[key] is None, _sortable(row[key])) for key in COLUMNS[:-1]])


def _sortable(value) -> tuple:
    return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))


def write_rows(rows: list[dict], path: Path) -> None:
    """Write JSON with one row a line, so that a diff shows which numbers changed."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    with replacing(path) as partial:
        partial.write_text(f"[\n{lines}\n]\n" if rows else "[]\n", encoding="utf-8")


def scores(rows: Iterable[dict], **wanted: str) -> dict[Key, dict[str, Score]]:
    """Scores by key and metric of the rows that match, such as `corpus="mosei", split="test", threshold="0.5"`."""
    values = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["value"] is not None and all(str(row[name]) == value for name, value in wanted.items()):
            values[Key.from_row(row)][row["metric"]].append(row["value"])
    return {key: {metric: Score.over(seeds) for metric, seeds in values[key].items()} for key in sorted(values, key=position)}


def position(key: Key) -> tuple:
    """Place of a line in all tables."""
    variant = list(VARIANTS).index(key.variant) if key.variant in VARIANTS else len(BASELINES) - 0.5
    modality = list(MODALITIES).index(key.modality) if key.modality in MODALITIES else -1
    return variant, key.variant, key.lm, modality, key.modality


def overview(variants: Iterable[str]) -> list[str]:
    """Variants for a figure.

    Shares of labels and patch shapes are left out where there is anything else. Of more than six variants, frozen ones are left out
    whose unfrozen counterpart is shown.
    """
    variants = list(dict.fromkeys(variants))
    shown = [name for name in variants if Key(name, "", "").group not in SEPARATE_GROUPS] or variants
    trained = [name for name in shown if name not in BASELINES]
    if len(trained) > 6:
        shown = [name for name in shown if not (name.endswith(FROZEN) and name.removesuffix(FROZEN) in shown)]
    return sorted(shown, key=lambda name: position(Key(name, "", "")))


def names(rows: Iterable[dict], key: str) -> list[str]:
    """Different values of a key, in the order of appearance."""
    return list(dict.fromkeys(str(row[key]) for row in rows))


def thresholds(rows: Iterable[dict], decision: str = "tuned") -> list[str]:
    """Kinds of thresholds that appear, first that by which the released models decide, then tuned ones."""
    present = names(rows, "threshold")
    kinds = [name for name in THRESHOLDS if name in present] + [name for name in present if name not in THRESHOLDS]
    return sorted(kinds, key=lambda kind: kind != decision)


def leading(threshold: str) -> str:
    """The metric of sentences, figures and comparisons: unweighted accuracy where the likeliest class is decided, else weighted."""
    return UNWEIGHTED_ACCURACY if threshold == "argmax" else WEIGHTED_ACCURACY


def uninformed(metric: str, lines: dict[Key, dict[str, Score]]) -> float:
    """The value of a metric of `leading` for who knows nothing of the utterance."""
    classes = {name for line in lines.values() for name in line if name.startswith(f"{WEIGHTED_ACCURACY}/")}
    return 1 / len(classes) if metric == UNWEIGHTED_ACCURACY and classes else 0.5


def result_table(rows: list[dict], corpus: str, threshold: str, split: str = "test") -> Table:
    """The main table of a corpus at one kind of thresholds: one line for each variant, language model and input."""
    lines = scores(rows, corpus=corpus, split=split, threshold=threshold)
    metrics = [name for name in (*METRICS, *EXTRA_METRICS.get(threshold, ())) if any(name in line for line in lines.values())]
    several_models = len({key.lm for key in lines if key.lm}) > 1
    cells = [
        [key.title, *([key.lm] if several_models else []), key.input, *(line.get(name) for name in metrics)] for key, line in lines.items()
    ]
    left = 3 if several_models else 2
    columns = ["variant", *(["model"] if several_models else []), "input", *metrics]
    title = f"{corpus}, {split}, {THRESHOLDS.get(threshold, threshold)}"
    rules = group_starts([key.group for key in lines])
    return Table(f"{corpus}-{split}-{threshold}", title, columns, cells, left, best_cells(cells, left), rules)


def terminal_text(rows: list[dict], spread: dict[str, str], decisions: dict[str, str]) -> str:
    """Result tables of all corpora for the terminal.

    Args:
        spread: what differs between seeds, by corpus.
        decisions: kind of thresholds by which the released models decide, by corpus.
    """
    parts = []
    for corpus in names(rows, "corpus"):
        corpus_rows = [row for row in rows if row["corpus"] == corpus]
        parts.append(result_table(corpus_rows, corpus, thresholds(corpus_rows, decisions.get(corpus, "tuned"))[0]).text())
        if spread.get(corpus):
            parts[-1] += f"{corpus}: {spread[corpus]}.\n"
        if any(row["synthetic"] for row in corpus_rows):
            parts[-1] += "Synthetic speech: these figures show that the pipeline works, not how good the method is.\n"
    seeds = sorted({row["seed"] for row in rows if isinstance(row["seed"], int)})
    parts.append(f"Percent; mean ± standard deviation over seeds {', '.join(map(str, seeds))}; * marks the best of a column.\n")
    return "\n".join(parts)
