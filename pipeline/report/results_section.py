"""The page's section "Results" of a corpus: sentences, tables, notes and figures."""

from pathlib import Path
from typing import NamedTuple

from pipeline.paper import BASELINES, CALM_VARIANTS, KNOWN, SEPARATE_GROUPS, VARIANTS
from pipeline.report import figures
from pipeline.report.figure_style import picture
from pipeline.report.folds_table import folds_table
from pipeline.report.result_tables import (
    LEADING,
    THRESHOLDS,
    WEIGHTED_ACCURACY,
    Key,
    leading,
    result_table,
    scores,
    thresholds,
    uninformed,
)
from pipeline.report.stage_outputs import StageOutputs
from pipeline.report.table import Score, Table
from pipeline.report.wording import MISSING, in_points, listed


class ClassScores(NamedTuple):
    """Scores by class of one variant and language model: modality -> class -> mean."""

    variant: str
    lm: str
    by_modality: dict[str, dict[str, float]]


def results_section(corpus: str, synthetic: bool, outputs: StageOutputs, folder: Path) -> dict:
    """What the template shows. Figures are written to the folder. `tables` holds every table of the corpus."""
    rows = [row for row in outputs.rows if row["corpus"] == corpus]
    kinds = [kind for kind in thresholds(rows, outputs.decisions[corpus]) if result_table(rows, corpus, kind).rows]
    main = [result_table(rows, corpus, kind) for kind in kinds]
    validation = [result_table(rows, corpus, kind, "validation") for kind in kinds]
    lines = scores(rows, corpus=corpus, split="test", threshold=kinds[0])
    every_comparison = outputs.comparisons.get(corpus, [])
    metric = leading(kinds[0])
    comparisons = [row for row in every_comparison if (row["metric"], row["threshold"]) == (metric, kinds[0])]
    shown = [row for row in comparisons if Key.from_row(row["b"]).group not in SEPARATE_GROUPS]
    in_folds = folds_table(corpus, outputs.folds.get(corpus, []), outputs.corpora.get(corpus, {}))
    more = [*([in_folds] if in_folds else []), *([comparison_table(corpus, shown)] if shown else [])]
    everything = comparison_table(corpus, every_comparison, everything=True)
    return {
        "name": corpus,
        "synthetic": synthetic,
        "sentences": sentences(metric, lines, comparisons),
        "versions": main,
        "thresholds": [THRESHOLDS.get(kind, kind) for kind in kinds],
        "counts": seeds_text(rows, outputs.spread[corpus]),
        "notes": notes(outputs.notes.get(corpus, {})),
        "pictures": _pictures(corpus, rows, lines, kinds[0], folder),
        "more": more,
        "tables": [*main, *validation, *more, everything, class_table(corpus, lines)],
    }


def _pictures(corpus: str, rows: list[dict], lines: dict[Key, dict[str, Score]], threshold: str, folder: Path) -> list[dict]:
    metric = leading(threshold)
    overview = figures.variants(lines, seed_values(rows, threshold, metric), metric, uninformed(metric, lines))
    title = f"{LEADING[metric].capitalize()}, {THRESHOLDS.get(threshold, threshold)}"
    pictures = [picture(title, overview, f"{corpus}-variants", folder)]
    for item in class_scores(lines):
        title = f"Weighted accuracy by class, {VARIANTS[item.variant]} ({item.lm})"
        figure = figures.classes(item.by_modality, WEIGHTED_ACCURACY)
        pictures.append(picture(title, figure, f"{corpus}-classes-{item.variant}-{item.lm}", folder))
    return pictures


def seeds_text(rows: list[dict], spread: str = "") -> str:
    """Which seeds the numbers are means over, and what differs between them (see `wording.spread`)."""
    seeds = sorted({row["seed"] for row in rows if row["variant"] not in BASELINES})
    if len(seeds) > 1:
        return f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}{f'; {spread}' if spread else ''}."
    return f"one seed, {seeds[0]}." if seeds else ""


def seed_values(rows: list[dict], threshold: str, metric: str) -> dict[Key, list[float]]:
    """Values of a metric on the test split by line of the table, one a seed."""
    values: dict[Key, list[float]] = {}
    for row in rows:
        if (row["split"], str(row["threshold"]), row["metric"]) == ("test", threshold, metric) and row["value"] is not None:
            values.setdefault(Key.from_row(row), []).append(row["value"])
    return values


def sentences(metric: str, lines: dict[Key, dict[str, Score]], comparisons: list[dict]) -> list[str]:
    """What a corpus's table says in words, whatever the outcome. `comparisons`: those of the same metric and thresholds."""
    means = {key: line[metric] for key, line in lines.items() if metric in line}
    texts = []
    for lm in dict.fromkeys(key.lm for key in means if key.variant in CALM_VARIANTS):
        variant = next(name for name in CALM_VARIANTS if any(key[:2] == (name, lm) for key in means))
        ours = sorted((key for key in means if key[:2] == (variant, lm)), key=lambda key: -means[key].mean)
        reached = listed([f"{means[key]} from {key.input}" for key in ours])
        texts.append(f"{ours[0].full_title} reaches {reached} in {LEADING[metric]}.")
        others = [ours[0]._replace(variant=variant.replace("calm", "no_pretraining"))]
        others += [key for key in means if key.variant in BASELINES and key.variant != "chance" and not key.variant.endswith(KNOWN)]
        for other in others:
            own = next((key for key in ours if key.modality == other.modality), None)
            if other in means and own:
                texts.append(_comparison_sentence(own, other, means, comparisons))
    return texts


def _comparison_sentence(ours: Key, other: Key, means: dict[Key, Score], comparisons: list[dict]) -> str:
    points = 100 * (means[ours].mean - means[other].mean)
    position = "level with it" if abs(points) < 0.05 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'} it"
    row = next((row for row in comparisons if (Key.from_row(row["a"]), Key.from_row(row["b"])) == (ours, other)), None)
    interval = ""
    if row and row["low"] is not None:
        outcome = "" if row["significant"] else ": not significant"
        interval = f" (95 % interval {in_points(row['low'])} to {in_points(row['high'])}{outcome})"
    subject = f"Without pretraining, {ours.input} gives" if other.lm else f"With {other.full_title}, {ours.input} gives"
    return f"{subject} {means[other]}: {ours.full_title} lies {position}{interval}."


def comparison_table(corpus: str, rows: list[dict], everything: bool = False) -> Table:
    """Differences with their intervals. `everything` adds columns of threshold and metric, for a file."""
    cells, several_models = [], len({row["a"]["lm"] for row in rows}) > 1
    for row in rows:
        pair = [
            f"{key.full_title if several_models else key.title}: {key.input}" for key in (Key.from_row(row["a"]), Key.from_row(row["b"]))
        ]
        known = row["low"] is not None
        interval = f"{in_points(row['low'])} to {in_points(row['high'])}" if known else MISSING
        remark = "" if row["significant"] else "not significant" if known else "too few speakers"
        difference = MISSING if row["difference"] is None else in_points(row["difference"])
        cells.append([*pair, *([row["threshold"], row["metric"]] if everything else []), difference, interval, remark])
    columns = ["first", "second", *(["threshold", "metric"] if everything else []), "difference", "95 % interval", "note"]
    sizes = f"{rows[0]['n']:,} utterances of {rows[0]['speakers']:,} speakers" if rows else ""
    about = f"{LEADING[rows[0]['metric']].capitalize()}, {THRESHOLDS.get(rows[0]['threshold'], '')}" if rows and not everything else ""
    subject = f"{about}: first" if about else "First"
    note = f"{subject} less second in points, mean over seeds. The interval is a bootstrap over speakers ({sizes}), not over seeds."
    name = f"{corpus}-comparisons" + ("-all" if everything else "")
    return Table(name, f"{corpus}, test: differences", columns, cells, 4 if everything else 2, note=note)


def notes(evaluation: dict) -> list[str]:
    """What to know about a corpus's figures: size of the test split, what "no" to everything gives, what was left out."""
    texts, test = [], evaluation.get("utterances", {}).get("test", {})
    if test:
        texts.append(f"{test['labelled']:,} labelled utterances of {test['speakers']:,} speakers.")
    if folds := evaluation.get("folds"):
        texts.append(
            f"Cross-validation: each is tested in one of {len(folds)} folds, by networks and thresholds that its speaker had no part in."
        )
    if never := test.get("never_anything"):
        parts = [f"{name} {100 * never[name]:.1f}" for name in ("accuracy", WEIGHTED_ACCURACY) if name in never]
        texts.append(f"Predicting no class at all gives {listed(parts)}.")
    left_out = [row["classes"] for row in evaluation.get("left_out", []) if (row["split"], row["metric"]) == ("test", WEIGHTED_ACCURACY)]
    if classes := list(dict.fromkeys(name for names in left_out for name in names)):
        texts.append(f"Left out of weighted accuracy, as they have no positive or no negative here: {', '.join(classes)}.")
    missing = {Key.from_row(row): row["utterances"] for row in evaluation.get("missing", []) if row["split"] == "test"}
    texts += [f"{key.full_title}, {key.input}, has no answer for {count:,} utterances." for key, count in missing.items()]
    reasons = list(dict.fromkeys(row["reason"] for row in evaluation.get("not_evaluated", [])))
    return texts + ([f"Not everything was evaluated: {'; '.join(reasons)}."] if reasons else [])


def class_scores(lines: dict[Key, dict[str, Score]]) -> list[ClassScores]:
    """Scores by class of CALM, for each language model: of unfrozen heads where there are some."""
    items = []
    for lm in dict.fromkeys(key.lm for key in lines if key.lm):
        variant = next((name for name in CALM_VARIANTS if any(key[:2] == (name, lm) for key in lines)), None)
        if variant:
            by_modality = {key.modality: by_class(line) for key, line in lines.items() if key[:2] == (variant, lm)}
            means = {modality: {name: score.mean for name, score in named.items()} for modality, named in by_modality.items()}
            items.append(ClassScores(variant, lm, means))
    return [item for item in items if any(item.by_modality.values())]


def by_class(line: dict[str, Score]) -> dict[str, Score]:
    """Scores of `weighted_accuracy/<class>` by class."""
    return {name.partition("/")[2]: value for name, value in line.items() if name.startswith(f"{WEIGHTED_ACCURACY}/")}


def class_table(corpus: str, lines: dict[Key, dict[str, Score]]) -> Table:
    """Weighted accuracy with one column for each class."""
    classes = list(dict.fromkeys(name for line in lines.values() for name in by_class(line)))
    cells = [[key.title, key.lm, key.input, *(by_class(line).get(name) for name in classes)] for key, line in lines.items()]
    title = f"{corpus}, test, {WEIGHTED_ACCURACY} by class"
    return Table(f"{corpus}-classes", title, ["variant", "model", "input", *classes], cells, 3)
