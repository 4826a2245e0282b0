"""The interface of a released model, whether ONNX Runtime or torch computes it.

This module imports neither torch nor Transformers, which take most of the time of a single prediction.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from calm.array_types import Floats
from calm.audio.encoder_states import at_speed
from calm.evaluation.calibration import probabilities
from calm.evaluation.thresholds import likeliest
from calm.inference.extractor import CONFIG, AcousticExtractor
from calm.storage import check_sums

TOKENIZER = "tokenizer.json"
MADE_OF = ("model.safetensors", "config.json", CONFIG, TOKENIZER)


class Classifier(ABC):
    """A released model: predicts the probability of each class from audio, text or both."""

    classes: list[str]
    modality: str  # what the model was trained on: "audio", "text" or "both"
    synthetic: bool  # trained on synthetic speech
    tuned: bool  # whether the thresholds were tuned on the validation split
    thresholds: np.ndarray  # (classes,)
    argmax: bool  # the likeliest class is decided, not those at or above their thresholds
    loss: str  # of the head: "bce", or "softmax", whose probabilities sum to 1
    extractor: AcousticExtractor
    speaker_seconds: float | None = None  # of recordings that it knows the speaker by, see `for_speaker`
    folder: Path | None = None  # of the released model; None: it was made in memory

    @abstractmethod
    def logits(self, frames: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        """Logits of a batch, (utterances, classes) float32.

        Args:
            frames: acoustic frames of each utterance, (frames, channels), from `extractor.frames`; None: no audio.
            texts: text of each utterance; None: no text.

        Raises:
            ValueError: an utterance lacks the one modality that the model was trained on.
        """

    def _describe(
        self,
        heads: dict[str, list[str]],
        thresholds: dict[str, list[float]],
        modality: str,
        synthetic: bool,
        decisions: dict[str, str] | None = None,
        head_loss: str = "bce",
    ) -> None:
        """Set the attributes from the model's configuration; models released before there was a choice have no last two."""
        ((name, self.classes),) = heads.items()
        self.tuned, self.modality, self.synthetic = name in thresholds, modality, synthetic
        self.thresholds = np.array(thresholds.get(name, [0.5] * len(self.classes)))
        self.argmax, self.loss = (decisions or {}).get(name) == "argmax", head_loss

    @property
    def decision(self) -> str:
        """By what classes are decided, named as in `metrics.json`: "argmax", thresholds "tuned" on validation, or "0.5"."""
        return "argmax" if self.argmax else "tuned" if self.tuned else "0.5"

    def decided(self, probabilities: np.ndarray) -> list[str]:
        """The classes that are decided of one utterance, from probabilities (classes,)."""
        chosen = likeliest(probabilities[None])[0] if self.argmax else probabilities >= self.thresholds
        return [name for name, is_chosen in zip(self.classes, chosen, strict=True) if is_chosen]

    def answer(self, probabilities: np.ndarray) -> dict[str, Any]:
        """What is said of one utterance: `probabilities` by class, the classes `decided`, and the `decision` that they are decided by."""
        by_class = dict(zip(self.classes, probabilities.tolist(), strict=True))
        return {"probabilities": by_class, "decided": self.decided(probabilities), "decision": self.decision}

    @property
    def version(self) -> str | None:
        """Which model this is, whatever it is called: the first digits of the SHA-256 of its weights and settings; None in memory."""
        return None if self.folder is None else digest(self.folder)[:12]

    @property
    def sample_rate(self) -> int:
        """Sampling rate in Hz of the samples that a call takes."""
        return self.extractor.sampling_rate

    @property
    def needs_text(self) -> bool:
        """Whether the model was trained on text. Without a text, it sees an empty one."""
        return self.modality != "audio"

    def __call__(self, clips: Sequence[np.ndarray | None] | None, texts: Sequence[str | None] | None, batch: int = 16) -> np.ndarray:
        """Probability of every class, (utterances, classes) float64.

        Args:
            clips: samples of each utterance, float32 (samples,) at `sample_rate`; None for an utterance, or for all: text alone.
            texts: text of each utterance; None: audio alone. A modality that the model was not trained on is ignored.
            batch: utterances computed together.

        Raises:
            ValueError: see `logits`; or samples that cannot be used.
        """
        texts = [None] * len(clips or ()) if texts is None else texts
        if not len(texts):
            return np.empty((0, len(self.classes)))
        clips = [None] * len(texts) if clips is None else [self._check_samples(samples) for samples in clips]
        parts = []
        for first in range(0, len(texts), batch):
            rows = slice(first, first + batch)
            parts.append(probabilities(self._averaged(clips[rows], texts[rows]), self.loss))
        return np.concatenate(parts)

    def for_speaker(self, clips: Iterable[np.ndarray]) -> Self:
        """This model for one speaker, heard in recordings without labels; see `AcousticExtractor.for_speaker`."""
        heard: list[int] = []

        def counted() -> Iterator[np.ndarray]:
            for samples in clips:
                heard.append(len(samples))
                yield samples

        other = copy.copy(self)
        other.extractor = self.extractor.for_speaker(counted())
        other.speaker_seconds = sum(heard) / self.sample_rate
        return other

    def _averaged(self, clips: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        """Logits (utterances, classes), averaged over the speeds that the model was evaluated with."""
        several = self.extractor.speeds if any(samples is not None for samples in clips) else []
        every = []
        for speed in (1.0, *several):
            heard = [samples if samples is None or speed == 1 else at_speed(samples, self.sample_rate, speed) for samples in clips]
            every.append(self.logits([None if samples is None else self.extractor.frames(samples) for samples in heard], texts))
        logits: Floats = np.mean(every, 0)
        if not np.isfinite(logits).all():
            raise ValueError("the model's answer is not a number: its weights, its statistics or the samples have NaN or infinite values")
        return logits

    def _check_samples(self, samples: np.ndarray | None) -> np.ndarray | None:
        return None if samples is None else self.extractor.clips([samples], self.sample_rate)[0]

    def select_modality(
        self, frames: Sequence[np.ndarray] | None, texts: Sequence[str | None]
    ) -> tuple[Sequence[np.ndarray] | None, Sequence[str | None]]:
        """Acoustic frames (None: no utterance has audio) and texts without the modality that the model was not trained on.

        Raises ValueError if nothing is left.
        """
        if self.modality == "audio":
            if frames is None:
                raise ValueError("this model was trained on audio alone: give audio")
            return frames, [None] * len(texts)
        if self.modality == "text":
            if any(text is None for text in texts):
                raise ValueError("this model was trained on text alone: give a text, or have the audio transcribed")
            return None, texts
        return frames, texts


def digest(folder: Path) -> str:
    """SHA-256 of the weights and settings of a released model, as a hex string."""
    total = hashlib.sha256()
    for name in MADE_OF:
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def check_folder(folder: Path) -> Path:
    """The folder of a released model. Raises ValueError if the folder has no model, and Damaged if a file is not what was written."""
    for name in sorted(MADE_OF):
        if not (Path(folder) / name).is_file():
            raise ValueError(f"{folder} is not a released model: it has no {name} (the stage `release` writes such a folder)")
    check_sums(Path(folder), within=0)
    return Path(folder)
