"""Converts a Whisper model from CTranslate2 to openai-whisper, so that both engines can be compared on the same weights."""

import re
import struct
from pathlib import Path

import numpy as np

TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)

NAMES = (  # CTranslate2's names to openai-whisper's, part by part
    (r"encoder/layer_norm", "encoder/ln_post"),
    (r"decoder/layer_norm", "decoder/ln"),
    (r"position_encodings/encodings", "positional_embedding"),
    (r"decoder/embeddings/", "decoder/token_embedding/"),
    (r"layer_(\d+)/", r"blocks/\1/"),
    (r"self_attention/layer_norm", "attn_ln"),
    (r"self_attention/linear_1", "attn/out"),
    (r"attention/layer_norm", "cross_attn_ln"),
    (r"attention/linear_2", "cross_attn/out"),
    (r"ffn/layer_norm", "mlp_ln"),
    (r"ffn/linear_0", "mlp/0"),
    (r"ffn/linear_1", "mlp/2"),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
)


def read(path: Path) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 `model.bin`, by name."""
    variables = {}
    with path.open("rb") as file:

        def number(kind: str) -> int:
            return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]

        def name() -> str:
            return file.read(number("H")).rstrip(b"\0").decode()

        number("I"), name(), number("I")  # version, spec, revision
        for _ in range(number("I")):
            key = name()
            shape = [number("I") for _ in range(number("B"))]
            kind = TYPES[number("B")]
            variables[key] = np.frombuffer(file.read(number("I")), kind).reshape(shape)
        for _ in range(number("I")):
            alias = name()
            variables[alias] = variables[name()]
    return variables


def state_dict(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same variables with openai-whisper's names. Stacked projections are split, and the key's bias, which is zero, is left out."""
    state = {}
    for name, value in variables.items():
        if value.dtype not in (np.float16, np.float32) or name == "decoder/projection/weight":
            continue  # settings such as the number of heads; the projection equals the embedding
        value = value.astype(np.float32)
        if stacked := re.fullmatch(r"(.*)/(self_attention/linear_0|attention/linear_0|attention/linear_1)/(weight|bias)", name):
            layer, attention, kind = stacked.groups()
            parts = {"self_attention/linear_0": ["query", "key", "value"], "attention/linear_0": ["query"]}.get(attention, ["key", "value"])
            module = "attn" if attention.startswith("self") else "cross_attn"
            for part, piece in zip(parts, np.split(value, len(parts)), strict=True):
                if (part, kind) != ("key", "bias"):
                    state[_rename(f"{layer}/{module}/{part}/{kind}")] = piece
        else:
            state[_rename(name)] = value
    return state


def _rename(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name.replace("/", ".")


def convert(source: Path, target: Path) -> None:
    """Write a checkpoint for `whisper.load_model`. Raises RuntimeError if a weight is missing or unexpected."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    state = state_dict(read(source))
    width = state["encoder.ln_post.weight"].shape[0]
    layers = {side: 1 + max(int(key.split(".")[2]) for key in state if key.startswith(f"{side}.blocks")) for side in ("encoder", "decoder")}
    dims = {
        "n_mels": state["encoder.conv1.weight"].shape[1],
        "n_audio_ctx": 1500,
        "n_audio_state": width,
        "n_audio_head": width // 64,
        "n_audio_layer": layers["encoder"],
        "n_vocab": state["decoder.token_embedding.weight"].shape[0],
        "n_text_ctx": 448,
        "n_text_state": width,
        "n_text_head": width // 64,
        "n_text_layer": layers["decoder"],
    }
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    model = Whisper(ModelDimensions(**dims))
    tensors.setdefault("encoder.positional_embedding", model.encoder.positional_embedding)  # sinusoids, which some files lack
    model.load_state_dict(tensors)
    torch.save({"dims": dims, "model_state_dict": model.state_dict()}, target)
