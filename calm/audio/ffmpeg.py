"""FFmpeg through PyAV: counts the packets of a file, and decodes what libsndfile cannot, from the start where time stamps jump."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calm.array_types import Floats32
from calm.audio import joined, oggpages, promises
from calm.audio.errors import AudioError
from calm.audio.opening import check_size, opened, shown
from calm.audio.survey import SILENT, Character, Survey

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler, AudioStream, CodecContext, Packet
    from av.container import InputContainer

# Containers of sound in one file: no playlists, and nothing that names other files or addresses.
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,gsm,loas,matroska,mov,mp3,mpeg,mpegts,nistsphere,ogg,tta,voc,w64,wav,wv"
)
SEEKABLE = ("mov", "matroska", "asf")  # their packets carry times of their own
STEADY = 0.002  # seconds by which the time stamps of a steady track may differ from the samples counted: WebM counts in ms
DAMAGED = 0.01  # share of the packets and seconds that may not decode; where files were joined, a header is read as sound, so that
HEADER = (2, 0.3)  # so many packets of so many seconds may be lost at least
HOPELESS = 1000  # packets that do not decode, from which on no more are tried if they are most
UNPREPARED = 0x45574150  # AVERROR_PATCHWELCOME
EARLIER = 1.0  # seconds decoded before an interval, because codecs need some packets before they decode correctly


@dataclass(frozen=True)
class Track:
    """The audio track that is used, as decoded from start to end."""

    index: int
    rate: int
    channels: int
    frames: int
    origin: int  # time stamp of the first sample
    steady: bool  # time stamps agree with the samples counted
    notes: tuple[str, ...]
    character: Character


@dataclass(frozen=True)
class Count:
    """What the packets of the first track tell without decoding.

    Attributes:
        seconds: the length.
        sure: every packet tells its duration, and blocks of FLAC are as long as its header says, else libsndfile makes noise of them.
        known: a header of an MP3 tells what its encoder added.
    """

    seconds: float
    sure: bool
    known: bool


@contextmanager
def _container(path: Path, reason: str = "") -> Iterator["InputContainer"]:
    """The opened container. Errors of FFmpeg become AudioError."""
    import av  # here, because most corpora do not need it

    with opened(path) as file:
        kind = ""
        try:
            with av.open(file, "r", metadata_errors="ignore", options={"format_whitelist": CONTAINERS}) as container:
                if not container.streams.audio:
                    raise AudioError(f"{shown(path)} cannot be read as audio: it has no audio track, or its header is cut")
                kind = container.format.name
                yield container
        except (av.FFmpegError, ValueError, OSError) as error:
            if isinstance(error, AudioError):
                raise
            raise AudioError(f"{shown(path)} cannot be read as audio: {_both(reason, _told(error, kind))}") from error


def _told(error: Exception, kind: str) -> str:
    """What FFmpeg says of an error, in one line. `kind`: of the container, if it was opened."""
    if type(error) is OSError:  # of the file itself: FFmpeg was sent before its start
        return "its header leads out of the file"
    number = getattr(error, "errno", None)
    if kind == "ogg" and number in (errno.EINVAL, UNPREPARED):  # of recordings that were joined
        return "its codec, rate or channels change: give every recording a file"
    if number == errno.EINVAL and not kind:  # not in the list of containers
        return "it is in no container of sound that is read here"
    return " ".join((getattr(error, "strerror", "") or str(error)).split())


def _both(reason: str, told: str) -> str:
    return f"{reason.rstrip('.')} (libsndfile); {told} (FFmpeg)" if reason else told


def count(path: Path) -> Count:
    """Count the packets of the first track. Raises AudioError if the file is cut, or unpacks to too much."""
    size = path.stat().st_size
    with _container(path) as container:
        stream = container.streams.audio[0]
        _check_whole(path, container)
        ticks, skipped, sure, known, rate, tick = 0, 0, True, False, _rate(path, stream), float(_tick(stream))
        longest = 0
        for packet in container.demux(stream):
            ticks, longest = ticks + _ticks(packet), max(longest, _ticks(packet))
            sure = sure and (packet.size == 0 or packet.duration != 0)
            for data in packet.iter_sidedata() if packet.has_sidedata("skip_samples") else ():
                if data.data_type == "skip_samples":
                    start, end = np.frombuffer(bytes(data)[:8], "<u4")
                    skipped, known = skipped + int(start) + int(end), known or start > 0
            check_size(path, size, rate, 1, int(ticks * tick * rate))
        seconds = max(0.0, ticks * tick - skipped / rate)
        promises.check(path, container, stream, seconds, skipped / rate)
        return Count(seconds, sure and _blocks_are(container, longest * tick * rate, ticks > longest), known)


def _blocks_are(container: "InputContainer", samples: float, several: bool) -> bool:
    """Whether the longest block of a FLAC is as long as its header says; True for other files, and for a single block."""
    header = container.streams.audio[0].codec_context.extradata if container.format.name == "flac" and several else None
    return header is None or int.from_bytes(header[2:4]) == round(samples)


def _rate(path: Path, stream: "AudioStream") -> int:
    """Sampling rate by the header. Raises AudioError if FFmpeg has no decoder for the stream."""
    rate: int | None = getattr(stream, "rate", None)
    if rate:
        return rate
    raise AudioError(f"{shown(path)} cannot be read as audio: its codec is not known, or its header tells no rate")


def _codec(stream: "AudioStream") -> str:
    """Name of its decoder; "" if FFmpeg has none."""
    context: CodecContext | None = getattr(stream, "codec_context", None)
    return context.name if context else ""


def _check_whole(path: Path, container: "InputContainer") -> None:
    """Raises AudioError if another file follows, or pages of an OGG are missing."""
    joined.check(path, container.format.name, _codec(container.streams.audio[0]))
    if container.format.name == "ogg":
        oggpages.check(path)


def _tick(timed: "AudioStream | Packet[AudioStream] | AudioFrame") -> Fraction:
    """Seconds of a tick of its time stamps; 0 if they tell no time."""
    return timed.time_base or Fraction(0)


def _ticks(packet: "Packet[AudioStream]") -> int:
    """Duration of a packet; that of the last one of a Vorbis track may be negative, which PyAV shows without its sign."""
    return ((packet.duration or 0) + 2**31) % 2**32 - 2**31 if packet.size else 0


@dataclass
class _Counter:
    """What is found of one track while it is decoded."""

    path: Path
    size: int
    layout: str = ""  # of the first frame,
    rate: int = 0  # and its rate; 0: nothing is decoded yet
    origin: int = 0
    frames: int = 0
    channels: int = 0
    steady: bool = True
    packets: int = 0
    seconds: float = 0.0  # of the packets
    damaged: int = 0
    lost: float = 0.0  # seconds of those
    survey: Survey = field(default_factory=Survey)

    def add(self, frame: "AudioFrame | None", block: Floats32) -> None:
        self.channels = block.shape[1]
        check_size(self.path, self.size, self.rate, self.channels, self.frames + len(block))
        if frame is None or frame.pts is None:
            self.steady = self.steady and frame is None
        elif abs(float((frame.pts - self.origin) * _tick(frame)) - self.frames / self.rate) > STEADY:
            self.steady = False
        self.frames += len(block)
        self.survey.add(block)


def examine(path: Path, reason: str) -> Track:
    """Decode a file once, block by block, and choose its track: the first that is not silent.

    reason: why libsndfile does not read it, for messages. Raises AudioError if it does not decode, is cut, or unpacks to too much.
    """
    with _container(path, reason) as container:
        streams = container.streams.audio
        _check_whole(path, container)
        for stream in streams:
            check_size(path, path.stat().st_size, _rate(path, stream), stream.channels, 0)
        counters = [_Counter(path, path.stat().st_size) for _ in streams]
        blocks, places = [_Blocks(counter) for counter in counters], {stream.index: place for place, stream in enumerate(streams)}
        for packet in container.demux(streams):
            which = places[packet.stream.index]  # not `packet.stream_index`, which is 0 in the packet that ends a stream
            counter = counters[which]
            for frame, block in blocks[which].of(packet):
                counter.add(frame, block)
            if counter.rate:
                check_size(path, counter.size, counter.rate, 1, int(counter.seconds * counter.rate))
            if counter.damaged > HOPELESS and 2 * counter.damaged > counter.packets:
                break
        which = next((index for index, own in enumerate(counters) if own.survey.peak > SILENT), 0)
        chosen = counters[which]
        _check_decoded(path, chosen, reason)
        promises.check(path, container, streams[which], max(chosen.frames / chosen.rate, chosen.seconds))
        found = {"silent first track, another is used": which > 0, "packets that do not decode left out": chosen.damaged > 0}
        notes = tuple(note for note, present in found.items() if present)
        character = chosen.survey.character()
        return Track(which, chosen.rate, chosen.channels, chosen.frames, chosen.origin, chosen.steady, notes, character)


def _check_decoded(path: Path, chosen: _Counter, reason: str) -> None:
    """Raises AudioError if too little of a track decoded."""
    if not chosen.packets:
        raise AudioError(f"{shown(path)} holds no audio", "empty audio")
    if not chosen.frames:
        raise AudioError(f"{shown(path)} cannot be read as audio: {_both(reason, 'nothing in it decodes')}")
    if chosen.damaged > max(HEADER[0], DAMAGED * chosen.packets) or chosen.lost > max(HEADER[1], DAMAGED * chosen.seconds):
        raise AudioError(f"{shown(path)} does not decode: {chosen.damaged} of its {chosen.packets} packets are damaged")


Pair = tuple["AudioFrame | None", Floats32]


class _Blocks:
    """Decodes packets to blocks (samples, channels) float32 in the layout and at the rate of the first frame, as FFmpeg's own tools do."""

    def __init__(self, counter: _Counter):
        self.counter, self.now = counter, ("", "", 0)  # format, layout and rate of the last frame
        self.resampler: AudioResampler | None = None

    def of(self, packet: "Packet[AudioStream]") -> Iterator[Pair]:
        """Pairs of a frame and its block; None instead of the frame for what a resampler had kept."""
        import av

        counter = self.counter
        if packet.size:
            counter.packets += 1
            counter.seconds += float(_ticks(packet) * _tick(packet))
        try:
            frames = packet.stream.decode(packet)
        except av.FFmpegError:
            counter.damaged += 1
            counter.lost += float(_ticks(packet) * _tick(packet))
            return
        for frame in frames:
            if not counter.rate:
                counter.layout, counter.rate, counter.origin = frame.layout.name, frame.sample_rate, frame.pts or 0
            shape = (frame.format.name, frame.layout.name, frame.sample_rate)
            if self.resampler is None or shape != self.now:
                yield from self._flush()
                self.resampler, self.now = av.AudioResampler(format="fltp", layout=counter.layout, rate=counter.rate), shape
            for part in self.resampler.resample(frame):
                yield frame, _samples(part)
        if not packet.size:
            yield from self._flush()

    def _flush(self) -> Iterator[Pair]:
        if self.resampler is not None and self.now[2] != self.counter.rate:  # only a change of rate keeps samples back
            yield from ((None, _samples(part)) for part in self.resampler.resample(None))


def _samples(frame: "AudioFrame") -> Floats32:
    """(samples, channels) of a frame of the format fltp."""
    return np.asarray(frame.to_ndarray(), np.float32).T


def blocks(path: Path, track: Track, first: int, last: int) -> Iterator[Floats32]:
    """Samples `first` to `last` of a track, in blocks (samples, channels) float32."""
    with _container(path) as container:
        stream = container.streams.audio[track.index]
        begin = track.origin + (int((first / track.rate - EARLIER) / _tick(stream)) if track.steady else 0)
        late = begin > track.origin
        if late and set(container.format.name.split(",")) & set(SEEKABLE):
            container.seek(begin, stream=stream)
        counter = _Counter(path, 0, origin=track.origin)
        position: int | None = None
        decoder = _Blocks(counter)
        for packet in container.demux(stream):
            if late and packet.size and packet.pts is not None and packet.pts < begin and position is None:
                continue  # counted by its time stamp, not decoded
            for frame, block in decoder.of(packet):
                if position is None:
                    position = _position(frame, track) if late and frame else 0
                if len(part := block[max(first - position, 0) : max(last - position, 0)]):
                    yield part
                position += len(block)
            if position is not None and position >= last:
                return


def _position(frame: "AudioFrame", track: Track) -> int:
    """Sample of the track at which a frame starts, by its time stamp."""
    return round(float(((frame.pts or 0) - track.origin) * _tick(frame)) * track.rate)
