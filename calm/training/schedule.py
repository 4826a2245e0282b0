"""How long, how fast and how precisely a model is trained: schedule, optimiser, learning rates, and precision by hardware."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import get_scheduler


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    batch: int  # utterances, of all processes together
    learning_rate: float
    optimiser: str = "adamw"  # or "adam", which has no weight decay
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    schedule: str = "cosine"
    checkpoint_minutes: float = 10
    average: float = 0.0  # share of the last epochs whose weights are averaged
    clip: float = 1.0  # norm of all gradients together; 0: no clipping


def optimizer(model: nn.Module, schedule: Schedule, shares: Sequence[tuple[nn.Module, float]] = ()) -> torch.optim.Optimizer:
    """Adam, or AdamW without weight decay for biases and norms; with learning rates of their own for some parts, see `Training`."""
    share_of = {id(parameter): share for part, share in shares for parameter in part.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((share_of.get(id(parameter), 1.0), parameter.ndim > 1), []).append(parameter)
    kind, decay = (torch.optim.Adam, 0.0) if schedule.optimiser == "adam" else (torch.optim.AdamW, schedule.weight_decay)
    return kind(
        [
            {
                "params": parameters,
                "lr": schedule.learning_rate * share,
                "weight_decay": decay if decays else 0.0,
            }
            for (share, decays), parameters in groups.items()
        ],
        fused=True,
    )


def rates(optimiser: torch.optim.Optimizer, schedule: Schedule, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Course of the learning rates over so many steps: a rise from 0 over the share `warmup`, but not the last step, then `schedule`.

    A training of one step would learn nothing if that step were the rise.
    """
    rise = min(math.ceil(steps * schedule.warmup), steps - 1)
    course: torch.optim.lr_scheduler.LRScheduler = get_scheduler(schedule.schedule, optimiser, rise, steps)
    return course


def precision(device: torch.device) -> torch.dtype:
    """Type of mixed precision by hardware: bfloat16 where the GPU computes in it, else float16; float32, none, on the CPU.

    `torch.cuda.is_bf16_supported` is no answer: older GPUs emulate bfloat16, slowly.
    """
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


@contextlib.contextmanager
def matrix_products(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Compute products of float32 matrices in TF32 in the body, on a GPU that trains without mixed precision."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda" and dtype == torch.float32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
