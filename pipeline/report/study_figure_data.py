"""What the figures of the study show, as plain data."""

from collections import defaultdict

from pipeline.paper import CALM_VARIANTS, FROZEN, GROUPS, MODALITIES, TABLES, label_shares
from pipeline.report.result_tables import WEIGHTED_ACCURACY, Key
from pipeline.report.study import Study

LABEL_TABLE = 9  # MOSEI's number of the table of label shares


def ablation_bars(
    study: Study, intervals: list[dict], lm: str, threshold: str
) -> dict[str, dict[str, tuple[float, float | None, float | None]]]:
    """Modality -> the variant's title -> mean and interval of weighted accuracy, for peers, ablations and CALM."""
    by_key = {Key.from_row(row): row for row in intervals if (row["threshold"], row["metric"]) == (threshold, WEIGHTED_ACCURACY)}
    bars: dict[str, dict] = {}
    for modality in MODALITIES:
        for name in (name for group in ("peers", "ablations", "calm") for name in GROUPS[group]):
            if key := study.first([name], lm, (modality,), threshold):
                interval = by_key.get(key, {})
                mean = study.scores("test", threshold)[key][WEIGHTED_ACCURACY].mean
                bars.setdefault(modality, {})[key.title] = (mean, interval.get("low"), interval.get("high"))
    return {modality: by_title for modality, by_title in bars.items() if len(by_title) > 1}


def label_share_values(study: Study, lm: str, threshold: str) -> dict[str, dict[int, list[float]]]:
    """Modality -> percent of the labels -> weighted accuracy of every seed; {} where no share was run."""
    shares: dict[str, dict[int, list[float]]] = {}
    for modality in MODALITIES:
        for suffix in (FROZEN, ""):  # unfrozen heads take the place of frozen ones
            values = {share: _seed_values(study, Key(name + suffix, lm, modality), threshold) for name, share in label_shares().items()}
            values = {share: seeds for share, seeds in values.items() if seeds}
            if len(values) > 1:
                shares[modality] = values
    return shares


def _seed_values(study: Study, key: Key, threshold: str) -> list[float]:
    wanted = ("test", threshold, WEIGHTED_ACCURACY)
    rows = [row for row in study.rows if (row["split"], row["threshold"], row["metric"]) == wanted and Key.from_row(row) == key]
    return [row["value"] for row in rows if row["value"] is not None]


def published_shares(study: Study, lm: str) -> dict[int, float]:
    """The paper's weighted accuracy on test by percent of the labels; {} for corpora and sizes that the paper does not have."""
    (table,) = [table for table in TABLES if table.mosei == LABEL_TABLE]
    rows = {label_shares()[row.variant.name]: row.published(study.corpus_format, study.sizes.get(lm) or "") for row in table.rows}
    return {share: row.test[WEIGHTED_ACCURACY] for share, row in rows.items() if row}


def reliability_bins(calibration: list[dict], lm: str) -> dict[str, list[tuple[float, float, int]]]:
    """Modality -> predicted probability, observed share and number of predictions of every bin on test, over CALM's seeds."""
    curves = {}
    for modality in MODALITIES:
        for variant in reversed(CALM_VARIANTS):  # unfrozen heads take the place of frozen ones
            rows = [row for row in calibration if Key.from_row(row) == Key(variant, lm, modality) and row["split"] == "test"]
            if rows:
                curves[modality] = _pooled([item for row in rows for item in row["bins"]])
    return curves


def _pooled(bins: list[dict]) -> list[tuple[float, float, int]]:
    """Bins of several seeds by their lower edge, with means weighted by the number of predictions."""
    by_edge = defaultdict(list)
    for item in bins:
        by_edge[item["low"]].append(item)
    pooled = []
    for _, items in sorted(by_edge.items()):
        count = sum(item["n"] for item in items)
        means = [sum(item["n"] * item[name] for item in items) / count for name in ("predicted", "observed")]
        pooled.append((*means, count))
    return pooled
