"""CTranslate2's file of weights, written by hand as its format has it."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from calm.audio.whisper_weights import read_variables, sinusoids, whisper_encoder

WIDTH, MELS, DEPTH = 64, 8, 2
NUMBERS = {"float32": 0, "int8": 1, "float16": 4}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def model_bin(path: Path, variables: dict[str, np.ndarray]) -> Path:
    """Version 6 of the format: kind, revision, variables; aliases follow, which nothing reads."""
    content = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        content += text(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
        content += struct.pack("<BI", NUMBERS[str(values.dtype)], values.nbytes) + values.tobytes()
    path.write_bytes(content + struct.pack("<I", 0))
    return path


def weights() -> dict[str, np.ndarray]:
    """Of an encoder of two layers, different everywhere, in CTranslate2's names; half in float16."""
    draw = np.random.default_rng(0)
    shapes = {"conv1/weight": (WIDTH, MELS, 3), "conv1/bias": (WIDTH,), "conv2/weight": (WIDTH, WIDTH, 3), "conv2/bias": (WIDTH,)}
    shapes |= {f"layer_norm/{name}": (WIDTH,) for name in ("gamma", "beta")}
    for layer in range(DEPTH):
        linear = {"self_attention/linear_0": 3 * WIDTH, "self_attention/linear_1": WIDTH, "ffn/linear_0": 4 * WIDTH, "ffn/linear_1": WIDTH}
        for name, rows in linear.items():
            columns = 4 * WIDTH if name == "ffn/linear_1" else WIDTH
            shapes |= {f"layer_{layer}/{name}/weight": (rows, columns), f"layer_{layer}/{name}/bias": (rows,)}
        for name in ("self_attention/layer_norm", "ffn/layer_norm"):
            shapes |= {f"layer_{layer}/{name}/{part}": (WIDTH,) for part in ("gamma", "beta")}
    made = {f"encoder/{name}": draw.normal(0, 0.1, shape) for name, shape in shapes.items()}
    made["decoder/embeddings/weight"] = draw.normal(0, 1, (3, 2))
    return {name: values.astype(np.float16 if index % 2 else np.float32) for index, (name, values) in enumerate(made.items())}


def test_variables_as_they_were_written(tmp_path):
    made = weights()
    read = read_variables(model_bin(tmp_path / "model.bin", made))
    assert list(read) == list(made)
    for name, values in made.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], values.astype(np.float32))


def test_every_weight_has_its_place(tmp_path):
    made = {name: values.astype(np.float32) for name, values in weights().items()}
    encoder = whisper_encoder(model_bin(tmp_path / "model.bin", made))
    assert len(encoder.layers) == DEPTH and encoder.config.num_mel_bins == MELS and encoder.config.encoder_attention_heads == 1
    block, prefix = encoder.layers[1], "encoder/layer_1/"
    stacked = [made[prefix + f"self_attention/linear_0/{part}"] for part in ("weight", "bias")]
    expected = {
        block.self_attn.q_proj.weight: stacked[0][:WIDTH],
        block.self_attn.k_proj.weight: stacked[0][WIDTH : 2 * WIDTH],
        block.self_attn.v_proj.weight: stacked[0][2 * WIDTH :],
        block.self_attn.v_proj.bias: stacked[1][2 * WIDTH :],
        block.self_attn.out_proj.weight: made[prefix + "self_attention/linear_1/weight"],
        block.self_attn_layer_norm.weight: made[prefix + "self_attention/layer_norm/gamma"],
        block.final_layer_norm.bias: made[prefix + "ffn/layer_norm/beta"],
        block.fc1.weight: made[prefix + "ffn/linear_0/weight"],
        block.fc2.bias: made[prefix + "ffn/linear_1/bias"],
        encoder.layer_norm.weight: made["encoder/layer_norm/gamma"],
        encoder.conv2.weight: made["encoder/conv2/weight"],
    }
    for parameter, values in expected.items():
        np.testing.assert_array_equal(parameter.detach().numpy(), values)
    np.testing.assert_array_equal(encoder.embed_positions.weight.detach().numpy(), sinusoids(1500, WIDTH))


def test_positions_by_hand():
    """Of four channels: sin and cos of t, and of t / 10,000."""
    expected = [[np.sin(t), np.sin(t / 1e4), np.cos(t), np.cos(t / 1e4)] for t in (0, 1, 2)]
    np.testing.assert_allclose(sinusoids(3, 4), expected, atol=1e-6)
    assert torch.from_numpy(sinusoids(1500, 384)).isfinite().all()


def test_quantised_and_broken_files_are_refused(tmp_path):
    made, file = weights(), tmp_path / "model.bin"
    quantised = made | {"encoder/conv1/weight": np.zeros((WIDTH, MELS, 3), np.int8)}
    with pytest.raises(ValueError, match=r"no CTranslate2 model with weights in float32 or float16.*encoder/conv1/weight is quantised"):
        read_variables(model_bin(file, quantised))
    assert "encoder/conv1/bias" in read_variables(model_bin(file, made | {"decoder/embeddings/weight": np.zeros((3, 2), np.int8)}))
    whole = model_bin(file, made).read_bytes()
    for length in (0, 3, 12, 40, len(whole) // 2, len(whole) - 20):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no CTranslate2 model"):
            read_variables(file)
    file.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ValueError, match="no CTranslate2 model"):
        read_variables(file)
    with pytest.raises(ValueError, match="has no speech encoder"):
        whisper_encoder(model_bin(file, {"decoder/embeddings/weight": np.zeros((3, 2), np.float32)}))
