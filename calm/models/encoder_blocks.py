"""The upper blocks of a speech encoder as part of a model, so that they are trained with it, from stored states of the block below them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioEncoderLayer
from transformers.models.hubert.modeling_hubert import HubertEncoderLayer, HubertEncoderLayerStableLayerNorm
from transformers.models.unispeech.modeling_unispeech import UniSpeechEncoderLayer, UniSpeechEncoderLayerStableLayerNorm
from transformers.models.unispeech_sat.modeling_unispeech_sat import UniSpeechSatEncoderLayer, UniSpeechSatEncoderLayerStableLayerNorm
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2EncoderLayer, Wav2Vec2EncoderLayerStableLayerNorm
from transformers.models.wavlm.modeling_wavlm import WavLMEncoderLayer, WavLMEncoderLayerStableLayerNorm
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from calm.array_types import Floats32
from calm.audio.functionals import PARTS, QUANTILES
from calm.audio.speech_encoders import SpeechEncoder

BLOCKS: dict[
    str, tuple[type[nn.Module], type[nn.Module]]
] = {  # by family, of encoders with norms after the sums, and with norms before them
    "whisper": (WhisperEncoderLayer, WhisperEncoderLayer),
    "wav2vec2": (Wav2Vec2EncoderLayer, Wav2Vec2EncoderLayerStableLayerNorm),
    "hubert": (HubertEncoderLayer, HubertEncoderLayerStableLayerNorm),
    "unispeech": (UniSpeechEncoderLayer, UniSpeechEncoderLayerStableLayerNorm),
    "unispeech-sat": (UniSpeechSatEncoderLayer, UniSpeechSatEncoderLayerStableLayerNorm),
    "data2vec-audio": (Data2VecAudioEncoderLayer, Data2VecAudioEncoderLayer),
    "wavlm": (WavLMEncoderLayer, WavLMEncoderLayerStableLayerNorm),
}
POSITIONS = "attention.rel_attn_embed.weight"  # of WavLM's first block, which hands on what it makes of them

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "out_proj"}  # of attention


class EncoderBlocks(nn.Module):
    """Recomputes all layers of a frame but the first, by the encoder's own blocks, which can be trained.

    A frame holds the states of several layers side by side, normalised: (layers x width,). All blocks from the first of these layers to
    the last are run, and the result is normalised as the frames are, so that untrained blocks return the frames as they were.

    Args:
        encoder: `CalmConfig.encoder`: `layers`, in ascending order, and `config`, of the encoder.

    Raises:
        ValueError: the encoder's family has no such blocks.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, encoder: Mapping[str, Any]):
        super().__init__()
        config, self.layers = AutoConfig.for_model(**encoder["config"], attn_implementation="sdpa"), tuple(encoder["layers"])
        check_family(config.model_type)
        self.family, self.width = config.model_type, config.hidden_size
        first, *_, last = self.layers
        self.blocks = nn.ModuleList(_block(config, number == first) for number in range(first, last))
        if self.family == "wavlm" and first:  # blocks below use them too, and stay as they are
            self.blocks[0].get_parameter(POSITIONS).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(len(self.layers) * self.width))
        self.register_buffer("deviation", torch.ones(len(self.layers) * self.width))

    @classmethod
    def of(cls, encoder: SpeechEncoder) -> "EncoderBlocks":
        """The blocks of a speech encoder, for its own layers."""
        made = cls({"layers": encoder.layers, "config": encoder.model.config.to_dict()})
        first, *_ = made.layers
        own = {f"0.{POSITIONS}": encoder.blocks[0].get_parameter(POSITIONS)} if made.family == "wavlm" else {}
        made.blocks.load_state_dict(encoder.blocks[first:].state_dict() | own)
        return made

    def load(self, encoder: SpeechEncoder, mean: Floats32, deviation: Floats32) -> None:
        """Take the blocks of a speech encoder of the same layers, and the statistics that frames are normalised by, (channels,) each."""
        self.load_state_dict(EncoderBlocks.of(encoder).state_dict())
        self.normalised_by(mean, deviation)

    def normalised_by(self, mean: Floats32, deviation: Floats32) -> None:
        """Take the statistics that frames are normalised by, (channels,) each, or (corpora, channels)."""
        self.mean, self.deviation = (torch.from_numpy(values).to(self.mean.device) for values in (mean, deviation))

    def adapt(self, rank: int) -> None:
        """Freeze the blocks, and train low-rank adapters beside their linear layers (arXiv 2106.09685), which change nothing at first.

        WavLM's attention reads the weights of its projections past their adapters, so those of WavLM have none.
        """
        from peft import LoraConfig, inject_adapter_in_model  # a trained model is used without it

        names = {name.rpartition(".")[2] for name, module in self.blocks.named_modules() if isinstance(module, nn.Linear)}
        targets = sorted(names - PROJECTIONS if self.family == "wavlm" else names)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), self.blocks)

    def merge(self) -> None:
        """Add the adapters to the weights beside which they were trained, and take them out."""
        from peft.tuners.lora import LoraLayer

        for name, module in list(self.blocks.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                self.blocks.set_submodule(name, module.get_base_layer())

    def forward(self, frames: torch.Tensor, mask: torch.Tensor, corpus: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, frames, layers x width) -> the same shape.

        Args:
            mask: (batch, frames), False where padded.
            corpus: (batch,) whose statistics each utterance is normalised by; None: there is one corpus.
        """
        mean, deviation = (own if corpus is None else own[corpus][:, None] for own in (self.mean, self.deviation))
        first = slice(0, self.width)
        return (self.states(frames[..., first] * deviation[..., first] + mean[..., first], mask) - mean) / deviation

    @torch.inference_mode()
    def changed(self, frames: Floats32) -> Floats32:
        """Stored frames of one utterance as these blocks give them: (frames, channels) float32, not normalised."""
        states = torch.from_numpy(frames[None, :, : self.width]).to(self.mean.device)
        return self.states(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))[0].float().cpu().numpy()

    def write_to(self, encoder: SpeechEncoder) -> None:
        """Put the blocks in the place of those of a speech encoder of the same layers."""
        first, *_ = self.layers
        for own, theirs in zip(self.blocks, encoder.blocks[first:], strict=True):
            theirs.load_state_dict({name: values for name, values in own.state_dict().items() if name in theirs.state_dict()})

    def states(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States of the first layer, (batch, frames, width) as the encoder gives them -> of all, (batch, frames, layers x width)."""
        first, *_ = self.layers
        layers, seen = {first: states}, self._seen(mask, states.dtype)
        positions: dict[str, torch.Tensor] = {}
        for number, block in enumerate(self.blocks, first + 1):
            output = block(states, seen, **positions)
            states, *others = output if isinstance(output, tuple) else (output,)
            if self.family == "wavlm":
                positions = {"position_bias": others[0]}
            layers[number] = states
        return torch.cat([layers[number] for number in self.layers], -1)

    def _seen(self, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What attention is told of the padding: a mask (batch, frames) for WavLM, else what is added to its scores."""
        if self.family == "wavlm":
            return mask.long()
        hidden = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return hidden[:, None, None, :].expand(-1, 1, mask.shape[1], -1)


def check_family(family: str) -> None:
    """Raise ValueError if encoders of a family have no blocks that can be trained along."""
    if family not in BLOCKS:
        raise ValueError(f"an encoder of the family {family} cannot be trained along: families that can are {', '.join(BLOCKS)}")


def through(encoder: SpeechEncoder | None, device: torch.device | str) -> Callable[[Floats32], Floats32] | None:
    """What makes frames of an encoder from stored ones with the same first layer, on a device; None without an encoder."""
    return EncoderBlocks.of(encoder).to(device).eval().changed if encoder else None


def _block(config: PreTrainedConfig, first: bool) -> nn.Module:
    """A block of an encoder; the first one of WavLM makes the position bias that all others get."""
    kind = BLOCKS[config.model_type][bool(getattr(config, "do_stable_layer_norm", False))]
    return kind(config, has_relative_position_bias=first) if config.model_type == "wavlm" else kind(config)


def frames_of_blocks(blocks: torch.Tensor, mask: torch.Tensor | None, hop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The frames that overlapping blocks were cut from: (batch, frames, channels), and the mask (batch, frames).

    Args:
        blocks: (batch, blocks, frames of a block, channels); mask: (batch, blocks), False where padded; None: nothing is padded.
        hop: frames from block to block.
    """
    mask = torch.ones(blocks.shape[:2], dtype=torch.bool, device=blocks.device) if mask is None else mask.bool()
    batch, most, size = blocks.shape[:3]
    last = mask.sum(1) - 1  # (batch,)
    steps = torch.arange((most - 1) * hop + size, device=blocks.device)
    block = torch.minimum(steps // hop, last[:, None].clamp(min=0))
    within = steps - block * hop
    present = (within < size) & (last[:, None] >= 0)
    rows = torch.arange(batch, device=blocks.device)[:, None]
    frames = blocks[rows, block, within.clamp(max=size - 1)]
    return frames * present[..., None], present


def blocks_of_frames(frames: torch.Tensor, blocks: int, size: int, hop: int) -> torch.Tensor:
    """Overlapping blocks, (batch, blocks, size, channels), of frames (batch, frames, channels)."""
    return frames[:, torch.arange(blocks, device=frames.device)[:, None] * hop + torch.arange(size, device=frames.device)]


def blocks_at(frames: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, size: int) -> torch.Tensor:
    """One block of each of some rows, (blocks, size, channels), from frame `starts` (blocks,) on of frames (batch, frames, channels)."""
    return frames[rows[:, None], starts[:, None] + torch.arange(size, device=frames.device)]


def functionals(frames: torch.Tensor, mask: torch.Tensor, kind: str = "whole") -> torch.Tensor:
    """`calm.audio.functionals` with a gradient: (batch, frames, channels) -> (batch, functionals); zeros without a frame."""
    count = mask.sum(1)[:, None]
    weights = mask.to(frames.dtype)[..., None] / count.clamp(min=1)[..., None]
    mean = (frames * weights).sum(1)
    deviation = ((frames - mean[:, None]).square() * weights).sum(1).add(1e-6).sqrt()
    ordered = frames.masked_fill(~mask[..., None], torch.inf).sort(1).values
    ranks = (torch.tensor(QUANTILES, device=frames.device) * (count - 1).clamp(min=0)).round().long()  # (batch, quantiles)
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    parts = _means_of_thirds(frames, count) if kind == "thirds" else []
    return torch.cat([mean, deviation, ordered[rows, ranks].flatten(1), *parts], -1).masked_fill(count == 0, 0)


def _means_of_thirds(frames: torch.Tensor, count: torch.Tensor) -> list[torch.Tensor]:
    """Mean over each third of the first `count` (batch, 1) frames: three of (batch, channels)."""
    steps, means = torch.arange(frames.shape[1], device=frames.device), []
    for part in range(PARTS):
        first, last = part * count // PARTS, (part + 1) * count // PARTS
        inside = (steps >= first) & (steps < torch.maximum(last, first + 1))  # (batch, frames)
        means.append((frames * inside[..., None]).sum(1) / inside.sum(1, keepdim=True).clamp(min=1))
    return means
