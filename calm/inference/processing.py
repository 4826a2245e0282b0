"""From samples and texts to the inputs of the models, in Transformers' classes: `CalmFeatureExtractor` and `CalmProcessor`.

Importing this module registers both with `AutoFeatureExtractor` and `AutoProcessor`.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.processing_utils import ProcessorMixin

from calm.data.batching import SequenceCollator, tensors, tokenise
from calm.data.ragged import AcousticFrames
from calm.inference.extractor import AcousticExtractor, text_or_empty, warn_cut
from calm.models.configuration import CalmConfig

LOCAL_SETTINGS = ("name_or_path", "special_tokens_map_file", "is_local", "local_files_only")  # where a tokenizer was loaded from


class CalmFeatureExtractor(AcousticExtractor, FeatureExtractionMixin):
    """Samples to normalised acoustic blocks (5.1), saved in `preprocessor_config.json`. For the settings see `AcousticExtractor`."""

    model_input_names = ["input_features", "acoustic_mask"]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{key: value for key, value in kwargs.items() if key != "feature_extractor_type"})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[Any], *args: Any, **kwargs: Any) -> "CalmFeatureExtractor":
        """As Transformers does; a speech encoder's weights are those of the folder, if it holds them."""
        extractor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if Path(pretrained_model_name_or_path).is_dir():
            extractor.uses("cpu", Path(pretrained_model_name_or_path))
        return extractor

    def to_dict(self) -> dict[str, Any]:
        """The settings, without where they came from."""
        return {name: value for name, value in super().to_dict().items() if name not in ("_device", "_folder")}

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """Blocks of one or several utterances.

        Args:
            raw_speech: float samples in [-1, 1] of one channel: one array (samples,), several, or (batch, samples); numpy, torch, lists.
            sampling_rate: rate of these samples in Hz; samples of another rate than the extractor's are resampled.
            return_tensors: "pt" for torch; None or "np" for numpy.
            padding: True or "longest": to the most blocks in the batch; "max_length": to the blocks of `max_length` samples; False:
                none, which needs utterances of as many blocks each.
            max_length: samples at the extractor's rate, for `padding="max_length"` and `truncation`.
            truncation: whether to cut utterances to `max_length` samples.
            return_attention_mask: False leaves `acoustic_mask` out; a model then takes padding for audio.

        Returns:
            `input_features` (batch, blocks, frames, channels) float32, zero where padded, and `acoustic_mask` (batch, blocks) bool;
            `functionals` (batch, functionals) if the model's heads see them.

        Raises:
            ValueError: samples of another kind, no sampling rate, less than one frame of audio, or settings that do not go together.
        """
        clips = self.cut(self.clips(raw_speech, sampling_rate), max_length, truncation, padding)
        acoustic = self.acoustic_frames(clips)
        blocks, mask = tensors(*acoustic.all_blocks(np.arange(len(clips))))
        batch = self.padded({"input_features": blocks, "acoustic_mask": mask}, padding, max_length)
        if self.functionals:
            batch["functionals"] = torch.from_numpy(acoustic.functionals(np.arange(len(clips)), self.functionals))
        if return_attention_mask is False:
            del batch["acoustic_mask"]
        return BatchFeature(as_tensors(batch, return_tensors))

    def cut(self, clips: list[np.ndarray], max_length: int | None, truncation: bool, padding: bool | str) -> list[np.ndarray]:
        """Samples cut to `max_length` if `truncation` says so; see `__call__`."""
        if not truncation and padding != "max_length":
            return clips
        least = self.frame_extractor.window
        if max_length is None or max_length < least:
            raise ValueError(f"max_length is {max_length}: truncation and padding='max_length' need at least {least} samples")
        if truncation:
            return [samples[:max_length] for samples in clips]
        longest = max(map(len, clips), default=0)
        if longest > max_length:
            raise ValueError(f"an utterance of {longest} samples is longer than max_length {max_length}: cut it by truncation=True")
        return clips

    def padded(self, batch: dict[str, torch.Tensor], padding: bool | str, max_length: int | None) -> dict[str, torch.Tensor]:
        """A batch, which has the most blocks of an utterance already, padded as `__call__` says."""
        if padding in (True, "longest"):
            return batch
        mask = batch["acoustic_mask"]
        if padding in (False, "do_not_pad"):
            if not mask.all():
                raise ValueError(f"the utterances have {mask.sum(1).tolist()} blocks: give utterances of equal length, or padding=True")
            return batch
        if padding != "max_length":
            raise ValueError(f"padding is {padding!r}: allowed are True, False, 'longest' and 'max_length'")
        missing = max(0, self.blocks(max_length or 0) - mask.shape[1])
        features = torch.nn.functional.pad(batch["input_features"], (0, 0, 0, 0, 0, missing))
        return batch | {"input_features": features, "acoustic_mask": torch.nn.functional.pad(mask, (0, missing))}

    def blocks(self, samples: int) -> int:
        """Number of blocks of so many samples, one at least."""
        frames = max(self.frame_extractor.frames(samples), self.block_frames)
        return 1 + (frames - self.block_frames) // self.block_hop


class CalmProcessor(ProcessorMixin):
    """A feature extractor and a tokenizer: from samples, texts or both to the inputs of a model."""

    feature_extractor: CalmFeatureExtractor
    tokenizer: PreTrainedTokenizerBase

    def __init__(self, feature_extractor: CalmFeatureExtractor, tokenizer: PreTrainedTokenizerBase):
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        audio: np.ndarray | Sequence[np.ndarray] | None = None,
        text: str | Sequence[str | None] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
    ) -> BatchFeature:
        """Inputs of a batch.

        Args:
            audio, sampling_rate, return_tensors: see `CalmFeatureExtractor`; audio None: text alone.
            text: one per utterance, None: an empty text, the special tokens alone.
            padding, max_length, truncation: for the audio, see `CalmFeatureExtractor`. Texts are always padded to the longest.

        Returns:
            `input_ids`, `attention_mask` (batch, tokens), and with audio `input_features`, `acoustic_mask`. Utterances of more than the
            feature extractor's `max_tokens` tokens and blocks are cut as in training, with a warning.

        Raises:
            ValueError: neither audio nor text, a different number of each, or see `CalmFeatureExtractor`.
        """
        if audio is None and text is None:
            raise ValueError("neither audio nor text was given: give samples with their sampling_rate, a text, or both")
        extractor, acoustic = self.feature_extractor, None
        if audio is not None:
            acoustic = extractor.acoustic_frames(extractor.cut(extractor.clips(audio, sampling_rate), max_length, truncation, padding))
        count = 0 if acoustic is None else len(acoustic.blocks)
        given = [text] if isinstance(text, str) else text
        texts = [""] * count if given is None else [text_or_empty(own) for own in given]
        if acoustic is not None and len(texts) != count:
            raise ValueError(f"{count} utterances have audio and {len(texts)} have a text: give one text per utterance, or none at all")
        batch = self._collated(acoustic, texts)
        return BatchFeature(as_tensors(batch if audio is None else extractor.padded(batch, padding, max_length), return_tensors))

    def collated(self, acoustic: AcousticFrames | None, texts: Sequence[str], return_tensors: str | None = "pt") -> BatchFeature:
        """Inputs from the feature extractor's acoustic frames (None: text alone) and texts."""
        return BatchFeature(as_tensors(self._collated(acoustic, texts), return_tensors))

    def _collated(self, acoustic: AcousticFrames | None, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        rows, tokens = np.arange(len(texts)), tokenise(self.tokenizer, texts)
        modality, extractor = "text" if acoustic is None else "both", self.feature_extractor
        frames = extractor.nothing() if acoustic is None else acoustic
        collator = SequenceCollator(frames, tokens, None, modality, None, extractor.max_tokens, functionals=extractor.functionals)
        if acoustic is not None:
            kept, blocks = collator.lengths(rows)
            warn_cut(int(((kept < tokens.lengths) | (blocks < acoustic.blocks)).sum()), len(rows), collator.most)
        batch = collator(range(len(texts)))
        batch.pop("acoustic_places", None)  # only training needs it: see `CalmModel.encode`
        return batch

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything that a call may return."""
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names]

    def save_pretrained(self, save_directory: str | PathLike[Any], *args: Any, **kwargs: Any) -> list[str]:
        """Write the feature extractor's `preprocessor_config.json`, the only place of its settings, and the tokenizer's files.

        They hold no path of this machine.
        """
        for name in LOCAL_SETTINGS:
            self.tokenizer.init_kwargs.pop(name, None)
        self.tokenizer._set_processor_class(type(self).__name__)
        return [
            *self.feature_extractor.save_pretrained(save_directory, *args, **kwargs),
            *self.tokenizer.save_pretrained(save_directory, *args, **kwargs),
        ]


def as_tensors(batch: dict[str, torch.Tensor], kind: str | None) -> dict[str, Any]:
    """Torch tensors unchanged ("pt"), or as numpy arrays ("np", None). Raises ValueError for another kind."""
    if kind not in ("pt", "np", None):
        raise ValueError(f"return_tensors is '{kind}': allowed are 'pt' and 'np'")
    return batch if kind == "pt" else {key: value.numpy() for key, value in batch.items()}


AutoFeatureExtractor.register(CalmConfig, CalmFeatureExtractor)
AutoProcessor.register(CalmConfig, CalmProcessor)
