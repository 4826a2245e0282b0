"""Clips cut and padded to Whisper's windows, and the windows' texts joined to transcripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calm.array_types import Floats32
from calm.asr.transcripts import MOST_COMPRESSION, Transcript, compression_ratio, repeats

SAMPLE_RATE = 16000
LONGEST = 30.0  # seconds: the window that Whisper was trained with, and the longest that its position embeddings reach
MARGIN = 1.0  # least seconds of silence after a clip in a window under 30 s
STEP = 2.0  # windows longer than the shortest one are multiples of so many seconds
LOWEST_LOGPROB = -1.0  # mean of a token, below which Whisper too decodes again
TAIL = 4.0  # seconds of silence whose encoder states follow a window under 30 s


@dataclass(frozen=True)
class DecodedWindow:
    """Text of one window, its number of tokens including the end token, and the sum of their log-probabilities."""

    text: str
    language: str
    tokens: int
    logprob: float
    no_speech_prob: float
    finished: bool  # the end token came before the limit of tokens


def split(clip: Floats32, longest: float = LONGEST) -> list[Floats32]:
    """Split a clip (samples,) into parts of at most `longest` seconds, at the middle of the quietest 0.2 s in the last third of each."""
    limit, width = int(longest * SAMPLE_RATE), SAMPLE_RATE // 5
    parts = []
    while len(clip) > limit:
        first = limit * 2 // 3
        power = np.concatenate([[0], np.cumsum(np.square(clip[first:limit], dtype=np.float64))])
        at = first + int(np.argmin(power[width:] - power[:-width])) + width // 2
        parts.append(clip[:at])
        clip = clip[at:]
    return [*parts, clip]


def window_seconds(longest: float, shortest: float) -> float:
    """Seconds of the window for clips of at most `longest` seconds: `shortest` if that leaves a margin, else the next multiple of STEP."""
    needed = longest + MARGIN
    return shortest if needed <= shortest else min(LONGEST, STEP * math.ceil(needed / STEP))


def padded(clip: Floats32, seconds: float) -> Floats32:
    """A clip padded with silence or cut to `seconds`, rounded to an even number of the encoder's 10 ms frames."""
    samples = round(seconds * 50) * SAMPLE_RATE // 50
    return np.pad(clip, (0, max(0, samples - len(clip))))[:samples]


def tail_of(positions: int) -> slice:
    """Encoder positions (20 ms each) after a window of so many positions, to be filled with the states of silence."""
    return slice(positions, min(positions + round(TAIL * 50), round(LONGEST * 50)))


def most_tokens(batch: Sequence[Floats32]) -> int:
    """Limit of tokens: more than anyone speaks in the time, so that loops end soon, and at most half of Whisper's context."""
    return min(224, 16 + int(10 * max(len(clip) for clip in batch) / SAMPLE_RATE))


def join(windows: Sequence[DecodedWindow]) -> Transcript:
    """One transcript from all windows of a clip."""
    text = " ".join(window.text for window in windows if window.text)
    logprob = sum(window.logprob for window in windows) / sum(window.tokens for window in windows)
    return Transcript(text, windows[0].language, logprob, min(window.no_speech_prob for window in windows), compression_ratio(text))


def suspicious(window: DecodedWindow) -> bool:
    """Whether a text is probably a loop or a guess: it never ended, repeats a phrase, or its tokens were improbable."""
    text = window.text
    looped = compression_ratio(text) > MOST_COMPRESSION or repeats(text) or repeats(text, 2, shortest=3, longest=40)
    return looped or not window.finished or window.logprob / window.tokens < LOWEST_LOGPROB
