"""The feature extractor of a model: new samples become inputs as the features of its corpora did."""

import numpy as np

from calm.inference.extractor import kind_settings
from calm.inference.processing import CalmFeatureExtractor
from calm.storage import read_json
from pipeline import paths
from pipeline.settings import SpecTranSettings


def extractor(
    spectran: SpecTranSettings,
    corpora: list[str],
    max_tokens: int = 512,
    functionals: str | None = None,
    speeds: bool = False,
    longest: float | None = None,
) -> CalmFeatureExtractor:
    """The feature extractor of a model trained on these corpora; the statistics of several are those of all their training frames.

    Args:
        max_tokens: places of the transformer, which text and audio share.
        functionals: kind that heads see, see `calm.audio.functionals`.
        speeds: whether new audio is heard at the speeds of the copies too.
        longest: seconds of the longest utterance that heads learn from; None: there are no heads.
    """
    stats = [read_json(paths.frames(corpus, spectran.frames) / "stats.json") for corpus in corpora]
    settings = {name: stats[0][name] for name in ("kind", "trim_db", *kind_settings(stats[0]["kind"]))}
    return CalmFeatureExtractor(
        stats[0]["sample_rate"],
        **settings,
        normalise="utterance" if spectran.normalise == "utterance" else "corpus",
        **(pooled(stats) if spectran.normalise != "utterance" else {}),
        block_frames=spectran.block,
        block_hop=spectran.hop,
        max_tokens=max_tokens,
        functionals=functionals,
        speeds=paths.speeds(corpora[0]) if speeds else [],
        longest=longest,
    )


def pooled(stats: list[dict]) -> dict[str, list[float]]:
    """`mean` and `std` of every channel over the frames of all corpora, from those of each corpus and its number of frames."""
    if len(stats) == 1:
        return {name: stats[0][name] for name in ("mean", "std")}
    frames, means, stds = (np.array([corpus[name] for corpus in stats], float) for name in ("frames", "mean", "std"))
    mean = np.average(means, axis=0, weights=frames)
    variance = np.average(stds**2 + (means - mean) ** 2, axis=0, weights=frames)
    return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist()}
