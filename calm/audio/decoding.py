"""Decode audio files of any format to mono samples at one rate.

Without torch, so that the many processes that extract features need not load it.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr


class AudioError(ValueError):
    """An audio file or interval that cannot be used. The message is one sentence that names the file and the reason."""


class NotNumbers(AudioError):
    """A file whose samples are NaN or infinite."""


class AudioFile:
    """An audio file of any rate, channel count and format, opened once and read by intervals (a context manager).

    Files are read with libsndfile (WAV, FLAC, OGG, MP3, AIFF ...) or, if it cannot open them, with FFmpeg through PyAV (M4A, MP4,
    WebM ...). Only the interval is decoded. Raises AudioError if neither can open the file.
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
        """Samples from `start` to `end`, in seconds, averaged over the channels: float32 (samples,) at `sample_rate`.

        None is the start or end of the file, and later ends are clamped to the end of the file. Raises AudioError if the interval is empty
        or its data do not decode, and NotNumbers if samples are NaN or infinite.
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
    """Read one interval of one file: see `AudioFile.read`."""
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
        except (soundfile.LibsndfileError, MemoryError, ValueError) as error:  # the latter two for an impossible length
            raise AudioError(f"{self.path} does not decode between {start:g} s and {last / rate:g} s: {error}") from error


class _AvFile:
    """Reads intervals through FFmpeg. In containers with time stamps in ms, intervals are accurate to 1 ms."""

    def __init__(self, path: Path, reason: str):
        import av  # imported here because most corpora do not need it

        self.path, self._av = path, av
        try:
            with av.open(str(path), metadata_errors="ignore") as container:
                self.origin = next(container.decode(audio=0)).pts or 0  # time 0 is the first decoded sample
        except (av.FFmpegError, ValueError, IndexError, StopIteration) as error:
            fault = "it has no audio track" if isinstance(error, IndexError) else str(error) or "nothing in it decodes"
            raise AudioError(f"{path} cannot be read as audio: {reason} (libsndfile); {fault} (FFmpeg)") from error

    def close(self) -> None:
        """Nothing to do: no file stays open between two reads."""

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
        if start > 1:  # a second earlier, because codecs need some packets before they decode correctly
            container.seek(self.origin + int((start - 1) / base), stream=stream)
        as_float = self._av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        chunks, position = [], None
        for frame in container.decode(stream):
            if position is None:
                position = 0 if frame.pts is None else round((frame.pts - self.origin) * base * rate)
            for part in as_float.resample(frame):
                chunk = part.to_ndarray()  # (channels, samples)
                chunks.append(chunk[:, max(first - position, 0) : max(last - position, 0)])
                position += chunk.shape[1]
            if position >= last:
                break
        return rate, np.concatenate(chunks, axis=1).T if chunks else np.empty((0, 1), np.float32)
