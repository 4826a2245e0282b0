"""Heads: of masked prediction (4.5); supervised ones (4.6, 5.2), two-layer MLPs, and the pooled representation that they see."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils.generic import ModelOutput

from calm.audio.functionals import PER_CHANNEL
from calm.models import losses
from calm.models.configuration import CalmConfig
from calm.models.text_encoders import prediction_activation, prediction_norm_eps

if TYPE_CHECKING:
    from calm.models.multimodal import CalmOutput

# Of `AttentivePooling`: attention heads, frames and groups of the convolution, and in training the dropout of its layers, and the share of
# frames that are left out. States of neighbouring frames are alike: every second one is enough.
ATTENTION_HEADS, AROUND, GROUPS, FRAME_DROPOUT, LEFT_OUT, EVERY = 4, 5, 8, 0.2, 0.1, 2


class PredictionHead(nn.Module):
    """Masked-prediction head of the text encoder's family: a dense layer, its activation and LayerNorm, then the output layer (4.5).

    Args:
        width: of the dense layer's output.
    """

    def __init__(self, config: PreTrainedConfig, width: int, outputs: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, width)
        self.activation = ACT2FN[prediction_activation(config)]
        self.norm = nn.LayerNorm(width, eps=prediction_norm_eps(config))
        self.decoder = nn.Linear(width, outputs)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.decoder(self.norm(self.activation(self.dense(states))))
        return outputs


class HeadLayer(nn.Linear):
    """A linear layer with PyTorch's initial weights: with those of the language model, two small layers in a row would learn slowly."""


class Standardise(nn.Module):
    """Standardises every input by the mean and deviation of the vectors passed to `fit`; the identity before that."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, vectors: torch.Tensor) -> None:
        """Take the statistics from vectors (rows, width); an input that never varies becomes 0."""
        deviation, mean = torch.std_mean(vectors.double(), 0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors - self.mean) / self.deviation


class Head(nn.Sequential):
    """Two-layer MLP on the pooled representation (5.2), or a linear layer: (batch, width) -> (batch, classes) logits."""

    def __init__(self, config: CalmConfig, classes: int, width: int):
        """`width`: of the pooled representation."""
        self.width = width
        hidden, inner = config.head_hidden, self.width
        layers: list[nn.Module] = [Standardise(self.width)] if config.head_standardise else []
        layers.append(nn.Dropout(config.head_dropout))
        if hidden is not None:
            layers += [HeadLayer(self.width, hidden), nn.ReLU(), nn.Dropout(config.head_dropout)]
            inner = hidden
        super().__init__(*layers, HeadLayer(inner, classes))

    def fit(self, vectors: torch.Tensor) -> None:
        """Take the statistics of the training split's vectors, (rows, width), if the configuration asks for standardised inputs."""
        if isinstance(self[0], Standardise):
            self[0].fit(vectors)


class MemberHeads(nn.ModuleList):
    """A head for each member of `AttentivePooling`: (batch, members x width) -> (batch, members, classes) logits."""

    def __init__(self, config: CalmConfig, classes: int, width: int):
        """`width`: of all members together."""
        super().__init__(Head(config, classes, width // config.head_members) for _ in range(config.head_members))
        self.width = width

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(own) for head, own in zip(self, vectors.chunk(len(self), 1), strict=True)], 1)


class AttentivePooling(nn.Module):
    """Statistics of an utterance's frames, weighted by attention that is learned with the head (arXiv 1803.10963).

    Several members, which differ in their initial weights and in dropout, each learn an own pooling. Every frame goes through a layer and
    a convolution over time; each attention head weights the results' mean and deviation over time.
    """

    def __init__(self, config: CalmConfig):
        super().__init__()
        self.members = nn.ModuleList(AttentiveMember(config) for _ in range(config.head_members))

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels), and the mask (batch, frames), False where padded -> (batch, members x `attentive_width`)."""
        return torch.cat([member(frames, mask) for member in self.members], -1)


class AttentiveMember(nn.Module):
    """One member of `AttentivePooling`."""

    def __init__(self, config: CalmConfig):
        super().__init__()
        width = config.head_frames_width
        self.inputs = nn.Sequential(nn.Dropout(FRAME_DROPOUT), HeadLayer(config.channels, width), nn.LayerNorm(width), nn.GELU())
        self.dropout = nn.Dropout(FRAME_DROPOUT)
        self.around = nn.Conv1d(width, width, AROUND, padding=AROUND // 2, groups=GROUPS)
        self.attention = HeadLayer(width, ATTENTION_HEADS)
        self.norm = nn.LayerNorm(attentive_width(config))

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels) -> (batch, `attentive_width`)."""
        frames, mask = frames[:, ::EVERY], mask[:, ::EVERY]
        if self.training:
            mask = mask & (torch.rand(mask.shape, device=mask.device) > LEFT_OUT)
        present = mask.unsqueeze(-1)
        states = self.dropout(self.inputs(frames)) * present
        states = states + F.gelu(self.around(states.transpose(1, 2)).transpose(1, 2))
        scores = self.attention(states).masked_fill(~present, torch.finfo(states.dtype).min)
        weights = (scores.softmax(1) * present).transpose(1, 2)  # (batch, attention heads, frames)
        mean = weights @ states
        deviation = (weights @ states.square() - mean.square()).clamp(min=1e-5).sqrt()
        statistics: torch.Tensor = self.norm(torch.cat([mean, deviation], -1).flatten(1))
        return statistics


def attentive_width(config: CalmConfig) -> int:
    """Width of what a member of `AttentivePooling` gives."""
    return 2 * ATTENTION_HEADS * config.head_frames_width


def pooled_width(config: CalmConfig, encoded_width: int) -> int:
    """Width of the output of `pool`, for a front end with this width of encoded blocks."""
    if config.head_pooling == "frames":
        return config.head_members * attentive_width(config)
    if config.head_pooling == "none":
        return functionals_width(config)
    added = {"cls": 0, "cls_mean_std": 4 * config.hidden_size, "cls_blocks": 2 * encoded_width}
    return config.hidden_size + added[config.head_pooling] + functionals_width(config)


def functionals_width(config: CalmConfig) -> int:
    """Number of functionals that a head sees, which `pool` puts last."""
    return PER_CHANNEL.get(config.head_functionals or "", 0) * config.channels


def pool(output: "CalmOutput", attention_mask: torch.Tensor, pooling: str, functionals: torch.Tensor | None = None) -> torch.Tensor:
    """Input of a head from a `CalmOutput`, (batch, `pooled_width`).

    `functionals`, (batch, functionals), come last.

    "cls" is the first output alone. "cls_mean_std" adds mean and deviation of the text outputs and of the acoustic outputs;
    "cls_blocks" adds those of the encoded blocks. They are zero for an utterance without audio.
    """
    states = output.last_hidden_state
    text, audio = states[:, : output.text_length], states[:, output.text_length :]
    parts = {
        "cls": [],
        "cls_mean_std": [(text, attention_mask), (audio, output.acoustic_mask)],
        "cls_blocks": [(output.encoded_blocks, output.acoustic_mask)],
    }
    beside = [] if functionals is None else [functionals]
    return torch.cat([states[:, 0], *(masked_mean_and_deviation(*part) for part in parts[pooling]), *beside], -1)


def masked_mean_and_deviation(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over the steps in the mask: (batch, steps, width) -> (batch, 2 x width); zeros without a step."""
    count = mask.sum(1).view(-1, 1)
    weights = mask.to(states.dtype).unsqueeze(-1) / count.clamp(min=1).unsqueeze(-1)
    mean = (states * weights).sum(1)
    deviation = ((states - mean.unsqueeze(1)).square() * weights).sum(1).add(1e-6).sqrt() * (count > 0)
    return torch.cat([mean, deviation], -1)


@dataclass
class ClassificationOutput(ModelOutput):
    """`loss`: the sum over the heads; `logits`: (batch, classes) of one head, or by head name if there are several."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | dict[str, torch.Tensor] | None = None


class FrozenHeads(nn.Module):
    """Heads of several seeds on representations computed once (4.6: "multiple heads ... without any cross-task influences").

    Args:
        seeds: of the initial weights, one head each; all see the same batches.
        width: of the representations.
    """

    def __init__(self, config: CalmConfig, classes: int, seeds: list[int], width: int):
        super().__init__()
        self.heads, self.loss, self.smoothing = nn.ModuleList(), config.head_loss, config.head_smoothing
        for seed in seeds:
            torch.manual_seed(seed)
            self.heads.append(Head(config, classes, width))

    def fit(self, vectors: torch.Tensor) -> None:
        """Take the statistics of the training split's vectors, shaped as in `forward`, if the configuration standardises inputs."""
        for head, own in zip(self.heads, vectors.expand(-1, len(self.heads), -1).unbind(1), strict=True):
            cast(Head, head).fit(own)

    def forward(self, vectors: torch.Tensor, labels: torch.Tensor | None = None) -> ClassificationOutput:
        """Logits (batch, seeds, classes) from vectors (batch, seeds, width), or (batch, 1, width) if all heads see the same."""
        vectors = vectors.expand(-1, len(self.heads), -1)
        logits = torch.stack([head(vectors[:, index]) for index, head in enumerate(self.heads)], 1)
        loss = None
        if labels is not None:  # the sum of the heads' means: no head's gradient depends on another head
            smoothing = self.smoothing if self.training else 0.0
            loss = losses.classification(logits, labels[:, None].expand_as(logits), self.loss, smoothing) * len(self.heads)
        return ClassificationOutput(loss=loss, logits=logits)
