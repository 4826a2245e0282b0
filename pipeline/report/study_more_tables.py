"""Tables of the study that the paper does not have: held-out losses, calibration, groups of utterances, transfer to another corpus."""

import re
from collections import defaultdict

from pipeline.paper import CALM_VARIANTS, MODALITIES, VARIANTS
from pipeline.report.result_tables import THRESHOLDS, WEIGHTED_ACCURACY, Key, overview
from pipeline.report.study import Study
from pipeline.report.table import Score, Table, group_starts
from pipeline.report.wording import MISSING, listed

GROUPINGS = {"gender": "gender", "duration": "duration", "wer": "word error rate of the text"}


def loss_table(pretrained: dict[str, dict]) -> Table | None:
    """Held-out losses of masked prediction by model."""
    keys = {"mlm": "masked words", "mam": "masked audio", "mam_middle": "its middle blocks"}
    losses = {name: metrics["validation"] for name, metrics in pretrained.items() if metrics.get("validation")}
    if not losses:
        return None
    cells = [
        [name, listed(pretrained[name].get("corpora", [])), *(MISSING if row.get(key) is None else f"{row[key]:.3f}" for key in keys)]
        for name, row in losses.items()
    ]
    note = (
        "Validation split. Words: cross entropy in nats. Audio: mean squared error of the normalised log-mel. Blocks overlap: the middle "
        "block of a masked span is the one that its neighbours do not show."
    )
    columns = ["model", "pretrained on", *keys.values()]
    return Table("study-masked-losses", "Held-out losses of masked prediction", columns, cells, 2, note=note)


def calibration_table(study: Study) -> Table | None:
    """Expected calibration error by variant, model and input."""
    lines = {split: study.scores(split, "0.5") for split in ("validation", "test")}
    keys = [key for key, line in lines["test"].items() if "ece" in line]
    shown = overview(key.variant for key in keys)
    keys = [key for key in keys if key.variant in shown]
    if not any(key.lm for key in keys):
        return None
    cells = [[key.title, key.lm or MISSING, key.input, *(lines[split].get(key, {}).get("ece") for split in lines)] for key in keys]
    rules = group_starts([key.group for key in keys])
    title = f"{study.corpus}: expected calibration error"
    note = f"Percent, {study.over_seeds}; all classes together, in ten bins; lower is better. It needs no threshold."
    return Table(f"study-{study.corpus}-calibration", title, ["variant", "model", "input", *lines], cells, 3, rules=rules, note=note)


def bucket_table(study: Study, buckets: list[dict], threshold: str) -> Table | None:
    """CALM's weighted accuracy in groups of test utterances, by input; from unfrozen heads where there are some."""
    rows = [row for row in buckets if (row["threshold"], row["metric"]) == (threshold, WEIGHTED_ACCURACY) and row["value"] is not None]
    variant = next((name for name in CALM_VARIANTS if any(row["variant"] == name for row in rows)), None)
    values, sizes = defaultdict(lambda: defaultdict(list)), {}
    for row in rows:
        if row["variant"] == variant:
            group = (row["by"], row["bucket"], row["lm"])
            values[group][row["modality"]].append(row["value"])
            sizes[group] = row["n"]
    if not values:
        return None
    inputs = [name for name in MODALITIES if any(name in by_input for by_input in values.values())]
    groups = sorted(values, key=_group_position)
    cells = [
        [GROUPINGS.get(group[0], group[0]), *group[1:], f"{sizes[group]:,}"]
        + [Score.over(values[group][name]) if name in values[group] else None for name in inputs]
        for group in groups
    ]
    rules = group_starts([group[0] for group in groups])
    title = f"{study.corpus}: {VARIANTS[variant]} by group of utterances"
    note = f"Weighted accuracy on test, percent, {THRESHOLDS[threshold]}; {study.over_seeds}. Results of small groups are uncertain."
    columns = ["by", "group", "model", "utterances", *(MODALITIES[name] for name in inputs)]
    return Table(f"study-{study.corpus}-groups-{threshold}", title, columns, cells, 3, rules=rules, note=note)


def _group_position(group: tuple[str, str, str]) -> tuple:
    by, bucket, lm = group
    return list(GROUPINGS).index(by) if by in GROUPINGS else len(GROUPINGS), _bucket_position(bucket), bucket, lm


def _bucket_position(bucket: str) -> tuple[float, int]:
    """ "under 2 s" and "no word wrong" come first, the others by their first number, "over 20 %" after "up to 20 %"."""
    number = re.search(r"[\d.]+", bucket)
    if number is None or bucket.startswith("under"):
        return (-1.0, 0)
    return (float(number[0]), int(bucket.startswith("over")))


def transfer_table(study: Study, rows: list[dict], threshold: str) -> Table | None:
    """Heads trained on another corpus, on this one's test split, over the classes that both have."""
    groups = defaultdict(list)
    for row in rows:
        if (row["threshold"], row["metric"]) == (threshold, WEIGHTED_ACCURACY) and row["value"] is not None:
            groups[row["trained_on"], row["tested_on"], Key.from_row(row), tuple(row["classes"])].append(row)
    if not groups:
        return None
    cells = []
    for (trained, tested, key, classes), seeds in groups.items():
        own = [row["own"] for row in seeds if row["own"] is not None]
        score = Score.over([row["value"] for row in seeds])
        words = [f"{trained} → {tested}", key.full_title, key.input, ", ".join(classes)]
        cells.append([*words, score, _interval(seeds), Score.over(own) if own else None, f"{seeds[0]['n']:,}"])
    columns = ["trained → tested", "variant", "input", "shared classes", WEIGHTED_ACCURACY, "95 % interval"]
    columns += ["trained on the tested corpus", "utterances"]
    note = (
        f"Percent, test, {THRESHOLDS[threshold]}; mean ± standard deviation over seeds. The interval is over speakers; with several seeds, "
        "it reaches from the lowest end to the highest. For comparison: a model trained on the tested corpus, over the same classes."
    )
    title = f"{study.corpus}: heads of another corpus"
    return Table(f"study-{study.corpus}-transfer-{threshold}", title, columns, cells, 4, note=note)


def _interval(rows: list[dict]) -> str:
    lows, highs = ([row[end] for row in rows if row[end] is not None] for end in ("low", "high"))
    return f"{100 * min(lows):.1f} to {100 * max(highs):.1f}" if lows and highs else MISSING
