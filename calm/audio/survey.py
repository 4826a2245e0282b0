"""What the samples of a file tell of how it was made: channels that cancel, samples at another scale, a constant offset."""

from dataclasses import dataclass, field

import numpy as np

from calm.array_types import Floats32
from calm.audio.opening import MOST_CHANNELS

CANCELLED = 0.01  # power of the channels' mean, as a share of their own: below it they cancel (20 dB)
PIECE, PART = 4096, 0.1  # samples that are compared at once, and share of the power in such that cancel from which one channel is used
OFFSET = 0.02  # least mean that is taken for a constant offset, and as a share of the standard deviation:
OFFSET_SHARE = 0.25
BEYOND = 10.0  # peak from which samples that are no integers are refused; floats of a hot recording reach 2 or 3
SILENT = 1e-4  # peak of a track that nobody speaks on
INTEGERS = (2**15, 2**23, 2**31)  # full scales
UNSIGNED = (2**8, 2**16)  # values of samples without a sign
LOW = 2.0**-16  # peak of samples of 16 bits that fill the lower half of 32
LOWEST = LOW / 128  # of them as well: below it 32 bits hold their own noise


@dataclass(frozen=True)
class Character:
    """How samples become a signal: `(samples of the channel, or the channels' mean) / scale - offset`."""

    channel: int | None = None  # None: the mean of all
    scale: float = 1.0
    offset: float = 0.0
    peak: float = 0.0
    refused: bool = False  # samples far beyond 1 that are no integers

    def signal(self, samples: Floats32) -> Floats32:
        """(samples, channels) -> (samples,), float32."""
        if samples.shape[1] == 1:
            mono = samples[:, 0]
        elif self.channel is None:
            mono = samples.mean(axis=1, dtype=np.float32)
        else:
            mono = samples[:, self.channel]
        if self.scale != 1:
            mono = mono / np.float32(self.scale)
        return mono - np.float32(self.offset) if self.offset else mono

    @property
    def notes(self) -> tuple[str, ...]:
        """What is mended, in a few words each."""
        found = {
            "channels cancel, the loudest is used": self.channel is not None,
            "float samples at the scale of integers, divided": self.scale > 1,
            "samples of 16 bits in the lower half of 32, multiplied": self.scale < 1,
            "constant offset removed": self.offset != 0,
        }
        return tuple(note for note, present in found.items() if present)


@dataclass
class Survey:
    """Sums over blocks of samples."""

    count: int = 0
    peak: float = 0.0
    least: float = np.inf
    most: float = -np.inf
    integers: bool = True
    low: bool = True  # all are whole numbers of 32 bits,
    odd: bool = False  # and some use the lowest eight of them, which no converter fills
    mean: float = 0.0  # sum of the channels' mean
    power: float = 0.0  # sum of its square
    powers: Floats32 | float = field(default=0.0)  # sums of squares of every channel
    cancelled: float = 0.0  # those of the channels on average, in pieces where they cancel

    def add(self, block: Floats32) -> None:
        """Samples (samples, channels); those that are not finite are left out."""
        if not len(block := block if np.isfinite(block).all() else block[np.isfinite(block).all(axis=1)]):
            return
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        least, most = float(block.min()), float(block.max())
        self.count += len(block)
        self.peak = max(self.peak, -least, most)
        self.least, self.most = min(self.least, float(mono.min())), max(self.most, float(mono.max()))
        self.integers = self.integers and bool((block == np.rint(block)).all())
        self.low = self.low and self.peak <= LOW
        if self.low:
            whole = block.astype(np.float64) * 2**31
            self.low, self.odd = bool((whole == np.rint(whole)).all()), self.odd or bool((whole % 256 != 0).any())
        self.mean += float(mono.sum(dtype=np.float64))
        self._add_powers(block, mono)

    def _add_powers(self, block: Floats32, mono: Floats32) -> None:
        pieces = np.arange(0, len(block), PIECE)
        heard = np.add.reduceat(np.square(mono, dtype=np.float64), pieces)
        powers = np.add.reduceat(np.square(block, dtype=np.float64), pieces)
        own = powers.mean(axis=1)
        self.power += float(heard.sum())
        self.powers = self.powers + powers.sum(axis=0)
        self.cancelled += float(own[heard < CANCELLED * own].sum())

    def character(self) -> Character:
        """What the blocks tell together."""
        if not self.count or self.peak == 0:
            return Character()
        scale = self._scale()
        channel, offset = self._channel(), 0.0
        if channel is None:
            mean = self.mean / self.count
            deviation = max(0.0, self.power / self.count - mean**2) ** 0.5
            moves = self.most - self.least > abs(mean) * 1e-6
            offset = mean / scale if moves and abs(mean) > max(OFFSET * scale, OFFSET_SHARE * deviation) else 0.0
        return Character(channel, scale, offset, self.peak, scale == 1 and self.peak > BEYOND)

    def _scale(self) -> float:
        """What samples at the scale of integers are divided by; 1 for others."""
        if self.low and self.odd and self.peak > LOWEST:
            return LOW
        if not self.integers or self.peak <= 1:
            return 1.0
        mean = self.mean / self.count
        unsigned = (full / 2 for full in UNSIGNED if self.least >= 0 and self.peak < full and abs(mean - full / 2) < full / 8)
        return float(next(unsigned, next((full for full in INTEGERS if self.peak <= full), 1)))

    def _channel(self) -> int | None:
        """The loudest channel if their mean is nearly nothing, in all or in part, or None."""
        powers = np.atleast_1d(self.powers)
        cancel = self.power < CANCELLED * powers.mean() or self.cancelled > PART * powers.mean()
        return int(powers.argmax()) if len(powers) > 1 and cancel else None


def one_channel(samples: np.ndarray) -> np.ndarray:
    """One channel of samples in memory, mended as those of a file are: (samples, channels) or (channels, samples) -> (samples,).

    The shorter axis is that of the channels. Raises ValueError if there are more than MOST_CHANNELS of them.
    """
    if samples.ndim != 2 or not np.issubdtype(samples.dtype, np.floating):
        return samples
    if min(samples.shape) > MOST_CHANNELS:
        raise ValueError(f"samples have the shape {samples.shape}: an utterance is (samples,) or (samples, channels)")
    survey = Survey()
    survey.add(samples := samples if samples.shape[0] >= samples.shape[1] else samples.T)
    return survey.character().signal(samples)
