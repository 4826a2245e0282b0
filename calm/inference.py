"""A trained model in use: from samples and texts to probabilities."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from calm.audio import LogMel, trim
from calm.batching import LogMels, Ragged, SequenceCollator, tokenise
from calm.modeling import CalmForSequenceClassification
from calm.training import predict


class Predictor:
    """A model as the stage `head` releases it: weights, tokenizer, and `logmel.json`, how its log-mel was computed and normalised.

    Raises ValueError for a folder that is none.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        folder = Path(folder)
        if not (folder / "logmel.json").is_file():
            raise ValueError(f"{folder} is no released model: it has no logmel.json (the stage `head` writes such a folder)")
        self.model = CalmForSequenceClassification.from_pretrained(folder).to(device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.given = json.loads((folder / "logmel.json").read_text(encoding="utf-8"))
        names = ("sample_rate", "mels", "window_ms", "hop_ms", "low_hz", "high_hz")
        self.logmel = LogMel(**{name: self.given[name] for name in names})
        ((_, self.classes),) = self.model.config.heads.items()

    @property
    def sample_rate(self) -> int:
        """Of the samples that a call takes, in Hz."""
        return self.logmel.sample_rate

    @property
    def needs_text(self) -> bool:
        """Whether the model was trained on text; without one, it sees an empty text."""
        return self.model.config.modality != "audio"

    def __call__(self, clips: Sequence[np.ndarray], texts: Sequence[str | None], batch: int = 16) -> np.ndarray:
        """Probabilities of every class, (utterances, classes), from float32 (samples,) each and lower-cased texts."""
        config = self.model.config
        frames = Ragged.of([self._frames(clip) for clip in clips])
        logmels = LogMels(frames, np.ones(len(clips), np.float32), config.block_frames, config.block_hop)
        collator = SequenceCollator(logmels, tokenise(self.tokenizer, [text or "" for text in texts]), None, config.modality)
        logits = predict(self.model, np.arange(len(clips)), collator, batch)
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        """Normalised log-mel, (frames, mels) float16, as training has seen it: rounded where the features were, one block at least."""
        logmel = self.logmel(samples)
        if self.given["trim_db"] is not None:
            logmel = trim(logmel, self.given["trim_db"])
        logmel = logmel.astype(np.float16).astype(np.float32)
        block = self.model.config.block_frames
        normalised = np.zeros((max(len(logmel), block), self.logmel.mels), np.float16)
        if self.given["normalise"] == "corpus":
            mean, std = np.float32(self.given["mean"]), np.float32(self.given["std"])
        else:
            mean, std = logmel.mean(0), logmel.std(0) + 1e-3
        normalised[: len(logmel)] = (logmel - mean) / std
        return normalised
