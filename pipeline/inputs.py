"""What makes a model's inputs of new samples, as the features of its corpora were made."""

import numpy as np

from calm.inference.processing import CalmFeatureExtractor
from calm.storage import read_json
from pipeline import paths
from pipeline.settings import SpecTranSettings

SAME = ("mels", "window_ms", "hop_ms", "low_hz", "high_hz", "trim_db")


def extractor(spectran: SpecTranSettings, corpora: list[str], max_tokens: int = 512) -> CalmFeatureExtractor:
    """The feature extractor of a model of these corpora; of several, the log-mel's statistics are those of all their training frames."""
    stats = [read_json(paths.features(corpus) / "stats.json") for corpus in corpora]
    return CalmFeatureExtractor(
        stats[0]["sample_rate"],
        **{name: stats[0][name] for name in SAME},
        normalise=spectran.normalise,
        **(pooled(stats) if spectran.normalise == "corpus" else {}),
        block_frames=spectran.block,
        block_hop=spectran.hop,
        max_tokens=max_tokens,
    )


def pooled(stats: list[dict]) -> dict[str, list[float]]:
    """`mean` and `std` of every band over the frames of several corpora together, from those of each and its number of frames."""
    if len(stats) == 1:
        return {name: stats[0][name] for name in ("mean", "std")}
    frames, means, stds = (np.array([one[name] for one in stats], float) for name in ("frames", "mean", "std"))
    mean = np.average(means, axis=0, weights=frames)
    variance = np.average(stds**2 + (means - mean) ** 2, axis=0, weights=frames)
    return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist()}
