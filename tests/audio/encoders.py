"""Small speech encoders with random weights, one of each family, saved as Transformers saves them."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96, "initializer_range": 0.2}
CONVOLUTIONS = {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
WHISPER = {"d_model": 64, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 96, "init_std": 0.2}
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 24, "pad_token_id": 0}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
MOONSHINE = {"encoder_num_hidden_layers": 3, "decoder_num_hidden_layers": 1, "vocab_size": 24}
MOONSHINE |= {f"{part}_num_{kind}_heads": 2 for part in ("encoder", "decoder") for kind in ("attention", "key_value")}

FAMILIES = {  # name: family and settings
    "whisper": ("whisper", WHISPER | DECODER | SPECIAL),
    "wav2vec2": ("wav2vec2", SIZES | CONVOLUTIONS),
    "wav2vec2-layer-norm": ("wav2vec2", SIZES | CONVOLUTIONS | LAYER_NORM),
    "hubert": ("hubert", SIZES | CONVOLUTIONS),
    "wavlm": ("wavlm", SIZES | CONVOLUTIONS | {"num_buckets": 32, "max_bucket_distance": 80}),
    "wavlm-layer-norm": ("wavlm", SIZES | CONVOLUTIONS | LAYER_NORM | {"num_buckets": 32, "max_bucket_distance": 80}),
    "unispeech": ("unispeech", SIZES | CONVOLUTIONS),
    "unispeech-sat-layer-norm": ("unispeech-sat", SIZES | CONVOLUTIONS | LAYER_NORM),
    "data2vec-audio": ("data2vec-audio", SIZES | CONVOLUTIONS | {"conv_pos_kernel_size": 5}),
    "wav2vec2-bert": ("wav2vec2-bert", SIZES | {"position_embeddings_type": "relative_key"}),
    "moonshine": ("moonshine", SIZES | MOONSHINE),
}
NORMALISES = {"wavlm": False}  # as the published preprocessor does; the others standardise each clip


def folder(path: Path, name: str, **changes) -> Path:
    """An encoder, with its decoder if it has one, and its preprocessor, in a folder."""
    family, settings = FAMILIES[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **settings | changes))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases of zero and norms of one would hide a mistake
            torch.nn.init.normal_(parameter, mean=parameter.data.mean(), std=0.1)
    model.save_pretrained(path)
    if family == "wav2vec2-bert":
        SeamlessM4TFeatureExtractor().save_pretrained(path)
    elif family not in ("whisper", "moonshine"):
        Wav2Vec2FeatureExtractor(do_normalize=NORMALISES.get(name, True), return_attention_mask=True).save_pretrained(path)
    return path


@cache
def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise that rises and falls, float32 (samples,)."""
    draw = np.random.default_rng(seed)
    return (draw.normal(0, 0.1, samples) * (1 + np.sin(np.arange(samples) / 3000))).astype(np.float32)
