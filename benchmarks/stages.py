"""Rows of `python -m benchmarks` about size: memory and time of each stage's work, by how much data it has.

Every measurement is a process of its own: `python -m benchmarks.stages STAGE UTTERANCES`. A stage's work is what it calls of `calm` and
writes, without MLflow and without the files of a project around it.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.measuring import Options, Result, say

UTTERANCES = 20  # of the smallest corpus whose time is measured; a multiple of it of the others
HELD = {"features": 1000, "embed": 40, "calp": 500, "pretrain": 500, "head": 500}  # an hour, less of it encoded
TIMES = {"embed": 10}  # as many, of the larger corpus; 100 of the other stages: 100 hours
TRAINED = 32  # utterances of a training whose memory is measured: its frames are there in whole


def features(utterances: int, trained: int | None, folder: Path) -> Callable[[], object]:
    """Log-mel of files in shards of 512 utterances."""
    import soundfile

    from benchmarks.measuring import speech
    from calm.audio.logmel import LogMel
    from calm.storage import write_parquet
    from pipeline.stages.features import STORAGE, FeatureWorker, _parquet

    files, worker = speech(UTTERANCES)[0], FeatureWorker(LogMel(), None)
    rows = [(files[row % len(files)], 0.0, soundfile.info(files[row % len(files)]).duration, row) for row in range(utterances)]

    def run() -> None:
        for first in range(0, utterances, 512):
            shard = [worker(rows[begin : begin + 16]) for begin in range(first, min(first + 512, utterances), 16)]
            frames = {row: own for part in shard for row, own in part.items()}
            write_parquet(_parquet([str(row) for row in frames], list(frames.values())), folder / f"part-{first}.parquet", **STORAGE)

    return run


def embed(utterances: int, trained: int | None, folder: Path) -> Callable[[], object]:
    """All blocks through SpecTran, to Parquet."""
    from calm.training.forward import encode_blocks

    corpus = _corpus(utterances)
    spectran = corpus.first(2).built("CALP", _text())[0].spectran
    ids = [str(row) for row in range(utterances)]
    return lambda: encode_blocks(spectran, corpus.frames).write(folder / "encoded.parquet", ids)


def _training(objective: str, batch: int) -> Callable:
    """An epoch, of so many utterances or of all."""

    def prepare(utterances: int, trained: int | None, folder: Path) -> Callable[[], object]:
        from calm.training.loop import train
        from calm.training.schedule import Schedule

        model, collator = _corpus(utterances).built(objective, _text())
        return lambda: train(model, np.arange(trained or utterances), collator, Schedule(1, batch, 1e-4), folder, 0)

    return prepare


def _corpus(utterances: int):
    """The same few utterances again and again, so that more data are more of the same."""
    import torch

    from benchmarks.made import Corpus

    return Corpus.made(UTTERANCES, torch.device("cpu"), -(-utterances // UTTERANCES)).first(utterances)


def _text():
    from benchmarks.made import SIZES

    return SIZES["tiny"]


STAGES = {
    "features": features,
    "embed": embed,
    "calp": _training("CALP", 20),
    "pretrain": _training("pretraining", 20),
    "head": _training("head", 20),
}


def measure(stage: str, utterances: int, trained: int | None) -> dict:
    """Seconds of CPU of the work, after once on the smallest corpus, and the most memory of this process's own, in bytes: what it has
    mapped from files, the system takes back where others need it."""
    with tempfile.TemporaryDirectory() as folder:
        if trained is None:
            STAGES[stage](UTTERANCES, None, Path(folder))()
        work = STAGES[stage](utterances, trained, Path(folder))
        with most_memory() as seen:
            begin = time.process_time()
            work()
            seconds = time.process_time() - begin
    return {"seconds": seconds, "bytes": max(seen)}


@contextmanager
def most_memory() -> Iterator[list[int]]:
    """Anonymous memory of this process in bytes, looked at 50 times a second."""
    seen, done = [], threading.Event()

    def look() -> None:
        while not seen or not done.wait(0.02):
            seen.append(1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def child(stage: str, utterances: int, trained: int | None = None) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.stages", stage, str(utterances), *([] if trained is None else [str(trained)])]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    say(f"{stage}, {utterances} utterances: {found}")
    return found


def memory(options: Options) -> list[Result]:
    """Most memory of each stage for about an hour of speech and for 100."""
    results = []
    for stage in list(STAGES)[: 1 if options.quick else None]:
        count = UTTERANCES if options.quick else HELD[stage]
        trained = None if stage in ("features", "embed") else TRAINED
        times = 2 if options.quick else TIMES.get(stage, 100)
        small, large = (child(stage, rows, trained or rows)["bytes"] for rows in (count, times * count))
        ours, other = f"{small / 1e6:.0f} MB for {count} utterances", f"{large / 1e6:.0f} MB for {times * count}"
        results.append(Result(f"memory, {stage}", ours, other, large / small, 1.2, most=True, note="most memory of the process's own"))
    return results


def growth(options: Options) -> list[Result]:
    """Time of each stage at 1, 4 and 16 times the data: the exponent, by least squares of the logarithms."""
    results = []
    for stage in list(STAGES)[: 1 if options.quick else None]:
        sizes = [UTTERANCES * times for times in ((1, 2) if options.quick else (1, 4, 16))]
        seconds = [child(stage, size)["seconds"] for size in sizes]
        ours = ", ".join(f"{own:.2f}" for own in seconds) + " s of CPU"
        note = "without the start of the process"
        other = f"{', '.join(map(str, sizes))} utterances"
        results.append(Result(f"time, {stage}", ours, other, exponent(sizes, seconds), 1.05, "as exponent", True, note))
    return results


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """b of seconds = a x size^b."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)))
