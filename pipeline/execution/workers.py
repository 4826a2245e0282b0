"""Processes of few threads each, here or on a Dask cluster, and results in order without holding more than a few: for all stages."""

import contextlib
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

_turn = 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def processes(
    workers: int, initializer: Callable | None = None, *arguments: object, threads: int = 1, dask: str | None = None
) -> Iterator[Executor]:
    """A pool of processes whose numeric libraries use so many threads each.

    Args:
        initializer: called with the arguments in every process before its first task.
        dask: address of a scheduler; its workers, as many as there are, then take the place of the processes.

    On an error, and when the stage is stopped, what waits is dropped and what runs gets SIGTERM: training writes a checkpoint and ends.

    Raises OSError where a process was killed, or the cluster is of no use.
    """
    if dask:
        from pipeline.execution import dask_cluster

        with dask_cluster.connect(dask, threads, initializer, arguments) as pool:
            yield pool
        return
    context = _context()
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(context.Value("i", 0), threads, initializer, arguments))
    try:
        yield pool
    except BrokenProcessPool:
        raise OSError("a worker process was killed, most often because memory ran out: set fewer workers in params.yaml") from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def turn() -> int:
    """Number of this process in its pool, from 0; by it each takes a GPU of its own. 0 outside a pool."""
    return _turn


def in_order(pool: Executor, function: Callable, tasks: Iterable, ahead: int) -> Iterator:
    """`function` of every task, in the order of the tasks; at most `ahead`, or what keeps a cluster busy, are under way or wait to be
    taken."""
    waiting = deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) >= max(ahead, getattr(pool, "ahead", 0)):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # What the stage has imported is imported once more, by the server, and not by every process.
    context.set_forkserver_preload([name for name in sys.modules if name.startswith(("calm.", "pipeline."))])
    return context


def _start(turns, threads: int, initializer: Callable | None, arguments: tuple) -> None:
    global _turn
    with turns.get_lock():
        _turn, turns.value = turns.value, turns.value + 1
    prepare(threads, initializer, arguments)


def prepare(threads: int, initializer: Callable | None, arguments: tuple) -> None:
    """Make this process ready for the tasks of a stage."""
    from threadpoolctl import threadpool_limits

    if initializer:
        initializer(*arguments)
    threadpool_limits(threads)  # after the imports of the initializer: it limits the libraries that are loaded
