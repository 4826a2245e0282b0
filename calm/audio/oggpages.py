"""The pages of an OGG, of which decoders pass over those that are lost or damaged, without an error."""

import mmap
import struct
import zlib
from pathlib import Path

from calm.audio.errors import AudioError
from calm.audio.opening import opened, shown

MARK = b"OggS"
HEAD = 27  # bytes of a page before the lengths of its segments
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
FIRST = 2  # flag of a page that begins a stream


def check(path: Path) -> None:
    """Raises AudioError if pages of an OGG are damaged, or missing between two others. One that is cut at its end is not told so."""
    lost, last = 0, dict[int, int]()  # number of the last page with sound, by stream
    with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(MARK)
        while 0 <= place <= len(data) - HEAD:
            flags, granule, serial, number = struct.unpack_from("<BqII", data, place + 5)
            lengths = data[place + HEAD : place + HEAD + data[place + HEAD - 1]]
            page = data[place : place + HEAD + len(lengths) + sum(lengths)]
            whole = _checksum(page) == page[22:26]
            if flags & FIRST:
                last.pop(serial, None)
            elif whole and granule != 0:  # the pages of headers are numbered by themselves in a stream that was joined late
                lost += max(0, number - last.get(serial, number - 1) - 1)
                last[serial] = number
            place = data.find(MARK, place + (len(page) if whole else len(MARK)))
    if lost:
        raise AudioError(f"{shown(path)} lacks {lost} of its pages, or they are damaged: fetch it again")


def _checksum(page: bytes) -> bytes:
    """CRC of a page as OGG has it: that of zlib with the bits of every byte, and of the result, in the other order."""
    reflected = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2).to_bytes(4, "little")
