"""A trained model in use: from samples, texts and recordings to probabilities and vectors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import BatchFeature

from calm.audio import AudioError, read_audio
from calm.corpora.limits import Pauses
from calm.modeling import CalmForSequenceClassification
from calm.processing import CONFIG, CalmProcessor

NO_SPEECH = "no speech"
LOOK = 120.0  # seconds that the search for pauses has in memory at once


class Predictor:
    """A model as the stage `head` releases it: weights, and the processor that was saved beside them.

    Raises ValueError for a folder that is none.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", CONFIG):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is no released model: it has no {name} (the stage `head` writes such a folder)")
        model = CalmForSequenceClassification.from_pretrained(folder).to(device)
        self._take(model, CalmProcessor.from_pretrained(folder))

    @classmethod
    def of(cls, model: CalmForSequenceClassification, processor: CalmProcessor) -> "Predictor":
        """From what is loaded already."""
        made = cls.__new__(cls)
        made._take(model, processor)
        return made

    def _take(self, model: CalmForSequenceClassification, processor: CalmProcessor) -> None:
        self.model, self.processor = model.eval(), processor
        for name in ("block_frames", "block_hop", "mels"):
            given, wanted = getattr(self.extractor, name), getattr(model.config, name)
            if given != wanted:
                raise ValueError(f"{name} is {given} in the model's {CONFIG} and {wanted} in its config.json: release it anew")
        ((name, self.classes),) = model.config.heads.items()
        self.tuned = name in model.config.thresholds  # on validation, when the model was released
        self.thresholds = np.array(model.config.thresholds.get(name, [0.5] * len(self.classes)))

    @property
    def extractor(self):
        """The processor's feature extractor."""
        return self.processor.feature_extractor

    @property
    def sample_rate(self) -> int:
        """Of the samples that a call takes, in Hz."""
        return self.extractor.sampling_rate

    @property
    def modality(self) -> str:
        """What the model was trained on: "audio", "text" or "both"."""
        return self.model.config.modality

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

    @torch.inference_mode()
    def logits(self, frames: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        """Logits of a batch, (utterances, classes) float32, from log-mel as `extractor.frames` gives it (None: no audio) and texts."""
        logits = np.empty((len(texts), len(self.classes)), np.float32)
        for heard in (True, False):  # those with audio, and those without
            rows = [row for row, one in enumerate(frames) if (one is not None) == heard]
            if rows:
                inputs = self.inputs([frames[row] for row in rows] if heard else None, [texts[row] for row in rows])
                logits[rows] = self.model(**inputs).logits.float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def pooled(self, frames: np.ndarray, text: str | None) -> np.ndarray:
        """What the heads see of one utterance, (width,) float32."""
        return self.model.pooled(**self.inputs([frames], [text]))[0].float().cpu().numpy()

    def inputs(self, frames: Sequence[np.ndarray] | None, texts: Sequence[str | None]) -> BatchFeature:
        """What the model takes of a batch, by its modality. Raises ValueError where that leaves nothing."""
        if self.modality == "audio":
            if frames is None:
                raise ValueError("this model was trained on audio alone: give audio")
            texts = [None] * len(texts)
        elif self.modality == "text":
            if any(text is None for text in texts):
                raise ValueError("this model was trained on text alone: give a text, or have the audio transcribed")
            frames = None
        logmels = None if frames is None else self.extractor.of_frames(frames)
        return self.processor.collated(logmels, [self.processor.lowered(text) for text in texts]).to(self.model.device)

    @torch.inference_mode()
    def encoded_blocks(self, frames: np.ndarray, batch: int = 256) -> torch.Tensor:
        """Encoded blocks of one utterance, (blocks, encoded width) float32."""
        blocks, _ = self.extractor.of_frames([frames]).all_blocks(np.array([0]))
        spectran = self.model.calm.spectran
        return torch.cat([spectran.encode(part.to(self.model.device)) for part in blocks[0].split(batch)]).float()

    @torch.inference_mode()
    def acoustic_tokens(self, frames: np.ndarray) -> np.ndarray:
        """SpecTran's outputs of every block of one utterance, (blocks, width) float32."""
        return self.model.calm.spectran.token(self.encoded_blocks(frames)).cpu().numpy()


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


def answer(predictor: Predictor, piece: Piece) -> dict:
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
