"""A stage runs once at a time, and no longer than what started it."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.execution import torchrun
from pipeline.tracking import provenance

POLL_SECONDS = 0.5
STOP_SECONDS = 60  # in which a process that is ending writes its checkpoint


@contextlib.contextmanager
def alone(lock: Path, address: str) -> Iterator[None]:
    """Hold a stage's lock. Raises OSError where another process keeps it for longer than one that ends needs."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        print(f"{address}: another process still runs this stage: waiting for its end", file=sys.stderr, flush=True)
        try:
            held.acquire(timeout=1.5 * STOP_SECONDS)
        except Timeout:
            raise OSError(f"another process runs this stage (it holds {lock}): wait for its end, or end it") from None
    try:
        yield
    finally:
        held.release()


def end_with_starter() -> None:
    """End this process, as by SIGTERM, when what started it is gone: a killed `dvc`, `pipeline.repro` or torchrun cannot do so."""
    if above := _starters():
        threading.Thread(target=_watch, args=(above,), daemon=True).start()


def _starters() -> list:
    """The processes above this one up to the outermost `dvc`, and the `pipeline.repro` above it; torchrun; [] where a person started it."""
    import psutil

    parents = psutil.Process().parents()
    last = max((number for number, process in enumerate(parents, 1) if provenance.is_dvc(process)), default=0)
    with contextlib.suppress(psutil.Error, IndexError):
        last += last > 0 and "pipeline.repro" in parents[last].cmdline()
    return parents[: max(last, int(torchrun.inside()))]


def _watch(above: list) -> None:
    while all(map(_is_alive, above)):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)  # on which training writes a checkpoint
    time.sleep(STOP_SECONDS)
    os._exit(143)


def _is_alive(process) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
