"""Whether a file of another kind follows the first in one file: decoders stop there, or take it for noise, without an error."""

import re
from collections.abc import Iterator
from pathlib import Path

from calm.audio.opening import opened
from calm.audio.riff import FORMS, second

# How files begin, with FFmpeg's names of their containers. Each is searched by itself, which is many times faster than all at once.
STARTS = [
    (kind, re.compile(start, re.DOTALL))
    for kind, start in (
        ("flac", rb"fLaC[\x00\x80]\x00\x00\x22"),
        ("ogg", rb"OggS\x00[\x02\x06]\x00{8}"),
        *(("wav", form + rb"....WAVE") for form in FORMS),
        ("avi", rb"RIFF....AVI "),
        ("aiff", rb"FORM....AIF[FC]"),
        ("mov", rb"\x00\x00\x00.ftyp(?:M4[AB] |mp4.|iso.|qt  |3g..|dash|MSNV)"),
        ("matroska", rb"\x1a\x45\xdf\xa3.{1,60}?(?:webm|matroska)"),
        ("caf", rb"caff\x00\x01\x00\x00desc"),
        ("tta", rb"TTA1[\x01\x03]\x00"),
        ("amr", rb"#!AMR(?:-WB)?\n"),
    )
]
LONGEST = 100  # bytes of a start
FOREIGN = (b"riff", b"aiff")  # before the head of a WAV or AIFF that is kept in a FLAC
ONCE = {"tta", "amr"}  # of which FFmpeg reads the first alone; others are joined, or looked at by `calm.audio.riff`
KEPT = {"wv": {"wav", "aiff"}, "ape": {"wav", "aiff"}}  # heads that a container keeps
FRAME = {"mp": re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]"), "aac": re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")}  # of MP3, and ADTS
FRAMES = 8  # one at the end of the other, that are no chance
KBITS = (  # of MP3: of version 1, and of others
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
RATES = (44100, 48000, 32000)
PIECE, OVERLAP = 2**22, 2**14  # bytes read at once, and again with the next: more than FRAMES frames of any bit rate


def check(path: Path, container: str, codec: str) -> None:
    """Raises AudioError if a file of another kind follows in one of this `container` and `codec`, by FFmpeg's names."""
    kinds = set(container.split(","))
    if "wav" in kinds:  # see `calm.audio.riff`
        return
    known = {codec}.union(kinds, *(KEPT.get(kind, set()) for kind in kinds))
    frames, seen = [pattern for name, pattern in FRAME.items() if not codec.startswith(name)], set()
    for start, piece in _pieces(path):
        for kind, found in _starts(piece, max(0, OVERLAP - LONGEST) if start else 0):
            place = start + found
            seen |= {place} if kind in kinds else set()
            if place and (kind not in known or (kind in ONCE and len(seen) > 1)):
                raise second(path, place)
        for pattern in frames:
            if place := _frames(piece, pattern):
                raise second(path, start + place)


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """The file in pieces that overlap, each with its first byte's place."""
    with opened(path) as file:
        place, kept = 0, b""
        while data := file.read(PIECE):
            yield place - len(kept), kept + data
            place, kept = place + len(data), (kept + data)[-OVERLAP:]


def _starts(piece: bytes, first: int) -> Iterator[tuple[str, int]]:
    """Kinds of files, and where they begin from `first` on."""
    for kind, pattern in STARTS:
        places = (found.start() for found in pattern.finditer(piece, first))
        yield from ((kind, place) for place in places if piece[max(0, place - 4) : place] not in FOREIGN)


def _frames(data: bytes, pattern: re.Pattern[bytes]) -> int:
    """Where frames of MP3 or AAC begin that follow each other; 0 if none do."""
    for found in pattern.finditer(data):
        place, head = found.start(), data[found.start() : found.start() + 2]
        for _ in range(FRAMES):
            length = _length(data[place : place + 6])
            if length < 8 or data[place : place + 2] != head:
                break
            place += length
        else:
            return found.start()
    return 0


def _length(head: bytes) -> int:
    """Bytes of a frame of MP3 or AAC, by its first six; 0 if it is none."""
    if len(head) < 6 or head[0] != 0xFF:
        return 0
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3  # 0: 2.5, 2: 2, 3: 1; layer 1 is III, and 0 are those of AAC
    if layer == 0:
        return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if layer != 1 or kbits == 15 or rate == 3 or version == 1:
        return 0
    samples, halved = (144, 0) if version == 3 else (72, 1 if version == 2 else 2)
    return samples * 1000 * KBITS[version != 3][kbits] // (RATES[rate] >> halved) + (head[2] >> 1 & 1)
