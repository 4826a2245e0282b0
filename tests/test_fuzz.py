"""A short part of the fuzz, and what it takes for a fault."""

import random
from pathlib import Path

import fuzz
import pytest


@pytest.mark.parametrize("target", fuzz.targets(), ids=lambda target: target.name)
def test_damaged_input_is_read_or_refused_in_a_sentence(target):
    assert not fuzz.fuzz(target, max(1, 20 * target.share // 100), random.Random(7))


def test_faults_are_found(tmp_path):
    def read(folder: Path) -> None:
        content = (folder / "a.txt").read_bytes()
        if len(content) > 8:
            raise ValueError("too long")
        if len(content) < 8:
            raise ValueError("")
        if content != b"01234567":
            raise KeyError("changed")

    target = fuzz.Target("made", {"a.txt": b"01234567", "empty": b""}, read, ValueError)
    found = fuzz.fuzz(target, 300, random.Random(1), tmp_path)
    line = read.__code__.co_firstlineno + 7
    assert set(found) == {"ValueError without a sentence", f"KeyError at test_fuzz.py:{line}"} and min(found.values()) > 10
    assert {len(path.read_bytes()) == 8 for path in tmp_path.iterdir()} == {True, False}
