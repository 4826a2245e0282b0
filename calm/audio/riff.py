"""The chunks of a file: whether the data of a WAV are as long as its header says, and whether a second file follows the first.

Decoders read such files without an error.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from calm.audio.errors import AudioError
from calm.audio.opening import opened, shown

FORMS = (b"RIFF", b"RF64", b"BW64")
NO_PROMISE = 0x7FFF0000  # sizes from here on mean "unknown" in a WAV written to a pipe
SAMPLEWISE = (1, 3, 6, 7, 0xFFFE)  # format tags of PCM, floats, A-law, mu-law, and the extensible one
LARGE = 2**28  # bytes; a promise of more, of which less than a tenth is there, was never meant
MOST_CHUNKS = 10**5  # that are looked at
ENDLESS = 2**62  # bytes of a chunk of 64 bits, from which on its length is not known
PADDING = 16  # bytes that may be missing after the last chunk
# Bytes of a chunk's name, where they begin, where its length does, and how that is packed; whether the chunk's head counts in the length.
CHUNKS = {
    b"FORM": (4, 0, 4, ">I", False),  # AIFF
    b"ftyp": (4, 4, 0, ">I", True),  # MP4
    bytes.fromhex("726966662e91cf11a5d628db04c10000"): (16, 0, 16, "<Q", True),  # W64
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"): (16, 0, 16, "<Q", True),  # ASF (WMA)
}
VOC = b"Creative Voice F"  # ile
LONG = [kind for kind in CHUNKS if len(kind) == 16]
SLACK = 0.01  # seconds that may be missing or left over at the end: some recorders count the header as data


@dataclass(frozen=True)
class Data:
    """The data chunk: bytes that the header promises, and that lie in the file from its start on."""

    promised: int
    start: int
    held: int
    consistent: bool  # the header's length of the whole file is no less
    bytes_a_second: float
    long: bool  # the promise is one of 64 bits
    formats: int  # chunks before it that say what the samples are

    @property
    def streamed(self) -> bool:
        """Whether the promise is a placeholder, as programs write that cannot know the length."""
        rounded = any(self.promised % unit in (0, unit - 1) for unit in (10**6, 2**20))
        much = self.held < self.promised / 10 and (self.promised >= LARGE or rounded)
        return self.promised == 0 or self.promised >= NO_PROMISE or (self.held < self.promised and (not self.consistent or much))


def check(path: Path) -> None:
    """Raises AudioError for what decoders would read in part or wrongly, without a word. Other files pass.

    A WAV that lacks data which its header promises, that goes on after them, or that has two formats; an AIFF, MP4, W64 or WMA that a
    second one follows; an AVI, CAF, VOC, W64 or WMA that is cut.
    """
    with opened(path) as file:
        if place := _second(file):
            raise second(path, place)
        _check_end(path, file)
        file.seek(0)
        data = _data(file)
        if data is not None and data.formats > 1:  # decoders do not agree on one
            raise AudioError(f"{shown(path)} says {data.formats} times what its samples are: write it again", "wrong header")
        if data is not None and data.held == 0:
            raise AudioError(f"{shown(path)} has a header and holds no audio", "empty audio")
        if data is not None and data.promised == 0 and data.long:
            raise AudioError(f"{shown(path)} says that it holds no audio, and {data.held} bytes follow: write it again", "wrong header")
        if data is None or data.streamed:
            return
        says, lacking = data.promised / data.bytes_a_second, (data.promised - data.held) / data.bytes_a_second
        if lacking > SLACK:
            raise AudioError(f"{shown(path)} promises {says:.2f} s and holds {says - lacking:.2f} s", "truncated audio")
        if lacking < -SLACK and _goes_on(file, data.start + data.promised, data.start + data.held):
            follow = f"{data.held - data.promised} bytes of data follow"
            raise AudioError(f"{shown(path)} says it is {says:.2f} s long, and {follow}: write it again", "wrong header")


def second(path: Path, place: int) -> AudioError:
    """What is said of a file in which another begins at a byte."""
    told = f"{shown(path)} holds a second file from byte {place} on, which is not read: give every recording a file"
    return AudioError(told, "wrong header")


def _check_end(path: Path, file: BinaryIO) -> None:
    """Raises AudioError if the chunks of an AVI, CAF, VOC, W64 or WMA reach beyond its end."""
    promised, held = _promised(file), os.fstat(file.fileno()).st_size
    never = promised >= ENDLESS or (promised >= LARGE and held < promised / 10)
    if promised > held + PADDING and not never:
        raise AudioError(f"{shown(path)} promises {promised} bytes and holds {held}", "truncated audio")


def _promised(file: BinaryIO) -> int:
    """Bytes up to the end of the last chunk of an AVI, CAF, VOC, W64 or WMA; 0 where it is not known, or of another file."""
    file.seek(0)
    head = file.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        length = int(struct.unpack_from("<I", head, 4)[0])
        return 8 + length if length < NO_PROMISE else 0
    if head[:4] == b"caff":
        return _last(file, 8, 12, lambda chunk: 12 + struct.unpack_from(">Q", chunk, 4)[0])
    if head == VOC:
        first = struct.unpack("<H", file.read(6)[4:].ljust(2, b"\0"))[0]
        return _last(file, first, 4, lambda chunk: 4 + int.from_bytes(chunk[1:], "little"))
    return _last(file, 0, 24, lambda chunk: struct.unpack_from("<Q", chunk, 16)[0]) if head in LONG else 0


def _last(file: BinaryIO, place: int, begin: int, length: Callable[[bytes], int]) -> int:
    """Where the last chunk ends, from the first at `place` on; `begin`: bytes of a chunk's head."""
    end = os.fstat(file.fileno()).st_size
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        head = file.read(begin)
        if len(head) < begin or length(head) < begin:
            return place
        place += length(head)
        if place >= end:
            return place
    return 0


def _second(file: BinaryIO) -> int:
    """Byte from which a second file of the same kind follows; 0 if none does, or the file is of another kind."""
    head = file.read(16)
    kind = next((own for own, (size, name, *_) in CHUNKS.items() if head[name : name + size] == own), None)
    if kind is None:
        return 0
    size, name, length, packed, whole = CHUNKS[kind]
    begin, place, end = size + struct.calcsize(packed), 0, os.fstat(file.fileno()).st_size
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        head = file.read(24)
        if place and head[name : name + size] == kind:
            return place
        long = struct.unpack_from(packed, head.ljust(24, b"\0"), length)[0] + (0 if whole else begin)
        if kind == b"ftyp" and long == 1:  # the length is in the 64 bits that follow
            long = struct.unpack_from(">Q", head.ljust(24, b"\0"), 8)[0]
        place += long + (long % 2 if kind == b"FORM" else 0)
        if len(head) < begin or long < begin or place >= end:
            return 0
    return 0


def _data(file: BinaryIO) -> Data | None:
    """The first data chunk, or None if the file is no WAV or has none."""
    size = os.fstat(file.fileno()).st_size
    form, whole, kind = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    if form not in FORMS or kind != b"WAVE":
        return None
    long, bytes_a_second, formats = 0xFFFFFFFF, 1.0, 0
    for _ in range(MOST_CHUNKS):
        if len(chunk := file.read(8)) < 8:
            return None
        name, length = struct.unpack("<4sI", chunk)
        start = file.tell()
        if name == b"ds64":
            whole, long = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        elif name == b"fmt ":
            tag, _, rate, mean, align = struct.unpack("<HHIIH", file.read(14).ljust(14, b"\0"))
            bytes_a_second, formats = max(1.0, rate * align if tag in SAMPLEWISE else mean), formats + 1
        elif name == b"data":
            is_long = form != b"RIFF" and length == 0xFFFFFFFF
            promised = long if is_long else length
            consistent = (form != b"RIFF" or whole < NO_PROMISE) and whole + 8 + SLACK * promised >= start + promised
            return Data(promised, start, size - start, consistent, bytes_a_second, is_long, formats)
        file.seek(start + length + length % 2)
    return None


def _goes_on(file: BinaryIO, place: int, end: int) -> bool:
    """Whether something else than chunks, tags and zeros follows from `place` on."""
    while end - place > 9:
        file.seek(place)
        head = file.read(9)
        padding = head[0] == 0  # after a chunk of an odd length
        name, length = struct.unpack("<4sI", head[padding : 8 + padding])
        if name in FORMS or name.startswith(b"TAG") or name == b"data":
            return not name.startswith(b"TAG")
        if not all(32 <= byte < 127 for byte in name) or length > end - place - 8:
            file.seek(place)
            return bool(file.read(2**16).strip(b"\0"))
        place += padding + 8 + length
    return False
