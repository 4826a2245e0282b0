"""Rows of `metrics.json` to tables: means over seeds, in one order everywhere, as text, Markdown and CSV. Imports nothing heavy."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

KEYS = ("corpus", "synthetic", "variant", "lm", "modality", "split", "threshold", "seed", "metric", "value")
EXTRA = {"0.5": ("auc_macro",), "argmax": ("accuracy_argmax",)}  # columns of one threshold's table only
METRICS = ("weighted_accuracy", "accuracy", "balanced_accuracy", "f1_paper", "f1_macro", "f1_micro")
BASELINES = {"chance": "chance", "egemaps": "eGeMAPS", "logmel_functionals": "log-mel functionals"}
GROUPS = {  # every table has them in this order, with a rule between two groups
    "baselines": BASELINES,
    "peers": {
        "bert_only": "BERT, linear audio input",
        "mm_bert_cnn": "BERT, CNN audio input",
        "joint_transformer": "joint transformer",
    },
    "ablations": {
        "no_pretraining": "no pretraining",
        "mm_only": "masked pretraining only",
        "calp_only": "CALP only",
        "no_calp_text": "CALM without CALP's text",
    },
    "calm": {"calm": "CALM", "calm_ood": "CALM + out of domain", "calm_in_domain": "CALM, pretrained in domain only"},
    "labels": {f"labels_{share}": f"CALM, {share} % of the labels" for share in (20, 40, 60, 80)},
    "patches": {"patch_2x64": "CALM, patches 2 x 64", "patch_20x8": "CALM, patches 20 x 8"},
}
APART = ("labels", "patches")  # groups of which overviews show nothing, where there is anything else
FROZEN = "_frozen"  # ends the names of variants whose heads are trained on frozen representations
VARIANTS = {
    name + end: title + (", frozen" if end else "")
    for group, of in GROUPS.items()
    for name, title in of.items()
    for end in (("",) if group == "baselines" else ("", FROZEN))
}
MODALITIES = {"audio": "audio", "text": "text", "both": "audio + text"}
THRESHOLDS = {"tuned": "thresholds tuned on validation", "0.5": "threshold 0.5", "argmax": "the most likely class"}


class Score(NamedTuple):
    """Mean of a metric over seeds, its standard deviation (None for one seed), and the number of seeds."""

    mean: float
    spread: float | None
    seeds: int

    def __str__(self) -> str:
        return self.text if self.spread is None else f"{self.text} ± {100 * self.spread:.1f}"

    @property
    def text(self) -> str:
        """The mean in percent."""
        return f"{100 * self.mean:.1f}"


class Key(NamedTuple):
    """What a line of the result table is about."""

    variant: str
    lm: str  # "" for baselines
    modality: str

    @classmethod
    def of(cls, row: dict) -> "Key":
        """Of a row of `metrics.json`."""
        return cls(row["variant"], "" if row["lm"] in (None, "-") else row["lm"], row["modality"] or "none")

    @property
    def group(self) -> str:
        """Which of GROUPS the variant belongs to; a variant that none has is a group of its own."""
        name = self.variant.removesuffix(FROZEN)
        return next((group for group, of in GROUPS.items() if name in of), name)

    @property
    def title(self) -> str:
        """The variant's name for readers."""
        return VARIANTS.get(self.variant, self.variant.replace("_", " "))

    @property
    def given(self) -> str:
        """What the model gets, for readers."""
        return MODALITIES.get(self.modality, "–")


@dataclass
class Table:
    """A table for readers. Cells are texts, Scores or None; `bold` holds (row, column), `rules` the rows that begin a group."""

    name: str
    title: str
    columns: list[str]
    rows: list[list]
    left: int = 1  # columns of words before the columns of numbers
    bold: set[tuple[int, int]] = field(default_factory=set)
    rules: set[int] = field(default_factory=set)
    note: str = ""

    def markdown(self) -> str:
        """As Markdown, with the best in bold."""
        lines = ["| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "|".join(" --- " if column < self.left else " ---: " for column in range(len(self.columns))) + "|")
        for number, row in enumerate(self.rows):
            cells = [f"**{shown(cell)}**" if (number, column) in self.bold else shown(cell) for column, cell in enumerate(row)]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n" + (f"\n{self.note}\n" if self.note else "")

    def csv(self) -> str:
        """As CSV, with numbers at full precision; a Score gives two columns, the mean and the standard deviation."""
        double = [any(isinstance(row[column], Score) for row in self.rows) for column in range(len(self.columns))]
        names = zip(self.columns, double, strict=True)
        lines = [[part for name, two in names for part in ((name, f"{name} std") if two else (name,))]]
        for row in self.rows:
            cells = [_numbers(cell, two) for cell, two in zip(row, double, strict=True)]
            lines.append([part for parts in cells for part in parts])
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows(lines)
        return file.getvalue()

    def text(self) -> str:
        """As aligned text for a terminal; the best has a star."""
        heads = [_two_lines(name) for name in self.columns]
        body = [
            [self._aligned(cell, c) + ("*" if (r, c) in self.bold else " ") for c, cell in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]
        widths = [max(max(map(len, heads[c])) + 1, *(len(row[c]) for row in body)) for c in range(len(heads))]
        lines = [self._line([head[part] + " " for head in heads], widths) for part in (0, 1)]
        lines.append("-" * max(len(line) for line in lines))
        for number, row in enumerate(body):
            if number in self.rules and number:
                lines.append("")
            lines.append(self._line(row, widths))
        return "\n".join([self.title, "", *lines]) + "\n"

    def _aligned(self, cell, column: int) -> str:
        """Means stand below means, whether or not a spread follows."""
        if not isinstance(cell, Score):
            return shown(cell)
        tails = [len(shown(row[column])) - len(row[column].text) for row in self.rows if isinstance(row[column], Score)]
        return cell.text + shown(cell)[len(cell.text) :].ljust(max(tails))

    def _line(self, cells: list[str], widths: list[int]) -> str:
        sides = [(str.ljust if column < self.left else str.rjust) for column in range(len(cells))]
        return " ".join(side(cell, width) for side, cell, width in zip(sides, cells, widths, strict=True)).rstrip()


def shown(cell) -> str:
    """A cell as a reader sees it."""
    return "" if cell is None else str(cell)


def _numbers(cell, two: bool) -> tuple:
    if isinstance(cell, Score):
        return cell.mean, "" if cell.spread is None else cell.spread
    return (shown(cell), "") if two else (shown(cell),)


def _two_lines(name: str) -> tuple[str, str]:
    first, _, second = name.rpartition("_") if "_" in name else ("", "", name)
    return first.replace("_", " "), second


def read_rows(path: Path) -> list[dict]:
    """The list of rows that `write_rows` or `evaluate` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def sort_rows(rows: Iterable[dict]) -> list[dict]:
    """Rows in a fixed order, with the keys in a fixed order."""
    rows = [{key: row.get(key) for key in KEYS} for row in rows]
    return sorted(rows, key=lambda row: [(row[key] is None, _sortable(row[key])) for key in KEYS[:-1]])


def _sortable(value) -> tuple:
    return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))


def write_rows(rows: list[dict], path: Path) -> None:
    """JSON with one row a line, so that a diff shows which numbers changed."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"[\n{lines}\n]\n" if rows else "[]\n", encoding="utf-8")
    partial.replace(path)


def scores(rows: Iterable[dict], **of: str) -> dict[Key, dict[str, Score]]:
    """Scores by line of the table and metric, of the rows that agree with `of` (`corpus="mosei", split="test", threshold="0.5"`)."""
    values = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["value"] is not None and all(str(row[name]) == wanted for name, wanted in of.items()):
            values[Key.of(row)][row["metric"]].append(row["value"])
    return {key: {metric: score(found) for metric, found in values[key].items()} for key in sorted(values, key=_place)}


def score(values: list[float]) -> Score:
    """Mean and sample standard deviation."""
    return Score(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def _place(key: Key) -> tuple:
    variant = list(VARIANTS).index(key.variant) if key.variant in VARIANTS else len(BASELINES) - 0.5
    modality = list(MODALITIES).index(key.modality) if key.modality in MODALITIES else -1
    return variant, key.variant, key.lm, modality, key.modality


def overview(variants: Iterable[str]) -> list[str]:
    """Variants for a figure: without label shares and patches, and, of more than six, without the frozen whose unfrozen are there."""
    every = list(dict.fromkeys(variants))
    found = [name for name in every if Key(name, "", "").group not in APART] or every
    trained = [name for name in found if name not in BASELINES]
    if len(trained) > 6:
        found = [name for name in found if not (name.endswith(FROZEN) and name.removesuffix(FROZEN) in found)]
    return sorted(found, key=lambda name: _place(Key(name, "", "")))


def names(rows: Iterable[dict], key: str) -> list[str]:
    """Different values of a key, in the order of appearance."""
    return list(dict.fromkeys(str(row[key]) for row in rows))


def thresholds(rows: Iterable[dict]) -> list[str]:
    """Thresholds that appear, tuned ones first."""
    found = names(rows, "threshold")
    return [name for name in THRESHOLDS if name in found] + [name for name in found if name not in THRESHOLDS]


def result_table(rows: list[dict], corpus: str, threshold: str, split: str = "test") -> Table:
    """The main table of a corpus at one threshold: a line a variant, language model and modality; groups apart, the best bold."""
    lines = scores(rows, corpus=corpus, split=split, threshold=threshold)
    metrics = [name for name in (*METRICS, *EXTRA.get(threshold, ())) if any(name in line for line in lines.values())]
    models = len({key.lm for key in lines if key.lm}) > 1
    cells, rules, before = [], set(), None
    for number, (key, line) in enumerate(lines.items()):
        cells.append([key.title, *([key.lm] if models else []), key.given, *(line.get(name) for name in metrics)])
        if key.group != before and number:
            rules.add(number)
        before = key.group
    left = 3 if models else 2
    columns = ["variant", *(["model"] if models else []), "input", *metrics]
    title = f"{corpus}, {split}, {THRESHOLDS.get(threshold, threshold)}"
    return Table(f"{corpus}-{split}-{threshold}", title, columns, cells, left, best(cells, left), rules)


def best(cells: list[list], left: int) -> set[tuple[int, int]]:
    """Places of the highest mean of each column."""
    found = set()
    for column in range(left, len(cells[0]) if cells else 0):
        means = [(round(row[column].mean, 9), number) for number, row in enumerate(cells) if row[column]]
        found |= {(number, column) for mean, number in means if mean == max(means)[0]}
    return found


def printed(rows: list[dict]) -> str:
    """All corpora's result tables at tuned thresholds, for the terminal."""
    parts = []
    for corpus in names(rows, "corpus"):
        mine = [row for row in rows if row["corpus"] == corpus]
        threshold = thresholds(mine)[0]
        parts.append(result_table(mine, corpus, threshold).text())
        if any(row["synthetic"] for row in mine):
            parts[-1] += "Synthetic speech: these figures show that the pipeline works, not how good the method is.\n"
    seeds = sorted({row["seed"] for row in rows if isinstance(row["seed"], int)})
    parts.append(f"Percent; mean ± standard deviation over seeds {', '.join(map(str, seeds))}; * marks the best of a column.\n")
    return "\n".join(parts)
