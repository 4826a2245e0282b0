"""The paper's claims, and what the study answers to each."""

from typing import NamedTuple

from pipeline.paper import FROZEN, MODALITIES, VARIANTS
from pipeline.report.result_tables import THRESHOLDS, WEIGHTED_ACCURACY, Key
from pipeline.report.study import Study
from pipeline.report.wording import in_points

CLOSE = 0.02  # weighted accuracy that counts as close: the paper's own largest loss with 20 % of the labels (table 10: 75.1 to 73.1)
CLAIMS = (  # claim, kind, variant that CALM is compared with, inputs: the first one with a comparison is used
    ("CALP's text term helps where only audio is given", "gain", "no_calp_text", ("audio",)),
    ("Pretraining helps with both inputs", "gain", "no_pretraining", ("both",)),
    ("Pretraining helps with audio alone", "gain", "no_pretraining", ("audio",)),
    ("A fifth of the labels comes close to all of them", "close", "labels_20", ("both", "audio")),
    ("The shape of patches hardly matters (2 x 64)", "same", "patch_2x64", ("both", "audio")),
    ("The shape of patches hardly matters (20 x 8)", "same", "patch_20x8", ("both", "audio")),
)


class Claim(NamedTuple):
    """One of the paper's claims on one corpus and language model, with the study's answer."""

    claim: str
    lm: str
    answer: str  # "yes", "no" or "undecided"
    text: str


def answered_claims(study: Study, threshold: str = "tuned") -> list[Claim]:
    """Every claim that has a comparison, from unfrozen heads where there are some."""
    claims = []
    for claim, kind, variant, modalities in CLAIMS:
        for lm in study.models():
            keys = [Key(variant + suffix, lm, modality) for modality in modalities for suffix in ("", FROZEN)]
            comparisons = [(key, row) for key in keys if (row := study.comparison(key, threshold)) and row["difference"] is not None]
            if comparisons:
                key, row = comparisons[0]
                frozen = ", heads only (frozen)" if key.variant.endswith(FROZEN) else ""
                text = f"CALM less “{VARIANTS[variant]}”, {MODALITIES[key.modality]}{frozen}: {_difference(row)}"
                claims.append(Claim(claim, lm, answer(kind, row["low"], row["high"]), text))
    return claims


def answer(kind: str, low: float | None, high: float | None) -> str:
    """Answer from the interval of CALM less the other variant.

    Args:
        kind: "gain" asks for a difference above 0, "close" for a loss below CLOSE, "same" for one within ± CLOSE.
    """
    if low is None or high is None:
        return "undecided"
    if kind == "gain":
        yes, no = low > 0, high < 0
    elif kind == "close":
        yes, no = high < CLOSE, low > CLOSE
    else:
        yes, no = low > -CLOSE and high < CLOSE, low > CLOSE or high < -CLOSE
    return "yes" if yes else "no" if no else "undecided"


def _difference(row: dict) -> str:
    if row["low"] is None:
        return f"{in_points(row['difference'])} points (too few speakers for an interval)."
    return f"{in_points(row['difference'])} points (95 % interval {in_points(row['low'])} to {in_points(row['high'])})."


def limits(study: Study, claims: list[Claim], threshold: str = "tuned") -> str:
    """What the answers can and cannot show."""
    compared = sum((row["threshold"], row["metric"]) == (threshold, WEIGHTED_ACCURACY) for row in study.comparisons)
    parts = [
        f"Weighted accuracy on test, {THRESHOLDS[threshold]}. For a gain, “yes” means that the whole interval lies above 0, and “no” that "
        f"it lies below. “Close” and “hardly matters” mean within {100 * CLOSE:.0f} points, the most that the paper itself loses with a "
        "fifth of the labels (table 10); “no” means that the whole interval lies beyond that.",
        "The intervals are over the speakers of the test split, for heads averaged over their seeds"
        + (f"; {study.spread}." if study.spread else ".")
        + " No interval shows how much another pretraining run would change.",
        f"These {len(claims)} answers come from {compared} differences computed at these thresholds, without a correction for multiple "
        "comparisons: even where nothing differs, about one interval in twenty excludes 0.",
    ]
    if study.synthetic:
        parts.append("The speech is synthetic: none of this says anything about human speech.")
    return " ".join(parts)
