"""Supervised heads (4.6, 5.2): what they see of the network's outputs, and the two-layer MLP on it."""

import torch
from torch import nn

from calm.models.configuration import CalmConfig


class HeadLayer(nn.Linear):
    """A linear layer with PyTorch's initial weights: two in a row as small as the language model's would hardly move at first."""


class Standardise(nn.Module):
    """Zero mean and unit deviation of every input over the vectors that `fit` was given; before that, inputs as they come."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, vectors: torch.Tensor) -> None:
        """Take the statistics of vectors (rows, width); an input that never varies becomes 0."""
        deviation, mean = torch.std_mean(vectors.double(), 0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors - self.mean) / self.deviation


class Head(nn.Sequential):
    """Two-layer MLP on the pooled representation (5.2): (batch, width) -> (batch, classes) logits."""

    def __init__(self, config: CalmConfig, classes: int, width: int):
        """`width`: of the representation."""
        self.width = width
        super().__init__(
            *([Standardise(self.width)] if config.head_standardise else []),
            nn.Dropout(config.head_dropout),
            HeadLayer(self.width, config.head_hidden),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            HeadLayer(config.head_hidden, classes),
        )

    def fit(self, vectors: torch.Tensor) -> None:
        """Standardise inputs by those of the training split, (rows, width), where the configuration asks for it."""
        if isinstance(self[0], Standardise):
            self[0].fit(vectors)


def pooled_width(config: CalmConfig, encoded_width: int) -> int:
    """Width of what `pool` gives, for a front end of that width."""
    beside = {"cls": 0, "cls_mean_std": 4 * config.hidden_size, "cls_blocks": 2 * encoded_width}
    return config.hidden_size + beside[config.head_pooling]


def pool(output, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """What a head sees of a `CalmOutput`, (batch, `pooled_width`).

    "cls": [CLS] alone; beside it mean and spread, "cls_mean_std": of the text outputs and of the acoustic outputs; "cls_blocks": of
    the encoded blocks that went in. Zeros where there is no audio.
    """
    states = output.last_hidden_state
    text, audio = states[:, : output.text_length], states[:, output.text_length :]
    parts = {
        "cls": [],
        "cls_mean_std": [(text, attention_mask), (audio, output.acoustic_mask)],
        "cls_blocks": [(output.encoded_blocks, output.acoustic_mask)],
    }
    return torch.cat([states[:, 0], *(mean_and_spread(*part) for part in parts[pooling])], -1)


def mean_and_spread(part: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over the steps that are there: (batch, steps, width) -> (batch, 2 x width); zeros where none is."""
    there = mask.sum(1).view(-1, 1)
    weights = mask.to(part.dtype).unsqueeze(-1) / there.clamp(min=1).unsqueeze(-1)
    mean = (part * weights).sum(1)
    spread = ((part - mean.unsqueeze(1)).square() * weights).sum(1).add(1e-6).sqrt() * (there > 0)
    return torch.cat([mean, spread], -1)
