"""Changes of normalised acoustic frames in training: tempo, vocal tract length, gain, and masks in time and frequency."""

from dataclasses import dataclass

import numpy as np
import torch

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

    def frames(self, frames: np.ndarray, scale: float, least: int, generator: torch.Generator) -> np.ndarray:
        """An utterance, (frames, channels) float32, with tempo, channel axis, gain and ends changed; never shorter than `least` frames.

        Args:
            scale: deviation that log-mel in nepers of power was divided by, so that a gain in dB keeps its size.
        """
        speed, warp, gain = (2 * torch.rand(3, generator=generator) - 1).tolist()
        if self.speed:
            length = max(least, round(len(frames) / (1 + self.speed * speed)))
            frames = _stretch(frames, np.linspace(0, len(frames) - 1, length), 0)
        if self.warp:
            channels = frames.shape[1]
            frames = _stretch(frames, np.clip(np.arange(channels) * (1 + self.warp * warp), 0, channels - 1), 1)
        if self.crop:
            kept, first = torch.rand(2, generator=generator).tolist()
            length = max(least, round(len(frames) * (1 - self.crop * kept)))
            frames = frames[round(first * max(len(frames) - length, 0)) :][:length]
        return frames + np.float32(gain * self.gain_db * NEPERS_PER_DB / scale)

    def blocks(self, blocks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Blocks (..., frames, channels) with random stretches of time and of channels set to 0, the mean."""
        for axis, number, longest in ((-2, self.time_masks, self.time_mask_frames), (-1, self.channel_masks, self.channel_mask_width)):
            size = blocks.shape[axis]
            for _ in range(number):
                width = torch.rand(blocks.shape[:-2], generator=generator) * longest
                first = torch.rand(blocks.shape[:-2], generator=generator) * (size - width)
                steps = torch.arange(size)
                hidden = (steps >= first[..., None]) & (steps < (first + width)[..., None])
                blocks = blocks.masked_fill(hidden.unsqueeze(-1 if axis == -2 else -2), 0)
        return blocks


def _stretch(frames: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Frames or channels at fractional positions along an axis, by linear interpolation."""
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, frames.shape[axis] - 1)
    weight = (at - low).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight
    return frames.take(low, axis) * (1 - weight) + frames.take(high, axis) * weight
