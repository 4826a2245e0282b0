"""Check the header of an audio file against its contents. At most its first and last samples are decoded."""

import struct
from dataclasses import dataclass
from pathlib import Path

OWN = ("wav", "w64", "flac", "ogg", "mp3", "aiff", "au", "caf")  # libsndfile's containers: if it refuses one, PyAV would only guess
RATES = (1_000, 1_000_000)  # Hz; other rates are taken for a wrong header
UNKNOWN = 0x7FFFFFFFFFFFFFFF  # frames that libsndfile reports for a FLAC of unknown length, written to a pipe
NO_PROMISE = 0x7FFF0000  # data sizes from here on mean "unknown" in a WAV written to a pipe
PACKET = 0.1  # seconds that may be missing at the end of a packetised stream, whose last packet may lack a duration
SLACK = 0.01  # seconds that may be missing at the end of a WAV: some recorders count the header as data


@dataclass
class Header:
    """Length in seconds, or why the file cannot be used: `fault` in a few words, and details."""

    seconds: float = 0.0
    fault: str = ""
    detail: str = ""


def read_header(path: Path) -> Header:
    """Check that a file exists, is not empty, can be read, and is as long as its header says."""
    import soundfile

    try:
        if not path.is_file():
            return Header(fault="missing audio", detail=str(path))
        if path.stat().st_size == 0:
            return Header(fault="empty audio", detail=f"{path} has no bytes")
        with soundfile.SoundFile(path) as file:
            return _check(path, file)
    except soundfile.LibsndfileError as error:
        return _read_with_av(path, str(error))
    except OSError as error:
        return Header(fault="unreadable audio", detail=f"{path}: {error.strerror or error}")


def _check(path: Path, file) -> Header:
    """Check a file that libsndfile has opened. The last sample is read because FLAC and MP3 files may end before it."""
    frames, rate = file.frames, file.samplerate
    if not RATES[0] <= rate <= RATES[1]:
        return Header(fault="wrong header", detail=f"the header of {path} says {rate} Hz")
    if frames == 0:
        return _empty(path)
    if frames == UNKNOWN:
        return Header(fault="wrong header", detail=f"{path} does not say how long it is")
    if (missing := _missing(path, frames, rate)) > SLACK:
        return Header(fault="truncated audio", detail=f"{path} promises {frames / rate + missing:.2f} s and holds {frames / rate:.2f} s")
    try:
        file.seek(frames - 1)
        ends = len(file.read(1)) == 1
    except RuntimeError:  # includes LibsndfileError
        ends = False
    return (
        Header(frames / rate)
        if ends
        else Header(fault="truncated audio", detail=f"{path} ends before the {frames / rate:.2f} s it promises")
    )


def _empty(path: Path) -> Header:
    """The fault of a file without frames: it is only a header, or its header is wrong about the data after it."""
    size = path.stat().st_size
    if size < 1024:
        return Header(fault="empty audio", detail=f"{path} has a header and no samples")
    return Header(fault="wrong header", detail=f"{path} says it has no samples and is {size} bytes long")


def _missing(path: Path, frames: int, rate: int) -> float:
    """Seconds that the header of a WAV promises but the file lacks. libsndfile reads such files without an error."""
    with path.open("rb") as file:
        form, _, kind = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
        if form != b"RIFF" or kind != b"WAVE":
            return 0.0
        align = 0
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                promised = size // align if align and size < NO_PROMISE else 0
                return max(0, promised - frames) / rate
            start = file.tell()
            if name == b"fmt ":
                align = struct.unpack("<H", file.read(16).ljust(16, b"\0")[12:14])[0]
            file.seek(start + size + size % 2)
    return 0.0


def _last_packet(file, stream, seconds: float) -> float:
    """End of the last packet in seconds. Only packets from a second before the promised end are read, and none is decoded."""
    begin = float((stream.start_time or 0) * stream.time_base)
    file.seek(int((begin + max(0.0, seconds - 1)) / stream.time_base), stream=stream)
    ends = [(packet.pts + (packet.duration or 0)) * packet.time_base for packet in file.demux(stream) if packet.pts is not None]
    return float(max(ends, default=0)) - begin


def _read_with_av(path: Path, refusal: str) -> Header:
    """Check a file in a container that libsndfile does not know (m4a, mp4, webm ...): its length, and that one frame decodes."""
    import av

    try:
        with av.open(str(path), metadata_errors="ignore") as file:
            if set(file.format.name.split(",")) & set(OWN) or not file.streams.audio:
                return Header(fault="unreadable audio", detail=f"{path}: {refusal}")
            stream = file.streams.audio[0]
            next(file.decode(stream))
            length, base = (stream.duration, stream.time_base) if stream.duration else (file.duration, 1 / av.time_base)
            if not length:
                return Header(fault="wrong header", detail=f"{path} does not say how long it is")
            seconds = float(length * base)
            missing = seconds - _last_packet(file, stream, seconds)
            promise = f"{path} promises {seconds:.2f} s and ends {missing:.2f} s before"
            return Header(fault="truncated audio", detail=promise) if missing > PACKET else Header(seconds)
    except (av.FFmpegError, StopIteration, OSError, ValueError) as error:
        return Header(fault="unreadable audio", detail=f"{path}: {refusal} {error}")
