"""Long recordings without segments, cut at their pauses (4.3: "if not we can automate this based on pauses") by Silero's VAD."""

from pathlib import Path

import numpy as np

from calm.audio import read_audio
from calm.corpora.limits import Pauses
from calm.corpora.utterances import Utterance

SAMPLE_RATE = 16000
WINDOW = 600.0  # seconds that are in memory at once


def to_cut(row: Utterance, seconds: float, pauses: Pauses) -> bool:
    """Whether a row is a whole recording, so many seconds long and longer than is left as it is, without a text."""
    return row.start == 0 and row.end is None and row.text is None and seconds > pauses.longer_than


def cut(path: Path, seconds: float, pauses: Pauses, window: float = WINDOW) -> list[tuple[float, float]]:
    """Speech of a recording as (start, end) in seconds, in order of time and without overlap; [] where nobody speaks.

    The recording is read window by window; the last piece of a window may go on in the next one, which therefore begins with it.

    Raises AudioError where the file cannot be read.
    """
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
