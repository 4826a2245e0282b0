"""Cut long recordings without segments at their pauses, found by Silero's VAD (4.3: "if not we can automate this based on pauses")."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calm.array_types import Floats32

SAMPLE_RATE = 16000
WINDOW = 600.0  # seconds in memory at once
QUIET = 1600  # samples, 0.1 s at 16 kHz: as long has to be quiet where speech without pauses is cut
SILENCE = 2**-20  # peak to peak: nobody speaks below it, and hours of nothing need not be listened to


@dataclass(frozen=True)
class Pauses:
    """Which recordings are cut at their pauses (4.3), and how; all in seconds.

    Recordings over `longer_than` are cut at silences of `pause` or more, with a `margin` of silence kept around the speech. Pieces under
    `shortest` are joined to a neighbour unless the result would exceed `longest`.
    """

    longer_than: float = 30
    shortest: float = 1
    longest: float = 20
    pause: float = 0.3
    margin: float = 0.1


def cut(path: Path, seconds: float, pauses: Pauses, window: float = WINDOW) -> list[tuple[float, float]]:
    """Pieces of speech in a recording, (start, end) in seconds, in order and without overlap; [] if nobody speaks.

    The recording is read window by window. The last piece of a window may continue, so the next window starts at its beginning.

    Args:
        path: of the audio file.
        seconds: its length.
        pauses: how it is cut.
        window: seconds in memory at once.

    Raises AudioError if the file cannot be read.
    """
    from calm.audio.decoding import AudioFile  # here, so that the settings can import Pauses without the audio libraries

    cuts: list[tuple[float, float]] = []
    begin = 0.0
    with AudioFile(path) as file:
        while begin < seconds:
            end = min(begin + window, seconds)
            samples = file.read(begin, end, SAMPLE_RATE)
            silent = np.ptp(samples) < SILENCE
            pieces = [] if silent else [(begin + a, begin + b) for a, b in speech(samples, pauses)]
            continues = end < seconds and len(pieces) > 1 and pieces[-1][0] > begin
            cuts += pieces[:-1] if continues else pieces
            begin = pieces[-1][0] if continues else end
    return join(cuts, pauses)


def speech(samples: Floats32, pauses: Pauses) -> list[tuple[float, float]]:
    """Pieces of speech in samples (n,) at 16 kHz, (start, end) in seconds; none is longer than `pauses.longest`."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        min_silence_duration_ms=round(1000 * pauses.pause),
        max_speech_duration_s=pauses.longest,
        speech_pad_ms=round(1000 * pauses.margin),
    )
    chunks = get_speech_timestamps(samples, options, SAMPLE_RATE)
    return [(chunk["start"] / SAMPLE_RATE, chunk["end"] / SAMPLE_RATE) for chunk in chunks]


def at_quiet_places(samples: Floats32, most: int) -> list[tuple[int, int]]:
    """Pieces (first, last) of at most `most` samples, of samples (n,).

    What is longer is cut at the quietest moment of its middle third, until every piece fits.
    """

    def cut_until_short(first: int, last: int) -> list[tuple[int, int]]:
        if last - first <= most:
            return [(first, last)]
        third = (last - first) // 3
        width = max(1, min(QUIET, third // 2))
        sums = np.cumsum(np.square(samples[first + third : last - third], dtype=np.float64))
        middle = first + third + int((sums[width:] - sums[:-width]).argmin()) + width // 2 + 1
        return cut_until_short(first, middle) + cut_until_short(middle, last)

    return cut_until_short(0, len(samples))


def join(pieces: list[tuple[float, float]], pauses: Pauses) -> list[tuple[float, float]]:
    """Join neighbouring pieces if either is too short alone and both together are not too long."""
    joined: list[tuple[float, float]] = []
    for start, end in pieces:
        if joined and end - joined[-1][0] <= pauses.longest:
            first, last = joined[-1]
            if min(last - first, end - start) < pauses.shortest:
                joined[-1] = (first, end)
                continue
        joined.append((start, end))
    return joined
