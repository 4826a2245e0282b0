"""Corpora of random frames with real lengths, and CALM with random weights on them, for the measurements of this folder.

Needs no package that training itself does not need.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import BertConfig

from calm.data.arrays import filled
from calm.data.batching import MaskingCollator, PairCollator, SequenceCollator
from calm.data.ragged import AcousticFrames, Ragged
from calm.models.configuration import CalmConfig
from calm.models.losses import ContrastiveSettings
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining, CalmForSequenceClassification

FRAMES_A_SECOND, CHANNELS, CLASSES, TOKENS_A_SECOND = 100, 64, 6, 3.25
MASK, SPECIAL = 103, (101, 102)
PART = 1 << 17  # rows that are drawn at once
SIZES = {  # BERT-tiny and BERT-base
    "tiny": BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512),
    "base": BertConfig(),
}
TINY = {  # of `--tiny`
    "tiny": BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=128, vocab_size=1000),
    "base": BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, vocab_size=1000),
}


@dataclass
class Corpus:
    """Frames and texts of utterances.

    Args:
        source: of the lengths, in words.
        device: whose generator draws.
    """

    frames: AcousticFrames
    texts: Ragged
    source: str
    device: torch.device

    @classmethod
    def made(cls, most: int | None, device: torch.device, times: int = 1) -> "Corpus":
        """The first `most` utterances, None for all, so many times one after another; frames are random."""
        torch.manual_seed(0)
        frames, source = lengths(most)
        frames = np.tile(frames, times)
        counts = 2 + np.rint(TOKENS_A_SECOND * frames / FRAMES_A_SECOND).astype(np.int64)
        texts = Ragged(np.random.default_rng(1).integers(200, 1000, counts.sum()), counts)
        texts.values[texts.offsets], texts.values[texts.offsets + counts - 1] = SPECIAL
        values = Ragged(draw(device, frames.sum(), CHANNELS), frames)
        return cls(AcousticFrames(values, np.ones(len(frames), np.float32)), texts, source, device)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of every utterance."""
        return self.frames.utterances.lengths

    @property
    def hours(self) -> float:
        return self.lengths.sum() / FRAMES_A_SECOND / 3600

    def first(self, rows: int) -> "Corpus":
        """The first utterances."""
        own = self.lengths[:rows]
        values = Ragged(self.frames.utterances.values[: own.sum()], own)
        return Corpus(AcousticFrames(values, self.frames.scale[:rows]), self.texts, self.source, self.device)

    def built(self, objective: str, text: BertConfig, **options) -> tuple[nn.Module, Callable]:
        """A model of "CALP", "pretraining" or "head" with random weights, on the CPU, and its collator; options are those of CalmConfig.

        As recipes/paper.yaml has them: SpecTran is frozen in pretraining, and its blocks encoded before; a head trains it.
        """
        torch.manual_seed(0)
        config = CalmConfig(text, projection=128, cls_token_id=SPECIAL[0], sep_token_id=SPECIAL[1], **options)
        count = len(self.lengths)
        if objective == "CALP":
            model = CalmForContrastivePretraining(config, None, ContrastiveSettings())
            return model, PairCollator(self.frames, [str(row) for row in range(count)], torch.randn(count, text.hidden_size))
        if objective == "pretraining":
            model = CalmForMaskedPretraining(config)
            model.calm.spectran.requires_grad_(False)
            encoded = Ragged(draw(self.device, self.frames.blocks.sum(), model.calm.spectran.encoded_width), self.frames.blocks)
            sequences = SequenceCollator(self.frames, self.texts, encoded)
            return model, MaskingCollator(sequences, MASK, (*SPECIAL, MASK), text.vocab_size)
        config.heads = {"emotion": [str(number) for number in range(CLASSES)]}
        targets = (np.random.default_rng(2).random((count, CLASSES)) < 0.2).astype(np.float32)
        return CalmForSequenceClassification(config), SequenceCollator(self.frames, self.texts, targets=targets)


def draw(device: torch.device, rows: int, width: int) -> np.ndarray:
    """Normal numbers in float16 from the device's generator, held as the frames of a corpus are."""

    def fill(rows: np.ndarray) -> np.ndarray:
        for begin in range(0, len(rows), PART):
            part = rows[begin : begin + PART]
            part[:] = torch.randn(part.shape, device=device).half().cpu().numpy()
        return np.empty(0, np.float32)

    return filled((rows, width), fill, None)[0]


def lengths(most: int | None) -> tuple[np.ndarray, str]:
    """Frames of every utterance, at least a block, and where they come from."""
    file = Path(os.environ.get("CALM_CORPORA", ".")) / "labels/mosei_folds/segments.csv"
    if file.is_file():
        table = pd.read_csv(file)
        seconds, source = (table["end"] - table["start"]).to_numpy(), "CMU-MOSEI's segments"
    else:
        seconds, source = drawn_lengths(), "log-normal, as `drawn_lengths`"
    return np.maximum(50, np.rint(seconds[:most] * FRAMES_A_SECOND)).astype(np.int64), source


def drawn_lengths(hours: float = 65) -> np.ndarray:
    """Seconds of utterances of so many hours: log-normal, median 6.3 s, sigma 0.66 (CMU-MOSEI's are about so), 0.5 to 60 s."""
    drawn = np.clip(np.random.default_rng(0).lognormal(np.log(6.3), 0.66, round(600 * hours)), 0.5, 60)
    return drawn[np.cumsum(drawn) <= 3600 * hours]
