"""From samples and texts to the inputs of the models, as Transformers has it: `CalmFeatureExtractor` and `CalmProcessor`."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soxr
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from calm.audio import LogMel, trim
from calm.batching import LogMels, Ragged, SequenceCollator, tokenise
from calm.configuration import CalmConfig

logger = logging.get_logger(__name__)
CONFIG = "preprocessor_config.json"  # Transformers' name of the file that holds a feature extractor
NORMALISE = ("corpus", "utterance")


class CalmFeatureExtractor(FeatureExtractionMixin):
    """Samples to blocks of normalised log-mel (5.1), computed and rounded as training has seen them; kept in `preprocessor_config.json`.

    Args:
        sampling_rate ... high_hz: see `calm.audio.LogMel`; `trim_db`: see `calm.audio.trim`, None: quiet ends stay.
        normalise: "corpus", by `mean` and `std` of the training split, (mels,) each; "utterance", by the utterance's own.
        block_frames, block_hop: see `CalmConfig`.
        max_tokens: places of the transformer, which text and audio share.

    Raises:
        ValueError: settings that do not go together.
    """

    model_input_names = ["input_features", "acoustic_mask"]

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
        **kwargs,
    ):
        self.sampling_rate, self.mels = sampling_rate, mels
        self.window_ms, self.hop_ms, self.low_hz, self.high_hz = window_ms, hop_ms, low_hz, high_hz
        self.trim_db, self.normalise = trim_db, normalise
        self.mean, self.std = (None if values is None else [float(value) for value in values] for values in (mean, std))
        self.block_frames, self.block_hop, self.max_tokens = block_frames, block_hop, max_tokens
        super().__init__(**{key: value for key, value in kwargs.items() if key != "feature_extractor_type"})
        if normalise not in NORMALISE:
            raise ValueError(f"normalise is '{normalise}': allowed are {' and '.join(NORMALISE)}")
        if normalise == "corpus" and not len(self.mean or ()) == len(self.std or ()) == mels:
            raise ValueError(f"normalise is 'corpus': mean and std must be given, of {mels} mels each")
        self.logmel  # noqa: B018, raises where its settings do not go together

    @property
    def logmel(self) -> LogMel:
        """What computes the log-mel."""
        return _logmel(self.sampling_rate, self.mels, self.window_ms, self.hop_ms, self.low_hz, self.high_hz)

    def __call__(
        self, raw_speech: np.ndarray | Sequence[np.ndarray], sampling_rate: int | None = None, return_tensors: str | None = None
    ) -> BatchFeature:
        """Blocks of one or several utterances.

        Args:
            raw_speech: float samples in [-1, 1] of one channel: one array (samples,), or several, or (batch, samples); numpy, torch, lists.
            sampling_rate: of these samples in Hz; another than the extractor's is resampled.
            return_tensors: "pt" for torch; None or "np" for numpy.

        Returns:
            `input_features` (batch, blocks, frames, mels) float32, zero where padded, and `acoustic_mask` (batch, blocks) bool.

        Raises:
            ValueError: samples that are not of that kind, no rate, or less than a frame.
        """
        clips = self.clips(raw_speech, sampling_rate)
        blocks, mask = self.logmels(clips).all_blocks(np.arange(len(clips)))
        return BatchFeature(as_tensors({"input_features": blocks, "acoustic_mask": mask}, return_tensors))

    def clips(self, raw_speech, sampling_rate: int | None) -> list[np.ndarray]:
        """Samples of each utterance, float32 (samples,) at the extractor's own rate; see `__call__`."""
        if sampling_rate is None or sampling_rate <= 0:
            raise ValueError(
                f"sampling_rate is {sampling_rate}: give the rate of the samples in Hz (this model computes at {self.sampling_rate})"
            )
        several = isinstance(raw_speech, list | tuple) and len(raw_speech) and np.ndim(raw_speech[0]) > 0
        several = several or getattr(raw_speech, "ndim", 1) > 1
        return [self._clip(clip, sampling_rate) for clip in (raw_speech if several else [raw_speech])]

    def _clip(self, samples, sampling_rate: int) -> np.ndarray:
        samples = samples.detach().cpu().numpy() if isinstance(samples, torch.Tensor) else np.asarray(samples)
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


class CalmProcessor(ProcessorMixin):
    """A feature extractor and a tokenizer: samples, texts or both to what the models take."""

    def __init__(self, feature_extractor: CalmFeatureExtractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        audio: np.ndarray | Sequence[np.ndarray] | None = None,
        text: str | Sequence[str | None] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Inputs of a batch.

        Args:
            audio, sampling_rate: see `CalmFeatureExtractor`; None: no audio goes in.
            text: one an utterance, lower-cased here as for training; None: an empty one, [CLS] [SEP].

        Returns:
            `input_ids`, `attention_mask` (batch, tokens), and with audio `input_features`, `acoustic_mask`. What is more than `max_tokens`
            of the feature extractor is cut as in training, with a warning.

        Raises:
            ValueError: neither audio nor text, or not as many of one as of the other.
        """
        if audio is None and text is None:
            raise ValueError("neither audio nor text was given: give samples with their sampling_rate, a text, or both")
        logmels = None if audio is None else self.feature_extractor.logmels(self.feature_extractor.clips(audio, sampling_rate))
        texts = [text] if isinstance(text, str) else text
        texts = [""] * len(logmels.blocks) if texts is None else [self.lowered(one) for one in texts]
        if logmels is not None and len(texts) != len(logmels.blocks):
            raise ValueError(
                f"{len(logmels.blocks)} utterances have audio and {len(texts)} have a text: give one text an utterance, or none at all"
            )
        return self.collated(logmels, texts, return_tensors)

    def collated(self, logmels: LogMels | None, texts: Sequence[str], return_tensors: str | None = "pt") -> BatchFeature:
        """Inputs from log-mel as the feature extractor gives it, and lower-cased texts."""
        rows, tokens = np.arange(len(texts)), tokenise(self.tokenizer, texts)
        modality = "text" if logmels is None else "both"
        collator = SequenceCollator(logmels, tokens, None, modality, None, self.feature_extractor.max_tokens)
        if logmels is not None:
            used, blocks = collator.lengths(rows)
            if cut := int(((used < tokens.lengths) | (blocks < logmels.blocks)).sum()):
                logger.warning(
                    f"{cut} of {len(rows)} utterances do not fit the {collator.most} places of text and audio: their ends are left out. "
                    "Cut long recordings at their pauses, as `calm predict` does."
                )
        return BatchFeature(as_tensors(collator(rows), return_tensors))

    @staticmethod
    def lowered(text: str | None) -> str:
        """A text as training has seen it; "" for None."""
        if not isinstance(text, str | None):
            raise ValueError(f"a text is {type(text).__name__}: give a string, or None where an utterance has none")
        return (text or "").lower()

    @property
    def model_input_names(self) -> list[str]:
        """All that a call may return."""
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names]

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> list[str]:
        """The feature extractor's `preprocessor_config.json`, the one place of its settings, and the tokenizer's files."""
        self.tokenizer._set_processor_class(type(self).__name__)
        return [
            *self.feature_extractor.save_pretrained(save_directory, **kwargs),
            *self.tokenizer.save_pretrained(save_directory, **kwargs),
        ]


def as_tensors(tensors: dict[str, torch.Tensor], kind: str | None) -> dict:
    """Torch tensors as they are ("pt") or as numpy arrays ("np", None); raises ValueError for another kind."""
    if kind not in ("pt", "np", None):
        raise ValueError(f"return_tensors is '{kind}': allowed are 'pt' and 'np'")
    return tensors if kind == "pt" else {key: value.numpy() for key, value in tensors.items()}


_logmel = cache(LogMel)  # with its filters; kept out of the extractor, whose attributes are what is saved

AutoFeatureExtractor.register(CalmConfig, CalmFeatureExtractor)
AutoProcessor.register(CalmConfig, CalmProcessor)
