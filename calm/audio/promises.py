"""How long a file is by what its header says: more than it holds means that it was cut."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from calm.audio.errors import AudioError
from calm.audio.opening import opened, shown

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer

PROMISING = {"mov", "flac", "aiff", "au", "nistsphere", "tta"}  # FFmpeg takes a track's length from their header
MISSING = 0.1  # seconds that may be missing at the end: the last packet may lack a duration
# The first frame of an MP3 by LAME and others: version, and the number of frames. FFmpeg passes it on only where the size fits.
XING = re.compile(
    rb"\xff([\xe2\xe3\xf2\xf3\xfa\xfb])..(?:.{9}|.{17}|.{32})(?:Xing|Info)\x00\x00\x00[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", re.DOTALL
)
SEARCHED = 2**16  # bytes after a tag in which it is looked for


def check(path: Path, container: "InputContainer", stream: "AudioStream", seconds: float, skipped: float = 0.0) -> None:
    """Raises AudioError if the header promises more than was counted: `seconds`, and what is `skipped` at the start and end."""
    kinds, promised = set(container.format.name.split(",")), 0.0
    if "mp3" in kinds:
        promised = _xing(path, stream.rate) - skipped
    elif stream.duration and stream.time_base and kinds & PROMISING:
        promised = float(stream.duration * stream.time_base)
    elif "matroska" in kinds or ("flv" in kinds and len(container.streams) == 1):
        promised = _matroska(container, stream)
    if promised - seconds > MISSING:
        raise AudioError(f"{shown(path)} promises {promised:.2f} s and holds {seconds:.2f} s", "truncated audio")


def _matroska(container: "InputContainer", stream: "AudioStream") -> float:
    """Seconds of the track, or of the file if nothing else is in it (a picture may be longer)."""
    if clock := re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, clock.groups())
        begin = float((stream.start_time or 0) * (stream.time_base or 0))
        return 3600 * hours + 60 * minutes + seconds - max(0.0, begin)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _xing(path: Path, rate: int) -> float:
    """Seconds of the frames that an MP3 counts; 0 if it counts none."""
    with opened(path) as file:
        place = 0
        while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
            place += 10 + sum((byte & 0x7F) << 7 * (3 - index) for index, byte in enumerate(head[6:]))
            file.seek(place)
        file.seek(place)
        found = XING.search(file.read(SEARCHED))
    if not found:
        return 0.0
    version, frames = found[1][0] >> 3 & 3, int.from_bytes(found[2])
    return frames * (1152 if version == 3 else 576) / rate
