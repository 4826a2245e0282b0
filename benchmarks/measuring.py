"""What the rows of `python -m benchmarks` share: results, turns, the machine's limit, and speech."""

import atexit
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch

from calm.audio.decoding import read_audio
from calm.corpora import read_corpus

RATE = 16000
SIZE = 1024  # of the matrices whose product is the machine's limit


@dataclass
class Result:
    """A line of the table.

    Args:
        what: was measured; ours, other: in words.
        number: a ratio, a share, seconds or an exponent, which `aim` is about; None: no aim is set for it.
        most: whether the number must be at most the aim; else at least.
    """

    what: str
    ours: str
    other: str
    number: float
    aim: float | None = None
    unit: str = "x"
    most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached."""
        return None if self.aim is None else (self.number <= self.aim if self.most else self.number >= self.aim)


@dataclass
class Options:
    """How much is measured.

    Args:
        quick: small sizes and one turn, to test the rows.
        turns: of each system.
        work: an empty folder.
    """

    quick: bool
    turns: int
    work: Path


def cpu_in_turn(calls: dict[str, Callable], turns: int) -> dict[str, float]:
    """Median CPU seconds of this process in each call, which other load hardly changes; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns + 1):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(own[1:]) for name, own in times.items()}


def compared(what: str, calls: dict[str, Callable], options: Options, aim: float | None = None, note: str = "") -> list[Result]:
    """Time calls in turn; one result for each but the first, which is ours."""
    (ours, seconds), *others = cpu_in_turn(calls, options.turns).items()
    return [
        Result(what, f"{ours}: {seconds:.3g} s", f"{name}: {own:.3g} s", own / seconds, aim, note=note if number == 0 else "")
        for number, (name, own) in enumerate(others)
    ]


def product() -> Callable[[], object]:
    """A float32 matrix product, 2 SIZE^3 operations."""
    a = torch.randn(SIZE, SIZE)
    return lambda: torch.mm(a, a)


@cache
def speech(count: int, longest: float = 6.0) -> tuple[list[Path], list[str], str]:
    """Files with speech of at most so many seconds, their texts ("" where unknown), and what they are.

    LibriSpeech, evenly spread over its clips of this length, where $CALM_CORPORA has it; else synthetic speech.
    """
    folder = Path(os.environ.get("CALM_CORPORA", ".")) / "librispeech"
    if folder.is_dir():
        rows = [row for row in read_corpus("librispeech", folder).utterances if row.text]
        short = [row for row in rows if soundfile.info(row.audio).duration <= longest]
        short = short[:: max(1, len(short) // count)][:count]
        return [row.audio for row in short], [row.text for row in short], "real speech, LibriSpeech"
    from calm.synthesis import plan, voices

    folder, files, texts = Path(tempfile.mkdtemp(prefix="calm-speech-")), [], []
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number, turn in enumerate(plan.plan("mosei", max(60, count), 20, 0.0, 0)[:count]):
        files.append(folder / f"{number:04d}.flac")
        soundfile.write(files[-1], voices.speak(turn.line), RATE)
        texts.append(turn.line.text)
    return files, texts, "synthetic speech"


def clips(files: list[Path]) -> list[np.ndarray]:
    """Samples of files."""
    return [read_audio(file) for file in files]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
