"""Long recordings without segments, cut at their pauses (4.3: "if not we can automate this based on pauses") by Silero's VAD."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16000
WINDOW = 600.0  # seconds that are in memory at once


@dataclass(frozen=True)
class Pauses:
    """Which recordings are cut at their pauses (4.3), and what a piece is; in seconds.

    Only those `longer_than` it are. Pieces shorter than `shortest` are joined to their neighbour where `longest` allows it, silences
    of `pause` part two pieces, and `margin` of silence stays around the speech.
    """

    longer_than: float = 30
    shortest: float = 1
    longest: float = 20
    pause: float = 0.3
    margin: float = 0.1


def cut(path: Path, seconds: float, pauses: Pauses, window: float = WINDOW) -> list[tuple[float, float]]:
    """Speech of a recording as (start, end) in seconds, in order of time and without overlap; [] where nobody speaks.

    The recording is read window by window; the last piece of a window may go on in the next one, which therefore begins with it.

    Raises AudioError where the file cannot be read.
    """
    from calm.audio.decoding import read_audio  # here, so that settings can take the defaults without the libraries for audio

    found: list[tuple[float, float]] = []
    begin = 0.0
    while begin < seconds:
        end = min(begin + window, seconds)
        pieces = [(begin + a, begin + b) for a, b in speech(read_audio(path, begin, end, SAMPLE_RATE), pauses)]
        goes_on = end < seconds and len(pieces) > 1 and pieces[-1][0] > begin
        found += pieces[:-1] if goes_on else pieces
        begin = pieces[-1][0] if goes_on else end
    return join(found, pauses)


def speech(samples: np.ndarray, pauses: Pauses) -> list[tuple[float, float]]:
    """Where somebody speaks in samples (n,) at 16 kHz, in seconds; no piece is longer than `pauses.longest`."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        min_silence_duration_ms=round(1000 * pauses.pause),
        max_speech_duration_s=pauses.longest,
        speech_pad_ms=round(1000 * pauses.margin),
    )
    chunks = get_speech_timestamps(samples, options, SAMPLE_RATE)
    return [(chunk["start"] / SAMPLE_RATE, chunk["end"] / SAMPLE_RATE) for chunk in chunks]


def join(pieces: list[tuple[float, float]], pauses: Pauses) -> list[tuple[float, float]]:
    """Join a piece to the one before it where either is too short alone and both together are not too long."""
    joined: list[tuple[float, float]] = []
    for start, end in pieces:
        if joined and end - joined[-1][0] <= pauses.longest:
            first, last = joined[-1]
            if min(last - first, end - start) < pauses.shortest:
                joined[-1] = (first, end)
                continue
        joined.append((start, end))
    return joined
