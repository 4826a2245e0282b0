"""Bootstrap over speakers: confidence intervals of metrics and of their differences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from calm.array_types import Bools, Floats64, Ints
from calm.evaluation import metrics


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of whole speakers, because the utterances of one speaker are not independent."""

    groups: Ints  # (utterances,) index of the speaker
    weights: Floats64  # (1 + resamples, speakers) how often each speaker is drawn; in the first row, each once

    @classmethod
    def of(cls, speakers: Sequence[str | None], samples: int, seed: int) -> "Resamples":
        """Draw as many speakers as there are, with replacement. A single speaker gives no resamples.

        An utterance of unknown speaker (None, empty or "Unknown") counts as a speaker of its own.
        """
        names = [("", row) if _is_unknown(name) else (str(name), -1) for row, name in enumerate(speakers)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        groups, count = np.array([numbers[name] for name in names]), len(numbers)
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples if count > 1 else 0)
        return cls(groups, np.vstack([np.ones((1, count)), drawn]))

    @property
    def speakers(self) -> int:
        """Number of speakers to draw from."""
        return int(self.weights.shape[1])

    def metrics(self, targets: Bools, decisions: Bools, names: Iterable[str]) -> dict[str, Floats64]:
        """Metrics of `calm.evaluation.metrics.OF_COUNTS` on every resample: name -> (1 + resamples,), the first on all utterances."""
        order = np.argsort(self.groups, kind="stable")
        starts = np.flatnonzero(np.diff(self.groups[order], prepend=-1))
        by_speaker = np.add.reduceat(metrics.confusion(targets, decisions)[order], starts, axis=0, dtype=np.float64)
        summed = (self.weights @ by_speaker.reshape(self.speakers, -1)).reshape(-1, *by_speaker.shape[1:])
        counts = metrics.Counts(*summed.transpose(1, 0, 2))
        return {name: metrics.OF_COUNTS[name](counts) for name in names}


def _is_unknown(name: str | None) -> bool:
    return not isinstance(name, str) or name.strip().lower() in ("", "unknown")


def difference(a: Sequence[Floats64], b: Sequence[Floats64], level: float = 0.95) -> dict[str, float | bool | None]:
    """Difference of a metric between two systems on the same resamples, with its percentile interval.

    The interval covers the choice of speakers, not that of seeds.

    Args:
        a, b: for each seed, an array (1 + resamples,) from `Resamples.metrics`; the metric is averaged over each system's seeds.
        level: confidence level of the interval.
    Returns:
        `difference` (a - b on all utterances), `low` and `high` (None without resamples), and `significant` (0 is outside
        the interval).
    """
    values = np.mean(a, axis=0) - np.mean(b, axis=0)
    result = {"difference": float(values[0]) if np.isfinite(values[0]) else None, "low": None, "high": None, "significant": None}
    drawn = values[1:][np.isfinite(values[1:])]
    if len(drawn) > 1 and result["difference"] is not None:
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        result |= {"low": float(low), "high": float(high), "significant": bool(low > 0 or high < 0)}
    return result


def bootstrap_difference(
    targets: Bools,
    a: Sequence[Bools],
    b: Sequence[Bools],
    speakers: Sequence[str | None],
    metric: str = "weighted_accuracy",
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, float | bool | None]:
    """Paired bootstrap over speakers of the difference of a metric; see `difference` for what is returned.

    Args:
        targets: bool (utterances, classes).
        a, b: decisions of each seed, bool (utterances, classes) each.
        speakers: (utterances,); with fewer than two speakers there is no interval.
    """
    resamples = Resamples.of(speakers, samples, seed)
    first, second = ([resamples.metrics(targets, decisions, [metric])[metric] for decisions in seeds] for seeds in (a, b))
    return difference(first, second)
