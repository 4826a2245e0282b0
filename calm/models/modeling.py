"""The models to train: the front end with CALP (4.3), masked prediction (4.5) and supervised heads (4.6)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from calm.models import distributed, losses
from calm.models.configuration import CalmConfig
from calm.models.encoder_blocks import EncoderBlocks, blocks_at, blocks_of_frames, frames_of_blocks
from calm.models.encoder_blocks import functionals as functionals_of
from calm.models.front_ends import build_front_end
from calm.models.heads import (
    AttentivePooling,
    ClassificationOutput,
    Head,
    MemberHeads,
    PredictionHead,
    functionals_width,
    pool,
    pooled_width,
)
from calm.models.language_model import pool_text
from calm.models.losses import ContrastiveSettings
from calm.models.multimodal import CalmModel, CalmPreTrainedModel, given


@dataclass
class ContrastiveOutput(ModelOutput):
    """Equation 2 and its two terms."""

    loss: torch.Tensor | None = None
    audio_loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None


class CalmForContrastivePretraining(CalmPreTrainedModel):
    """CALP: the front end aligned with the neighbour block and with the utterance's text under the language model (4.3, equation 2).

    Args:
        language_model: trained along as part of this model; None: its vectors T_i are passed to `forward`.
        settings: of the loss; a trained model needs none.
        encoder: blocks of a speech encoder, trained along as part of this model; None: frames stay as they are.
    """

    def __init__(
        self,
        config: CalmConfig,
        language_model: PreTrainedModel | None = None,
        settings: ContrastiveSettings = ContrastiveSettings(),  # noqa: B008, frozen
        encoder: EncoderBlocks | None = None,
    ):
        super().__init__(config)
        if config.projection is None and config.embedding_width != config.text_width:
            raise ValueError(
                f"projection is None, but acoustic tokens are {config.embedding_width} and text vectors {config.text_width} wide: "
                "set the width of a projection"
            )
        self.settings = settings
        self.spectran = build_front_end(config)
        self.audio_projection, self.text_projection = (
            nn.Identity() if config.projection is None else nn.Linear(width, config.projection, bias=False)
            for width in (config.embedding_width, config.text_width)
        )
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=settings.learn_temperature)
        if config.spectran_beside:
            self.spectran.projection_beside.requires_grad_(settings.train_beside)
        self.post_init()
        self.language_model, self.encoder = language_model, encoder

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            nn.init.constant_(self.log_scale, -torch.tensor(self.settings.temperature).log().item())

    def temperature(self) -> torch.Tensor | float:
        """tau: fixed, or learned with 1 / tau clamped at 100, as in CLIP."""
        if not self.settings.learn_temperature:
            return self.settings.temperature
        return self.log_scale.clamp(max=100.0).exp().clamp(max=100).reciprocal()

    def embed_audio(self, blocks: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels) -> (batch, projection), in the shared space."""
        vectors: torch.Tensor = self.audio_projection(self.spectran(blocks))
        return vectors

    def embed_utterances(self, blocks: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean over an utterance's blocks of their vectors of length 1, which is what retrieval ranks by: (batch, projection).

        Args:
            blocks: (blocks of all utterances, frames, channels); mask: (batch, most blocks of an utterance) bool.
        """
        vectors = F.normalize(self._in_chunks(self.embed_audio, blocks), dim=-1)
        placed = vectors.new_zeros(*mask.shape, vectors.shape[-1]).masked_scatter(mask.unsqueeze(-1), vectors)
        return placed.sum(1) / mask.sum(1, keepdim=True)

    def heard(
        self,
        frames: torch.Tensor,
        mask: torch.Tensor,
        corpus: torch.Tensor,
        anchor: torch.Tensor,
        neighbour: torch.Tensor,
        text_blocks: torch.Tensor | None,
        text_block_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Blocks of whole utterances as the model's own encoder blocks give them; arguments and results as in `forward`."""
        if self.encoder is None:
            raise ValueError("the model was called with whole utterances, but it has no encoder: pass their blocks")
        frames, size = self._in_chunks(self.encoder, frames, mask, corpus), self.config.block_frames
        rows = torch.arange(len(frames), device=frames.device)
        anchors, neighbours = blocks_at(frames, rows, anchor, size), blocks_at(frames, rows, neighbour, size)
        same = (anchor == neighbour)[:, None, None]  # exactly one block long: shifted around its end
        neighbours = torch.where(same, neighbours.roll(size // 3, 1), neighbours)
        if text_blocks is not None:  # their number is known, so that nothing waits until the device has counted them
            (of,) = given(text_block_mask=text_block_mask)
            rows = torch.nonzero_static(of, size=len(text_blocks))[:, 0]
            text_blocks = blocks_at(frames, rows, text_blocks, size)
        return anchors, neighbours, text_blocks

    def embed_text(self, vectors: torch.Tensor) -> torch.Tensor:
        """(batch, width) vectors T_i -> (batch, projection), in the shared space."""
        projected: torch.Tensor = self.text_projection(vectors)
        return projected

    def _in_chunks(self, embed: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """Vectors of all rows of the inputs; in training of `settings.chunk` rows at a time.

        What a chunk needs for its gradient is not kept, but computed again when the gradients of all vectors are known, with the same
        dropout: cached gradients (GradCache, arXiv 2101.06983). They are those of the whole batch.
        """
        if self.settings.chunk is None or not self.training:
            return embed(*inputs)
        chunks = zip(*(values.split(self.settings.chunk) for values in inputs), strict=True)
        return torch.cat([checkpoint(embed, *chunk, use_reentrant=False) for chunk in chunks])

    def _text_vectors(
        self, model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, words: torch.Tensor
    ) -> torch.Tensor:
        return pool_text(model, {"input_ids": input_ids, "attention_mask": attention_mask}, words, self.config.text_pooling)

    def forward(
        self,
        anchor: torch.Tensor,
        neighbour: torch.Tensor,
        text_vectors: torch.Tensor | None = None,
        text_index: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        words: torch.Tensor | None = None,
        speaker_index: torch.Tensor | None = None,
        text_blocks: torch.Tensor | None = None,
        text_block_mask: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        corpus: torch.Tensor | None = None,
    ) -> ContrastiveOutput:
        """Equation 2 of a mini-batch; in training by several processes, of the batch that their shares make up.

        Args:
            anchor, neighbour: (batch, frames, channels) blocks A_ij and A_i(j+1).
            text_vectors: (batch, width) T_i of the frozen language model, or `input_ids`, `attention_mask` and `words` (True for
                tokens that are neither special nor padding), (batch, tokens), if the language model is trained along.
            text_index: (batch,) the same number for utterances with the same text.
            has_text: (batch,) False for an utterance without text.
            speaker_index: (batch,) the same number for utterances of one speaker.
            text_blocks: (blocks of all utterances, frames, channels), one utterance after another, that together stand for A_ij in the text
                term, and text_block_mask: (batch, most blocks of an utterance); None: the anchor alone, as equation 2 has it.
            frames: (batch, frames, channels) whole utterances, if an encoder is trained along. Then `anchor`, `neighbour` (batch,) and
                `text_blocks` (blocks,) are the first frames of the blocks; with frame_mask (batch, frames) and `EncoderBlocks`' corpus.
        """
        if frames is not None:
            mask, of = given(frame_mask=frame_mask, corpus=corpus)
            anchor, neighbour, text_blocks = self.heard(frames, mask, of, anchor, neighbour, text_blocks, text_block_mask)
        if self.language_model is not None:
            tokens = given(input_ids=input_ids, attention_mask=attention_mask, words=words)
            text_vectors = self._in_chunks(partial(self._text_vectors, self.language_model), *tokens)
        (vectors,) = given(text_vectors=text_vectors)
        audio = self._in_chunks(self.embed_audio, torch.cat([anchor, neighbour]))
        anchors, neighbours = audio.chunk(2)
        texts = self.embed_text(vectors.to(audio.dtype))
        spoken = None if text_blocks is None else self.embed_utterances(text_blocks, *given(text_block_mask=text_block_mask))
        if self.training:  # a process has a share of the batch, and the negatives are those of all of it
            anchors, neighbours, texts, spoken, text_index, has_text, speaker_index = distributed.gather(
                anchors, neighbours, texts, spoken, text_index, has_text, speaker_index
            )
        same_text, same_speaker = (None if index is None else index[:, None] == index for index in (text_index, speaker_index))
        terms = losses.calp(anchors, neighbours, texts, self.settings, self.temperature(), same_text, has_text, same_speaker, spoken)
        return ContrastiveOutput(loss=terms["loss"], audio_loss=terms["audio"].detach(), text_loss=terms["text"].detach())


@dataclass
class MaskedOutput(ModelOutput):
    """Equation 3: `loss` = `mlm_loss` + `mam_loss`; `mam_middle_loss` over the frames that no neighbour block contains."""

    loss: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    mam_loss: torch.Tensor | None = None
    mam_middle_loss: torch.Tensor | None = None


class CalmForMaskedPretraining(CalmPreTrainedModel):
    """Masked words and masked audio (4.5, equation 3) over the multimodal transformer."""

    def __init__(self, config: CalmConfig):
        super().__init__(config)
        self.calm = CalmModel(config)
        self.mlm_head = PredictionHead(config.text_config, config.embedding_width, config.text_config.vocab_size)
        self.mam_head = PredictionHead(config.text_config, config.hidden_size, config.block_frames * config.channels)
        words = self.calm.get_input_embeddings().weight
        self._tied_weights_keys = {
            "mlm_head.decoder.weight": next(name for name, parameter in self.named_parameters() if parameter is words)
        }
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.mlm_head.decoder

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        self.mlm_head.decoder = decoder

    def middle_frames(self) -> slice:
        """Frames of a block that the neighbour blocks do not contain."""
        overlap = max(0, self.config.block_frames - self.config.block_hop)
        return slice(overlap, self.config.block_frames - overlap) if 2 * overlap < self.config.block_frames else slice(None)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        word_mask: torch.Tensor,
        word_labels: torch.Tensor,
        audio_mask: torch.Tensor,
        audio_labels: torch.Tensor,
        acoustic_mask: torch.Tensor,
        encoded_blocks: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        acoustic_places: torch.Tensor | None = None,
    ) -> MaskedOutput:
        """Equation 3 of a mini-batch; in training by several processes, the mean of their losses is that of the whole batch.

        Args:
            input_ids, attention_mask: (batch, tokens), masked words already replaced.
            word_mask: (batch, tokens) bool, the set L; word_labels: (masked words,) their true ids, in row order.
            audio_mask: (batch, blocks) bool, the set K; audio_labels: (masked blocks, frames, channels), normalised frames.
            acoustic_mask: (batch, blocks); encoded_blocks: (batch, blocks, encoded width), or input_features to train the front end,
                with acoustic_places (see `CalmModel.encode`).
        """
        output = self.calm(input_ids, attention_mask, input_features, encoded_blocks, acoustic_mask, audio_mask, acoustic_places)
        text, audio = output.last_hidden_state.split([output.text_length, acoustic_mask.shape[1]], dim=1)
        mlm = losses.masked_words(self.mlm_head(states_at(text, word_mask, len(word_labels))), word_labels)
        predicted = self.mam_head(states_at(audio, audio_mask, len(audio_labels))).view(-1, self.config.block_frames, self.config.channels)
        mam = losses.masked_audio(predicted, audio_labels)
        middle = losses.masked_audio(predicted.detach(), audio_labels, self.middle_frames())
        if self.training:
            word_weight, audio_weight = distributed.weights(len(word_labels), len(audio_labels), device=mlm.device)
            mlm, mam, middle = mlm * word_weight, mam * audio_weight, middle * audio_weight
        return MaskedOutput(loss=mlm + mam, mlm_loss=mlm.detach(), mam_loss=mam.detach(), mam_middle_loss=middle)


def states_at(states: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
    """The states (batch, steps, width) at the so many steps that the mask marks, (number, width).

    As `states[mask]`, but the host, which knows the number, need not wait for the device to count.
    """
    places = torch.nonzero_static(mask.flatten(), size=number).squeeze(1)
    return states.flatten(0, 1).index_select(0, places)


class CalmForSequenceClassification(CalmPreTrainedModel):
    """Named heads on the multimodal transformer (4.6, 5.2, 5.3), with the loss of `CalmConfig.head_loss`."""

    def __init__(self, config: CalmConfig):
        super().__init__(config)
        if not config.heads:
            raise ValueError("CalmConfig.heads names no head: give names and classes, for example {'emotion': ['happy', 'sad']}")
        width = self.add_body(config)
        self.encoder = EncoderBlocks(config.encoder) if config.encoder else None
        self.frames = AttentivePooling(config) if config.head_pooling == "frames" else None
        kind: type[Head] | type[MemberHeads] = Head if self.frames is None else MemberHeads
        self.heads = nn.ModuleDict({name: kind(config, len(classes), width) for name, classes in config.heads.items()})
        self.post_init()

    def add_body(self, config: CalmConfig) -> int:
        """Add the network below the heads; returns the width of their input. A network for comparison overrides it, and `pooled`."""
        self.calm = CalmModel(config)
        return pooled_width(config, self.calm.spectran.encoded_width)

    def pooled(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        functionals: torch.Tensor | None = None,
        **inputs: torch.Tensor | None,
    ) -> torch.Tensor:
        """Input of the heads, (batch, width of `Head`). Functionals are zero for an utterance without audio."""
        blocks, mask = inputs.get("input_features"), inputs.get("acoustic_mask")
        if self.frames is not None:
            (heard,) = given(input_features=blocks)
            frames, present = frames_of_blocks(heard, mask, self.config.block_hop)
            statistics: torch.Tensor = self.frames(frames if self.encoder is None else self.encoder(frames, present), present)
            return statistics
        if self.encoder is not None and blocks is not None:
            inputs["input_features"], functionals = self.reencoded(blocks, mask)
        if not self.config.head_functionals:
            functionals = None
        elif functionals is None:
            functionals = torch.zeros(len(input_ids), functionals_width(self.config), device=input_ids.device)
        if self.config.head_pooling == "none" and functionals is not None:
            return functionals
        return pool(self.calm(input_ids, attention_mask, **inputs), attention_mask, self.config.head_pooling, functionals)

    def reencoded(self, blocks: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Blocks (batch, blocks, frames, channels) as the model's own encoder blocks give them, and the functionals of their frames, if
        heads see any.

        Frames after the last whole block are left out. Raises ValueError if the model has none.
        """
        if self.encoder is None:
            raise ValueError("the model has no encoder blocks: use the blocks as they are")
        frames, present = frames_of_blocks(blocks, mask, self.config.block_hop)
        frames = self.encoder(frames, present)
        changed = blocks_of_frames(frames, blocks.shape[1], self.config.block_frames, self.config.block_hop)
        return changed, functionals_of(frames, present, kind) if (kind := self.config.head_functionals) else None

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        encoded_blocks: torch.Tensor | None = None,
        acoustic_mask: torch.Tensor | None = None,
        acoustic_places: torch.Tensor | None = None,
        functionals: torch.Tensor | None = None,
        share: torch.Tensor | None = None,
        mixed_with: torch.Tensor | None = None,
        labels: torch.Tensor | dict[str, torch.Tensor] | None = None,
    ) -> ClassificationOutput:
        """Logits of every head.

        Args:
            input_ids ... acoustic_places: see `CalmModel`.
            functionals: (batch, functionals) of the utterances' frames, where the heads see them.
            share, mixed_with: of `calm.data.batching.mixed`; None: nothing is mixed.
            labels: (batch, classes) in [0, 1], or by head name; soft labels are allowed.
        """
        blocks = encoded_blocks if encoded_blocks is not None else input_features
        input_ids, attention_mask = self.text_inputs(input_ids, attention_mask, blocks)
        audio = {"input_features": input_features, "encoded_blocks": encoded_blocks, "acoustic_mask": acoustic_mask}
        audio |= {"acoustic_places": acoustic_places, "functionals": functionals}
        pooled = self.pooled(input_ids, attention_mask, **audio)
        if share is not None:
            pooled = share * pooled + (1 - share) * pooled[mixed_with]
        each = {name: head(pooled) / self.config.temperatures.get(name, 1.0) for name, head in self.heads.items()}
        logits, loss = {name: own if self.frames is None else own.mean(1) for name, own in each.items()}, None
        if labels is not None:
            labels = labels if isinstance(labels, dict) else dict.fromkeys(logits, labels)
            if self.frames is not None:  # no member's gradient depends on another member
                labels = {name: target[:, None].expand_as(each[name]) for name, target in labels.items()}
            smoothing = self.config.head_smoothing if self.training else 0.0
            terms = (losses.classification(each[name], target, self.config.head_loss, smoothing) for name, target in labels.items())
            loss = reduce(torch.add, terms)
        return ClassificationOutput(loss=loss, logits=next(iter(logits.values())) if len(logits) == 1 else logits)


def count(module: nn.Module, besides: nn.Module | None = None) -> int:
    """Number of parameters of a module without those of another; shared ones count once."""
    excluded = set() if besides is None else {id(p) for p in besides.parameters()}
    return sum({id(p): p.numel() for p in module.parameters() if id(p) not in excluded}.values())


def parameter_table() -> list[dict[str, Any]]:
    """Sizes of table 4: parameters of CALM with BERT-tiny and BERT-base, in all and without the language model."""
    rows = []
    for name, text_config in (
        ("BERT-tiny", BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)),
        ("BERT-base", BertConfig()),
    ):
        config = CalmConfig(text_config=text_config, projection=text_config.hidden_size)
        with torch.device("meta"):
            contrastive, masked = CalmForContrastivePretraining(config), CalmForMaskedPretraining(config)
        language_model = count(masked.calm.language_model)
        besides = count(masked, masked.calm.language_model) + count(contrastive, contrastive.spectran)
        sizes = {"lm_parameters": language_model, "calm_besides_lm": besides, "all": language_model + besides}
        rows.append({"language_model": name, **sizes})
    return rows


AutoConfig.register("calm", CalmConfig)
AutoModel.register(CalmConfig, CalmModel)
AutoModelForSequenceClassification.register(CalmConfig, CalmForSequenceClassification)
