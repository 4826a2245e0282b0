"""From an audio file to log-mel frames (section 5.1: 64 bands, 10 ms hop).

Only numpy, scipy and soxr compute here, so that the many processes which extract features need not load torch.
"""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.fft import rfft

LOG_FLOOR = 1e-10  # power below which the logarithm is cut: digital silence gives -23.03, not -inf
_ROWS = 4096  # frames transformed at once, so that an hour of audio needs no more memory than a minute


class AudioError(ValueError):
    """An audio file or interval that cannot be used. One sentence that names the file and says why."""


class NotNumbers(AudioError):
    """Samples that are NaN or infinite."""


class AudioFile:
    """An audio file of any rate, channel count and format, opened once and read by intervals (a context manager).

    libsndfile (WAV, FLAC, OGG, MP3, AIFF ...) seeks and reads only what is asked; what it cannot open goes to
    FFmpeg through PyAV (M4A, MP4, WebM ...). Raises AudioError.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise AudioError(f"{self.path} {'is a folder, not an audio file' if self.path.is_dir() else 'does not exist'}")
        if self.path.stat().st_size == 0:
            raise AudioError(f"{self.path} is an empty file")
        try:
            self._source = _SoundFile(self.path)
        except soundfile.LibsndfileError as error:
            self._source = _AvFile(self.path, str(error))

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *_) -> None:
        self._source.close()

    def read(self, start: float | None = None, end: float | None = None, sample_rate: int = 16000) -> np.ndarray:
        """Samples from `start` to `end` (seconds; None: the file's own), the mean of the channels, as float32 (samples,) at `sample_rate`.

        An `end` past the file's is cut to it. Raises AudioError for an empty interval and for data that do not decode, NotNumbers for
        samples that are none.
        """
        start = 0.0 if start is None else float(start)
        if start < 0 or (end is not None and end <= start):
            raise AudioError(f"{self.path}: the interval from {start:g} s to {end:g} s is empty or negative")
        rate, samples = self._source.read(start, None if end is None else float(end))
        if not len(samples):
            raise AudioError(f"{self.path} holds no audio after {start:g} s" if start else f"{self.path} holds no audio")
        if not np.isfinite(samples).all():
            raise NotNumbers(f"{self.path} holds samples that are NaN or infinite after {start:g} s")
        mono = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate)
        return np.ascontiguousarray(mono, np.float32)


def read_audio(path: str | Path, start: float | None = None, end: float | None = None, sample_rate: int = 16000) -> np.ndarray:
    """One interval of one file: see `AudioFile.read`."""
    with AudioFile(path) as file:
        return file.read(start, end, sample_rate)


class _SoundFile:
    """Reads intervals through libsndfile."""

    def __init__(self, path: Path):
        self.path = path
        self.file = soundfile.SoundFile(path)
        self.close = self.file.close

    def read(self, start: float, end: float | None) -> tuple[int, np.ndarray]:
        """Rate and float32 (samples, channels)."""
        rate = self.file.samplerate
        first = round(start * rate)
        last = self.file.frames if end is None else min(round(end * rate), self.file.frames)
        if first >= last:
            return rate, np.empty((0, 1), np.float32)
        try:
            self.file.seek(first)
            return rate, self.file.read(last - first, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, MemoryError, ValueError) as error:  # the latter two: a length that the file cannot have
            raise AudioError(f"{self.path} does not decode between {start:g} s and {last / rate:g} s: {error}") from error


class _AvFile:
    """Reads intervals through FFmpeg, for what libsndfile cannot open. Containers that count in ms place them to 1 ms."""

    def __init__(self, path: Path, reason: str):
        import av  # only where it is needed: most corpora are WAV

        self.path, self._av = path, av
        try:
            with av.open(str(path), metadata_errors="ignore") as container:
                self.origin = next(container.decode(audio=0)).pts or 0  # time 0 is the first sample that decodes
        except (av.FFmpegError, ValueError, IndexError, StopIteration) as error:
            fault = "it has no audio track" if isinstance(error, IndexError) else str(error) or "nothing in it decodes"
            raise AudioError(f"{path} cannot be read as audio: {reason} (libsndfile); {fault} (FFmpeg)") from error

    def close(self) -> None:
        """Nothing stays open between two reads."""

    def read(self, start: float, end: float | None) -> tuple[int, np.ndarray]:
        """Rate and float32 (samples, channels)."""
        try:
            with self._av.open(str(self.path), metadata_errors="ignore") as container:
                return self._read(container, start, end)
        except self._av.FFmpegError as error:
            raise AudioError(f"{self.path} does not decode: {error}") from error

    def _read(self, container, start: float, end: float | None) -> tuple[int, np.ndarray]:
        stream = container.streams.audio[0]
        rate, base = stream.rate, stream.time_base
        first, last = round(start * rate), sys.maxsize if end is None else round(end * rate)
        if start > 1:  # a second earlier: a codec with a memory needs some packets before the first sample that is kept
            container.seek(self.origin + int((start - 1) / base), stream=stream)
        as_float = self._av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        pieces, position = [], None
        for frame in container.decode(stream):
            if position is None:
                position = 0 if frame.pts is None else round((frame.pts - self.origin) * base * rate)
            for part in as_float.resample(frame):
                piece = part.to_ndarray()  # (channels, samples)
                pieces.append(piece[:, max(first - position, 0) : max(last - position, 0)])
                position += piece.shape[1]
            if position >= last:
                break
        return rate, np.concatenate(pieces, axis=1).T if pieces else np.empty((0, 1), np.float32)


@dataclass(frozen=True)
class LogMel:
    """Log-mel frames of a signal (5.1: 64 bands, 10 ms hop), called with float32 (samples,), returning float32 (frames, mels).

    Frame t is the Hann window over samples [t * hop, t * hop + window), with no padding at either end, so that
    frames = 1 + (samples - window) // hop where samples >= window, else 0; at 16 kHz window is 400 and hop 160.
    The window is zero-padded to the next power of two for the FFT (512: bins of 31.25 Hz, which the lowest bands need).
    Bands are triangles of height 1 (no area normalisation), evenly spaced on the HTK mel scale from `low_hz` to `high_hz`,
    over the power spectrum. The logarithm is natural, of no less than 1e-10. As torchaudio's MelSpectrogram computes it.
    Raises ValueError where a band would hold no bin of the FFT.
    """

    sample_rate: int = 16000
    mels: int = 64
    window_ms: float = 25
    hop_ms: float = 10
    low_hz: float = 20
    high_hz: float = 7600

    def __post_init__(self):
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(
                f"low_hz {self.low_hz:g} and high_hz {self.high_hz:g} must be 0 <= low_hz < high_hz <= {self.sample_rate / 2:g}, "
                f"half of sample_rate {self.sample_rate}"
            )
        if self.hop < 1:
            raise ValueError(f"hop_ms {self.hop_ms:g} is less than a sample at sample_rate {self.sample_rate}")
        if empty := int((self.filters.sum(axis=0) == 0).sum()):
            raise ValueError(
                f"mels {self.mels}: {empty} bands would be narrower than the resolution of window_ms {self.window_ms:g} "
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
    def fft_size(self) -> int:
        """The next power of two from the window on."""
        return 1 << (self.window - 1).bit_length()

    @cached_property
    def filters(self) -> np.ndarray:
        """Weights of the bands, float32 (fft_size / 2 + 1, mels)."""
        return mel_filters(self.fft_size, self.sample_rate, self.mels, self.low_hz, self.high_hz)

    @cached_property
    def _hann(self) -> np.ndarray:
        return np.hanning(self.window + 1)[:-1].astype(np.float32)  # the periodic one

    def frames(self, samples: int) -> int:
        """Number of frames of a signal so long."""
        return 1 + (samples - self.window) // self.hop if samples >= self.window else 0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        samples = np.asarray(samples, np.float32)
        logmel = np.empty((self.frames(len(samples)), self.mels), np.float32)
        if not len(logmel):
            return logmel
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.window)[:: self.hop]
        for row in range(0, len(logmel), _ROWS):
            spectrum = rfft(windows[row : row + _ROWS] * self._hann, self.fft_size)
            power = spectrum.real**2
            power += spectrum.imag**2
            np.matmul(power, self.filters, out=logmel[row : row + _ROWS])
        return np.log(np.maximum(logmel, LOG_FLOOR, out=logmel), out=logmel)


def mel_filters(fft_size: int, sample_rate: int, mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Triangles of height 1, evenly spaced on the HTK mel scale, 2595 log10(1 + f / 700): float32 (fft_size / 2 + 1, mels)."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    corners = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(fft_size, 1 / sample_rate)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    return np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0, None).astype(np.float32)


def trim(logmel: np.ndarray, trim_db: float, minimum: int = 50, margin: int = 5) -> np.ndarray:
    """Cut the quiet ends: leading and trailing frames whose energy lies more than `trim_db` below the loudest frame's.

    Args:
        logmel: (frames, mels); energy is the sum of the bands' power.
        minimum: frames that are left at least, one block of SpecTran (5.1), where there are so many.
        margin: quiet frames kept on either side, so that soft onsets stay whole.
    Returns:
        a view of the frames from the first to the last that are kept.
    """
    if not len(logmel):
        return logmel
    peaks = logmel.max(axis=1).astype(np.float64)
    energy = peaks + np.log(np.exp(logmel - peaks[:, None]).sum(axis=1))  # nepers of power: 10 dB are ln 10
    loud = np.flatnonzero(energy >= energy.max() - trim_db * np.log(10) / 10)
    first, last = max(loud[0] - margin, 0), min(loud[-1] + margin + 1, len(logmel))
    lacking = min(minimum, len(logmel)) - (last - first)
    if lacking > 0:  # as much before as behind, as far as there is something
        first = min(max(first - lacking // 2, 0), len(logmel) - min(minimum, len(logmel)))
        last = first + min(minimum, len(logmel))
    return logmel[first:last]
