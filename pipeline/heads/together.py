"""Answers of several heads together, as a row of the tables of its own."""

from functools import reduce

import numpy as np
import pandas as pd
from scipy.special import log_softmax

KEYS = ("id", "split", "modality", "seed", "fold")


def averaged(logits: pd.DataFrame, name: str, variants: list[str], loss: str) -> pd.DataFrame:
    """Rows like those of `logits`, of what all of the variants answered: the mean of their logits, or log-probabilities of a softmax.

    Args:
        logits: id, split, logits, variant, modality, seed, and fold where the corpus has folds.
        name: of the new variant.
    """
    keys = [key for key in KEYS if key in logits]
    parts = [logits.loc[logits["variant"] == variant].set_index(keys)["logits"] for variant in variants]
    index = reduce(pd.Index.intersection, (part.index for part in parts))
    answers = [np.stack(part.loc[index]) for part in parts] if len(index) else []
    means = np.mean([log_softmax(own, axis=1) if loss == "softmax" else own for own in answers], axis=0) if answers else []
    return index.to_frame(index=False).assign(variant=name, logits=[row.astype(np.float32) for row in means])
