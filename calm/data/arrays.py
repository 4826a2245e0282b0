"""Large arrays, in a file that is memory-mapped, so that memory does not grow with the corpus and the processes of a host share them."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from calm.array_types import Floats16, Floats32
from calm.storage import replacing

IN_MEMORY = 256 << 20  # bytes, of six hours of log-mel; a larger array is memory-mapped


def filled(shape: tuple[int, int], fill: Callable[[Floats16], Floats32], file: Path | None) -> tuple[Floats16, Floats32]:
    """A float16 array, and the small array that `fill` returns beside it.

    It lies in memory if it takes no more than IN_MEMORY, else in a file, which is filled by the first process that asks for it.

    Args:
        fill: writes into the array, which is zero at first.
        file: of this content alone; None: a temporary one, which no other process shares.
    """
    if 2 * shape[0] * shape[1] <= IN_MEMORY:
        values = np.zeros(shape, np.float16)
        return values, fill(values)
    if file is None:
        values = np.memmap(tempfile.NamedTemporaryFile(prefix="calm-"), np.float16, "w+", shape=shape)  # noqa: SIM115
        return values, fill(values)
    beside = file.with_name(f"{file.name}.npy")
    with FileLock(f"{file}.lock"):
        if not file.exists():
            with replacing(file) as partial:
                values = np.memmap(partial, np.float16, "w+", shape=shape)
                np.save(beside, fill(values))
                values.flush()
    return np.memmap(file, np.float16, "c", shape=shape), np.load(beside)  # writing changes the own copy of a page
