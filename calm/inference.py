"""A trained model in use: from recordings to the pieces in which somebody speaks, and from these to the probability of each class.

Neither torch nor Transformers is loaded by this module: what answers a single question should be there at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from calm.audio import AudioError, read_audio
from calm.corpora.limits import Pauses
from calm.extraction import CONFIG, Extraction

NO_SPEECH = "no speech"
LOOK = 120.0  # seconds that the search for pauses has in memory at once
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # what is there where a driver of NVIDIA's, AMD's, or Windows' is


class Classifier(ABC):
    """What says how probable each class is: a released model, however it computes."""

    classes: list[str]
    modality: str  # what the model was trained on: "audio", "text" or "both"
    synthetic: bool  # whether on synthetic speech
    tuned: bool  # whether its thresholds were tuned on validation, when it was released
    thresholds: np.ndarray  # (classes,)
    extractor: Extraction

    @abstractmethod
    def logits(self, frames: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        """Logits of a batch, (utterances, classes) float32, from log-mel as `extractor.frames` gives it (None: no audio) and texts.

        Raises ValueError where an utterance has nothing that the model was trained on.
        """

    def _take(self, heads: dict[str, list[str]], thresholds: dict[str, list[float]], modality: str, synthetic: bool) -> None:
        ((name, self.classes),) = heads.items()
        self.tuned, self.modality, self.synthetic = name in thresholds, modality, synthetic
        self.thresholds = np.array(thresholds.get(name, [0.5] * len(self.classes)))

    @property
    def sample_rate(self) -> int:
        """Of the samples that a call takes, in Hz."""
        return self.extractor.sampling_rate

    @property
    def needs_text(self) -> bool:
        """Whether the model was trained on text; without one, it sees an empty text."""
        return self.modality != "audio"

    def __call__(self, clips: Sequence[np.ndarray | None] | None, texts: Sequence[str | None] | None, batch: int = 16) -> np.ndarray:
        """Probabilities of every class, (utterances, classes).

        Args:
            clips: float32 (samples,) each at `sample_rate`; None in the place of one, or of all: text alone.
            texts: one each; None: audio alone. What the model was not trained on is left out, and an absent text is an empty one.
        """
        texts = [None] * len(clips) if texts is None else texts
        if not len(texts):
            return np.empty((0, len(self.classes)))
        clips = [None] * len(texts) if clips is None else [self._clip(clip) for clip in clips]
        parts = []
        for first in range(0, len(texts), batch):
            some = slice(first, first + batch)
            frames = [None if samples is None else self.extractor.frames(samples) for samples in clips[some]]
            parts.append(probabilities(self.logits(frames, texts[some])))
        return np.concatenate(parts)

    def _clip(self, samples: np.ndarray | None) -> np.ndarray | None:
        return None if samples is None else self.extractor.clips([samples], self.sample_rate)[0]

    def seen(self, frames: Sequence[np.ndarray] | None, texts: Sequence[str | None]) -> tuple[Sequence | None, Sequence]:
        """Of log-mel (None: no utterance has audio) and texts what the model was trained on. Raises ValueError where nothing is left."""
        if self.modality == "audio":
            if frames is None:
                raise ValueError("this model was trained on audio alone: give audio")
            return frames, [None] * len(texts)
        if self.modality == "text":
            if any(text is None for text in texts):
                raise ValueError("this model was trained on text alone: give a text, or have the audio transcribed")
            return None, texts
        return frames, texts


def load(folder: Path, device: str = "auto") -> Classifier:
    """A released model for answers alone: compiled, where it is to compute on the CPU, else by torch.

    Args:
        device: "cpu", "cuda", "cuda:1" ...; "auto": a GPU where there is one.

    Raises:
        ValueError: the folder is no released model.
    """
    if found := compiled(folder, device):
        return found
    from calm.predictor import Predictor

    return Predictor(folder, device)


def compiled(folder: Path, device: str) -> Classifier | None:
    """`load` without torch; None where the model has no graph, or is to compute on a GPU."""
    from calm.compiled import Compiled

    on_gpu = device not in ("auto", "cpu") or device == "auto" and any(Path(path).exists() for path in GPUS)
    return None if on_gpu else Compiled.of(check(folder))


def check(folder: Path) -> Path:
    """The folder of a released model; raises ValueError for one that is none."""
    for name in ("config.json", "model.safetensors", CONFIG):
        if not (Path(folder) / name).is_file():
            raise ValueError(f"{folder} is no released model: it has no {name} (the stage `head` writes such a folder)")
    return Path(folder)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Of logits, each class by itself."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@dataclass
class Piece:
    """A stretch of a recording in which somebody speaks."""

    start: float  # seconds
    end: float
    samples: np.ndarray  # float32 (samples,) at the model's rate
    text: str | None = None
    flags: list[str] = field(default_factory=list)  # what is suspect about a transcript, see `calm.transcripts.flags`


def intervals(path: Path, pauses: Pauses) -> list[tuple[float, float]]:
    """A whole recording, or the pieces of a long one between its pauses, in seconds; [] where nobody speaks. Raises AudioError."""
    from calm.corpora import pauses as cutting

    seconds = length(path)
    pieces = cutting.cut(path, seconds, pauses, LOOK)
    return [(0.0, seconds)] if pieces and seconds <= pauses.longer_than else pieces


def length(path: Path) -> float:
    """Of a recording in seconds, by its header. Raises AudioError where the file cannot be used."""
    from calm.corpora.headers import read_header

    header = read_header(Path(path))
    if header.fault:
        raise AudioError(f"{header.fault}: {header.detail}")
    return header.seconds


@dataclass
class Listener:
    """Reads recordings piece by piece, and transcribes them where it has a Whisper (`calm.asr.load`)."""

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
        from calm import asr, transcripts

        (transcript,) = self.whisper([read_audio(path, start, end, asr.SAMPLE_RATE)])
        return transcript.text, transcripts.flags(transcript, self.no_speech_threshold)


def load_whisper(name: str):
    """A Whisper for `Listener`: a size, or a folder of faster-whisper's format. Raises ValueError where it is not to be had."""
    from calm import asr

    return asr.load("faster-whisper", asr.resolve("faster-whisper", name), window=5.0)  # short pieces cost less than 30 s


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
