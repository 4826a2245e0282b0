"""Passes of a model over many rows: losses, logits, encoded blocks, and the cost of a training step.

Losses and logits are computed in float32, as a released model computes them, also while the model is trained in mixed precision.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from calm.array_types import Floats32
from calm.data.ragged import AcousticFrames, Ragged
from calm.data.windows import Batch, Plan, ready
from calm.models.spectran import FrontEnd

Collator = Callable[..., Batch]


@torch.inference_mode()
def losses(model: nn.Module, rows: Sequence[int], collator: Collator, batch: int) -> dict[str, float]:
    """Mean of every scalar that the model returns (`loss`, `mlm_loss`, ...), over batches weighted by their size; {} without rows."""
    training = model.training
    model.eval()
    values: dict[str, list[torch.Tensor]] = {}  # of every batch; they stay on the device, so that no batch waits for the one before
    sizes = []
    for chosen, output in _forward(model, rows, collator, batch):
        sizes.append(len(chosen))
        for key, value in output.items():
            if isinstance(value, torch.Tensor) and value.ndim == 0:
                values.setdefault(key, []).append(value)
    model.train(training)
    return {key: float(np.dot(torch.stack(own).cpu().double().numpy(), sizes)) / len(rows) for key, own in values.items()}


@torch.inference_mode()
def predict(model: nn.Module, rows: Sequence[int], collator: Collator, batch: int) -> Floats32:
    """Logits of a classification model, (rows, classes) float32."""
    model.eval()
    return np.concatenate([output.logits.float().cpu().numpy() for _, output in _forward(model, rows, collator, batch)])


def planned(collator: Collator, rows: Sequence[int], generator: torch.Generator | None = None) -> Plan:
    """A batch whose windows are not cut yet, where the collator can plan one."""
    plan: Callable[..., Plan] = getattr(collator, "plan", collator)
    return plan(rows) if generator is None else plan(rows, generator)


def _forward(model: nn.Module, rows: Sequence[int], collator: Collator, batch: int) -> Iterator[tuple[Sequence[int], Any]]:
    """Rows of every batch, and what the model returns for them."""
    device = next(model.parameters()).device
    for first in range(0, len(rows), batch):
        chosen = rows[first : first + batch]
        yield chosen, model(**ready(planned(collator, chosen), device))


@torch.inference_mode()
def encode_blocks(front_end: FrontEnd, frames: AcousticFrames, batch: int = 512) -> Ragged:
    """All blocks of every row, encoded by a front end: rows of (blocks, encoded width) float16."""
    device = next(front_end.parameters()).device
    counts = frames.blocks
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)) * frames.hop
    front_end.eval()
    encoded = np.empty((len(rows), front_end.encoded_width), np.float16)
    for first in range(0, len(rows), batch):
        blocks = torch.from_numpy(frames.cut(rows[first : first + batch], starts[first : first + batch]))
        encoded[first : first + batch] = front_end.encode(blocks.to(device)).half().cpu().numpy()
    return Ragged(encoded, counts)


def step_flops(model: nn.Module, batch: Batch) -> int:
    """Floating-point operations of the matrix products and convolutions of one training step, forward and backward.

    Attention is counted as its matrix products, whichever kernel would run.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()  # nothing is gathered from other processes
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(**{key: value.to(device) for key, value in batch.items()}).loss.backward()
    model.zero_grad(set_to_none=True)
    model.train(training)
    return int(counter.get_total_flops())
