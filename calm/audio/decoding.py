"""Decode audio files of any format to mono samples at one rate.

Without torch, so that the many processes that extract features need not load it.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import soundfile
import soxr

from calm.array_types import Floats32
from calm.audio import ffmpeg, riff
from calm.audio.errors import AudioError, NotNumbers
from calm.audio.opening import opened, shown
from calm.audio.sndfile import SMALL, SoundFile
from calm.audio.survey import BEYOND, Character, Survey

__all__ = ["AudioError", "AudioFile", "NotNumbers", "read_audio"]

EXCERPT = 10.0  # seconds at the start, in the middle and at the end by which the channels and the scale of a long file are judged
FAR = "samples far beyond 1"
LONG = 2**24  # samples that are resampled at once; more go piece by piece, with the same result


@dataclass(frozen=True)
class Facts:
    """What was found of a file when it was first opened."""

    rate: int
    channels: int
    frames: int
    character: Character
    track: ffmpeg.Track | None  # None: libsndfile reads it

    @property
    def notes(self) -> tuple[str, ...]:
        """What is mended when the file is read, in a few words each."""
        return (self.track.notes if self.track else ()) + self.character.notes


class AudioFile:
    """An audio file of any rate, channel count and format, opened once and read by intervals (a context manager).

    Files are read with libsndfile (WAV, FLAC, OGG, MP3, AIFF ...) if it reads all of them, else with FFmpeg through PyAV (M4A, MP4, WebM,
    files that were joined or written to a pipe ...). Lengths are counted, never taken from a header. Only the interval is decoded, but for
    what `Character` needs. Raises AudioError if the file is not whole, or neither can read it.

    Attributes:
        facts: rate, channels and length.
        seconds: the length.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with opened(self.path) as file:
            status = os.fstat(file.fileno())
        key = (os.fspath(self.path), status.st_ino, status.st_size, status.st_mtime_ns)
        self._sound: SoundFile | None = None
        try:
            self.facts = _known(key) or self._examine()
        except OSError as error:  # of a disk, or of a file that is none
            raise AudioError(f"{shown(self.path)} cannot be read: {error.strerror or error}") from error
        _remember(key, self.facts)
        self.seconds = self.facts.frames / self.facts.rate

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._sound:
            self._sound.close()

    def _examine(self) -> Facts:
        """Find out who reads the file, and what its samples are like."""
        riff.check(self.path)
        try:
            self._sound, reason = SoundFile(self.path), ""
        except soundfile.LibsndfileError as error:
            reason = error.error_string
        try:
            if (sound := self._sound) and sound.whole():
                return Facts(sound.rate, sound.channels, sound.frames, _character(sound), None)
            self.__exit__()
            self._sound, track = None, ffmpeg.examine(self.path, reason)
        except BaseException:
            self.__exit__()
            raise
        return Facts(track.rate, track.channels, track.frames, track.character, track)

    def _blocks(self, first: int, last: int) -> Iterator[Floats32]:
        if self.facts.track:
            return ffmpeg.blocks(self.path, self.facts.track, first, last)
        if self._sound is None:  # a file that was examined before
            self._sound = SoundFile(self.path)
        return self._sound.blocks(first, last)

    def read(self, start: float | None = None, end: float | None = None, sample_rate: int = 16000) -> Floats32:
        """Samples from `start` to `end`, in seconds, averaged over the channels: float32 (samples,) at `sample_rate`.

        None is the start or end of the file, and later ends are clamped to the end of the file. Channels that cancel, samples at the
        scale of integers and constant offsets are mended, see `Character`. Raises AudioError if the interval is empty, its data do not
        decode or are far beyond 1, and NotNumbers if samples are NaN or infinite.
        """
        start = 0.0 if start is None else float(start)
        if not start >= 0 or (end is not None and not end > start):
            until = "the end" if end is None else f"{end:g} s"
            raise AudioError(f"{shown(self.path)}: the interval from {start:g} s to {until} is empty or negative")
        rate = self.facts.rate
        first, last = round(start * rate), self.facts.frames if end is None else min(round(end * rate), self.facts.frames)
        signal = self._signal(first, last, start) if first < last else np.empty(0, np.float32)
        if not len(signal):
            raise AudioError(f"{shown(self.path)} holds no audio{f' after {start:g} s' if start else ''}")
        return np.ascontiguousarray(_resampled(signal, rate, sample_rate), np.float32)

    def _signal(self, first: int, last: int, start: float) -> Floats32:
        """Mono samples at the file's own rate."""
        signal, filled, character = np.empty(last - first, np.float32), 0, self.facts.character
        for block in self._blocks(first, last):
            if not np.isfinite(block).all():
                raise NotNumbers(f"{shown(self.path)} holds samples that are NaN or infinite after {start:g} s")
            if character.refused or (character.scale <= 1 and np.abs(block).max(initial=0) > BEYOND * character.scale):
                peak = max(character.peak, float(np.abs(block).max(initial=0))) / character.scale
                raise AudioError(f"{shown(self.path)} has samples up to {peak:.6g}: divide them, so that they lie between -1 and 1", FAR)
            signal[filled : filled + len(block)] = character.signal(block)
            filled += len(block)
        return signal[:filled]


def _character(sound: SoundFile) -> Character:
    """From all of a small file, and from excerpts of another."""
    frames, survey = sound.frames, Survey()
    most = min(round(EXCERPT * sound.rate), SMALL // sound.channels)
    starts = [0] if frames * sound.channels <= SMALL else [0, (frames - most) // 2, frames - most]
    for start in starts:
        for block in sound.blocks(start, frames if len(starts) == 1 else start + most):
            survey.add(block)
    return survey.character()


def _resampled(signal: Floats32, rate: int, sample_rate: int) -> Floats32:
    if rate == sample_rate:
        return signal
    if len(signal) <= LONG:
        resampled: Floats32 = soxr.resample(signal, rate, sample_rate)
        return resampled
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    starts = range(0, len(signal), LONG)
    return np.concatenate([stream.resample_chunk(signal[start : start + LONG], last=start == starts[-1]) for start in starts])


def read_audio(path: str | Path, start: float | None = None, end: float | None = None, sample_rate: int = 16000) -> Floats32:
    """Read one interval of one file: see `AudioFile.read`."""
    with AudioFile(path) as file:
        return file.read(start, end, sample_rate)


# What was found of the files opened last, so that the many intervals of a long recording count its packets once; by name, inode, size
# and time.
_FILES = 256
Key = tuple[str, int, int, int]
_facts: OrderedDict[Key, Facts] = OrderedDict()
_lock = Lock()


def _known(key: Key) -> Facts | None:
    with _lock:
        return _facts.get(key)


def _remember(key: Key, facts: Facts) -> None:
    with _lock:
        _facts[key] = facts
        while len(_facts) > _FILES:
            _facts.popitem(last=False)
