"""From samples to normalised log-mel, computed and rounded as training has seen it (5.1); without torch, so that it is there at once."""

import json
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soxr

from calm.audio.logmel import LogMel, trim
from calm.data.ragged import LogMels, Ragged

CONFIG = "preprocessor_config.json"  # Transformers' name of the file that holds a feature extractor
NORMALISE = ("corpus", "utterance")
logger = logging.getLogger(__name__)


class Extraction:
    """The settings and the arithmetic of `CalmFeatureExtractor`.

    Args:
        sampling_rate ... high_hz: see `calm.audio.logmel.LogMel`; `trim_db`: see `calm.audio.logmel.trim`, None: quiet ends stay.
        normalise: "corpus", by `mean` and `std` of the training split, (mels,) each; "utterance", by the utterance's own.
        block_frames, block_hop: see `CalmConfig`.
        max_tokens: places of the transformer, which text and audio share.

    Raises:
        ValueError: settings that do not go together.
    """

    def __init__(
        self,
        sampling_rate: int = 16000,
        mels: int = 64,
        window_ms: float = 25,
        hop_ms: float = 10,
        low_hz: float = 20,
        high_hz: float = 7600,
        trim_db: float | None = None,
        normalise: str = "utterance",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        block_frames: int = 50,
        block_hop: int = 30,
        max_tokens: int = 512,
        **others,
    ):
        self.sampling_rate, self.mels = sampling_rate, mels
        self.window_ms, self.hop_ms, self.low_hz, self.high_hz = window_ms, hop_ms, low_hz, high_hz
        self.trim_db, self.normalise = trim_db, normalise
        self.mean, self.std = (None if values is None else [float(value) for value in values] for values in (mean, std))
        self.block_frames, self.block_hop, self.max_tokens = block_frames, block_hop, max_tokens
        super().__init__(**others)
        if normalise not in NORMALISE:
            raise ValueError(f"normalise is '{normalise}': allowed are {' and '.join(NORMALISE)}")
        if normalise == "corpus" and not len(self.mean or ()) == len(self.std or ()) == mels:
            raise ValueError(f"normalise is 'corpus': mean and std must be given, of {mels} mels each")
        self.logmel  # noqa: B018, raises where its settings do not go together

    @classmethod
    def read(cls, folder: Path) -> "Extraction":
        """What `CalmFeatureExtractor.save_pretrained` wrote into a folder."""
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return cls(**{name: value for name, value in settings.items() if name not in ("feature_extractor_type", "processor_class")})

    @property
    def logmel(self) -> LogMel:
        """What computes the log-mel."""
        return _logmel(self.sampling_rate, self.mels, self.window_ms, self.hop_ms, self.low_hz, self.high_hz)

    def clips(self, raw_speech, sampling_rate: int | None) -> list[np.ndarray]:
        """Samples of each utterance, float32 (samples,) at the extractor's own rate; see `CalmFeatureExtractor`."""
        if sampling_rate is None or sampling_rate <= 0:
            raise ValueError(
                f"sampling_rate is {sampling_rate}: give the rate of the samples in Hz (this model computes at {self.sampling_rate})"
            )
        several = isinstance(raw_speech, list | tuple) and len(raw_speech) and np.ndim(raw_speech[0]) > 0
        several = several or getattr(raw_speech, "ndim", 1) > 1
        return [self._clip(clip, sampling_rate) for clip in (raw_speech if several else [raw_speech])]

    def _clip(self, samples, sampling_rate: int) -> np.ndarray:
        samples = samples.detach().cpu().numpy() if hasattr(samples, "detach") else np.asarray(samples)
        if samples.ndim != 1:
            raise ValueError(f"samples have the shape {samples.shape}: an utterance is (samples,) of one channel; take the channels' mean")
        if not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"samples are {samples.dtype}: give floats in [-1, 1] (int16 divided by 32768)")
        if not np.isfinite(samples).all():
            raise ValueError("samples hold NaN or infinity: mend the audio")
        samples = samples.astype(np.float32, copy=False)
        if sampling_rate != self.sampling_rate:
            samples = soxr.resample(samples, sampling_rate, self.sampling_rate)
        if len(samples) < self.logmel.window:
            raise ValueError(
                f"{len(samples)} samples at {self.sampling_rate} Hz are less than a frame of {self.logmel.window}: give more audio"
            )
        return samples

    def logmels(self, clips: Sequence[np.ndarray]) -> LogMels:
        """Normalised log-mel of samples as `clips` gives them."""
        return self.of_frames([self.frames(samples) for samples in clips])

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Log-mel of one utterance before it is normalised, (frames, mels) float16, as features are stored."""
        logmel = self.logmel(samples)
        return (logmel if self.trim_db is None else trim(logmel, self.trim_db)).astype(np.float16)

    def of_frames(self, utterances: Sequence[np.ndarray]) -> LogMels:
        """Normalised log-mel of what `frames` gives: float16, and one block at least."""
        rows = [self._normalised(frames.astype(np.float32)) for frames in utterances]
        return LogMels(Ragged.of(rows), np.ones(len(rows), np.float32), self.block_frames, self.block_hop)

    def _normalised(self, logmel: np.ndarray) -> np.ndarray:
        if self.normalise == "corpus":
            mean, std = np.float32(self.mean), np.float32(self.std)
        else:
            mean, std = logmel.mean(0), logmel.std(0) + 1e-3
        normalised = np.zeros((max(len(logmel), self.block_frames), self.mels), np.float16)
        normalised[: len(logmel)] = (logmel - mean) / std
        return normalised


def lowered(text: str | None) -> str:
    """A text as training has seen it; "" for None."""
    if not isinstance(text, str | None):
        raise ValueError(f"a text is {type(text).__name__}: give a string, or None where an utterance has none")
    return (text or "").lower()


def tell_cut(cut: int, of: int, places: int) -> None:
    """Warn of utterances whose ends are left out."""
    if cut:
        logger.warning(
            f"{cut} of {of} utterances do not fit the {places} places of text and audio: their ends are left out. "
            "Cut long recordings at their pauses, as `calm predict` does."
        )


_logmel = cache(LogMel)  # with its filters; kept out of the extractor, whose attributes are what is saved
