"""A stage runs once at a time, and no longer than what started it."""

import contextlib
import os
import platform
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
STARTER = "CALM_STARTER"  # host, number and time of start of the process that started `dvc`, with which stages end
SHELLS = {"sh", "bash", "dash", "zsh"}
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


def starter() -> dict[str, str]:
    """Environment for a `dvc` that this process starts: the stages end with this process, also one that starts after its end."""
    import psutil

    return {STARTER: f"{platform.node()} {os.getpid()} {psutil.Process().create_time()}"}


def end_with_starter() -> None:
    """End this process, as by SIGTERM, when what started it is gone: a killed `dvc`, `pipeline.repro`, flow or torchrun cannot do so.

    What was gone before this process looked for it ends it at once.
    """
    if above := _starters():
        threading.Thread(target=_watch, args=(above,), daemon=True).start()


def _starters() -> list:
    """Processes with which this one ends: those above it up to the outermost `dvc`, and what started that; torchrun; [] where a person
    started it. None stands for one that is gone.
    """
    import psutil

    parents = psutil.Process().parents()
    last = max((number for number, process in enumerate(parents, 1) if provenance.is_dvc(process)), default=0)
    above: list = parents[: max(last, int(torchrun.inside()))]
    if "DVC_STAGE" in os.environ and not last and _is_orphan(parents):
        above.append(None)
    host, _, known = os.environ.get(STARTER, "").partition(" ")
    if known and host == platform.node():
        above.append(_process(*known.split()))
    return above


def _is_orphan(parents: list) -> bool:
    """Whether nothing but shells stands between a process and the system's first one, or a session's."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return all(process.pid == 1 or process.name() in {"systemd", *SHELLS} for process in parents)
    return True


def _process(number: str, created: str):
    """A process; None if it is gone, even if another one has its number now."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(number))
        return process if process.create_time() == float(created) else None
    return None


def _watch(above: list) -> None:
    while all(map(_is_alive, above)):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)  # on which training writes a checkpoint
    time.sleep(STOP_SECONDS)
    os._exit(143)


def _is_alive(process) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
