"""A released model as an ONNX graph beside its weights. It takes one utterance, so nothing in it is padded or masked."""

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from calm.inference.extractor import CONFIG

if TYPE_CHECKING:
    from calm.models.modeling import CalmForSequenceClassification

GRAPH, TOKENIZER = "model.onnx", "tokenizer.json"
MADE_OF = ("model.safetensors", "config.json", CONFIG, TOKENIZER)
ABOUT = ("heads", "thresholds", "modality", "synthetic")


def write(model: "CalmForSequenceClassification", folder: Path) -> None:
    """Compile a model with one head into the folder that holds its weights and all else of it."""
    import torch

    class OneUtterance(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
            if model.config.modality == "text":
                return self.model(input_ids=input_ids).logits
            encoded = self.model.calm.spectran.encode(blocks)[None]
            return self.model(input_ids=input_ids, encoded_blocks=encoded).logits

    config = model.config
    example = (torch.tensor([[2, 3, 4, 5]]), torch.zeros(5, config.block_frames, config.channels))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of operators that are not needed
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        program = torch.onnx.export(
            OneUtterance().eval(),
            example,
            input_names=["input_ids", "blocks"],
            output_names=["logits"],
            dynamic_shapes=({1: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC}),
            verbose=False,
            optimize=False,  # ONNX Runtime does that when it loads the graph
        )
    about = {name: getattr(config, name) for name in ABOUT}
    program.model.metadata_props.update({"made_of": digest(folder), "about": json.dumps(about)})
    program.save(folder / GRAPH, external_data=False)


def digest(folder: Path) -> str:
    """SHA-256 of what a graph is made of."""
    found = hashlib.sha256()
    for name in MADE_OF:
        with (folder / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
