"""Many items for a worker, in processes here or on a Dask cluster, with the results in order."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.execution import workers
from pipeline.execution.workers import Worker

Results = Callable[..., Iterator[Any]]


@contextlib.contextmanager
def pool(worker: Worker, processes: int, threads: int = 1, dask: str | None = None) -> Iterator[Results]:
    """Yields a function from items to an iterator of their results.

    Results come in the order of the items. Few of them are held: at most `ahead` items (by default enough to keep all processes busy)
    are under way or wait to be taken.

    Args:
        processes: how many there are here.
        threads: of the numeric libraries in each process.
        dask: address of a scheduler, whose workers then take the place of processes here.

    Raises:
        OSError: a process was killed, or the cluster is of no use.
    """
    if dask:
        from pipeline.execution import dask_cluster

        context = dask_cluster.connect(dask, worker, threads)
    else:
        context = workers.local(worker, processes, threads)
    with context as opened:

        def results(items: Iterable, ahead: int | None = None) -> Iterator[Any]:
            waiting = deque()
            for item in items:
                waiting.append(opened.submit(item))
                if len(waiting) >= (ahead or opened.ahead):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield results
