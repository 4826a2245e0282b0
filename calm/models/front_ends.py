"""Front ends of the multimodal transformer: acoustic blocks to acoustic tokens. CALM's is SpecTran; the others are those of its peers."""

import torch
from torch import nn

from calm.models.configuration import CalmConfig
from calm.models.spectran import FrontEnd, SpecTran


class LinearFrontEnd(FrontEnd):
    """BERT of table 1: acoustic features as they are, and one linear layer to the width of BERT's tokens.

    The features of a block are the mean and the deviation of each channel over the frames.
    """

    def __init__(self, config: CalmConfig):
        super().__init__()
        self.encoded_width = 2 * config.channels
        self.projection = nn.Linear(self.encoded_width, config.embedding_width)

    def encode(self, blocks: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(blocks, dim=1, correction=0)
        return torch.cat([mean, deviation], -1)

    def token(self, encoded: torch.Tensor) -> torch.Tensor:
        token: torch.Tensor = self.projection(encoded)
        return token


class ConvolutionalFrontEnd(FrontEnd):
    """MM-BERT of table 1: a small convolutional network turns a block into a token.

    The paper only says that MM-BERT has "a CNN front end" (2): here three 3 x 3 layers with stride 2, then the mean.
    """

    def __init__(self, config: CalmConfig, widths: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after in widths:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers)
        self.encoded_width = before
        self.projection = nn.Linear(before, config.embedding_width)

    def encode(self, blocks: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layers(blocks.unsqueeze(1))
        return maps.mean((2, 3))

    def token(self, encoded: torch.Tensor) -> torch.Tensor:
        token: torch.Tensor = self.projection(encoded)
        return token


FRONT_ENDS: dict[str, type[FrontEnd]] = {"spectran": SpecTran, "linear": LinearFrontEnd, "cnn": ConvolutionalFrontEnd}


def build_front_end(config: CalmConfig) -> FrontEnd:
    """The front end that the configuration names. Raises ValueError if there is none of that name."""
    if config.front_end not in FRONT_ENDS:
        raise ValueError(f"front_end is '{config.front_end}': allowed are {', '.join(FRONT_ENDS)}")
    return FRONT_ENDS[config.front_end](config)
