"""Front ends of the multimodal transformer: blocks of log-mel to acoustic tokens. CALM's is SpecTran; the others are its peers'."""

import torch
from torch import nn

from calm.configuration import CalmConfig
from calm.spectran import SpecTran


class LinearFrontEnd(nn.Module):
    """BERT of table 1: acoustic features as they are, one linear layer to the width of BERT's tokens.

    The features of a block are the mean and the deviation of each mel over its frames. (batch, frames, mels) -> (batch, width).
    """

    def __init__(self, config: CalmConfig):
        super().__init__()
        self.token_width = config.hidden_size
        self.projection = nn.Linear(2 * config.mels, config.hidden_size)

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(blocks, dim=1, correction=0)
        return self.projection(torch.cat([mean, deviation], -1))


class ConvolutionalFrontEnd(nn.Module):
    """MM-BERT of table 1: a small convolutional network makes a token of a block. (batch, frames, mels) -> (batch, width).

    The paper says no more of it than that it has "a CNN front end" (2): three layers of 3 x 3 with halving strides, then the mean.
    """

    def __init__(self, config: CalmConfig, channels: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        self.token_width = config.hidden_size
        layers, before = [], 1
        for after in channels:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers)
        self.projection = nn.Linear(before, config.hidden_size)

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        return self.projection(self.layers(blocks.unsqueeze(1)).mean((2, 3)))


FRONT_ENDS = {"spectran": SpecTran, "linear": LinearFrontEnd, "cnn": ConvolutionalFrontEnd}
