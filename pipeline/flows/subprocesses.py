"""Commands that a flow runs: their output, line by line, and their end if the flow ends early."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

PROGRESS_SECONDS = 20  # a progress bar is logged at most this often
PARENT_POLL_SECONDS = 1


class Stopped(RuntimeError):
    """The flow is being stopped, so nothing new is started."""


def raise_if_stopped(stopped: threading.Event) -> None:
    """Raises Stopped if the flow is being stopped."""
    if stopped.is_set():
        raise Stopped("not started, because the flow is being stopped")


class Subprocesses:
    """The commands of one flow run. Each has a supervisor process that ends it if the flow dies (`pipeline.flows.supervisor`)."""

    def __init__(self, stop_seconds: float):
        self.stop_seconds, self.stopped = stop_seconds, threading.Event()
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()

    def run(self, command: list[str], environment: dict[str, str], log: Callable[[str], None]) -> int:
        """Run a command and pass every line that it prints to `log`. Returns its exit code.

        Raises Stopped if the flow was stopped before the command began or while it ran.
        """
        supervised = [sys.executable, "-m", "pipeline.flows.supervisor", str(self.stop_seconds), *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with self._lock:
            raise_if_stopped(self.stopped)
            process = subprocess.Popen(supervised, env={**os.environ, **environment}, start_new_session=True, **pipes)
            self._running.add(process)
        try:
            for line in read_lines(process.stdout):
                log(line)
            code = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
                self._close_stdin(process)
        if self.stopped.is_set():
            raise Stopped(f"{' '.join(command)}: stopped")
        return code

    @contextlib.contextmanager
    def stopped_with_flow(self) -> Iterator[None]:
        """Whatever ends the body early (cancellation, SIGTERM, an error) stops the commands, which may first finish their checkpoints."""
        if "PREFECT__FLOW_RUN_ID" in os.environ:  # a worker started this process: known without a request, as the server may be gone
            threading.Thread(target=self._end_with_parent, args=(os.getppid(),), daemon=True).start()
        try:
            yield
        except BaseException:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM would interrupt what the first one has started
            self.stop()
            raise

    def _end_with_parent(self, parent: int) -> None:
        """End this flow when its worker is gone. A killed worker cannot end its flows, which would run beside those of the next worker."""
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        if not self.stopped.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """Ask every running command to end, and start no more."""
        with self._lock:
            self.stopped.set()
            for process in self._running:
                self._close_stdin(process)

    @staticmethod
    def _close_stdin(process: subprocess.Popen) -> None:
        """Tell the supervisor to end its command."""
        with contextlib.suppress(OSError):
            process.stdin.close()


def read_lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines of a stream as they arrive. Of a progress bar, which overwrites its line, only one state per PROGRESS_SECONDS."""
    incomplete, shown_at = b"", 0.0
    while chunk := stream.read1(65536):
        *complete, incomplete = (incomplete + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\r\n").split(b"\n")
        for part in complete:
            text = part.decode(errors="replace").rstrip()
            if not text or (part.endswith(b"\r") and time.monotonic() - shown_at < PROGRESS_SECONDS):
                continue
            shown_at = time.monotonic() if part.endswith(b"\r") else shown_at
            yield text
    if text := incomplete.decode(errors="replace").rstrip():
        yield text
