"""Recordings of any length: cut them to segments of speech, and classify each segment.

This module imports neither torch nor Transformers, which take most of the time of a single prediction.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from calm.array_types import Floats32, Floats64
from calm.audio.decoding import AudioError, read_audio
from calm.audio.opening import shown
from calm.audio.pauses import SAMPLE_RATE, Pauses, at_quiet_places, cut
from calm.inference.classifier import Classifier
from calm.inference.voice import NO_SPEECH, detects, heard

if TYPE_CHECKING:
    from calm.asr.engines import Whisper

VAD_WINDOW = 120.0  # seconds of audio in memory while pauses are searched


@dataclass
class Segment:
    """A stretch of a recording in which somebody speaks."""

    start: float  # seconds
    end: float
    samples: np.ndarray  # float32 (samples,) at the model's sampling rate
    text: str | None = None
    flags: list[str] = field(default_factory=list)  # why a transcript is suspect, see `calm.asr.transcripts.flags`


def intervals(path: Path, pauses: Pauses) -> list[tuple[float, float]]:
    """Start and end in seconds of the segments of a recording; the whole of a short one, [] if nobody speaks. Raises AudioError."""
    seconds = duration(path)
    if seconds <= pauses.longer_than:
        return [(0.0, seconds)] if heard(read_audio(path, sample_rate=SAMPLE_RATE), SAMPLE_RATE) else []
    if not detects():
        raise AudioError(
            f"{path} is longer than {pauses.longer_than:g} s, and the part that cuts it at its pauses is not installed: "
            "pip install 'calm-speech[transcribe]'"
        )
    return cut(path, seconds, pauses, VAD_WINDOW)


def duration(path: Path) -> float:
    """Length of a recording in seconds, from its header. Raises AudioError if the file cannot be used."""
    from calm.audio.headers import read_header

    header = read_header(Path(path))
    if header.fault:
        raise AudioError(f"{header.fault}: {header.detail}", header.fault)
    return header.seconds


@dataclass
class Listener:
    """Reads the segments of recordings, and transcribes them if it has a Whisper engine (`calm.asr.engines.load`).

    No segment is longer than `longest` seconds (None: than those of `pauses`), what the model's longest utterance in training was, unless
    a text is given: it is of the whole.
    """

    sample_rate: int
    whisper: "Whisper | None" = None
    pauses: Pauses = field(default_factory=Pauses)
    no_speech_threshold: float = 0.6
    longest: float | None = None

    @classmethod
    def of(cls, classifier: Classifier, whisper: "Whisper | None" = None, **options: Any) -> "Listener":
        """For a released model: at its sampling rate, in segments as long as those that it learned from."""
        return cls(classifier.sample_rate, whisper, longest=classifier.extractor.longest, **options)

    def __call__(self, path: Path, text: str | None = None) -> Iterator[Segment]:
        """Segments in order of time, with one in memory at a time; none if nobody speaks.

        Args:
            text: transcript of the whole recording; only a recording that is not cut can have one.

        Raises:
            AudioError: the file cannot be read, or a text is given for a recording of several segments.
        """
        spans = intervals(path, self.pauses)
        if text is not None and len(spans) > 1:
            raise AudioError(
                f"{path} is cut at its pauses into {len(spans)} segments, and one text was given for all of it: "
                f"transcribe it, or cut it to {self.pauses.longer_than:g} s at most"
            )
        for start, end in spans:
            samples = read_audio(path, start, end, self.sample_rate)
            if not np.isfinite(samples).all():
                raise AudioError(f"{path} holds NaN or infinity between {start:g} s and {end:g} s: repair the file")
            for segment in self._segments(start, end, samples, text):
                if self.whisper and text is None:
                    segment.text, segment.flags = self._transcribe(self.whisper, path, segment.start, segment.end)
                yield segment

    def _segments(self, start: float, end: float, samples: Floats32, text: str | None) -> Iterator[Segment]:
        pieces = spoken_pieces(samples, self.sample_rate, self.longest if text is None else None)
        for first, last in pieces:
            times = (start, end) if last - first == len(samples) else (start + first / self.sample_rate, start + last / self.sample_rate)
            yield Segment(*times, samples[first:last], text)

    def _transcribe(self, whisper: "Whisper", path: Path, start: float, end: float) -> tuple[str, list[str]]:
        from calm.asr import transcripts, windows

        (transcript,) = whisper([read_audio(path, start, end, windows.SAMPLE_RATE)])
        return transcript.text, transcripts.flags(transcript, self.no_speech_threshold)


def spoken_pieces(samples: Floats32, sample_rate: int, longest: float | None) -> list[tuple[int, int]]:
    """Pieces (first, last) of speech's samples (n,), of at most `longest` seconds (None: of any length), without those of no speech."""
    if longest is None or len(samples) <= longest * sample_rate:
        return [(0, len(samples))]
    pieces = at_quiet_places(samples, round(longest * sample_rate))
    return [(first, last) for first, last in pieces if heard(samples[first:last], sample_rate)]


def load_whisper(name: str, language: str | None = "en") -> "Whisper":
    """A Whisper engine for `Listener`.

    Args:
        name: a size, or a folder in faster-whisper's format.
        language: code of the language that is spoken; None or "auto": detected for each segment.

    Raises ValueError if the engine cannot be loaded, or hears English alone and another language is asked for.
    """
    from calm.asr import engines

    language = None if language == "auto" else language
    # A window of 5 s costs less than one of 30 s for short segments.
    engine = engines.load("faster-whisper", engines.resolve("faster-whisper", name), window=5.0, language=language)
    if language != "en" and not engine.multilingual:
        raise ValueError(f"Whisper's {name} knows English alone, and --language is {language or 'auto'}: choose --whisper tiny, or larger")
    return engine


def classify_samples(classifier: Classifier, samples: Floats32, text: str | None = None) -> Floats64 | None:
    """Probabilities (classes,) of samples (n,) at the model's rate; None if nobody speaks.

    Longer ones than the model learned from are cut, as by `Listener`: the mean over the pieces, weighted by their lengths.
    """
    if not heard(samples, classifier.sample_rate):
        return None
    pieces = spoken_pieces(samples, classifier.sample_rate, classifier.extractor.longest if text is None else None)
    answers = [classifier([samples[first:last]], [text])[0] for first, last in pieces]
    return np.average(answers, axis=0, weights=[last - first for first, last in pieces]) if pieces else None


def classify_segment(classifier: Classifier, segment: Segment) -> dict[str, Any]:
    """Prediction for a segment: `start`, `end` (seconds), `text`, `flags`, and `Classifier.answer`."""
    (probabilities,) = classifier([segment.samples], [segment.text])
    place = {"start": segment.start, "end": segment.end, "text": segment.text, "flags": segment.flags}
    return place | classifier.answer(probabilities)


def over_files(
    files: Sequence[Path], listener: Listener, process: Callable[[Segment], dict[str, Any]], texts: Sequence[str | None] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of all segments of all files: `file`, `fault` (None) and what `process` returns for the segment.

    A file without speech, or one that cannot be read, has one row with a `fault`, and the next file follows. A progress bar appears
    after 5 s.
    """
    with tqdm(total=len(files), unit="file", delay=5) as bar:
        for path, text in zip(files, texts or [None] * len(files), strict=True):
            bar.set_description(Path(path).name, refresh=False)
            row: dict[str, Any] = {"file": shown(path), "fault": None}
            fault: str | None = NO_SPEECH
            try:
                for segment in listener(path, text):
                    fault = None
                    yield row | process(segment)
                    bar.set_postfix_str(f"{segment.end:.0f} s", refresh=False)
                    bar.update(0)
            except AudioError as error:
                fault = str(error) if row["file"] in str(error) else f"{row['file']}: {error}"
            if fault:
                yield row | {"fault": fault}
            bar.update()
