"""Commands that a flow runs: their output, line by line, and their end, whatever ends the flow."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from prefect import runtime

PROGRESS_SECONDS = 20  # a progress bar is logged no more often


class Stopped(RuntimeError):
    """The flow is being stopped: nothing new is started."""


def refuse_if(stopped: threading.Event) -> None:
    """Raises Stopped where the flow is being stopped."""
    if stopped.is_set():
        raise Stopped("not started, as the flow is being stopped")


class Children:
    """The commands of one flow run. Each is watched over by a process (`guard`) that ends it where the flow dies."""

    def __init__(self, stop_seconds: float):
        self.stop_seconds, self.stopped = stop_seconds, threading.Event()
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()

    def run(self, command: list[str], environment: dict[str, str], log: Callable[[str], None]) -> int:
        """Run a command to its end; every line that it prints goes to `log`. Returns its exit code.

        Raises Stopped where the flow was stopped before it began or while it ran.
        """
        guarded = [sys.executable, "-m", "pipeline.flows.supervisor", str(self.stop_seconds), *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with self._lock:
            refuse_if(self.stopped)
            process = subprocess.Popen(guarded, env={**os.environ, **environment}, start_new_session=True, **pipes)
            self._running.add(process)
        try:
            for line in lines(process.stdout):
                log(line)
            code = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
                self._close(process)
        if self.stopped.is_set():
            raise Stopped(f"{' '.join(command)}: stopped")
        return code

    @contextlib.contextmanager
    def ended_with_the_flow(self) -> Iterator[None]:
        """Whatever ends the body early (cancelled, SIGTERM, an error) stops the commands, which are let finish their checkpoints."""
        if runtime.deployment.id:
            threading.Thread(target=self._end_with_parent, args=(os.getppid(),), daemon=True).start()
        try:
            yield
        except BaseException:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break off what this one has begun
            self.stop()
            raise

    def _end_with_parent(self, parent: int) -> None:
        """A worker that is killed cannot end its flows; they would go on unseen, beside those of the next worker."""
        while os.getppid() == parent:
            time.sleep(1)
        if not self.stopped.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """Ask every running command to end, and start no other."""
        with self._lock:
            self.stopped.set()
            for process in self._running:
                self._close(process)

    @staticmethod
    def _close(process: subprocess.Popen) -> None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines of a stream as they come. Of a progress bar, which writes over its line, only one state in PROGRESS_SECONDS."""
    waiting, shown = b"", 0.0
    while chunk := stream.read1(65536):
        *complete, waiting = (waiting + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\r\n").split(b"\n")
        for part in complete:
            text = part.decode(errors="replace").rstrip()
            if not text or (part.endswith(b"\r") and time.monotonic() - shown < PROGRESS_SECONDS):
                continue
            shown = time.monotonic() if part.endswith(b"\r") else shown
            yield text
    if text := waiting.decode(errors="replace").rstrip():
        yield text
