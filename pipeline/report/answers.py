"""What one head answered to the utterances of the test split: its confusions, how wrong each answer is, and rows for the page."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline import paths
from pipeline.report.result_tables import Key

NOTHING = "none of them"  # of the classes


@dataclass
class Answers:
    """Answers of one head of one seed to labelled utterances of the test split, the most wrong first.

    Attributes:
        table: id, speaker, labels and answer (lists of classes), probability (of the labels, see `read`), wrong, fold where there are some.
        decision: kind of thresholds: "tuned", "0.5" or "argmax".
    """

    corpus: str
    key: Key
    seed: int
    decision: str
    classes: list[str]
    one_hot: bool
    table: pd.DataFrame


def read(corpus: str, key: Key, seed: int, decision: str) -> Answers | None:
    """From the corpus's `predictions.parquet`; None where the head has no decisions of this kind.

    An utterance's probability is the mean, over the classes, of what the head gives to the right answer; where every utterance has one
    class, what it gives to that class.
    """
    file = paths.evaluation(corpus) / "predictions.parquet"
    if not file.exists():
        return None
    named = [("variant", "==", key.variant), ("lm", "==", key.lm or "-"), ("modality", "==", key.modality)]
    stored = pq.read_table(file, filters=[*named, ("seed", "==", seed), ("split", "==", "test")])
    classes = stored.schema.metadata[b"classes"].decode().split("\n")
    column = f"decided_{decision}"
    table = stored.to_pandas()
    if column not in table or table.empty or table[column].isna().any():
        return None
    targets, decided = (_chosen(table[name], classes) for name in ("labels", column))
    one_hot = bool((targets.sum(1) == 1).all())
    probabilities = np.stack(table["probabilities"].to_list())
    right = np.where(targets, probabilities, 1 - probabilities)
    table["probability"] = (probabilities * targets).sum(1) if one_hot else right.mean(1)
    table["answer"], table["wrong"] = table[column], (targets != decided).any(1)
    table = table.sort_values(["wrong", "probability", "id"], ascending=[False, True, True], ignore_index=True)
    columns = ["id", "speaker", *(["fold"] if "fold" in table else []), "labels", "answer", "probability", "wrong"]
    return Answers(corpus, key, seed, decision, classes, one_hot, table[columns])


def _chosen(lists: pd.Series, classes: list[str]) -> np.ndarray:
    """Lists of classes as bool (utterances, classes)."""
    return np.array([np.isin(classes, list(names)) for names in lists]).reshape(len(lists), len(classes))


def confusion(answers: Answers) -> pd.DataFrame:
    """Counts of utterances with a class (rows) that were answered with a class (columns); "none of them" stands for no class.

    An utterance with several classes counts once for each, in rows and in columns.
    """
    parts = [with_nothing(_chosen(answers.table[name], answers.classes)) for name in ("labels", "answer")]
    names = [*answers.classes, NOTHING]
    counts = pd.DataFrame(parts[0].T @ parts[1], names, names)
    return counts if counts[NOTHING].any() or counts.loc[NOTHING].any() else counts.iloc[:-1, :-1]


def with_nothing(chosen: np.ndarray) -> np.ndarray:
    """A last column for the utterances without any class; integers (utterances, classes + 1)."""
    return np.column_stack([chosen, ~chosen.any(1)]).astype(np.int64)
