"""Runs a command as long as the process that started it is alive: `python -m pipeline.flows.supervisor SECONDS COMMAND...`

The supervisor ends the command, and everything that the command started, when its own standard input closes: because the flow asks
for it, or because the flow is gone, even by `kill -9`. The command gets SIGTERM, on which it writes a checkpoint, and SIGKILL after
SECONDS.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

from pipeline.execution import alone

TERMINATED = 143


def main(seconds: float, command: list[str]) -> int:
    """Exit code of the command; 143 if the supervisor ended it."""
    stop_requested = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_requested.set())
    threading.Thread(target=_watch_stdin, args=(stop_requested,), daemon=True).start()
    process = subprocess.Popen(command, env={**os.environ, **alone.starter()}, stdin=subprocess.DEVNULL, start_new_session=True)
    while not stop_requested.is_set():
        try:
            return process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    _end(process, seconds)
    return TERMINATED


def _watch_stdin(stop_requested: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop_requested.set()


def _end(process: subprocess.Popen, seconds: float) -> None:
    """SIGTERM to the command's process group; after some seconds, SIGKILL to what is left of the group and of its descendants."""
    import psutil

    family = {process.pid: psutil.Process(process.pid)} if psutil.pid_exists(process.pid) else {}
    if family:
        family |= {descendant.pid: descendant for descendant in family[process.pid].children(recursive=True)}
    _signal_group(process.pid, signal.SIGTERM)
    limit = time.monotonic() + seconds
    while alive := [member for member in _members(process.pid, family) if _is_alive(member)]:
        process.poll()  # reaps it
        if time.monotonic() > limit:
            for member in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
        time.sleep(0.05)
    process.wait()


def _members(group: int, family: dict) -> list:
    """Processes of a group, and the command's known descendants, which may have groups of their own."""
    import psutil

    members = dict(family)
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group:
                members[process.pid] = process
    return list(members.values())


def _is_alive(process) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
