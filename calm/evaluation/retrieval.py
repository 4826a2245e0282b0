"""How well vectors of audio find those of their texts or neighbours."""

from collections.abc import Sequence

import numpy as np


def retrieval(
    queries: np.ndarray, keys: np.ndarray, groups: Sequence | None = None, ranks: Sequence[int] = (1, 5, 10), chunk: int = 1 << 22
) -> dict[str, float]:
    """How well each query finds its key by cosine: recall in the first ranks, the median rank, and what chance gives.

    Keys of equal cosine (to 1e-6) count as in random order: recall is the probability that a right key is among the first,
    and the rank of the first right key is its mean. So vectors that are all alike get exactly what chance gets.

    Args:
        queries, keys: (n, d); the right key of query i is key i.
        groups: (n,) names of the keys (their texts, say): any key of the name of key i is right for query i. None: key i alone.
        ranks: k of recall at k.
        chunk: cosines in memory at once.
    Returns:
        `n`, `recall_at_<k>`, `median_rank`, `chance_recall_at_<k>`, `chance_median_rank`.
    """
    queries, keys = _unit(queries), _unit(keys)
    if queries.shape != keys.shape or queries.ndim != 2 or not len(keys):
        raise ValueError(f"queries {queries.shape} and keys {keys.shape} must have one shape (n, d) and not be empty")
    n = len(keys)
    names = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(names) != n:
        raise ValueError(f"{len(names)} groups were given for {n} keys")
    before, wrong, right = (np.empty(n, dtype=np.int64) for _ in range(3))
    for rows in np.array_split(np.arange(n), -(-n * n // chunk)):
        if len(rows):
            before[rows], wrong[rows], right[rows] = _ties(queries[rows] @ keys.T, names[rows][:, None] == names)
    same = np.bincount(names)[names]
    found, chance = {}, {}
    for k in ranks:
        found[f"recall_at_{k}"] = float(_among(k - before, wrong, right).mean())
        chance[f"chance_recall_at_{k}"] = float(_among(np.full(n, k), n - same, same).mean())
    found["median_rank"] = float(np.median(before + 1 + wrong / (right + 1)))
    chance["chance_median_rank"] = float(np.median(1 + (n - same) / (same + 1)))
    return {"n": n, **found, **chance}


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1 (a row of zeros stays one). Raises ValueError for what is no number."""
    vectors = np.asarray(vectors, dtype=np.float64)
    if not np.isfinite(vectors).all():
        raise ValueError("vectors to retrieve by hold NaN or infinities")
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _ties(cosines: np.ndarray, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys before the best right key, and the wrong and the right ones level with it, each (rows,); both arguments (rows, keys)."""
    best = np.where(is_right, cosines, -np.inf).max(axis=1, keepdims=True)
    level = np.abs(cosines - best) <= 1e-6
    return ((cosines > best) & ~level).sum(1), (level & ~is_right).sum(1), (level & is_right).sum(1)


def _among(k: np.ndarray, wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probability that of `wrong` and `right` keys in random order one of the first k is right: 1 - C(wrong, k) / C(wrong + right, k)."""
    from scipy.special import gammaln

    k = np.clip(k, 0, wrong + right)
    inside = np.minimum(k, wrong)  # beyond that a right one is certain
    logarithm = gammaln(wrong + 1) - gammaln(wrong - inside + 1) - gammaln(wrong + right + 1) + gammaln(wrong + right - inside + 1)
    return np.where(k > wrong, 1.0, -np.expm1(np.minimum(logarithm, 0)))
