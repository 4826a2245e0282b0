"""Retrieval: how well vectors of audio find the vectors of their texts or of neighbouring blocks."""

from collections.abc import Sequence

import numpy as np

from calm.array_types import Bools, Floats, Floats64, Ints


def retrieval(
    queries: Floats, keys: Floats, groups: Sequence[object] | None = None, ranks: Sequence[int] = (1, 5, 10), chunk: int = 1 << 22
) -> dict[str, float]:
    """Recall at k and the median rank of each query's right key by cosine similarity, with the values of chance.

    Keys with equal cosines (within 1e-6) count as being in random order. Recall is then the probability that a right key is among
    the first k, and the rank of the first right key is its expected value. Vectors that are all alike thus score exactly as chance.

    Args:
        queries, keys: (n, d); key i is right for query i.
        groups: (n,) names of the keys, for example their texts; every key with the name of key i is right for query i.
            None: only key i is.
        ranks: the values of k.
        chunk: number of cosines held in memory at once.
    Returns:
        `n`, `recall_at_<k>`, `median_rank`, `chance_recall_at_<k>`, `chance_median_rank`.
    Raises:
        ValueError: the shapes differ, there are no keys, or a vector has a value that is not finite.
    """
    queries, keys = _unit(queries), _unit(keys)
    if queries.shape != keys.shape or queries.ndim != 2 or not len(keys):
        raise ValueError(f"queries {queries.shape} and keys {keys.shape} must have the same shape (n, d) and must not be empty")
    n = len(keys)
    names = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(names) != n:
        raise ValueError(f"{n} keys need {n} group names, but there are {len(names)}")
    before, wrong, right = (np.empty(n, dtype=np.int64) for _ in range(3))
    for rows in np.array_split(np.arange(n), -(-n * n // chunk)):
        if len(rows):
            before[rows], wrong[rows], right[rows] = _ties(queries[rows] @ keys.T, names[rows][:, None] == names)
    same = np.bincount(names)[names]
    scores, chance = {}, {}
    for k in ranks:
        scores[f"recall_at_{k}"] = float(_right_among_first(k - before, wrong, right).mean())
        chance[f"chance_recall_at_{k}"] = float(_right_among_first(np.full(n, k), n - same, same).mean())
    scores["median_rank"] = float(np.median(before + 1 + wrong / (right + 1)))
    chance["chance_median_rank"] = float(np.median(1 + (n - same) / (same + 1)))
    return {"n": n, **scores, **chance}


def _unit(vectors: Floats) -> Floats64:
    """Rows scaled to length 1; rows of zeros stay zero. Raises ValueError for NaN and infinities."""
    vectors = np.asarray(vectors, dtype=np.float64)
    if not np.isfinite(vectors).all():
        raise ValueError("the vectors to retrieve by contain NaN or infinities")
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _ties(cosines: Floats64, is_right: Bools) -> tuple[Ints, Ints, Ints]:
    """Numbers of keys before the best right key, and of wrong and right keys tied with it, each (rows,); arguments (rows, keys)."""
    best = np.where(is_right, cosines, -np.inf).max(axis=1, keepdims=True)
    tied = np.abs(cosines - best) <= 1e-6
    return ((cosines > best) & ~tied).sum(1), (tied & ~is_right).sum(1), (tied & is_right).sum(1)


def _right_among_first(k: Ints, wrong: Ints, right: Ints) -> Floats64:
    """Probability that the first k of `wrong` + `right` keys in random order contain a right one: 1 - C(wrong, k) / C(wrong + right, k)."""
    from scipy.special import gammaln

    k = np.clip(k, 0, wrong + right)
    inside = np.minimum(k, wrong)  # for larger k a right key is certain
    logarithm = gammaln(wrong + 1) - gammaln(wrong - inside + 1) - gammaln(wrong + right + 1) + gammaln(wrong + right - inside + 1)
    return np.where(k > wrong, 1.0, -np.expm1(np.minimum(logarithm, 0)))
