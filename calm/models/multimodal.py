"""The multimodal transformer (4.4): lexical and acoustic tokens through one text encoder; and what all models of CALM share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from calm.models import text_encoders
from calm.models.configuration import CalmConfig
from calm.models.front_ends import build_front_end
from calm.models.heads import HeadLayer
from calm.models.spectran import SpecTran

ALWAYS_GIVEN: Any = None  # Transformers asks for this default of all fields of an output but the first
TEXT, AUDIO = 0, 1  # rows of the modality embeddings: the language model's two token types, or our own (4.4)


class ModalityEmbedding(nn.Embedding):
    """Embeddings of text and audio for an encoder without two token types: zero at first, so that pretrained text is undisturbed."""


class CalmPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving, as for every model of Transformers."""

    config: CalmConfig
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
        elif isinstance(module, ModalityEmbedding):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SpecTran):
            nn.init.normal_(module.cls, std=std)
            nn.init.normal_(module.positions, std=std)

    def save_pretrained(self, save_directory: str | os.PathLike[Any], *args: Any, **kwargs: Any) -> None:
        """As Transformers does, with the permissions of ordinary files; the configuration names no local folder."""
        super().save_pretrained(save_directory, *args, **kwargs)
        ordinary_permissions(Path(save_directory))

    def text_inputs(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, audio: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and their mask, (batch, tokens) each. Without ids, every utterance of `audio` gets the pair of special tokens.

        Raises:
            ValueError: neither ids nor audio, or the configuration does not know the special tokens.
        """
        if input_ids is None:
            pair = (self.config.cls_token_id, self.config.sep_token_id)
            if audio is None:
                raise ValueError("neither text nor audio was given: pass input_ids, input_features, or both")
            if None in pair:
                raise ValueError("audio alone needs cls_token_id and sep_token_id in the configuration: set them, or pass input_ids")
            input_ids = torch.tensor([pair], device=audio.device).expand(len(audio), -1)
        return input_ids, torch.ones_like(input_ids) if attention_mask is None else attention_mask


def given(**inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """The inputs, in their order. Raises ValueError, which names them, if some are missing."""
    if missing := [name for name, value in inputs.items() if value is None]:
        raise ValueError(f"the model was called without {', '.join(missing)}: pass them")
    return tuple(value for value in inputs.values() if value is not None)


def ordinary_permissions(folder: Path) -> None:
    """Give the weights in a folder the permissions of other new files; safetensors lets only their owner read them."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o666 & ~umask)


@dataclass
class CalmOutput(ModelOutput):
    """Hidden states of the multimodal transformer, and the encoded blocks.

    Attributes:
        last_hidden_state: (batch, tokens + blocks, width), text first.
        text_length: how many of the states are text.
        encoded_blocks: (batch, blocks, encoded width), from which the acoustic tokens were projected; no blocks without audio.
        acoustic_mask: (batch, blocks), False where padded.
    """

    last_hidden_state: torch.Tensor
    text_length: int = ALWAYS_GIVEN
    encoded_blocks: torch.Tensor = ALWAYS_GIVEN
    acoustic_mask: torch.Tensor = ALWAYS_GIVEN


class CalmModel(CalmPreTrainedModel):
    """A front end and the multimodal transformer: lexical and acoustic tokens through one text encoder (4.4)."""

    def __init__(self, config: CalmConfig):
        super().__init__(config)
        self.spectran = build_front_end(config)
        self.language_model = text_encoders.build_encoder(config.text_config)
        self.modality_embeddings = None
        if not text_encoders.has_token_types(self.language_model):
            self.modality_embeddings = ModalityEmbedding(2, config.embedding_width)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.language_model.get_input_embeddings())

    def encode(self, blocks: torch.Tensor, mask: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """Blocks in the mask, encoded: (batch, blocks, frames, channels) -> (batch, blocks, encoded width), zero where padded.

        Args:
            places: (blocks in the mask,) their numbers among all; None: from the mask, for which the host waits for the device.
        """
        places = mask.flatten().nonzero().squeeze(1) if places is None else places
        encoded = self.spectran.encode(blocks.flatten(0, 1).index_select(0, places))
        placed: torch.Tensor = encoded.new_zeros(mask.numel(), encoded.shape[-1]).index_copy(0, places, encoded).unflatten(0, mask.shape)
        return placed

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        encoded_blocks: torch.Tensor | None = None,
        acoustic_mask: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        acoustic_places: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CalmOutput:
        """Encode text and audio together, or either alone.

        Args:
            input_ids, attention_mask: (batch, tokens), words between special tokens; the special tokens alone for audio without text,
                which the model adds itself if there are no ids.
            input_features: (batch, blocks, frames, channels), normalised acoustic blocks, or
            encoded_blocks: (batch, blocks, encoded width), the output of `encode` for these blocks.
            acoustic_mask: (batch, blocks), False where padded; None: nothing is padded.
            audio_mask: (batch, blocks), True for masked blocks, whose tokens are "set to the zero vector" (4.5); None: none.
            acoustic_places: (blocks that are not padded,) see `encode`.
        """
        audio = encoded_blocks if encoded_blocks is not None else input_features
        input_ids, attention_mask = self.text_inputs(input_ids, attention_mask, audio)
        embedded = self.get_input_embeddings()(input_ids)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        modality = torch.full_like(positions, TEXT)
        if audio is None:
            encoded_blocks = embedded.new_zeros(len(embedded), 0, self.spectran.encoded_width)
            acoustic_mask = attention_mask[:, :0]
        else:
            if acoustic_mask is None:
                acoustic_mask = torch.ones(audio.shape[:2], dtype=torch.bool, device=audio.device)
            if encoded_blocks is None:
                encoded_blocks = self.encode(audio, acoustic_mask.bool(), acoustic_places)
            tokens = self.spectran.token(encoded_blocks)
            if audio_mask is not None:
                tokens = tokens.masked_fill(audio_mask[..., None], 0)
            blocks = torch.arange(tokens.shape[1], device=input_ids.device)  # positions restart at 0 and count blocks
            embedded = torch.cat([embedded, tokens.to(embedded.dtype)], 1)
            positions = torch.cat([positions, blocks])
            modality = torch.cat([modality, torch.full_like(blocks, AUDIO)])
            attention_mask = torch.cat([attention_mask, acoustic_mask.to(attention_mask.dtype)], 1)
        states = self._transform(embedded, attention_mask, positions, modality)
        return CalmOutput(states, input_ids.shape[1], encoded_blocks, acoustic_mask)

    def _transform(
        self, embedded: torch.Tensor, attention_mask: torch.Tensor, positions: torch.Tensor, modality: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states (batch, steps, width) of embeddings (batch, steps, embedding width); positions and modality are (steps,)."""
        model, batch = self.language_model, len(embedded)
        ids = {}
        if text_encoders.position_table(model) is not None:
            ids["position_ids"] = (positions + text_encoders.first_position(model)).expand(batch, -1)
        if self.modality_embeddings is None:
            ids["token_type_ids"] = modality.expand(batch, -1)
        else:
            embedded = embedded + self.modality_embeddings(modality)
        if not text_encoders.attends_by_distance(model):
            states: torch.Tensor = model(inputs_embeds=embedded, attention_mask=attention_mask, **ids).last_hidden_state
            return states
        # Padding between text and audio would move them apart: it goes to the end for the encoder, and back into its place after it.
        present = attention_mask.long()
        place = torch.where(present == 1, present.cumsum(1), present.sum(1, keepdim=True) + (1 - present).cumsum(1)) - 1
        order = torch.zeros_like(place).scatter(1, place, torch.arange(place.shape[1], device=place.device).expand(batch, -1))
        ids = {name: values.gather(1, order) for name, values in ids.items()}
        packed, mask = _rows_at(embedded, order), attention_mask.gather(1, order)
        return _rows_at(model(inputs_embeds=packed, attention_mask=mask, **ids).last_hidden_state, place)


def _rows_at(states: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """States (batch, steps, width) in the order of (batch, steps) indices."""
    return states.gather(1, steps[..., None].expand(-1, -1, states.shape[-1]))
