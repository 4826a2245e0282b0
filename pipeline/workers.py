"""Processes of one thread each, and results in order without holding more than a few: shared by `features` and `transcribe`."""

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def processes(workers: int, initializer: Callable | None = None, *arguments: object) -> Iterator[Executor]:
    """A pool of processes whose numeric libraries use one thread each. On an error what waits is dropped, not waited for.

    Raises OSError where a process was killed.
    """
    pool = ProcessPoolExecutor(workers, _context(), initializer=_start, initargs=(initializer, arguments))
    try:
        yield pool
    except BrokenProcessPool:
        raise OSError("a worker process was killed, most often because memory ran out: set fewer workers in params.yaml") from None
    finally:
        pool.shutdown(cancel_futures=True)


def counter():
    """An integer that the processes of a pool share: `.value`, changed under `.get_lock()`."""
    return _context().Value("i", 0)


def in_order(pool: Executor, function: Callable, tasks: Iterable, ahead: int) -> Iterator:
    """`function` of every task, in the order of the tasks; at most `ahead` are under way or wait to be taken."""
    waiting = deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _context() -> multiprocessing.context.BaseContext:
    return multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")


def _start(initializer: Callable | None, arguments: tuple) -> None:
    from threadpoolctl import threadpool_limits

    if initializer:
        initializer(*arguments)
    threadpool_limits(1)  # after the imports of the initializer: it limits the libraries that are loaded
