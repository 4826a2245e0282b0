"""A joint transformer after Delbrouck et al. (2020), a peer in table 1, trained on the labels alone."""

import torch
from torch import nn

from calm.models.configuration import CalmConfig
from calm.models.modeling import CalmForSequenceClassification
from calm.models.multimodal import given


class JointLayer(nn.Module):
    """One layer of a modality's encoder: attention to `context`, then an MLP, each followed by a residual and LayerNorm."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width))
        self.norm_attention, self.norm_mlp, self.dropout = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x (batch, steps, width) and context (batch, others, width); mask (batch, others) is False where the context is padded."""
        attended, _ = self.attention(x, context, context, key_padding_mask=~mask, need_weights=False)
        x = self.norm_attention(x + self.dropout(attended))
        states: torch.Tensor = self.norm_mlp(x + self.dropout(self.mlp(x)))
        return states


class Glimpse(nn.Module):
    """One vector per modality by an attention over the steps, learned by an MLP: (batch, steps, width) -> (batch, 2 x width)."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.output = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = self.score(x).squeeze(-1).masked_fill(~mask, -torch.inf).softmax(-1)
        seen: torch.Tensor = self.output(torch.einsum("bs,bsw->bw", weights, x))
        return seen


class JointTransformer(nn.Module):
    """Joint encoding after Delbrouck et al. (2020), reference 9 of the paper: words and acoustic frames go through an LSTM each, then
    through layers in which the words attend to themselves and the sounds to the words; glimpses of both are added. -> (batch, 2 x width).

    Word vectors are the language model's input embeddings (the original uses GloVe) and are not trained. Every `stride`-th frame is
    seen; the original takes every 16th.
    """

    def __init__(self, config: CalmConfig, layers: int = 2, heads: int = 4, dropout: float = 0.1):
        super().__init__()
        width, text = config.hidden_size, config.text_config
        self.hop, self.stride = config.block_hop, max(1, config.block_hop // 2)
        self.words = nn.Embedding(text.vocab_size, config.embedding_width, padding_idx=text.pad_token_id)
        self.text_lstm, self.audio_lstm = (nn.LSTM(size, width, batch_first=True) for size in (config.embedding_width, config.channels))
        self.text_layers, self.audio_layers = (nn.ModuleList(JointLayer(width, heads, dropout) for _ in range(layers)) for _ in range(2))
        self.text_glimpse, self.audio_glimpse = Glimpse(width), Glimpse(width)
        self.norm = nn.LayerNorm(2 * width)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, input_features: torch.Tensor, acoustic_mask: torch.Tensor
    ) -> torch.Tensor:
        """One vector per utterance; arguments as for `CalmModel`."""
        frames = input_features[:, :, : self.hop : self.stride]  # hops follow each other without overlap
        heard = acoustic_mask.repeat_interleave(frames.shape[2], 1)
        text, spoken = _encode(self.text_lstm, self.words(input_ids), attention_mask.bool()), attention_mask.bool()
        audio = _encode(self.audio_lstm, frames.flatten(1, 2), heard)
        for text_layer, audio_layer in zip(self.text_layers, self.audio_layers, strict=True):
            text = text_layer(text, text, spoken)
            audio = audio_layer(audio, text, spoken)
        both: torch.Tensor = self.norm(self.text_glimpse(text, spoken) + self.audio_glimpse(audio, heard))
        return both


def _encode(lstm: nn.LSTM, steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """States of an LSTM over padded sequences, (batch, steps, width), zero where padded, which is after all steps of a sequence."""
    states: torch.Tensor = lstm(steps)[0]
    return states * mask.unsqueeze(-1)


class JointTransformerForSequenceClassification(CalmForSequenceClassification):
    """The heads of 5.2 on a joint transformer; input and output are those of CALM."""

    def __init__(self, config: CalmConfig, word_vectors: torch.Tensor | None = None):
        """`word_vectors`: (words, embedding width), which are not trained; None: random ones."""
        super().__init__(config)
        if word_vectors is not None:
            self.joint.words.weight.data.copy_(word_vectors)
        self.joint.words.requires_grad_(False)

    def add_body(self, config: CalmConfig) -> int:
        """Add the joint transformer; returns the width of its vectors."""
        self.joint = JointTransformer(config)
        return 2 * config.hidden_size

    def pooled(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        functionals: torch.Tensor | None = None,
        **inputs: torch.Tensor | None,
    ) -> torch.Tensor:
        """Input of the heads, (batch, 2 x width)."""
        heard = given(input_features=inputs.get("input_features"), acoustic_mask=inputs.get("acoustic_mask"))
        vectors: torch.Tensor = self.joint(input_ids, attention_mask, *heard)
        return vectors
