"""From an audio file to log-mel frames (section 5.1: 64 bands, 10 ms hop).

Only numpy, scipy and soxr compute here, so that the many processes which extract features need not load torch.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr


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
