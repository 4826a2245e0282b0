"""Small text encoders with random weights, one of each family, and a tokenizer with the family's special tokens."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast

WORDS = ["hello", "there", "so", "glad", "to", "see", "you", "mask", "cls", "s", "[", "]", "<", ">", "/"]
BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}  # pad is 1, as in the checkpoints
SIZES = {"vocab_size": 24, "max_position_embeddings": 40, "initializer_range": 0.2}
LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False, "type_vocab_size": 0}

FAMILIES = {
    "bert": LAYERS,
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 96},
    "roberta": LAYERS | {"type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": LAYERS | {"type_vocab_size": 1, "pad_token_id": 1},
    "mpnet": LAYERS,
    "electra": LAYERS | {"embedding_size": 32},
    "deberta": LAYERS | RELATIVE,
    "deberta-v2": LAYERS | RELATIVE | {"position_buckets": 8},
    "modernbert": LAYERS
    | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "global_attn_every_n_layers": 2}
    | {"local_attention": 4},
}
WORD_HEADS = [name for name in FAMILIES if name != "electra"]  # whose ELECTRA is a discriminator


def config(family: str, **changes):
    return AutoConfig.for_model(family, **SIZES | FAMILIES[family] | changes)


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Splits at punctuation; lower-cases for BERT alone."""
    names = ROBERTA_TOKENS if family in ("roberta", "xlm-roberta", "mpnet") else BERT_TOKENS
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*names.values(), *WORDS])}, names["unk"]))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    if family == "bert":
        backend.normalizer = normalizers.Lowercase()
    pair = [(names[name], backend.token_to_id(names[name])) for name in ("cls", "sep")]
    backend.post_processor = processors.TemplateProcessing(single=f"{names['cls']} $A {names['sep']}", special_tokens=pair)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{name}_token": token for name, token in names.items()})


def folder(path: Path, family: str, masked: bool = True, **changes) -> Path:
    """A checkpoint with its tokenizer on disk, as a masked-word model or as an encoder alone."""
    torch.manual_seed(0)
    settings = config(family, **changes)
    model = (AutoModelForMaskedLM if masked else AutoModel).from_config(settings)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases of zero and norms of one would hide a mistake
            torch.nn.init.normal_(parameter, mean=parameter.data.mean(), std=0.1)
    model.save_pretrained(path)
    tokenizer(family).save_pretrained(path)
    return path
