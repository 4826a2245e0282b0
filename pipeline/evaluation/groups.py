"""Where a model does well: weighted accuracy of CALM on parts of the test split, by the speaker's gender, duration, and word error rate."""

from pathlib import Path

import numpy as np
import pandas as pd

from calm.asr import transcripts
from calm.evaluation import metrics
from calm.storage import read_parquet
from pipeline.evaluation.predictions import CorpusEvaluation, Predictions

SECONDS = (2.0, 4.0, 8.0)
ERRORS = (0.0, 0.2)  # word error rate of an utterance
METRIC = "weighted_accuracy"


def rows(all_predictions: list[Predictions], evaluation: CorpusEvaluation, texts: Path, language: str) -> list[dict]:
    """Rows of `groups.json`: predictions' names, by what the utterances are parted, group, its size, threshold, metric and value.

    Args:
        texts: folder of `transcribe`; utterances whose text has no reference, or is the reference, are in no group of word errors.
    """
    if "test" not in evaluation.truth:
        return []
    truth, lines = evaluation.truth["test"], []
    parted = {"gender": truth.table["gender"], "duration": by_duration(truth.table["duration"])}
    parted["wer"] = by_errors(truth.table["id"], texts, language)
    for predictions in all_predictions:
        if predictions.system.variant not in ("calm", "calm_frozen"):
            continue
        present = predictions.present("test")
        for by, names in parted.items():
            for name in names.dropna().unique():
                chosen = present & (names == name).to_numpy(bool)
                for threshold in ("tuned", "0.5"):
                    decisions = predictions.decisions.get(("test", threshold))
                    if decisions is None or not chosen.any():
                        continue
                    value = metrics.decided(truth.targets[chosen], decisions[chosen], evaluation.classes).values.get(METRIC)
                    group = {"by": by, "bucket": name, "n": int(chosen.sum()), "threshold": threshold, "metric": METRIC}
                    lines.append(predictions.columns | group | {"value": value})
    return lines


def by_duration(seconds: pd.Series) -> pd.Series:
    """Names of the groups by duration, the shortest first."""
    edges = [0.0, *SECONDS, np.inf]
    names = [f"under {SECONDS[0]:g} s", *(f"{low:g}-{high:g} s" for low, high in zip(SECONDS, SECONDS[1:], strict=False))]
    return pd.cut(seconds, edges, right=False, labels=[*names, f"from {SECONDS[-1]:g} s"]).astype(object)


def by_errors(ids: pd.Series, texts: Path, language: str) -> pd.Series:
    """Names of the groups by each utterance's word error rate; null if it has no reference."""
    file = texts / "texts.parquet"
    if not file.exists():
        return pd.Series([None] * len(ids), dtype=object)
    table = read_parquet(file, ["id", "text", "reference"]).to_pandas().set_index("id").reindex(ids)
    return pd.Series([_errors(row.text, row.reference, language) for row in table.itertuples()], dtype=object)


def _errors(text: str | None, reference: str | None, language: str) -> str | None:
    if not isinstance(text, str) or not isinstance(reference, str):
        return None
    wer = transcripts.word_errors([reference], [text], language).wer
    if not np.isfinite(wer):
        return None
    low, high = ERRORS
    return "no word wrong" if wer <= low else f"up to {high:.0%} wrong" if wer <= high else f"over {high:.0%} wrong"
