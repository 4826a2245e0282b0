"""From samples to log-mel frames (section 5.1: 64 bands, 10 ms hop).

Computed with numpy and scipy, so that the many processes that extract features need not load torch.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from calm.array_types import Floats32

try:
    from scipy.fft import rfft
except ImportError:  # a model in use does not need SciPy, whose transform takes a third of the time of NumPy's
    from numpy.fft import rfft

LOG_FLOOR = 1e-10  # power below which the logarithm is cut: digital silence gives -23.03, not -inf
_ROWS = 256  # frames transformed at once: what they need stays in a processor's cache, however long the audio is
_GROUPS = 4  # of neighbouring bands, which are computed from the bins that they need


@dataclass(frozen=True)
class LogMel:
    """Log-mel frames of a signal (5.1: 64 bands, 10 ms hop); a `calm.audio.features.FrameExtractor`.

    Frame t is the Hann window over samples [t * hop, t * hop + window), with no padding at either end, so that
    frames = 1 + (samples - window) // hop where samples >= window, else 0; at 16 kHz window is 400 and hop 160.
    The window is zero-padded to the next power of two for the FFT (512: bins of 31.25 Hz, which the lowest bands need).
    Bands are triangles of height 1 (no area normalisation), evenly spaced on the HTK mel scale from `low_hz` to `high_hz`,
    over the power spectrum. The logarithm is natural, of no less than 1e-10. As torchaudio's MelSpectrogram computes it.

    Raises:
        ValueError: frequencies or hop out of range, or a band that would hold no bin of the FFT.
    """

    sample_rate: int = 16000
    channels: int = 64
    window_ms: float = 25
    hop_ms: float = 10
    low_hz: float = 20
    high_hz: float = 7600

    def __post_init__(self) -> None:
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(
                f"low_hz {self.low_hz:g} and high_hz {self.high_hz:g} must be 0 <= low_hz < high_hz <= {self.sample_rate / 2:g}, "
                f"half of sample_rate {self.sample_rate}"
            )
        if self.hop < 1:
            raise ValueError(f"hop_ms {self.hop_ms:g} is less than a sample at sample_rate {self.sample_rate}")
        if empty := int((self.filters.sum(axis=0) == 0).sum()):
            raise ValueError(
                f"mels {self.channels}: {empty} bands would be narrower than the resolution of window_ms {self.window_ms:g} "
                f"(bins of {self.sample_rate / self.fft_size:g} Hz): take fewer mels or a longer window"
            )

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def frame_seconds(self) -> float:
        """Seconds from frame to frame."""
        return self.hop / self.sample_rate

    @property
    def fft_size(self) -> int:
        """The smallest power of two that holds the window."""
        return 1 << (self.window - 1).bit_length()

    @cached_property
    def filters(self) -> Floats32:
        """Weights of the bands, float32 (fft_size / 2 + 1, channels)."""
        return mel_filters(self.fft_size, self.sample_rate, self.channels, self.low_hz, self.high_hz)

    @cached_property
    def _bands(self) -> list[tuple[slice, slice, Floats32]]:
        """Of every group of bands: its columns, its part of a spectrum as pairs of real and imaginary parts, and the weights of these."""
        groups = []
        for bands in np.array_split(np.arange(self.channels), min(_GROUPS, self.channels)):
            used = np.flatnonzero(self.filters[:, bands].any(axis=1))
            first, last = used[0], used[-1] + 1
            weights = np.repeat(self.filters[first:last, bands], 2, axis=0)
            groups.append((slice(bands[0], bands[-1] + 1), slice(2 * first, 2 * last), weights))
        return groups

    @cached_property
    def _hann(self) -> Floats32:
        return np.hanning(self.window + 1)[:-1].astype(np.float32)  # the periodic one

    def frames(self, samples: int) -> int:
        """Number of frames of a signal with so many samples."""
        return 1 + (samples - self.window) // self.hop if samples >= self.window else 0

    def __call__(self, samples: Floats32) -> Floats32:
        samples = np.asarray(samples, np.float32)
        logmel = np.empty((self.frames(len(samples)), self.channels), np.float32)
        if not len(logmel):
            return logmel
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.window)[:: self.hop]
        padded = np.zeros((min(_ROWS, len(logmel)), self.fft_size), np.float32)
        for row in range(0, len(logmel), _ROWS):
            rows = logmel[row : row + _ROWS]
            np.multiply(windows[row : row + _ROWS], self._hann, out=padded[: len(rows), : self.window])
            parts = rfft(padded[: len(rows)]).astype(np.complex64, copy=False).view(np.float32)  # NumPy's transform gives complex128
            np.square(parts, out=parts)
            for bands, bins, weights in self._bands:
                np.matmul(parts[:, bins], weights, out=rows[:, bands])
        return np.log(np.maximum(logmel, LOG_FLOOR, out=logmel), out=logmel)


def mel_filters(fft_size: int, sample_rate: int, mels: int, low_hz: float, high_hz: float) -> Floats32:
    """Triangles of height 1, evenly spaced on the HTK mel scale, 2595 log10(1 + f / 700): float32 (fft_size / 2 + 1, mels)."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    corners = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(fft_size, 1 / sample_rate)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    return np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0, None).astype(np.float32)


def trim(logmel: Floats32, trim_db: float, minimum: int = 50, margin: int = 5) -> Floats32:
    """Cut the quiet ends: a view of the frames that `loud_frames` finds."""
    first, last = loud_frames(logmel, trim_db, minimum, margin)
    return logmel[first:last]


def loud_frames(logmel: Floats32, trim_db: float, minimum: int = 50, margin: int = 5) -> tuple[int, int]:
    """First frame, and the one after the last, without leading and trailing frames more than `trim_db` below the loudest frame's energy.

    Args:
        logmel: (frames, mels); energy is the sum of the bands' power.
        minimum: the fewest frames to keep, one block (5.1), if there are so many.
        margin: quiet frames kept on either side, so that soft onsets stay whole.
    """
    if not len(logmel):
        return 0, 0
    peaks = logmel.max(axis=1).astype(np.float64)
    energy = peaks + np.log(np.exp(logmel - peaks[:, None]).sum(axis=1))  # nepers of power: 10 dB are ln 10
    loud = np.flatnonzero(energy >= energy.max() - trim_db * np.log(10) / 10)
    first, last = max(loud[0] - margin, 0), min(loud[-1] + margin + 1, len(logmel))
    lacking = min(minimum, len(logmel)) - (last - first)
    if lacking > 0:  # as many before as after, as far as there are frames
        first = min(max(first - lacking // 2, 0), len(logmel) - min(minimum, len(logmel)))
        last = first + min(minimum, len(logmel))
    return int(first), int(last)
