"""Arrays that are filled once and shared by memory mapping."""

import os
import tempfile

import numpy as np
import pytest

from calm.data import arrays
from calm.data.arrays import filled, remove


def counting(calls: list) -> callable:
    def fill(values: np.ndarray) -> np.ndarray:
        calls.append(type(values))
        values[1] = 2
        return np.array([7.0])

    return fill


def test_small_arrays_lie_in_memory(tmp_path):
    calls = []
    values, beside = filled((3, 2), counting(calls), tmp_path / "a")
    assert values.tolist() == [[0, 0], [2, 2], [0, 0]] and beside.tolist() == [7] and values.dtype == np.float16
    assert not list(tmp_path.iterdir()) and type(values) is np.ndarray


def test_a_large_array_is_filled_once_and_shared(tmp_path, monkeypatch):
    """What one holder writes is its own; without a file, each has an array of its own."""
    monkeypatch.setattr(arrays, "IN_MEMORY", 8)
    calls = []
    one, beside = filled((3, 2), counting(calls), tmp_path / "a")
    two, again = filled((3, 2), counting(calls), tmp_path / "a")
    assert len(calls) == 1 and isinstance(two, np.memmap) and two.tolist() == [[0, 0], [2, 2], [0, 0]]
    assert beside.tolist() == again.tolist() == [7]
    one[0] = 5
    assert two[0].tolist() == [0, 0] and filled((3, 2), counting(calls), tmp_path / "a")[0][0].tolist() == [0, 0]
    alone, _ = filled((3, 2), counting(calls), None)
    assert len(calls) == 2 and isinstance(alone, np.memmap) and alone[1].tolist() == [2, 2]


def test_half_filled_arrays_are_not_used(tmp_path, monkeypatch):
    """A process that dies while it fills leaves nothing that another takes for whole."""
    monkeypatch.setattr(arrays, "IN_MEMORY", 8)

    def dies(values):
        values[0] = 9
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled((3, 2), dies, tmp_path / "a")
    assert filled((3, 2), counting([]), tmp_path / "a")[0].tolist() == [[0, 0], [2, 2], [0, 0]]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on a disk")
@pytest.mark.parametrize("named", [True, False])
def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch, named):
    """More than any disk has: a page that cannot be written would end the process by a signal."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calls = []
    with pytest.raises(OSError, match="No space left|File too large"):
        filled((2**44, 2**10), counting(calls), tmp_path / "a" if named else None)
    assert not calls and {path.name for path in tmp_path.iterdir()} <= {"a.lock"}


def test_what_is_removed_stays_with_who_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "IN_MEMORY", 8)
    held, _ = filled((3, 2), counting([]), tmp_path / "frames-1")
    filled((3, 2), counting([]), tmp_path / "encoded-1")
    (tmp_path / "encoded-1.parquet").touch()
    remove(tmp_path)
    left = sorted(path.suffix for path in tmp_path.iterdir())
    assert left == [".lock", ".lock", ".parquet"] and held.tolist() == [[0, 0], [2, 2], [0, 0]]
