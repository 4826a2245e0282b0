"""Very small models with random weights, in folders as the stages `release` and `calp` write them."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig

from calm.inference import onnx_export
from calm.inference.processing import CalmFeatureExtractor, CalmProcessor
from calm.models.configuration import CalmConfig
from calm.models.language_model import load_language_model, load_tokenizer, special_ids
from calm.models.modeling import CalmForContrastivePretraining, CalmForSequenceClassification

CLASSES = ["angry", "happy", "sad"]
MEAN, STD = np.linspace(-4, -6, 64), np.linspace(2, 3, 64)  # about those of speech


def release(folder: Path, modality: str = "both", with_graph: bool = False, config: dict | None = None, **settings) -> Path:
    """Write a released model, with its graph or without; `config`, `settings`: changes of the model and of the feature extractor."""
    torch.manual_seed(5)
    text = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    sizes = {"projection": 16, "heads": {"emotion": CLASSES}, "head_pooling": "cls_mean_std", "modality": modality}
    tokenizer = load_tokenizer("minilm")
    sizes |= special_ids(tokenizer)
    model = CalmForSequenceClassification(CalmConfig(text, **sizes | (config or {}))).eval()
    for parameter in model.heads.parameters():
        parameter.data.mul_(8)  # so that answers differ
    model.save_pretrained(folder)
    extractor = CalmFeatureExtractor(**{"normalise": "corpus", "mean": MEAN, "std": STD, **settings})
    CalmProcessor(extractor, tokenizer).save_pretrained(folder)
    if with_graph:
        onnx_export.write(model, folder)
    return folder


def calp(folder: Path, seed: int = 5, **settings) -> Path:
    """Write a result of CALP, on one layer of the packaged language model; `settings`: changes of the feature extractor."""
    torch.manual_seed(seed)
    config = CalmConfig(load_language_model("minilm", 1).config, spectran_layers=1, spectran_width=64, projection=16)
    CalmForContrastivePretraining(config).save_pretrained(folder)
    extractor = CalmFeatureExtractor(**{"normalise": "corpus", "mean": MEAN, "std": STD, **settings})
    CalmProcessor(extractor, load_tokenizer("minilm")).save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps({"language_model": "minilm", "layers": 1, "text_vector": "last_mean"}))
    return folder


def speech(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """A signal that varies as speech does: harmonics that rise and fall in loudness, and noise. float32 (samples,)."""
    draw, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time + draw.uniform(0, 6))
    tones = sum(np.sin(2 * np.pi * k * (120 + 60 * draw.random()) * time) / k for k in range(1, 8))
    return (0.1 * loud * tones + 0.01 * draw.standard_normal(len(time))).astype(np.float32)
