"""What the study says of the paper's claims, and what the paper does not show: losses, calibration, groups, other corpora."""

import re
from collections import defaultdict
from typing import NamedTuple

from pipeline.report.results import FROZEN, GROUPS, MODALITIES, THRESHOLDS, VARIANTS, Key, Table, overview, score
from pipeline.report.study_tables import CALM, Study
from pipeline.report.tables import METRIC, in_points, listed

CLOSE = 0.02  # of weighted accuracy: what counts as close, the paper's own largest loss from 20 % of the labels (table 10: 75.1 to 73.1)


class Claim(NamedTuple):
    """One of the paper's claims on one corpus and language model, and what came out."""

    claim: str
    lm: str
    answer: str  # "yes", "no" or "undecided"
    text: str


ASKED = (  # claim, kind, variant that CALM is compared with, inputs: of these the first that there is
    ("CALP's text term helps where only audio is given", "gain", "no_calp_text", ("audio",)),
    ("Pretraining helps with both inputs", "gain", "no_pretraining", ("both",)),
    ("Pretraining helps with audio alone", "gain", "no_pretraining", ("audio",)),
    ("A fifth of the labels comes close to all of them", "close", "labels_20", ("both", "audio")),
    ("The shape of patches hardly matters (2 x 64)", "same", "patch_2x64", ("both", "audio")),
    ("The shape of patches hardly matters (20 x 8)", "same", "patch_20x8", ("both", "audio")),
)


def claims(study: Study, threshold: str = "tuned") -> list[Claim]:
    """Every claim that something ran for, from the unfrozen heads where there are some; undecided where the interval leaves it open."""
    found = []
    for claim, kind, variant, modalities in ASKED:
        for lm in study.models():
            keys = [Key(variant + end, lm, modality) for modality in modalities for end in ("", FROZEN)]
            rows = [(key, row) for key in keys if (row := study.against(key, threshold)) and row["difference"] is not None]
            if rows:
                key, row = rows[0]
                frozen = ", heads only (frozen)" if key.variant.endswith(FROZEN) else ""
                text = f"CALM less “{VARIANTS[variant]}”, {MODALITIES[key.modality]}{frozen}: {_said(row)}"
                found.append(Claim(claim, lm, answer(kind, row["low"], row["high"]), text))
    return found


def answer(kind: str, low: float | None, high: float | None) -> str:
    """From the interval of CALM less the other: `gain` asks for above 0, `close` for a loss below CLOSE, `same` for within ± CLOSE."""
    if low is None or high is None:
        return "undecided"
    if kind == "gain":
        yes, no = low > 0, high < 0
    elif kind == "close":
        yes, no = high < CLOSE, low > CLOSE
    else:
        yes, no = low > -CLOSE and high < CLOSE, low > CLOSE or high < -CLOSE
    return "yes" if yes else "no" if no else "undecided"


def _said(row: dict) -> str:
    if row["low"] is None:
        return f"{in_points(row['difference'])} points (too few speakers for an interval)."
    return f"{in_points(row['difference'])} points (95 % interval {in_points(row['low'])} to {in_points(row['high'])})."


def limits(study: Study, found: list[Claim], threshold: str = "tuned") -> str:
    """What can and what cannot be concluded from the claims' answers."""
    compared = sum((row["threshold"], row["metric"]) == (threshold, METRIC) for row in study.comparisons)
    parts = [
        f"Weighted accuracy on test, {THRESHOLDS[threshold]}. “Yes” to a gain: the whole interval lies above 0; “no”: it lies below. "
        f"Close, or hardly mattering, is within {100 * CLOSE:.0f} points, as much as the paper itself loses from a fifth of the labels "
        "(table 10); “no”: the whole interval lies beyond.",
        "The intervals are over the speakers of the test split, for heads averaged over their seeds. Each model was pretrained with one "
        "seed, so how much another run of pretraining would change is in none of them.",
        f"{len(found)} answers stand here, of {compared} differences computed at these thresholds, without correction for their number: "
        "where nothing differs, about one interval of twenty leaves out 0 all the same.",
    ]
    if any(row["synthetic"] for row in study.rows):
        parts.append("The speech is synthetic: none of this says anything of human speech.")
    return " ".join(parts)


def loss_table(pretrained: dict[str, dict]) -> Table | None:
    """Held-out losses of masked prediction by model."""
    keys = {"mlm": "masked words", "mam": "masked audio", "mam_middle": "its middle blocks"}
    found = {name: of["validation"] for name, of in pretrained.items() if of.get("validation")}
    if not found:
        return None
    cells = [
        [name, listed(pretrained[name].get("corpora", [])), *("–" if of.get(key) is None else f"{of[key]:.3f}" for key in keys)]
        for name, of in found.items()
    ]
    note = (
        "Validation split. Words: cross entropy in nats. Audio: mean squared error of the normalised log-mel. Blocks overlap: the middle "
        "block of a masked span is the one that its neighbours do not show."
    )
    columns = ["model", "pretrained on", *keys.values()]
    return Table("study-masked-losses", "Held-out losses of masked prediction", columns, cells, 2, note=note)


def calibration_table(study: Study) -> Table | None:
    """Expected calibration error by line."""
    lines = {split: study.scores(split, "0.5") for split in ("validation", "test")}
    keys = [key for key, line in lines["test"].items() if "ece" in line]
    shown = overview(key.variant for key in keys)
    keys = [key for key in keys if key.variant in shown]
    if not any(key.lm for key in keys):
        return None
    cells = [[key.title, key.lm or "–", key.given, *(lines[split].get(key, {}).get("ece") for split in lines)] for key in keys]
    rules = {n for n in range(1, len(keys)) if keys[n].group != keys[n - 1].group}
    title = f"{study.corpus}: expected calibration error"
    note = "Percent, mean ± standard deviation over seeds; all classes together, ten bins; lower is better. Needs no threshold."
    return Table(f"study-{study.corpus}-calibration", title, ["variant", "model", "input", *lines], cells, 3, rules=rules, note=note)


BY = {"gender": "gender", "duration": "duration", "wer": "word error rate of the text"}


def bucket_table(study: Study, buckets: list[dict], threshold: str) -> Table | None:
    """CALM's weighted accuracy in groups of test utterances, by input; unfrozen where there is such a row."""
    mine = [row for row in buckets if (row["threshold"], row["metric"]) == (threshold, METRIC) and row["value"] is not None]
    variant = next((name for name in CALM if any(row["variant"] == name for row in mine)), None)
    values, sizes = defaultdict(lambda: defaultdict(list)), {}
    for row in mine:
        if row["variant"] == variant:
            place = (row["by"], row["bucket"], row["lm"])
            values[place][row["modality"]].append(row["value"])
            sizes[place] = row["n"]
    if not values:
        return None
    inputs = [name for name in MODALITIES if any(name in of for of in values.values())]
    order = sorted(values, key=lambda place: (list(BY).index(place[0]) if place[0] in BY else len(BY), _size(place[1]), place[1:]))
    cells = [
        [BY.get(by, by), bucket, lm, f"{sizes[by, bucket, lm]:,}"]
        + [score(values[by, bucket, lm][name]) if values[by, bucket, lm][name] else None for name in inputs]
        for by, bucket, lm in order
    ]
    rules = {n for n in range(1, len(order)) if order[n][0] != order[n - 1][0]}
    title = f"{study.corpus}: {VARIANTS[variant]} by group of utterances"
    note = f"Weighted accuracy on test, percent, {THRESHOLDS[threshold]}; mean ± standard deviation over seeds. Small groups say little."
    columns = ["by", "group", "model", "utterances", *(MODALITIES[name] for name in inputs)]
    return Table(f"study-{study.corpus}-groups-{threshold}", title, columns, cells, 3, rules=rules, note=note)


def _size(bucket: str) -> tuple[float, int]:
    """Where a bucket stands: "under 2 s" and "no word wrong" first, then by its first number, "over 20 %" behind "up to 20 %"."""
    number = re.search(r"[\d.]+", bucket)
    if number is None or bucket.startswith("under"):
        return (-1.0, 0)
    return (float(number[0]), int(bucket.startswith("over")))


def transfer_table(study: Study, rows: list[dict], threshold: str) -> Table | None:
    """Heads of another corpus on this one's test split, over the classes that both have."""
    groups = defaultdict(list)
    for row in rows:
        if (row["threshold"], row["metric"]) == (threshold, METRIC) and row["value"] is not None:
            groups[row["trained_on"], row["tested_on"], Key.of(row), tuple(row["classes"])].append(row)
    if not groups:
        return None
    cells = []
    for (trained, tested, key, classes), rows in groups.items():
        own = [row["own"] for row in rows if row["own"] is not None]
        line = [f"{trained} → {tested}", f"{key.title} ({key.lm})", key.given, ", ".join(classes), score([row["value"] for row in rows])]
        cells.append([*line, _interval(rows), score(own) if own else None, f"{rows[0]['n']:,}"])
    columns = ["trained → tested", "variant", "input", "shared classes", METRIC, "95 % interval", "trained on it itself", "utterances"]
    note = (
        f"Percent, test, {THRESHOLDS[threshold]}; mean ± standard deviation over seeds. The interval is over speakers; of several seeds, "
        "from the lowest end to the highest. Beside it: a model trained on the tested corpus, over the same classes."
    )
    title = f"{study.corpus}: heads of another corpus"
    return Table(f"study-{study.corpus}-transfer-{threshold}", title, columns, cells, 4, note=note)


def _interval(rows: list[dict]) -> str:
    lows, highs = ([row[end] for row in rows if row[end] is not None] for end in ("low", "high"))
    return f"{100 * min(lows):.1f} to {100 * max(highs):.1f}" if lows and highs else "–"


def bars(study: Study, intervals: list[dict], lm: str, threshold: str) -> dict[str, dict[str, tuple[float, float | None, float | None]]]:
    """For a figure: modality -> variant's title -> mean and interval of weighted accuracy, without label shares and patches."""
    bounds = {Key.of(row): row for row in intervals if (row["threshold"], row["metric"]) == (threshold, METRIC)}
    found: dict[str, dict] = {}
    order = [name for group in ("peers", "ablations", "calm") for name in GROUPS[group]]
    for modality in MODALITIES:
        for name in order:
            keys = [key for end in ("", FROZEN) if (key := Key(name + end, lm, modality)) in study.keys(threshold)]
            if keys:
                row = bounds.get(keys[0], {})
                mean = study.scores("test", threshold)[keys[0]][METRIC].mean
                found.setdefault(modality, {})[keys[0].title] = (mean, row.get("low"), row.get("high"))
    return {modality: of for modality, of in found.items() if len(of) > 1}


def shares(study: Study, lm: str, threshold: str) -> dict[str, dict[int, list[float]]]:
    """For a figure: modality -> percent of the labels -> weighted accuracy of every seed; {} where no share was run."""
    found: dict[str, dict[int, list[float]]] = {}
    for modality in MODALITIES:
        for end in ("", FROZEN):
            names = {share: f"labels_{share}{end}" for share in (20, 40, 60, 80)} | {100: f"calm{end}"}
            of = {share: _seeds(study, Key(name, lm, modality), threshold) for share, name in names.items()}
            of = {share: values for share, values in of.items() if values}
            if len(of) > 1 and modality not in found:
                found[modality] = of
    return found


def _seeds(study: Study, key: Key, threshold: str) -> list[float]:
    wanted = ("test", threshold, METRIC)
    rows = [row for row in study.rows if (row["split"], row["threshold"], row["metric"]) == wanted and Key.of(row) == key]
    return [row["value"] for row in rows if row["value"] is not None]


def reliability(study: Study, calibration: list[dict], lm: str) -> dict[str, list[tuple[float, float, int]]]:
    """For a figure: modality -> predicted, observed and number of every bin on test, CALM's seeds together."""
    found = {}
    for modality in MODALITIES:
        for variant in CALM:
            mine = [row for row in calibration if Key.of(row) == Key(variant, lm, modality) and row["split"] == "test"]
            if mine and modality not in found:
                found[modality] = _pooled([one for row in mine for one in row["bins"]])
    return found


def _pooled(bins: list[dict]) -> list[tuple[float, float, int]]:
    by_edge = defaultdict(list)
    for one in bins:
        by_edge[one["low"]].append(one)
    pooled = []
    for _, of in sorted(by_edge.items()):
        many = sum(one["n"] for one in of)
        pooled.append((*(sum(one["n"] * one[name] for one in of) / many for name in ("predicted", "observed")), many))
    return pooled
