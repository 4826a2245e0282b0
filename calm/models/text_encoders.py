"""The text encoders that CALM can start from, and all that differs between their families."""

import inspect
from typing import cast

import torch
from torch import nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

FAMILIES = "BERT, DistilBERT, RoBERTa, XLM-RoBERTa, MPNet, ELECTRA, DeBERTa and ModernBERT"


def encoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Class of the encoder with this configuration. Raises ValueError if CALM cannot start from its family.

    An encoder must attend in both directions, which a masked-word model of its family stands for, and take embeddings with a mask.
    """
    bidirectional = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_encoder_decoder", False)
    if bidirectional and not getattr(config, "is_decoder", False) and type(config) in MODEL_MAPPING:
        kind = cast(type[PreTrainedModel], MODEL_MAPPING[type(config)])
        if {"inputs_embeds", "attention_mask"} <= inspect.signature(kind.forward).parameters.keys():
            return kind
    raise ValueError(
        f"a language model of type '{config.model_type}' is not supported: take an encoder with inputs_embeds and attention_mask, of the "
        f"families {FAMILIES}"
    )


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with random weights, without a pooler. Raises ValueError as `encoder_class` does."""
    kind = encoder_class(config)
    has_pooler = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return without_pooler(kind(config, **({"add_pooling_layer": False} if has_pooler else {})))


def without_pooler(model: PreTrainedModel) -> PreTrainedModel:
    """The same model; its pooler is dropped if it has one."""
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    return model


def keep_layers(model: PreTrainedModel, number: int) -> None:
    """Drop all transformer layers but the first `number`, in the model and in its configuration."""
    config = model.config
    stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers)
    del next(stacks)[number:]
    config.num_hidden_layers = number
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:number]


def position_table(model: PreTrainedModel) -> nn.Embedding | None:
    """The embeddings of absolute positions; None if the model has relative or rotary positions alone."""
    table = getattr(model.embeddings, "position_embeddings", None)
    return table if isinstance(table, nn.Embedding) else None


def first_position(model: PreTrainedModel) -> int:
    """Absolute position of the first token: RoBERTa and its kin count from the one after that of padding."""
    table = position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def places(model: PreTrainedModel) -> int:
    """The most tokens that the model takes."""
    table = position_table(model)
    return model.config.max_position_embeddings if table is None else table.num_embeddings - first_position(model)


def has_token_types(model: PreTrainedModel) -> bool:
    """Whether the model has two token types of its own, which can tell text from audio."""
    table = getattr(model.embeddings, "token_type_embeddings", None)
    return isinstance(table, nn.Embedding) and table.num_embeddings >= 2


def attends_by_distance(model: PreTrainedModel) -> bool:
    """Whether attention depends on the distance of two tokens, so that padding between them would count."""
    config = model.config
    relative = getattr(config, "relative_attention", False) or hasattr(config, "relative_attention_num_buckets")
    return relative or position_table(model) is None


def prediction_activation(config: PreTrainedConfig) -> str:
    """Activation of the family's masked-word head."""
    names = ("classifier_activation", "hidden_act", "activation")  # ModernBERT, most families, DistilBERT
    activation: str = next(getattr(config, name) for name in names if hasattr(config, name))
    return activation


def prediction_norm_eps(config: PreTrainedConfig) -> float:
    """Epsilon of the LayerNorm in the family's masked-word head; DistilBERT's is fixed."""
    names = ("layer_norm_eps", "norm_eps")
    return next((getattr(config, name) for name in names if hasattr(config, name)), 1e-12)


def prediction_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Weights of a masked-word model's head under the names of `PredictionHead`, without the decoder's weight, which is tied.

    The head is what lies outside the encoder: the first linear layer, the first LayerNorm, and a bias of the vocabulary's size. A bias
    that the family does not have is zero.
    """
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    encoder = {id(module) for module in model.base_model.modules()}
    outside = [module for module in model.modules() if id(module) not in encoder]
    dense = next(module for module in outside if isinstance(module, nn.Linear))
    norm = next(module for module in outside if isinstance(module, nn.LayerNorm))
    taken = {id(parameter) for module in (dense, norm) for parameter in module.parameters()} | inside
    shape = (model.config.vocab_size,)
    biases = [parameter for parameter in model.parameters() if id(parameter) not in taken and parameter.shape == shape]
    return {
        "dense.weight": dense.weight.detach(),
        "dense.bias": _bias(dense.bias, dense.out_features),
        "norm.weight": norm.weight.detach(),
        "norm.bias": _bias(norm.bias, norm.normalized_shape[0]),
        "decoder.bias": _bias(biases[0] if biases else None, *shape),
    }


def _bias(bias: torch.Tensor | None, size: int) -> torch.Tensor:
    return torch.zeros(size) if bias is None else bias.detach()
