"""Around the metrics: thresholds tuned on validation, bootstrap over speakers, calibration, and retrieval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from calm import metrics


def tune_thresholds(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """One threshold a class that maximises (TPR + TNR) / 2, the class's part of weighted accuracy. Give it validation only.

    A class is decided present where its probability is at or above its threshold. Every cut between two different
    probabilities is tried. Of several best cuts the one nearest 0.5 is taken, then the lower one; the threshold lies midway
    between the probabilities on either side, or is 0.5 where that decides the same. Without a positive or a negative: 0.5.

    Args:
        targets: bool (utterances, classes).
        probabilities: (utterances, classes) in [0, 1].
    Returns:
        (classes,) float64.
    """
    targets, probabilities = np.asarray(targets, bool), np.asarray(probabilities, np.float64)
    if targets.shape != probabilities.shape or not len(targets) or not np.isfinite(probabilities).all():
        raise ValueError(
            f"targets {targets.shape} and probabilities {probabilities.shape} must have one shape, not be empty, and be numbers"
        )
    order = np.argsort(-probabilities, axis=0, kind="stable")
    values, hits = np.take_along_axis(probabilities, order, 0), np.take_along_axis(targets, order, 0)
    edge = np.zeros((1, targets.shape[1]))
    # Cut k takes the k likeliest: they reach down to `lowest_in`, the others up to `highest_out`.
    lowest_in, highest_out = np.vstack([edge + np.nextafter(1, 2), values]), np.vstack([values, edge - 1e-9])
    tp, fp = (np.vstack([edge.astype(int), np.cumsum(part, axis=0)]) for part in (hits, ~hits))
    positives, negatives = tp[-1], fp[-1]
    score = tp * negatives + (negatives - fp) * positives  # 2 P N times the mean of TPR and TNR: whole numbers compare exactly
    middle = (lowest_in + np.maximum(highest_out, 0)) / 2
    middle = np.where(middle > highest_out, middle, lowest_in)  # neighbouring floats have no number between them
    middle = np.where((highest_out < 0.5) & (lowest_in >= 0.5), 0.5, middle)
    score = np.where(lowest_in > highest_out, score, -1)
    distance = np.where(score == score.max(axis=0), np.abs(middle - 0.5), np.inf)
    nearest = np.where(distance == distance.min(axis=0), middle, np.inf).min(axis=0)
    return np.where((positives > 0) & (negatives > 0), nearest, 0.5)


def likeliest(scores: np.ndarray) -> np.ndarray:
    """Decisions for the class of the highest score alone, the first of equals: bool (utterances, classes)."""
    return scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1])


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of whole speakers: utterances of one speaker are no independent draws."""

    groups: np.ndarray  # (utterances,) number of the speaker
    weights: np.ndarray  # (1 + resamples, speakers) how often each is drawn; the first row has each once

    @classmethod
    def of(cls, speakers: Sequence[str | None], samples: int, seed: int) -> "Resamples":
        """Draw as many speakers as there are, with replacement; a single one leaves nothing to draw, and so no resamples.

        An utterance whose speaker is not known (none, empty or "Unknown") is a speaker of its own.
        """
        names = [("", row) if _unknown(name) else (str(name), -1) for row, name in enumerate(speakers)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        groups, many = np.array([numbers[name] for name in names]), len(numbers)
        drawn = np.random.default_rng(seed).multinomial(many, np.full(many, 1 / many), size=samples if many > 1 else 0)
        return cls(groups, np.vstack([np.ones((1, many)), drawn]))

    @property
    def speakers(self) -> int:
        """How many there are to draw from."""
        return self.weights.shape[1]

    def metrics(self, targets: np.ndarray, decisions: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Metrics (those of `calm.metrics.OF_COUNTS`) on every resample: name -> (1 + resamples,), the first on all as it is."""
        order = np.argsort(self.groups, kind="stable")
        starts = np.flatnonzero(np.diff(self.groups[order], prepend=-1))
        of_speakers = np.add.reduceat(metrics.confusion(targets, decisions)[order], starts, axis=0, dtype=np.float64)
        summed = (self.weights @ of_speakers.reshape(self.speakers, -1)).reshape(-1, *of_speakers.shape[1:])
        counts = metrics.Counts(*summed.transpose(1, 0, 2))
        return {name: metrics.OF_COUNTS[name](counts) for name in names}


def _unknown(name: str | None) -> bool:
    return not isinstance(name, str) or name.strip().lower() in ("", "unknown")


def difference(a: Sequence[np.ndarray], b: Sequence[np.ndarray], level: float = 0.95) -> dict[str, float | bool | None]:
    """The difference of a metric between two systems on the same resamples, with its percentile interval.

    Args:
        a, b: one array (1 + resamples,) of `Resamples.metrics` a seed; the metric is averaged over the seeds of each.
    Returns:
        `difference` (a - b on all utterances), `low` and `high` (None without resamples), and
        `significant`: whether 0 lies outside them. The interval is of other speakers, not of other seeds.
    """
    values = np.mean(a, axis=0) - np.mean(b, axis=0)
    result = {"difference": float(values[0]) if np.isfinite(values[0]) else None, "low": None, "high": None, "significant": None}
    drawn = values[1:][np.isfinite(values[1:])]
    if len(drawn) > 1 and result["difference"] is not None:
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        result |= {"low": float(low), "high": float(high), "significant": bool(low > 0 or high < 0)}
    return result


def bootstrap_difference(
    targets: np.ndarray,
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    speakers: Sequence[str | None],
    metric: str = "weighted_accuracy",
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, float | bool | None]:
    """Paired bootstrap of a metric's difference over speakers; see `difference`.

    Args:
        targets: bool (utterances, classes); a, b: decisions of each seed, bool (utterances, classes) each.
        speakers: (utterances,); with fewer than two there is no interval.
    """
    resamples = Resamples.of(speakers, samples, seed)
    first, second = ([resamples.metrics(targets, one, [metric])[metric] for one in runs] for runs in (a, b))
    return difference(first, second)


def calibration(targets: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> list[dict]:
    """For a reliability diagram, all classes together: of each bin that is not empty, its edges, the number of probabilities in it,
    their mean, and the share that was right."""
    sizes, predicted, observed = (part.sum(axis=0) for part in metrics.reliability(targets, probabilities, bins))
    return [
        {"low": b / bins, "high": (b + 1) / bins, "n": int(size), "predicted": predicted[b] / size, "observed": observed[b] / size}
        for b, size in enumerate(sizes)
        if size
    ]


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
