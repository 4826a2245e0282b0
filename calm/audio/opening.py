"""Open files that are given by anybody: regular files only, and none that unpacks to more than a recording of its size can hold."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from calm.audio.errors import AudioError

POINTER = b"version https://git-lfs.github.com/spec/"
MOST_CHANNELS = 64
RATES = (1_000, 1_000_000)  # Hz; other rates are taken for a wrong header
# What a file may unpack to. The lowest bit rates of speech are about 5 kbit/s, and 64 samples a byte (Opus, at 48 kHz).
FREE_SECONDS, BYTES_A_SECOND = 600, 300
FREE_SAMPLES, SAMPLES_A_BYTE = 2**24, 200


def opened(path: Path) -> BinaryIO:
    """A regular file that is not empty, opened to read. Raises AudioError for anything else, and waits for nothing."""
    try:
        # Unbuffered, because libsndfile takes its number and reads from where it stands.
        handle = open(path, "rb", 0, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: PTH123, SIM115
    except IsADirectoryError:
        raise AudioError(f"{shown(path)} is a folder, not an audio file", "missing audio") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        whither = f"is a link to {shown(path.readlink())}, which" if _is_link(path) else ""
        raise AudioError(f"{shown(path)} {whither} does not exist".replace("  ", " "), "missing audio") from None
    except OSError as error:
        raise AudioError(f"{shown(path)} cannot be opened: {error.strerror or error}") from None
    status = os.fstat(handle.fileno())
    try:
        start = handle.read(len(POINTER)) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        handle.close()
        raise AudioError(f"{shown(path)} cannot be read: {error.strerror or error}") from None
    if fault := _fault(status, start):
        handle.close()
        raise AudioError(f"{shown(path)} is {fault[1]}", fault[0])
    handle.seek(0)
    return handle


def _fault(status: os.stat_result, start: bytes) -> tuple[str, str] | None:
    """Reason and what the file is, if it can hold no audio."""
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file", "a pipe, a socket or a device, not a file"
    if status.st_size == 0:
        return "empty audio", "an empty file"
    if start == POINTER:
        return "Git LFS pointer", "a pointer of Git LFS, not the audio: fetch it with `git lfs pull`"
    return None


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def shown(path: Path | str) -> str:
    """A path, or another text, as messages and tables have it: bytes that are not UTF-8 as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def check_size(path: Path, size: int, rate: int, channels: int, frames: int) -> None:
    """Raises AudioError for a rate or a number of channels that no recording has, and for a file of `size` bytes that would unpack to more
    samples than any recording of that size.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"the header of {shown(path)} says {rate} Hz", "wrong header")
    if channels > MOST_CHANNELS:
        raise AudioError(f"{shown(path)} has {channels} channels: {MOST_CHANNELS} at most can be read", "too many channels")
    seconds = frames / rate
    if seconds > FREE_SECONDS + size / BYTES_A_SECOND or frames * channels > FREE_SAMPLES + SAMPLES_A_BYTE * size:
        raise AudioError(
            f"{shown(path)} has {size} bytes and would unpack to {seconds:.0f} s or more of {channels} channels at {rate} Hz: "
            "no speech is compressed so far, cut it or write it as WAV",
            "unpacks to too much",
        )
