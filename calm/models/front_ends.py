"""Front ends of the multimodal transformer: blocks of log-mel to acoustic tokens. CALM's is SpecTran; the others are its peers'."""

import torch
from torch import nn

from calm.models.configuration import CalmConfig
from calm.models.spectran import FrontEnd, SpecTran


class LinearFrontEnd(FrontEnd):
    """BERT of table 1: acoustic features as they are, one linear layer to the width of BERT's tokens.

    The features of a block are the mean and the deviation of each mel over its frames.
    """

    def __init__(self, config: CalmConfig):
        super().__init__()
        self.encoded_width = 2 * config.mels
        self.projection = nn.Linear(self.encoded_width, config.hidden_size)

    def encode(self, blocks: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(blocks, dim=1, correction=0)
        return torch.cat([mean, deviation], -1)

    def token(self, encoded: torch.Tensor) -> torch.Tensor:
        return self.projection(encoded)


class ConvolutionalFrontEnd(FrontEnd):
    """MM-BERT of table 1: a small convolutional network makes a token of a block.

    The paper says no more of it than that it has "a CNN front end" (2): three layers of 3 x 3 with halving strides, then the mean.
    """

    def __init__(self, config: CalmConfig, channels: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        layers, before = [], 1
        for after in channels:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers)
        self.encoded_width = before
        self.projection = nn.Linear(before, config.hidden_size)

    def encode(self, blocks: torch.Tensor) -> torch.Tensor:
        return self.layers(blocks.unsqueeze(1)).mean((2, 3))

    def token(self, encoded: torch.Tensor) -> torch.Tensor:
        return self.projection(encoded)


FRONT_ENDS = {"spectran": SpecTran, "linear": LinearFrontEnd, "cnn": ConvolutionalFrontEnd}
