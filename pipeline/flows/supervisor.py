"""Runs a command for as long as whoever started it lives and wants it: `python -m pipeline.flows.supervisor SECONDS COMMAND...`

The guard ends the command, and all that it started, when its own standard input closes: because the flow asks for it, or because
the flow is gone, even by `kill -9`. What runs gets SIGTERM, and so writes a checkpoint, and SIGKILL after SECONDS.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

TERMINATED = 143


def main(seconds: float, command: list[str]) -> int:
    """Exit code of the command; 143 where it was ended."""
    ask = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ask.set())
    threading.Thread(target=_wait_for_end, args=(ask,), daemon=True).start()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while not ask.is_set():
        try:
            return process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    _end(process, seconds)
    return TERMINATED


def _wait_for_end(ask: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    ask.set()


def _end(process: subprocess.Popen, seconds: float) -> None:
    """SIGTERM to the command's process group; SIGKILL to what of it, or of what it started, is left after some seconds."""
    import psutil

    started = {process.pid: psutil.Process(process.pid)} if psutil.pid_exists(process.pid) else {}
    if started:
        started |= {child.pid: child for child in started[process.pid].children(recursive=True)}
    _signal(process.pid, signal.SIGTERM)
    limit = time.monotonic() + seconds
    while alive := [one for one in _group(process.pid, started) if _alive(one)]:
        process.poll()  # reaps it
        if time.monotonic() > limit:
            for one in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        time.sleep(0.05)
    process.wait()


def _group(leader: int, started: dict) -> list:
    """Processes of the group and those once started by the command, also where these have a group of their own."""
    import psutil

    found = dict(started)
    for one in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(one.pid) == leader:
                found[one.pid] = one
    return list(found.values())


def _alive(process) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
