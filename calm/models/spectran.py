"""SpecTran (4.2): an acoustic block is cut into patches, and a small transformer turns them into one acoustic token."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from calm.models.configuration import CalmConfig


class FrontEnd(nn.Module, ABC):
    """Acoustic blocks to acoustic tokens in two steps, so that the costly first step is done once where its weights do not change."""

    encoded_width: int

    @abstractmethod
    def encode(self, blocks: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels) -> (batch, encoded_width)."""

    @abstractmethod
    def token(self, encoded: torch.Tensor) -> torch.Tensor:
        """(..., encoded_width) -> (..., embedding width of the language model)."""

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels) -> (batch, embedding width of the language model)."""
        return self.token(self.encode(blocks))


class PatchEmbedding(nn.Module):
    """Linear embedding of every patch: (batch, frames, channels) -> (batch, patches, width).

    A convolution whose kernel is the patch and whose stride is the patch's shift. Patch (f, t) has index f * T + t:
    "incremented first across time and then across frequency band" (4.2).
    """

    def __init__(self, config: CalmConfig, width: int):
        super().__init__()
        (frames, channels), (later, higher) = config.patch, config.stride
        self.convolution = nn.Conv2d(1, width, kernel_size=(frames, channels), stride=(later, higher))

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.convolution(blocks.unsqueeze(1))  # (batch, width, T, F)
        return patches.permute(0, 3, 2, 1).flatten(1, 2)


class LayerMean(nn.Module):
    """Mean of the layers of a speech encoder, weighted by a softmax over one learned number a layer (as in SUPERB, arXiv 2105.01051).

    Equal weights at first.
    """

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Layers side by side (..., layers x width) -> (..., width)."""
        return torch.einsum("...lw,l->...w", frames.unflatten(-1, (len(self.weights), -1)), self.weights.softmax(0))


class SpecTranLayer(nn.Module):
    """One pre-norm transformer layer as in the vision transformer: self-attention of 64-wide heads, then an MLP of 4 x width."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.heads = max(1, width // 64)
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, patches, width = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(batch, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x = x + self._drop(self.output(attended.transpose(1, 2).reshape(batch, patches, width)))
        return x + self._drop(self.contract(F.gelu(self.expand(self.norm_mlp(x)))))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class SpecTran(FrontEnd):
    """The front end of CALM: `encode` gives [CLS] of a transformer over patches (4.2) or its pooled patches, `token` projects them.

    With `spectran_beside: frames`, mean and deviation of the block's frames come after them. An encoded block is then
    (pooled | mean per channel | deviation per channel). The token is the sum of two projections: of what was pooled, and of the frames.
    """

    def __init__(self, config: CalmConfig):
        super().__init__()
        width = config.spectran_width or config.hidden_size
        if width > 64 and width % 64:
            raise ValueError(f"SpecTran's width is {width}: attention heads are 64 wide, so take a multiple of 64")
        frames, bands = config.patches
        self.shape = (config.block_frames, config.channels)
        self.pooling, self.beside = config.spectran_pooling, config.spectran_beside
        self.layer_mean = LayerMean(config.averaged_layers) if config.averaged_layers > 1 else nn.Identity()
        self.patches = PatchEmbedding(config, width)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + frames * bands, width))
        self.layers = nn.ModuleList(SpecTranLayer(width, config.spectran_dropout) for _ in range(config.spectran_layers))
        self.bands = bands
        pooled, beside = 2 * bands * width if self.pooling == "bands" else width, 2 * config.channels if self.beside else 0
        self.widths, self.encoded_width = (pooled, beside), pooled + beside
        self.norm = nn.LayerNorm(pooled)
        self.projection = nn.Identity() if pooled == config.embedding_width else nn.Linear(pooled, config.embedding_width)
        if self.beside:
            self.projection_beside = nn.Sequential(nn.LayerNorm(beside), nn.Linear(beside, config.embedding_width))

    def encode(self, blocks: torch.Tensor) -> torch.Tensor:
        if blocks.shape[1:] != self.shape:
            raise ValueError(f"blocks are {tuple(blocks.shape)}: SpecTran takes (batch, {self.shape[0]} frames, {self.shape[1]} channels)")
        x = self.patches(self.layer_mean(blocks))
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return torch.cat([self._pooled(x), *mean_and_deviation(blocks, 1)], -1) if self.beside else self._pooled(x)

    def token(self, encoded: torch.Tensor) -> torch.Tensor:
        pooled, frames = encoded.split(self.widths, -1)
        token: torch.Tensor = self.projection(self.norm(pooled))
        return token + self.projection_beside(frames) if self.beside else token

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of [CLS] and the patches, (batch, 1 + patches, width) -> (batch, width), or (batch, bands x 2 x width)."""
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "mean":
            return x[:, 1:].mean(1)
        return torch.cat(mean_and_deviation(x[:, 1:].unflatten(1, (self.bands, -1)), 2), -1).flatten(1)  # (batch, bands x 2 x width)


def mean_and_deviation(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation along an axis; the deviation is at least 0.001, so that it has a gradient everywhere."""
    mean = x.mean(axis, keepdim=True)
    return mean.squeeze(axis), (x - mean).square().mean(axis).add(1e-6).sqrt()
