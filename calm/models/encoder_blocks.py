"""The upper blocks of a speech encoder as part of a model, so that they are trained with it, from stored states of the block below them."""

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from calm.audio.functionals import PARTS, QUANTILES
from calm.audio.speech_encoders import SpeechEncoder
from calm.models.configuration import CalmConfig


class EncoderBlocks(nn.Module):
    """Recomputes all layers of a frame but the first, by the encoder's own blocks, which can be trained.

    A frame holds the states of neighbouring layers side by side, normalised: (layers x width,). The blocks start from the first of these
    layers, and the result is normalised as the frames are, so that untrained blocks return the frames as they were.

    Raises:
        ValueError: the encoder's family has no such blocks.
    """

    def __init__(self, config: CalmConfig):
        super().__init__()
        encoder = AutoConfig.for_model(**config.encoder["config"])
        if encoder.model_type != "whisper":
            raise ValueError(f"an encoder of the family {encoder.model_type} cannot be trained along: take a Whisper")
        self.width, self.number = encoder.d_model, len(config.encoder["layers"])
        self.blocks = nn.ModuleList(WhisperEncoderLayer(encoder) for _ in range(self.number - 1))
        self.register_buffer("mean", torch.zeros(self.number * self.width))
        self.register_buffer("deviation", torch.ones(self.number * self.width))

    def load(self, encoder: SpeechEncoder, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Take the blocks of a speech encoder of the same layers, and the statistics that frames are normalised by, (channels,) each."""
        first, *_ = encoder.layers
        for block, theirs in zip(self.blocks, encoder.model.layers[first:], strict=True):
            block.load_state_dict(theirs.state_dict())
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, frames, layers x width) -> the same shape; the mask (batch, frames) is False where padded."""
        first = slice(0, self.width)
        states = frames[..., first] * self.deviation[first] + self.mean[first]
        hidden = torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, torch.finfo(states.dtype).min)
        layers, seen = [states], hidden[:, None, None, :].expand(-1, 1, mask.shape[1], -1)  # added to the scores of attention
        for block in self.blocks:
            states = block(states, seen)
            states = states[0] if isinstance(states, tuple) else states
            layers.append(states)
        return (torch.cat(layers, -1) - self.mean) / self.deviation


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
