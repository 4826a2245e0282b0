"""Changes of normalised acoustic frames in training: tempo, vocal tract length, gain, and masks in time and frequency."""

from dataclasses import dataclass

import numpy as np
import torch

from calm.array_types import Floats32, Floats64

NEPERS_PER_DB = np.log(10) / 10  # of power


@dataclass(frozen=True)
class Augmentation:
    """What to change and how much; 0 means no change. Falsy if everything is 0.

    Args:
        speed: tempo changed by up to this share, drawn for each utterance.
        warp: channel axis stretched by up to this share.
        gain_db: level of log-mel changed by up to so many dB.
        crop: share of the frames that may be cut from the ends, as much as chance says.
        time_masks, time_mask_frames: number and longest length of the masks in time, per block.
        channel_masks, channel_mask_width: number and largest width of the masks over neighbouring channels, per block.
    """

    speed: float = 0.0
    warp: float = 0.0
    gain_db: float = 0.0
    crop: float = 0.0
    time_masks: int = 0
    time_mask_frames: int = 10
    channel_masks: int = 0
    channel_mask_width: int = 8

    def __bool__(self) -> bool:
        return any((self.speed, self.warp, self.gain_db, self.crop, self.time_masks, self.channel_masks))

    def draw(self, length: int, channels: int, scale: float, least: int, generator: torch.Generator) -> "Change":
        """How an utterance of so many frames and channels is changed; it is never shorter than `least` frames.

        Args:
            scale: deviation that log-mel in nepers of power was divided by, so that a gain in dB keeps its size.
        """
        speed, warp, gain = (2 * torch.rand(3, generator=generator) - 1).tolist()
        stretched = max(least, round(length / (1 + self.speed * speed))) if self.speed else length
        frames = np.linspace(0, length - 1, stretched) if self.speed else np.arange(length, dtype=np.float64)
        if self.crop:
            kept, first = torch.rand(2, generator=generator).tolist()
            rest = max(least, round(stretched * (1 - self.crop * kept)))
            frames = frames[round(first * max(stretched - rest, 0)) :][:rest]
        warped = np.clip(np.arange(channels) * (1 + self.warp * warp), 0, channels - 1) if self.warp else None
        return Change(frames, warped, np.float32(gain * self.gain_db * NEPERS_PER_DB / scale))

    def masks(self, shape: tuple[int, ...], frames: int, channels: int, generator: torch.Generator) -> "Masks":
        """Stretches of time and of channels to hide in blocks (*shape, frames, channels)."""
        drawn = []
        for axis, size, number, longest in (
            (-2, frames, self.time_masks, self.time_mask_frames),
            (-1, channels, self.channel_masks, self.channel_mask_width),
        ):
            for _ in range(number):
                width = torch.rand(shape, generator=generator) * longest
                first = torch.rand(shape, generator=generator) * (size - width)
                drawn.append((axis, first, first + width))
        return tuple(drawn)


Masks = tuple[tuple[int, torch.Tensor, torch.Tensor], ...]  # axis of the blocks, first and end, each of the blocks' leading shape


def hide(blocks: torch.Tensor, masks: Masks) -> None:
    """Set these stretches of frames and of channels in blocks (..., frames, channels) to 0, the mean."""
    for axis, first, end in masks:
        steps = torch.arange(blocks.shape[axis], device=blocks.device)
        hidden = (steps >= first[..., None]) & (steps < end[..., None])
        blocks.masked_fill_(hidden.unsqueeze(-1 if axis == -2 else -2), 0)


@dataclass(frozen=True)
class Change:
    """A change of one utterance's frames.

    Args:
        frames: (frames after the change,) where each lies among those before, fractional.
        channels: (channels,) likewise; None: they stay.
        gain: is added.
    """

    frames: Floats64
    channels: Floats64 | None
    gain: np.float32

    def __call__(self, frames: Floats32) -> Floats32:
        """The frames of the utterance, (frames, channels) float32, changed."""
        frames = _between(frames, self.frames, 0)
        return (frames if self.channels is None else _between(frames, self.channels, 1)) + self.gain


def _between(frames: Floats32, at: Floats64, axis: int) -> Floats32:
    """Frames or channels at fractional positions along an axis, by linear interpolation."""
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, frames.shape[axis] - 1)
    weight = (at - low).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight
    between: Floats32 = frames.take(low, axis) * (1 - weight) + frames.take(high, axis) * weight
    return between
