"""libsndfile through soundfile: whether it reads all of a file, and its samples."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import soundfile

from calm.array_types import Floats32
from calm.audio import ffmpeg
from calm.audio.errors import AudioError
from calm.audio.opening import check_size, opened, shown

WAVES = ("WAV", "WAVEX", "RF64")
CONTAINERS = (*WAVES, "W64", "AIFF", "AU", "CAF", "NIST", "VOC", "FLAC", "OGG", "MP3")
SAMPLEWISE = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # the size tells the length
SAME = 0.01  # seconds that libsndfile's length may differ from FFmpeg's count
SAME_OGG = 0.05  # there a packet's length depends on its neighbours
BLOCK = 2**20  # values in memory at once
SMALL = 2**21  # values of a file that is decoded once and kept


class SoundFile:
    """A file that libsndfile opens, until `close`. Raises soundfile.LibsndfileError if it is of another kind, AudioError for a fault."""

    def __init__(self, path: Path):
        self.path, self._handle = path, opened(path)
        self._next: int | None = None  # frame where libsndfile stands
        try:
            self.file = soundfile.SoundFile(self._handle.fileno(), closefd=False)  # by number: a name may tell soundfile a wrong format
            if self.file.format not in CONTAINERS:
                raise AudioError(f"{shown(path)} cannot be read as audio: {self.file.format} is not among {', '.join(CONTAINERS)}")
        except BaseException:
            self._handle.close()
            raise

    @property
    def rate(self) -> int:
        return int(self.file.samplerate)

    @property
    def frames(self) -> int:
        return int(self.file.frames)

    @property
    def channels(self) -> int:
        return int(self.file.channels)

    def close(self) -> None:
        self.file.close()
        self._handle.close()

    def whole(self) -> bool:
        """Whether libsndfile reads all of the file: its length is that of the data, or of the packets that FFmpeg counts.

        Raises AudioError if the header promises more than is there.
        """
        size = self.path.stat().st_size
        check_size(self.path, size, self.rate, self.channels, 0)
        if self.file.format in WAVES and self.frames and self.file.subtype in SAMPLEWISE:
            return True  # `calm.audio.riff.check` has seen it
        counted = ffmpeg.count(self.path)
        if not self.file.seekable() or (self.file.format == "MP3" and not counted.known):
            return False  # of the MP3, libsndfile guesses the length from the file's size
        slack = SAME_OGG if self.file.format == "OGG" else SAME
        if self.frames == 0 or not counted.sure or abs(counted.seconds - self.frames / self.rate) > slack:
            return False
        check_size(self.path, size, self.rate, self.channels, self.frames)
        return True

    @cached_property
    def _all(self) -> Floats32:
        return self._read(0, self.frames)

    def blocks(self, first: int, last: int) -> Iterator[Floats32]:
        """Samples `first` to `last` in blocks (samples, channels) float32."""
        if self.frames * self.channels <= SMALL:
            yield self._all[first:last]
            return
        step = max(1, BLOCK // self.channels)
        for start in range(first, last, step):
            yield self._read(start, min(start + step, last))

    def _read(self, first: int, last: int) -> Floats32:
        try:
            if self._next != first:
                self.file.seek(first)
            samples: Floats32 = self.file.read(last - first, dtype="float32", always_2d=True)
            self._next = last
            fault = "" if len(samples) == last - first else f"it ends {(last - first - len(samples)) / self.rate:.2f} s before"
        except (soundfile.LibsndfileError, RuntimeError) as error:
            fault = str(error)
        if fault:
            where = f"between {first / self.rate:g} s and {last / self.rate:g} s"
            reason = "truncated audio" if last == self.frames else "unreadable audio"
            raise AudioError(f"{shown(self.path)} does not decode {where}: {fault}", reason)
        return samples
