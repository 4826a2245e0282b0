"""The models: SpecTran with CALP (4.3), the multimodal transformer (4.4), masked prediction (4.5) and supervised heads (4.6)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertConfig, BertModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from calm.models import distributed, losses
from calm.models.configuration import CalmConfig
from calm.models.front_ends import FRONT_ENDS
from calm.models.heads import Head, HeadLayer, pool, pooled_width
from calm.models.language_model import pool_text
from calm.models.spectran import SpecTran

TEXT, AUDIO = 0, 1  # the language model's two token types are the modality embeddings (4.4)


class CalmPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving, as for every model of Transformers."""

    config_class = CalmConfig
    base_model_prefix = "calm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.text_config.initializer_range
        if isinstance(module, HeadLayer):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SpecTran):
            nn.init.normal_(module.cls, std=std)
            nn.init.normal_(module.positions, std=std)
        elif isinstance(module, CalmForContrastivePretraining):
            nn.init.constant_(module.log_scale, -torch.tensor(self.config.contrastive_temperature).log().item())


@dataclass
class CalmOutput(ModelOutput):
    """`last_hidden_state` (batch, tokens + blocks, width): text first; `text_length`: how many of them are text;
    `encoded_blocks` (batch, blocks, encoded width): what the tokens of the blocks were projected from, and `acoustic_mask`
    (batch, blocks), which of them are there; no blocks without audio."""

    last_hidden_state: torch.Tensor | None = None
    text_length: int | None = None
    encoded_blocks: torch.Tensor | None = None
    acoustic_mask: torch.Tensor | None = None


class CalmModel(CalmPreTrainedModel):
    """SpecTran and the multimodal transformer: lexical and acoustic tokens through one BERT (4.4)."""

    def __init__(self, config: CalmConfig):
        super().__init__(config)
        self.spectran = FRONT_ENDS[config.front_end](config)
        self.language_model = BertModel(config.text_config, add_pooling_layer=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.embeddings.word_embeddings

    def encode(self, blocks: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The blocks that are there, encoded: (batch, blocks, frames, mels) -> (batch, blocks, encoded width), zero where padded."""
        encoded = self.spectran.encode(blocks[mask])
        return encoded.new_zeros(*mask.shape, encoded.shape[-1]).index_put((mask,), encoded)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        encoded_blocks: torch.Tensor | None = None,
        acoustic_mask: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> CalmOutput:
        """Encode text and audio together; audio is left out where neither features nor encoded blocks are given.

        Args:
            input_ids, attention_mask: (batch, tokens); [CLS] words [SEP], or [CLS] [SEP] for audio only.
            input_features: (batch, blocks, frames, mels) normalised log-mel blocks, or
            encoded_blocks: (batch, blocks, encoded width), what `encode` made of them before.
            acoustic_mask: (batch, blocks), True for blocks that are there; None: all.
            audio_mask: (batch, blocks), True for blocks that are masked: their tokens are "set to the zero vector" (4.5); None: none.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        embedded = self.get_input_embeddings()(input_ids)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        modality = torch.full_like(positions, TEXT)
        audio = encoded_blocks if encoded_blocks is not None else input_features
        if audio is None:
            encoded_blocks = embedded.new_zeros(len(embedded), 0, self.spectran.encoded_width)
            acoustic_mask = attention_mask[:, :0]
        else:
            if acoustic_mask is None:
                acoustic_mask = torch.ones(audio.shape[:2], dtype=torch.bool, device=audio.device)
            if encoded_blocks is None:
                encoded_blocks = self.encode(input_features, acoustic_mask.bool())
            tokens = self.spectran.token(encoded_blocks)
            if audio_mask is not None:
                tokens = tokens.masked_fill(audio_mask[..., None], 0)
            blocks = torch.arange(tokens.shape[1], device=input_ids.device)  # positions restart at 0 and count blocks
            embedded = torch.cat([embedded, tokens.to(embedded.dtype)], 1)
            positions = torch.cat([positions, blocks])
            modality = torch.cat([modality, torch.full_like(blocks, AUDIO)])
            attention_mask = torch.cat([attention_mask, acoustic_mask.to(attention_mask.dtype)], 1)
        batch = len(input_ids)
        states = self.language_model(
            inputs_embeds=embedded,
            attention_mask=attention_mask,
            position_ids=positions.expand(batch, -1),
            token_type_ids=modality.expand(batch, -1),
        ).last_hidden_state
        return CalmOutput(states, input_ids.shape[1], encoded_blocks, acoustic_mask)


@dataclass
class ContrastiveOutput(ModelOutput):
    """Equation 2 and its two terms."""

    loss: torch.Tensor | None = None
    audio_loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None


class CalmForContrastivePretraining(CalmPreTrainedModel):
    """CALP: SpecTran aligned with the neighbour block and with the utterance's text under the language model (4.3, equation 2).

    The language model is no part of this model unless it is trained along (`language_model` given): its vectors T_i come in.
    """

    def __init__(self, config: CalmConfig, language_model: BertModel | None = None, text_pooling: str = "last_mean"):
        super().__init__(config)
        self.spectran = SpecTran(config)
        self.audio_projection, self.text_projection = (
            nn.Identity() if config.projection is None else nn.Linear(config.hidden_size, config.projection, bias=False) for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=config.learn_temperature)
        self.post_init()
        self.language_model, self.text_pooling = language_model, text_pooling

    def temperature(self) -> torch.Tensor | float:
        """tau: fixed, or learned with 1 / tau clamped at 100, as in CLIP."""
        return (
            self.log_scale.clamp(max=100.0).exp().clamp(max=100).reciprocal()
            if self.config.learn_temperature
            else self.config.contrastive_temperature
        )

    def embed_audio(self, blocks: torch.Tensor) -> torch.Tensor:
        """(batch, frames, mels) -> (batch, projection), in the shared space."""
        return self.audio_projection(self.spectran(blocks))

    def embed_text(self, vectors: torch.Tensor) -> torch.Tensor:
        """(batch, width) vectors T_i -> (batch, projection), in the shared space."""
        return self.text_projection(vectors)

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
        return_loss: bool = True,
    ) -> ContrastiveOutput:
        """Equation 2 of a mini-batch; in training by several processes, of their shares together.

        Args:
            anchor, neighbour: (batch, frames, mels) blocks A_ij and A_i(j+1).
            text_vectors: (batch, width) T_i of the frozen language model, or `input_ids`, `attention_mask` and `words` (True for
                tokens that are neither special nor padding), (batch, tokens), where the language model is trained along.
            text_index: (batch,) equal where the texts are.
            has_text: (batch,) False where an utterance has no text.
        """
        if self.language_model is not None:
            text_vectors = pool_text(
                self.language_model, {"input_ids": input_ids, "attention_mask": attention_mask}, words, self.text_pooling
            )
        audio = self.embed_audio(torch.cat([anchor, neighbour]))
        anchors, neighbours = audio.chunk(2)
        texts = self.embed_text(text_vectors.to(audio.dtype))
        if self.training:  # a process has a share of the batch, and the negatives are those of all of it
            anchors, neighbours, texts, text_index, has_text = distributed.gather(anchors, neighbours, texts, text_index, has_text)
        same = text_index[:, None] == text_index if self.config.ignore_same_text and text_index is not None else None
        terms = losses.calp(
            anchors,
            neighbours,
            texts,
            self.config.alpha,
            self.temperature(),
            self.config.keep_positive,
            self.config.symmetric,
            same,
            has_text,
        )
        return ContrastiveOutput(loss=terms["loss"], audio_loss=terms["audio"].detach(), text_loss=terms["text"].detach())


class PredictionHead(nn.Module):
    """BERT's masked-prediction head: a dense layer with GeLU and LayerNorm, then the output layer (4.5)."""

    def __init__(self, config: BertConfig, outputs: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, outputs)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.norm(self.activation(self.dense(states))))


@dataclass
class MaskedOutput(ModelOutput):
    """Equation 3: `loss` = `mlm_loss` + `mam_loss`; `mam_middle_loss` over the frames that no neighbour block shows."""

    loss: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    mam_loss: torch.Tensor | None = None
    mam_middle_loss: torch.Tensor | None = None


class CalmForMaskedPretraining(CalmPreTrainedModel):
    """Masked words and masked audio (4.5, equation 3) over the multimodal transformer."""

    _tied_weights_keys = {"mlm_head.decoder.weight": "calm.language_model.embeddings.word_embeddings.weight"}

    def __init__(self, config: CalmConfig):
        super().__init__(config)
        self.calm = CalmModel(config)
        self.mlm_head = PredictionHead(config.text_config, config.text_config.vocab_size)
        self.mam_head = PredictionHead(config.text_config, config.block_frames * config.mels)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.mlm_head.decoder

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        self.mlm_head.decoder = decoder

    def middle_frames(self) -> slice:
        """Frames of a block that its direct neighbours do not show."""
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
        return_loss: bool = True,
    ) -> MaskedOutput:
        """Equation 3 of a mini-batch; in training by several processes, a share whose mean over them is that of the whole batch.

        Args:
            input_ids, attention_mask: (batch, tokens), masked words already replaced.
            word_mask: (batch, tokens) bool, the set L; word_labels: (masked words,) their true ids, in row order.
            audio_mask: (batch, blocks) bool, the set K; audio_labels: (masked blocks, frames, mels), normalised log-mel.
            acoustic_mask: (batch, blocks); encoded_blocks: (batch, blocks, encoded width), or input_features to train SpecTran along.
        """
        output = self.calm(input_ids, attention_mask, input_features, encoded_blocks, acoustic_mask, audio_mask)
        text, audio = output.last_hidden_state.split([output.text_length, acoustic_mask.shape[1]], dim=1)
        mlm = losses.masked_words(self.mlm_head(text[word_mask]), word_labels)
        predicted = self.mam_head(audio[audio_mask]).view(-1, self.config.block_frames, self.config.mels)
        mam = losses.masked_audio(predicted, audio_labels)
        middle = losses.masked_audio(predicted.detach(), audio_labels, self.middle_frames())
        if self.training:
            of_words, of_audio = distributed.weights(len(word_labels), len(audio_labels), device=mlm.device)
            mlm, mam, middle = mlm * of_words, mam * of_audio, middle * of_audio
        return MaskedOutput(loss=mlm + mam, mlm_loss=mlm.detach(), mam_loss=mam.detach(), mam_middle_loss=middle)


@dataclass
class ClassificationOutput(ModelOutput):
    """`loss`: sum of the heads'; `logits`: (batch, classes) of one head, or by head name where there are several."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | dict[str, torch.Tensor] | None = None


class CalmForSequenceClassification(CalmPreTrainedModel):
    """Named heads on the multimodal transformer, with binary cross-entropy a class (4.6, 5.2, 5.3)."""

    def __init__(self, config: CalmConfig):
        super().__init__(config)
        if not config.heads:
            raise ValueError("CalmConfig.heads names no head: give its classes, for example {'emotion': ['happy', 'sad']}")
        self.calm = CalmModel(config)
        width = pooled_width(config, self.calm.spectran.encoded_width)
        self.heads = nn.ModuleDict({name: Head(config, len(classes), width) for name, classes in config.heads.items()})
        self.post_init()

    def pooled(self, input_ids, attention_mask, **inputs) -> torch.Tensor:
        """What the heads see, (batch, width of `Head`)."""
        return pool(self.calm(input_ids, attention_mask, **inputs), attention_mask, self.config.head_pooling)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        encoded_blocks: torch.Tensor | None = None,
        acoustic_mask: torch.Tensor | None = None,
        labels: torch.Tensor | dict[str, torch.Tensor] | None = None,
    ) -> ClassificationOutput:
        """Logits of every head.

        Args:
            input_ids ... acoustic_mask: see `CalmModel`.
            labels: (batch, classes) in [0, 1], or by head name; soft labels are allowed.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        audio = {"input_features": input_features, "encoded_blocks": encoded_blocks, "acoustic_mask": acoustic_mask}
        pooled = self.pooled(input_ids, attention_mask, **audio)
        logits = {name: head(pooled) for name, head in self.heads.items()}
        loss = None
        if labels is not None:
            labels = labels if isinstance(labels, dict) else dict.fromkeys(logits, labels)
            loss = sum(F.binary_cross_entropy_with_logits(logits[name].float(), target.float()) for name, target in labels.items())
        return ClassificationOutput(loss=loss, logits=next(iter(logits.values())) if len(logits) == 1 else logits)


class FrozenHeads(nn.Module):
    """Heads of several seeds on representations computed once (4.6: "multiple heads ... without any cross-task influences").

    Args:
        seeds: one head each, with that seed's initial weights; all see the same batches.
        width: of the representations.
    """

    def __init__(self, config: CalmConfig, classes: int, seeds: list[int], width: int):
        super().__init__()
        self.heads = nn.ModuleList()
        for seed in seeds:
            torch.manual_seed(seed)
            self.heads.append(Head(config, classes, width))

    def fit(self, vectors: torch.Tensor) -> None:
        """Standardise the inputs by those of the training split, shaped as in `forward`, where the configuration asks for it."""
        for head, own in zip(self.heads, vectors.expand(-1, len(self.heads), -1).unbind(1), strict=True):
            head.fit(own)

    def forward(self, vectors: torch.Tensor, labels: torch.Tensor | None = None, return_loss: bool = True) -> ClassificationOutput:
        """Logits (batch, seeds, classes) from vectors (batch, seeds, width), or (batch, 1, width) where all heads see the same."""
        vectors = vectors.expand(-1, len(self.heads), -1)
        logits = torch.stack([head(vectors[:, index]) for index, head in enumerate(self.heads)], 1)
        loss = None
        if labels is not None:  # each head's own mean, summed: no head's gradient depends on another
            loss = F.binary_cross_entropy_with_logits(logits, labels[:, None].expand_as(logits)) * len(self.heads)
        return ClassificationOutput(loss=loss, logits=logits)


def count(module: nn.Module, besides: nn.Module | None = None) -> int:
    """Parameters of a module, shared ones once, without those of another module."""
    left_out = set() if besides is None else {id(p) for p in besides.parameters()}
    return sum({id(p): p.numel() for p in module.parameters() if id(p) not in left_out}.values())


def parameter_table() -> list[dict]:
    """Table 4's sizes: parameters of CALM with BERT-tiny and BERT-base, all of it and besides the language model's."""
    rows = []
    for name, sizes in (
        ("BERT-tiny", {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}),
        ("BERT-base", {}),
    ):
        text_config = BertConfig(**sizes)
        config = CalmConfig(text_config=text_config, projection=text_config.hidden_size)
        with torch.device("meta"):
            contrastive, masked = CalmForContrastivePretraining(config), CalmForMaskedPretraining(config)
        language_model = count(masked.calm.language_model)
        besides = count(masked, masked.calm.language_model) + count(contrastive, contrastive.spectran)
        rows.append(
            {
                "language_model": name,
                "lm_parameters": language_model,
                "calm_besides_lm": besides,
                "all": language_model + besides,
            }
        )
    return rows


AutoConfig.register("calm", CalmConfig)
AutoModel.register(CalmConfig, CalmModel)
AutoModelForSequenceClassification.register(CalmConfig, CalmForSequenceClassification)
