"""Export a released model as an ONNX graph beside its weights. The graph takes one utterance, so nothing is padded or masked."""

import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calm.audio.encoder_states import GRAPH as ENCODER_GRAPH
from calm.audio.encoder_states import WEIGHTS, EncoderStates
from calm.inference.classifier import digest
from calm.storage import replacing

if TYPE_CHECKING:
    import onnxruntime
    import torch

    from calm.models.configuration import CalmConfig
    from calm.models.modeling import CalmForSequenceClassification

GRAPH = "model.onnx"
ABOUT = ("heads", "thresholds", "modality", "synthetic", "decisions", "head_loss")  # what a prediction needs of the configuration

logger = logging.getLogger(__name__)


def write(model: "CalmForSequenceClassification", folder: Path) -> bool:
    """Export a model with one head into the folder that holds its weights, settings and tokenizer.

    The graph's metadata holds the classes and the SHA-256 of the files it was made of, and no path of this machine.

    Returns:
        whether there is a graph. If the model cannot be exported, a warning says so and no graph is left, so that torch is used.
    """
    (folder / GRAPH).unlink(missing_ok=True)  # of other weights
    network = _one_utterance(model)
    try:
        program = _export(network, model.config)
        about = {name: getattr(model.config, name) for name in ABOUT}
        program.model.metadata_props.update({"made_of": digest(folder), "about": json.dumps(about)})
        with replacing(folder / GRAPH) as partial:
            program.save(partial, external_data=False)
            _check(partial, network, model.config)
    except Exception as error:  # the exporter and ONNX Runtime raise many kinds, which depend on the language model's family
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        logger.warning(f"no ONNX graph is written to {folder}, predictions will use torch: {reason}")
        return False
    return True


def write_encoder(states: EncoderStates, folder: Path) -> bool:
    """Put the speech encoder of a released model into its folder: weights, and a graph from samples (1, samples) to states.

    Returns:
        whether there is a graph. If the encoder cannot be exported, a warning says so, and torch computes the states.
    """
    import torch

    from calm.audio.speech_encoders import load_speech_encoder
    from calm.models.multimodal import ordinary_permissions

    network = load_speech_encoder(states.encoder, states.layers)
    network.save(folder / WEIGHTS)
    ordinary_permissions(folder / WEIGHTS)
    samples = torch.zeros(1, 16 * states.window).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.inference_mode():
            length = torch.export.Dim.DYNAMIC
            program = torch.onnx.export(
                network,
                (samples,),
                input_names=["samples"],
                output_names=["states"],
                dynamic_shapes=({1: length},),
                verbose=False,
                optimize=False,
            )
        program = _stripped(program)
        with replacing(folder / ENCODER_GRAPH) as partial:
            program.save(partial, external_data=False)
            _check_encoder(partial, network, states)
    except Exception as error:  # see `write`
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        logger.warning(f"no ONNX graph of the encoder is written to {folder}, torch computes its states: {reason}")
        return False
    return True


def _check_encoder(graph: Path, network: "torch.nn.Module", states: EncoderStates) -> None:
    """Raises ValueError if the graph's states differ from torch's for lengths other than that it was traced with."""
    import torch

    session = _session(graph)
    for frames in (1, 40):
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, (1, states.window + (frames - 1) * states.hop + 7)).astype(np.float32)
        (ours,) = session.run(["states"], {"samples": samples})
        with torch.inference_mode():
            expected = network(torch.from_numpy(samples)).numpy()
        if ours.shape != expected.shape or not np.allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()):
            raise ValueError(f"its states differ from torch's by {np.abs(ours - expected).max():.2g}")


def _one_utterance(model: "CalmForSequenceClassification") -> "torch.nn.Module":
    """A torch module that gives `logits` (1, classes).

    Its inputs are `input_ids` (1, tokens), `blocks` (blocks, frames, channels) and `functionals` (1, functionals).
    """
    import torch

    class OneUtterance(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def logits(self, **inputs: torch.Tensor | None) -> torch.Tensor:
            logits: torch.Tensor = self.model(**inputs).logits
            return logits

        def forward(self, input_ids: torch.Tensor, blocks: torch.Tensor, functionals: torch.Tensor | None = None) -> torch.Tensor:
            if model.config.modality == "text":
                return self.logits(input_ids=input_ids)
            if model.frames is not None:
                return self.logits(input_ids=input_ids, input_features=blocks[None])
            if model.encoder is not None:
                changed, functionals = self.model.reencoded(blocks[None], None)
                blocks = changed[0]
            encoded = self.model.calm.spectran.encode(blocks)[None]
            return self.logits(input_ids=input_ids, encoded_blocks=encoded, functionals=functionals)

    return OneUtterance().eval()


def _inputs(config: "CalmConfig", tokens: int, blocks: int) -> dict[str, np.ndarray]:
    """Random token ids of the model's own vocabulary, random blocks and functionals."""
    from calm.models.heads import functionals_width

    draw = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {
        "input_ids": draw.integers(config.text_config.vocab_size, size=(1, tokens)),
        "blocks": draw.standard_normal((blocks, config.block_frames, config.channels), dtype=np.float32),
    }
    if config.head_functionals:
        inputs["functionals"] = draw.standard_normal((1, functionals_width(config)), dtype=np.float32)
    return inputs


def _export(network: "torch.nn.Module", config: "CalmConfig") -> "torch.onnx.ONNXProgram":
    """The module as a `torch.onnx.ONNXProgram` that takes any number of tokens and blocks."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators that are not needed
    inputs = _inputs(config, tokens=4, blocks=5)
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        program = torch.onnx.export(
            network,
            tuple(map(torch.from_numpy, inputs.values())),
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=({1: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC}, None)[: len(inputs)],
            verbose=False,
            optimize=False,  # ONNX Runtime does that when it loads the graph
        )
    return _stripped(program)


def _stripped(program: "torch.onnx.ONNXProgram | None") -> "torch.onnx.ONNXProgram":
    """A program without the exporter's notes about the Python code: its stack traces hold paths of this machine."""
    if program is None:
        raise ValueError("torch exported nothing")
    graph_model = program.model
    for graph in (graph_model.graph, *(function.graph for function in graph_model.functions.values())):
        nodes = list(graph.all_nodes())
        outputs = [output for node in nodes for output in node.outputs]
        for item in (graph_model, graph, *nodes, *graph.inputs, *graph.initializers.values(), *outputs):
            item.metadata_props.clear()
    return program


def _check(graph: Path, network: "torch.nn.Module", config: "CalmConfig") -> None:
    """Raises ValueError if the graph does not compute what the module does, for sizes other than those it was traced with."""
    import torch

    session = _session(graph)
    names = [node.name for node in session.get_inputs()]
    for tokens, blocks in ((2, 1), (9, 12)):
        inputs = _inputs(config, tokens, blocks)
        (logits,) = session.run(["logits"], {name: inputs[name] for name in names})
        with torch.inference_mode():
            expected = network(*map(torch.from_numpy, inputs.values())).numpy()
        # Of the largest logit: heads whose inputs hardly vary in training, and are standardised, answer noise with large ones.
        if not np.allclose(logits, expected, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(expected).max())):
            raise ValueError(f"its logits differ from torch's by {np.abs(logits - expected).max():.2g}")


def _session(graph: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
