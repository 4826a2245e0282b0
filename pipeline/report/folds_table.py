"""The table of a corpus with folds: mean and spread over folds, pooled figures with intervals, and published rows beside them."""

from typing import NamedTuple

from calm.corpora.emobox import WITHOUT_AUDIO
from pipeline.report.result_tables import THRESHOLDS, Key, position
from pipeline.report.table import Score, Table, best_cells
from pipeline.report.wording import MISSING, counted, listed

TITLES = {  # metric of `folds.json` -> column
    "balanced_accuracy": "UA",
    "accuracy_argmax": "WA",
    "macro_f1_argmax": "macro F1",
    "weighted_accuracy": "weighted accuracy",
}
EMOBOX_METRICS = (
    "UA, WA and macro F1 are EmoBox's, by argmax: UA = 1/C Σ TP/P, the balanced accuracy; WA = right answers / utterances, the plain "
    "accuracy; macro F1 = 1/C Σ 2 TP/(2 TP + FP + FN). "
)


class Published(NamedTuple):
    """A row of EmoBox's table 4."""

    encoder: str
    balanced_accuracy: float  # UA
    accuracy_argmax: float  # WA
    macro_f1_argmax: float


# Other systems on the folds of EmoBox, quoted beside ours: a frozen encoder with a head trained on it, in percent, as printed
SOURCE = "EmoBox (arXiv 2406.07162), table 4"
EMOBOX = {  # data set, by its name in the metadata -> rows
    "ravdess": (
        Published("wav2vec 2.0 base", 54.33, 55.40, 53.99),
        Published("HuBERT base", 65.43, 66.21, 65.31),
        Published("HuBERT large", 70.00, 70.29, 69.54),
        Published("WavLM base", 61.56, 62.10, 61.18),
        Published("WavLM large", 72.00, 72.22, 71.42),
        Published("data2vec base", 51.92, 52.22, 51.10),
        Published("data2vec large", 59.30, 59.50, 58.74),
        Published("data2vec 2.0 base", 64.66, 64.84, 64.18),
        Published("data2vec 2.0 large", 71.15, 71.63, 70.94),
        Published("Whisper large v3", 75.32, 75.87, 75.19),
    ),
}


def folds_table(corpus: str, rows: list[dict], report: dict) -> Table | None:
    """One line a variant, language model and input, and after them the published ones; None for a corpus without folds.

    Args:
        rows: of `folds.json`.
        report: of the stage `ingest`.
    """
    if not rows:
        return None
    threshold = next(kind for kind in ("argmax", "tuned", "0.5") if any(row["threshold"] == kind for row in rows))
    shown = [row for row in rows if row["threshold"] == threshold]
    metrics = [name for name in TITLES if any(row["metric"] == name for row in shown)]
    lines: dict[Key, dict[str, dict]] = {}
    for row in shown:
        lines.setdefault(Key.from_row(row), {})[row["metric"]] = row
    several_models = len({key.lm for key in lines if key.lm}) > 1
    cells = []
    for key in sorted(lines, key=position):
        of_key = [lines[key].get(name) for name in metrics]
        names = [key.title, *([key.lm] if several_models else []), key.input]
        cells.append([*names, *map(_over_folds, of_key), *map(_pooled, of_key), *map(_interval, of_key)])
    left, scored, ours = 2 + several_models, 2 * len(metrics), len(cells)
    cells += [_quoted(row, metrics, left) for row in quoted(report) if threshold == "argmax"]
    columns = ["variant", *(["model"] if several_models else []), "input"]
    columns += [f"{TITLES[name]}, folds" for name in metrics] + [f"{TITLES[name]}, pooled" for name in metrics]
    columns += [f"{TITLES[name]}, 95 % interval" for name in metrics]
    bold = best_cells([row[: left + scored] for row in cells], left)
    title = f"{corpus}, cross-validation, {THRESHOLDS[threshold]}"
    rules = {ours} if len(cells) > ours else set()
    return Table(f"{corpus}-folds", title, columns, cells, left, bold, rules, _note(shown, report, threshold, len(cells) > ours))


def quoted(report: dict) -> tuple:
    """Published rows on the folds of a corpus, if these are the published ones."""
    return EMOBOX.get(report.get("checks", {}).get("data set", ""), ()) if report.get("folds_by") == "given" else ()


def missing(report: dict) -> str:
    """What of a corpus's metadata has no audio, in a sentence; "" if nothing is missing."""
    absent = report.get("checks", {}).get(WITHOUT_AUDIO, {})
    if not absent:
        return ""
    names = listed([*list(absent)[:12], *(["others"] if len(absent) > 12 else [])])
    return f"Without audio here, and left out: {counted(sum(absent.values()), 'row')} of {names}."


def _note(rows: list[dict], report: dict, threshold: str, has_quoted: bool) -> str:
    numbers = list(rows[0]["folds"])
    text = EMOBOX_METRICS if threshold == "argmax" else ""
    text += (
        f"“Folds” is the mean over folds {', '.join(numbers)} ± their standard deviation, of the mean over seeds; “pooled” is over all "
        f"{rows[0]['n']:,} tested utterances together, and its interval is a bootstrap over their {rows[0]['speakers']:,} speakers."
    )
    if has_quoted:
        text += f" Rows below the line are quoted from {SOURCE}, on these folds."
    return " ".join(part for part in (text, missing(report)) if part)


def _over_folds(row: dict | None) -> Score | None:
    return None if row is None or row["mean"] is None else Score(row["mean"], row["spread"], len(row["folds"]))


def _pooled(row: dict | None) -> Score | None:
    return None if row is None or row["pooled"] is None else Score(row["pooled"], None, row["seeds"])


def _interval(row: dict | None) -> str:
    return MISSING if row is None or row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def _quoted(row: tuple, metrics: list[str], left: int) -> list:
    names = [row.encoder, *([""] if left > 2 else []), "audio"]
    figures = [Score(getattr(row, name) / 100, None, 1) for name in metrics]
    return [*names, *figures, *[None] * len(metrics), *[""] * len(metrics)]
