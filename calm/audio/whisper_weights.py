"""Whisper's encoder as a Transformers model from a CTranslate2 file, the format of faster-whisper and of the packaged weights."""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from calm.array_types import Floats32

DTYPES = {0: np.float32, 4: np.float16}  # CTranslate2's numbers of the types that hold weights as they are


def read_variables(file: Path) -> dict[str, Floats32]:
    """All variables of a CTranslate2 `model.bin` by name, float32. Raises ValueError if it is not one, or is quantised."""
    try:
        with file.open("rb") as stream:
            stream.seek(4)  # version of the format
            _text(stream)  # name of the model's kind
            stream.seek(4, 1)  # its revision
            return dict(_variable(stream) for _ in range(_number(stream, "I")))
    except (struct.error, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{file} is no CTranslate2 model with weights in float32 or float16: convert the model again ({error})") from None


def _variable(stream: BinaryIO) -> tuple[str, Floats32]:
    name, rank = _text(stream), _number(stream, "B")
    shape = [_number(stream, "I") for _ in range(rank)]
    kind, size = _number(stream, "B"), _number(stream, "I")
    content = stream.read(size)
    if len(content) < size:
        raise ValueError(f"the file ends within {name}")
    values = np.frombuffer(content, DTYPES[kind]).astype(np.float32) if kind in DTYPES else np.zeros(shape, np.float32)
    if kind not in DTYPES and name.startswith("encoder/") and rank > 1:
        raise ValueError(f"{name} is quantised")
    return name, values.reshape(shape)


def _number(stream: BinaryIO, kind: str) -> int:
    number: int = struct.unpack(f"<{kind}", stream.read(struct.calcsize(kind)))[0]
    return number


def _text(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "H")).rstrip(b"\0").decode()


def whisper_encoder(file: Path) -> WhisperEncoder:
    """The encoder of a CTranslate2 model, float32. Raises ValueError if the file does not hold one."""
    weights = {name.removeprefix("encoder/"): values for name, values in read_variables(file).items() if name.startswith("encoder/")}
    if "conv1/weight" not in weights:
        raise ValueError(f"{file} has no speech encoder: give a model of Whisper")
    width, mels, _ = weights["conv1/weight"].shape
    depth = len({name.split("/")[0] for name in weights if name.startswith("layer_")} - {"layer_norm"})
    config = WhisperConfig(
        d_model=width,
        encoder_layers=depth,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        num_mel_bins=mels,
        max_source_positions=1500,
    )
    encoder = WhisperEncoder(config)
    encoder.load_state_dict({name: torch.tensor(values) for name, values in _renamed(weights, depth, width).items()})
    encoder.eval()
    return encoder


def _renamed(weights: dict[str, Floats32], depth: int, width: int) -> dict[str, Floats32]:
    """CTranslate2's names and shapes to Transformers'."""
    renamed = {"embed_positions.weight": weights.get("position_encodings/encodings", sinusoids(1500, width))}
    pairs = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "layer_norm"}
    for layer in range(depth):
        ours, theirs = f"layers.{layer}", f"layer_{layer}"
        pairs |= {
            f"{theirs}/self_attention/layer_norm": f"{ours}.self_attn_layer_norm",
            f"{theirs}/self_attention/linear_1": f"{ours}.self_attn.out_proj",
            f"{theirs}/ffn/layer_norm": f"{ours}.final_layer_norm",
            f"{theirs}/ffn/linear_0": f"{ours}.fc1",
            f"{theirs}/ffn/linear_1": f"{ours}.fc2",
        }
        stacked = f"{theirs}/self_attention/linear_0"  # query, key and value; the key has no bias in Whisper
        for index, name in enumerate("qkv"):
            part = slice(index * width, (index + 1) * width)
            renamed[f"{ours}.self_attn.{name}_proj.weight"] = weights[f"{stacked}/weight"][part]
            if name != "k":
                renamed[f"{ours}.self_attn.{name}_proj.bias"] = weights[f"{stacked}/bias"][part]
    for theirs, ours in pairs.items():
        for from_name, to_name in (("weight", "weight"), ("bias", "bias"), ("gamma", "weight"), ("beta", "bias")):
            if (values := weights.get(f"{theirs}/{from_name}")) is not None:
                renamed[f"{ours}.{to_name}"] = values
    return renamed


def sinusoids(positions: int, width: int) -> Floats32:
    """Whisper's positions, (positions, width): sines beside cosines, of time scales from 1 to 10,000."""
    scales = np.exp(-np.log(10000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(positions)[:, None] * scales
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
