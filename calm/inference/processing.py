"""From samples and texts to the inputs of the models, as Transformers has it: `CalmFeatureExtractor` and `CalmProcessor`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.processing_utils import ProcessorMixin

from calm.data.batching import SequenceCollator, tensors, tokenise
from calm.data.ragged import AcousticFrames
from calm.inference.extractor import AcousticExtractor, text_or_empty, warn_cut
from calm.models.configuration import CalmConfig


class CalmFeatureExtractor(AcousticExtractor, FeatureExtractionMixin):
    """Samples to normalised acoustic blocks (5.1), kept in `preprocessor_config.json`; its settings are those of `AcousticExtractor`."""

    model_input_names = ["input_features", "acoustic_mask"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{key: value for key, value in kwargs.items() if key != "feature_extractor_type"})

    def __call__(
        self, raw_speech: np.ndarray | Sequence[np.ndarray], sampling_rate: int | None = None, return_tensors: str | None = None
    ) -> BatchFeature:
        """Blocks of one or several utterances.

        Args:
            raw_speech: float samples in [-1, 1] of one channel: one array (samples,), or several, or (batch, samples); numpy, torch, lists.
            sampling_rate: of these samples in Hz; another than the extractor's is resampled.
            return_tensors: "pt" for torch; None or "np" for numpy.

        Returns:
            `input_features` (batch, blocks, frames, channels) float32, zero where padded, and `acoustic_mask` (batch, blocks) bool.

        Raises:
            ValueError: samples that are not of that kind, no rate, or less than a frame.
        """
        clips = self.clips(raw_speech, sampling_rate)
        blocks, mask = tensors(*self.acoustic_frames(clips).all_blocks(np.arange(len(clips))))
        return BatchFeature(as_tensors({"input_features": blocks, "acoustic_mask": mask}, return_tensors))


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
            text: one per utterance; None: an empty one, the special tokens alone.

        Returns:
            `input_ids`, `attention_mask` (batch, tokens), and with audio `input_features`, `acoustic_mask`. What is more than `max_tokens`
            of the feature extractor is cut as in training, with a warning.

        Raises:
            ValueError: neither audio nor text, or not as many of one as of the other.
        """
        if audio is None and text is None:
            raise ValueError("neither audio nor text was given: give samples with their sampling_rate, a text, or both")
        frames = None if audio is None else self.feature_extractor.acoustic_frames(self.feature_extractor.clips(audio, sampling_rate))
        texts = [text] if isinstance(text, str) else text
        texts = [""] * len(frames.blocks) if texts is None else [text_or_empty(one) for one in texts]
        if frames is not None and len(texts) != len(frames.blocks):
            raise ValueError(
                f"{len(frames.blocks)} utterances have audio and {len(texts)} have a text: give one text an utterance, or none at all"
            )
        return self.collated(frames, texts, return_tensors)

    def collated(self, frames: AcousticFrames | None, texts: Sequence[str], return_tensors: str | None = "pt") -> BatchFeature:
        """Inputs from frames as the feature extractor gives them, and texts."""
        rows, tokens = np.arange(len(texts)), tokenise(self.tokenizer, texts)
        modality = "text" if frames is None else "both"
        collator = SequenceCollator(frames, tokens, None, modality, None, self.feature_extractor.max_tokens)
        if frames is not None:
            used, blocks = collator.lengths(rows)
            warn_cut(int(((used < tokens.lengths) | (blocks < frames.blocks)).sum()), len(rows), collator.most)
        return BatchFeature(as_tensors(collator(rows), return_tensors))

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


def as_tensors(made: dict[str, torch.Tensor], kind: str | None) -> dict:
    """Torch tensors as they are ("pt") or as numpy arrays ("np", None); raises ValueError for another kind."""
    if kind not in ("pt", "np", None):
        raise ValueError(f"return_tensors is '{kind}': allowed are 'pt' and 'np'")
    return made if kind == "pt" else {key: value.numpy() for key, value in made.items()}


AutoFeatureExtractor.register(CalmConfig, CalmFeatureExtractor)
AutoProcessor.register(CalmConfig, CalmProcessor)
