"""What every released model can do, however it computes.

Neither torch nor Transformers is loaded by this module: what answers a single question should be there at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calm.inference.extractor import CONFIG, AcousticExtractor


class Classifier(ABC):
    """What says how probable each class is: a released model, however it computes."""

    classes: list[str]
    modality: str  # what the model was trained on: "audio", "text" or "both"
    synthetic: bool  # whether on synthetic speech
    tuned: bool  # whether its thresholds were tuned on validation, when it was released
    thresholds: np.ndarray  # (classes,)
    extractor: AcousticExtractor

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


def check(folder: Path) -> Path:
    """The folder of a released model; raises ValueError for one that is none."""
    for name in ("config.json", "model.safetensors", CONFIG):
        if not (Path(folder) / name).is_file():
            raise ValueError(f"{folder} is no released model: it has no {name} (the stage `head` writes such a folder)")
    return Path(folder)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Of logits, each class by itself."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
