"""A trained model in use: from recordings to the pieces in which somebody speaks, and from these to the probability of each class.

Neither torch nor Transformers is loaded by this module: what answers a single question should be there at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from calm.audio.decoding import AudioError, read_audio
from calm.audio.pauses import Pauses
from calm.inference.classifier import Classifier

NO_SPEECH = "no speech"
LOOK = 120.0  # seconds that the search for pauses has in memory at once


@dataclass
class Piece:
    """A stretch of a recording in which somebody speaks."""

    start: float  # seconds
    end: float
    samples: np.ndarray  # float32 (samples,) at the model's rate
    text: str | None = None
    flags: list[str] = field(default_factory=list)  # what is suspect about a transcript, see `calm.asr.transcripts.flags`


def intervals(path: Path, pauses: Pauses) -> list[tuple[float, float]]:
    """A whole recording, or the pieces of a long one between its pauses, in seconds; [] where nobody speaks. Raises AudioError."""
    from calm.audio.pauses import cut

    seconds = length(path)
    pieces = cut(path, seconds, pauses, LOOK)
    return [(0.0, seconds)] if pieces and seconds <= pauses.longer_than else pieces


def length(path: Path) -> float:
    """Of a recording in seconds, by its header. Raises AudioError where the file cannot be used."""
    from calm.audio.headers import read_header

    header = read_header(Path(path))
    if header.fault:
        raise AudioError(f"{header.fault}: {header.detail}")
    return header.seconds


@dataclass
class Listener:
    """Reads recordings piece by piece, and transcribes them where it has a Whisper (`calm.asr.engines.load`)."""

    sample_rate: int
    whisper: object = None
    pauses: Pauses = field(default_factory=Pauses)
    no_speech_threshold: float = 0.6

    def __call__(self, path: Path, text: str | None = None) -> Iterator[Piece]:
        """Pieces in order of time, one in memory at once; none where nobody speaks.

        Args:
            text: of all that is said; only a recording that is not cut can have one.

        Raises:
            AudioError: a file that cannot be read, or a text of a recording in several pieces.
        """
        found = intervals(path, self.pauses)
        if text is not None and len(found) > 1:
            raise AudioError(
                f"{path} is cut at its pauses into {len(found)} pieces, and one text was given for all of it: "
                f"transcribe it, or cut it to {self.pauses.longer_than:g} s at most"
            )
        for start, end in found:
            piece = Piece(start, end, read_audio(path, start, end, self.sample_rate), text)
            if not np.isfinite(piece.samples).all():
                raise AudioError(f"{path} holds NaN or infinity between {start:g} s and {end:g} s: mend it")
            if self.whisper and text is None:
                piece.text, piece.flags = self._heard(path, start, end)
            yield piece

    def _heard(self, path: Path, start: float, end: float) -> tuple[str, list[str]]:
        from calm.asr import engines, transcripts

        (transcript,) = self.whisper([read_audio(path, start, end, engines.SAMPLE_RATE)])
        return transcript.text, transcripts.flags(transcript, self.no_speech_threshold)


def load_whisper(name: str):
    """A Whisper for `Listener`: a size, or a folder of faster-whisper's format. Raises ValueError where it is not to be had."""
    from calm.asr import engines

    return engines.load("faster-whisper", engines.resolve("faster-whisper", name), window=5.0)  # short pieces cost less than 30 s


def answer(predictor: Classifier, piece: Piece) -> dict:
    """What the model says of a piece: `start`, `end` (seconds), `text`, `flags`, and `probabilities` by class."""
    (found,) = predictor([piece.samples], [piece.text])
    named = dict(zip(predictor.classes, found.tolist(), strict=True))
    return {"start": piece.start, "end": piece.end, "text": piece.text, "flags": piece.flags, "probabilities": named}


def each(
    files: Sequence[Path], listener: Listener, of_piece: Callable[[Piece], dict], texts: Sequence[str | None] | None = None
) -> Iterator[dict]:
    """`file` and what `of_piece` makes of each of its pieces, file by file; shows how far it is where that takes more than 5 s.

    A file in which nobody speaks, or that cannot be read, has a row with `fault`; the next one goes on.
    """
    with tqdm(total=len(files), unit="file", delay=5) as bar:
        for path, text in zip(files, texts or [None] * len(files), strict=True):
            bar.set_description(Path(path).name, refresh=False)
            row, fault = {"file": str(path), "fault": None}, NO_SPEECH
            try:
                for piece in listener(path, text):
                    fault = None
                    yield row | of_piece(piece)
                    bar.set_postfix_str(f"{piece.end:.0f} s", refresh=False)
                    bar.update(0)
            except AudioError as error:
                fault = str(error)
            if fault:
                yield row | {"fault": fault}
            bar.update()
