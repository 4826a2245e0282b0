"""Worker processes of few threads each, and what they do."""

import contextlib
import multiprocessing
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from calm.processes import end_with_parent


class Worker(ABC):
    """What every process of a pool does: `set_up` once before its first item, then a call an item.

    An object travels to the processes by pickle before it is set up, so it holds settings and paths until then, and no models. `imports`:
    modules that its calls import, and the stage itself does not.
    """

    imports: tuple[str, ...] = ()

    def set_up(self, number: int) -> None:  # noqa: B027, most need nothing
        """Load what the calls need. `number`: of the process in its pool, from 0; by it each takes a GPU of its own."""

    @abstractmethod
    def __call__(self, item: Any) -> Any:
        """The result of one item."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalPool:
    """Processes on this machine."""

    def __init__(self, executor: ProcessPoolExecutor, processes: int):
        self.executor, self.ahead = executor, 4 * processes

    def submit(self, item: Any) -> Future:
        """One item, for the next process that is free."""
        return self.executor.submit(_call, item)


@contextlib.contextmanager
def local(worker: Worker, processes: int, threads: int) -> Iterator[LocalPool]:
    """Processes whose numeric libraries use so many threads each.

    After an error, and when the stage is stopped, waiting items are dropped, and busy processes get SIGTERM, on which training writes a
    checkpoint and ends. Raises OSError if a process was killed.
    """
    context = _context(worker.imports)
    started = context.Value("i", 0)
    executor = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(started, threads, worker))
    try:
        yield LocalPool(executor, processes)
    except BrokenProcessPool:
        raise OSError("a worker process was killed, most often because memory ran out: set fewer workers in params.yaml") from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _context(imports: tuple[str, ...]) -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # What the stage has imported is imported once more, by the server, and not by every process. The server stays for later pools.
    context.set_forkserver_preload([*(name for name in sys.modules if name.startswith(("calm.", "pipeline."))), *imports])
    return context


class Process:
    """A worker in its own process. It is set up at its first item, so that an error on the way reaches the stage."""

    def __init__(self, worker: Worker, number: int, threads: int):
        self.worker, self.number, self.threads, self.ready = worker, number, threads, False

    def __call__(self, item: Any) -> Any:
        if not self.ready:
            from threadpoolctl import threadpool_limits

            self.worker.set_up(self.number)
            threadpool_limits(self.threads)  # after the imports of the set-up: it limits the libraries that are loaded
            self.ready = True
        return self.worker(item)


_process: Process  # in each process of a pool, the one thing that it is there for


def _begin(started, threads: int, worker: Worker) -> None:
    global _process
    end_with_parent()
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    _process = Process(worker, number, threads)


def _call(item: Any) -> Any:
    return _process(item)
