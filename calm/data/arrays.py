"""Large arrays, in a file that is memory-mapped, so that memory does not grow with the corpus and the processes of a host share them."""

import os
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

    Raises:
        OSError: the disk has no room for the file.
    """
    if 2 * shape[0] * shape[1] <= IN_MEMORY:
        values = np.zeros(shape, np.float16)
        return values, fill(values)
    if file is None:
        with tempfile.NamedTemporaryFile(prefix="calm-") as temporary:  # the map stays when its name is gone
            values = _mapped(Path(temporary.name), shape)
        return values, fill(values)
    beside = file.with_name(f"{file.name}.npy")
    with FileLock(f"{file}.lock"):
        if not file.exists():
            with replacing(file) as partial:
                values = _mapped(partial, shape)
                np.save(beside, fill(values))
                values.flush()
    return np.memmap(file, np.float16, "c", shape=shape), np.load(beside)  # writing changes the own copy of a page


def remove(folder: Path) -> None:
    """Remove the files of arrays in a folder; a process that has mapped one keeps it."""
    for file in [*folder.glob("frames-*"), *folder.glob("encoded-*")]:
        if file.suffix in ("", ".npy"):
            file.unlink()


def _mapped(file: Path, shape: tuple[int, int]) -> "np.memmap[tuple[int, int], np.dtype[np.float16]]":
    """A file of zeros as an array. Raises OSError if the disk has no room for it: to find that out in writing would end the process."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, 2 * shape[0] * shape[1])
        else:
            opened.truncate(2 * shape[0] * shape[1])
    return np.memmap(file, np.float16, "r+", shape=shape)
