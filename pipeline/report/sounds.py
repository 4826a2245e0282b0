"""Utterances of a corpus to hear on the page, as far as their sound fits."""

import base64
import io
from dataclasses import dataclass

import numpy as np

from calm.audio.decoding import AudioError, read_audio

MOST = 1_700_000  # characters of sound on the page, of the 4 MB that it may have
LONGEST = 20.0  # seconds of an utterance that is played


@dataclass
class Sounds:
    """The room that is left on the page for sound."""

    room: int = MOST

    def of(self, row, sample_rate: int) -> str | None:
        """An utterance (audio, start, end) as an MP3 in a data URI; None if it is too long, cannot be read or does not fit any more."""
        if row.end - row.start > LONGEST or not self.room:
            return None
        try:
            sound = data_uri(read_audio(row.audio, row.start, row.end, sample_rate), sample_rate)
        except AudioError:
            return None
        if len(sound) > self.room:
            self.room = 0
            return None
        self.room -= len(sound)
        return sound

    def part(self, parts: int) -> "Sounds":
        """One of several equal parts of the room."""
        return Sounds(self.room // parts)


def data_uri(samples: np.ndarray, sample_rate: int) -> str:
    """Samples as an MP3 in a data URI. All clips get the same peak, as some corpora are very quiet."""
    import soundfile

    played, file = samples * (0.8 / max(1e-4, float(np.abs(samples).max()))), io.BytesIO()
    soundfile.write(file, played, sample_rate, format="MP3", compression_level=0.5)
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def both_ends(count: int) -> list[int]:
    """Numbers of rows from both ends of a table in turn: the first, the last, the second, the last but one ..."""
    return [row for pair in zip(range(count), range(count - 1, -1, -1), strict=True) for row in pair][:count]
