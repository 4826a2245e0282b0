"""The GPUs that a stage may use, and what is said of them before it starts."""

import os

from calm import devices
from pipeline.settings import Compute


def names() -> list[str]:
    """Each GPU that PyTorch can use, as `CUDA_VISIBLE_DEVICES` names it: the user's own entries, which may be UUIDs, else numbers."""
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    found = devices.count()
    return given[:found] if given != [""] else [str(index) for index in range(found)]


def refusal(compute: Compute, stage: str) -> str | None:
    """Why a stage must not start with the GPUs that this process sees; None if it may."""
    if compute.require_gpu and not devices.count():
        return f"compute.require_gpu is true, but there is no GPU: {devices.fault() or 'torch sees none here'}"
    return too_few(compute, stage)


def too_few(compute: Compute, stage: str) -> str | None:
    """Says that a stage asks for more GPUs than there are; None if it does not. Without any GPU, its processes share the CPU."""
    found, asked = devices.count(), compute.devices.get(stage, 1)
    if 0 < found < asked:
        return f"compute.devices.{stage} is {asked}, but this process sees {found} GPU{'s' * (found > 1)}: set it to {found} or less"
    return None
