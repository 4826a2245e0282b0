"""Small files for `dvc metrics` and `dvc plots`: key numbers, training curves, scores by class."""

import csv
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

from calm import storage
from pipeline.report.result_tables import WEIGHTED_ACCURACY, leading, names, scores, thresholds
from pipeline.report.results_section import class_scores
from pipeline.report.stage_outputs import StageOutputs
from pipeline.settings import Settings

CURVE_COLUMNS = {
    "calp": ["epoch", "loss", "validation_loss"],
    "pretraining": ["epoch", "loss", "mlm", "mam", "mam_middle"],  # held-out losses, except `loss`
    "heads": ["epoch", "validation_loss"],
}


def write_summary(rows: list[dict], decisions: dict[str, str], path: Path) -> None:
    """Write corpus -> variant -> input -> accuracy on test, in percent, mean over seeds, as `decisions` of the corpora say.

    It is the metric of `leading`: unweighted accuracy where the likeliest class is decided, else weighted accuracy. A corpus with several
    language models has their names in brackets after the variants'.
    """
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for corpus, (kind, lines) in _first_scores(rows, decisions).items():
        several_models = len({key.lm for key in lines if key.lm}) > 1
        summary[corpus] = {}
        for key, line in lines.items():
            if leading(kind) in line:
                name = f"{key.variant} ({key.lm})" if several_models and key.lm else key.variant
                summary[corpus].setdefault(name, {})[key.modality] = round(100 * line[leading(kind)].mean, 2)
    storage.write_json(summary, path)


def write_classes(rows: list[dict], decisions: dict[str, str], path: Path) -> None:
    """Write CALM's weighted accuracy by class on test, in percent, mean over seeds: one row a corpus, model, input and class."""
    lines = [
        {"corpus": corpus, "model": item.lm, "input": modality, "class": name, WEIGHTED_ACCURACY: round(100 * mean, 2)}
        for corpus, (_, lines) in _first_scores(rows, decisions).items()
        for item in class_scores(lines)
        for modality, by_class in item.by_modality.items()
        for name, mean in by_class.items()
    ]
    for line in lines:
        line["name"] = " ".join(line[column] for column in ("corpus", "model", "class", "input"))  # the axis of a plot
    _write_csv(lines, ["name", "corpus", "model", "class", "input", WEIGHTED_ACCURACY], path)


def _first_scores(rows: list[dict], decisions: dict[str, str]) -> dict[str, tuple[str, dict]]:
    """Of every corpus, the thresholds by which its released models decide, and its scores on test at these."""
    by_corpus = {corpus: [row for row in rows if row["corpus"] == corpus] for corpus in names(rows, "corpus")}
    kinds = {corpus: thresholds(own, decisions.get(corpus, "tuned"))[0] for corpus, own in by_corpus.items()}
    return {corpus: (kind, scores(rows, corpus=corpus, split="test", threshold=kind)) for corpus, kind in kinds.items()}


def write_curves(settings: Settings, outputs: StageOutputs, folder: Path) -> None:
    """Write a CSV by epoch for each training curve: `calp/<model>`, `pretraining/<model>` and `heads/<corpus>-<model>/<condition>`.

    The columns of a kind are always the same, as `dvc plots` expects them: a loss that a model does not have is empty.
    """
    for kind, by_model in (("calp", outputs.calp), ("pretraining", outputs.pretrained)):
        for name, metrics in by_model.items():
            if metrics["curve"]:
                _write_csv(metrics["curve"], CURVE_COLUMNS[kind], folder / kind / f"{name}.csv")
    for name, curves in outputs.heads.items():
        heads = settings.heads[name]
        for condition, losses in head_losses(curves).items():
            lines = [{"epoch": epoch, "validation_loss": loss} for epoch, loss in losses.items()]
            _write_csv(lines, CURVE_COLUMNS["heads"], folder / "heads" / f"{heads.corpus}-{heads.model}" / f"{condition}.csv")


def head_losses(curves: list[dict]) -> dict[str, dict[int, float]]:
    """Condition ("calm-both") -> epoch -> validation loss, mean over seeds; only epochs that every seed has."""
    losses: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    seeds = Counter(_condition(curve) for curve in curves)
    for curve in curves:
        for entry in curve["curve"]:
            if entry.get("validation_loss") is not None:
                losses[_condition(curve)][entry["epoch"]].append(entry["validation_loss"])
    return {
        condition: {epoch: fmean(values) for epoch, values in sorted(by_epoch.items()) if len(values) == seeds[condition]}
        for condition, by_epoch in losses.items()
    }


def _condition(curve: dict) -> str:
    return f"{curve['variant']}-{curve['modality']}"


def _write_csv(rows: list[dict], columns: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: storage.csv_cell(value) for name, value in row.items()} for row in rows)
