"""Checkpoints of a training: written whole or not at all, with a checksum, so that a torn one is never gone on from."""

import hashlib
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from calm.array_types import Ints
from calm.storage import replacing

STATE, CHECKSUM = "state.pt", "sha256"  # files of a checkpoint
KEPT = 2
State = dict[str, Any]


def write(state: State, folder: Path, step: int) -> None:
    """Write `checkpoint-<step>` to the folder, and remove all but the last two checkpoints.

    The files are on the disk before the checkpoint gets its name.
    """
    with replacing(folder / f"checkpoint-{step}") as partial:
        partial.mkdir()
        torch.save(state, partial / STATE)
        (partial / CHECKSUM).write_text(_checksum(partial / STATE))
        for path in (partial / STATE, partial / CHECKSUM, partial):
            _to_disk(path)
    _to_disk(folder)
    for old in _newest_first(folder)[KEPT:]:
        shutil.rmtree(old)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder; None if there is none. A torn one is named on stderr and left out."""
    for path in _newest_first(folder):
        if _is_whole(path):
            return path
        print(f"{path} is torn (its checksum is another): it is left out", file=sys.stderr)
    return None


def read(checkpoint: Path) -> State:
    """The state that `write` was given, on the CPU."""
    state: State = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    return state


def random_state(device: torch.device) -> State:
    """States of all generators that a step may draw from: those of torch, on the CPU and on the device, of numpy and of Python."""
    kind, keys, *rest = cast(tuple[str, Ints, int, int, float], np.random.get_state())  # typed as the dict that it gives on request
    state: State = {"torch": torch.get_rng_state(), "numpy": [kind, keys.tolist(), *rest], "python": random.getstate()}
    return state | {"cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def restore_random_state(state: State, device: torch.device) -> None:
    """Set the generators to what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(tuple(state["numpy"]))
    random.setstate(state["python"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)


def _is_whole(checkpoint: Path) -> bool:
    try:
        return (checkpoint / CHECKSUM).read_text() == _checksum(checkpoint / STATE)
    except (OSError, UnicodeDecodeError):
        return False


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
