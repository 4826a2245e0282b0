"""The items of a stage on a Dask cluster, whose workers take the place of processes here.

Each Dask worker is one process of one thread, on the same file system and with the same code. It sets itself up before its first item of
a stage, so one that joins late, or replaces a killed one, is as good as the others. Dask may run an item twice: what it writes is then the
same, and is renamed into place.
"""

import asyncio
import contextlib
import gc
import hashlib
import os
import pickle
import platform
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline import paths
from pipeline.execution.workers import Process, Worker

CONNECT = 10  # seconds to wait for the scheduler
JOIN = 20  # seconds to wait for the first worker
ANSWER = 60  # seconds for all workers to say whether they are fit
ALONE = 60  # seconds without any worker after which a stage gives up
PACKAGES = ("numpy", "soundfile", "soxr", "torch", "transformers", "faster-whisper", "ctranslate2", "openai-whisper")


def _code() -> str:
    """Digest of the project's code, as it was when this process imported it."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted([*root.glob("calm/**/*.py"), *root.glob("pipeline/**/*.py")]):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


CODE = _code()


def versions() -> dict[str, str]:
    """What results may depend on, by name."""
    known = {"Python": ".".join(platform.python_version_tuple()[:2]), "the project's code": CODE}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            known[package] = version(package)
    return known


@contextlib.contextmanager
def connect(address: str, worker: Worker, threads: int) -> Iterator["ClusterPool"]:
    """The workers of a scheduler as a pool.

    Args:
        worker: what each of them does.
        threads: of the numeric libraries in each.

    Raises:
        OSError: there is no scheduler, there are no workers, they are not fit, or all of them were lost on the way.
    """
    from distributed import Client, KilledWorker
    from distributed.comm import CommClosedError

    gc.collect()  # closes clients that failed; within the lock that a new one takes as it starts, that would wait for ever
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False, name="calm")
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at compute.dask, {address} ({error}): start one with `dask scheduler`") from None
    mark = (paths.work("dask") / uuid.uuid4().hex).absolute()
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    pool = None
    try:
        _wait_for_workers(client, address)
        _check(client, mark)
        pool = ClusterPool(client, mark, worker, threads)
        yield pool
    except KilledWorker as error:
        raise OSError(
            f"Dask gave an item up, as {error.last_worker.address} and others before it were lost while they ran it, most often because "
            "memory ran out: start workers with more memory, or fewer on a host"
        ) from None
    except (CancelledError, CommClosedError):  # of waiting items, and of a result that is on its way
        lost = pool.lost if pool else "is gone"
        raise OSError(f"the Dask scheduler at {address} {lost}: finished parts are kept, start the stage again") from None
    finally:
        if pool:
            pool.end()
        client.close(CONNECT)
        mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another stage's mark lies there
            mark.parent.rmdir()


class ClusterPool:
    """The workers that a scheduler has at the time.

    Dask's own executor (`Client.get_executor`) waits for ever for an item that is cancelled while its result is on the way.
    """

    def __init__(self, client, mark: Path, worker: Worker, threads: int):
        self._preparation = mark.name, pickle.dumps((versions(), str(Path.cwd()), str(mark), threads, worker))
        self._client, self._futures = client, weakref.WeakSet()
        self._workers, self._ended, self.lost = _count(client), threading.Event(), "is gone"
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def ahead(self) -> int:
        """Items that keep all workers busy."""
        return 4 * self._workers

    def submit(self, item: object):
        """One item, as a Dask future."""
        future = self._client.submit(_run, *self._preparation, item, pure=False)
        self._futures.add(future)
        return future

    def end(self) -> None:
        """Drop what was not done."""
        self._ended.set()
        self._client.cancel(list(self._futures))

    def _watch(self) -> None:
        """Count the workers; without any, items would wait for ever."""
        seen = time.monotonic()
        while not self._ended.wait(1):
            with contextlib.suppress(OSError):  # the scheduler is gone: Dask itself cancels what waits
                self._workers = _count(self._client)
            seen = time.monotonic() if self._workers else seen
            if time.monotonic() - seen > ALONE:
                self.lost = f"has had no workers for {ALONE} s"
                self._client.cancel(list(self._futures))
                return


def _count(client) -> int:
    return len(client.scheduler_info()["workers"])


def _wait_for_workers(client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=JOIN)
    except TimeoutError:
        message = f"the Dask scheduler at {address} has no workers, and none joined within {JOIN} s"
        raise OSError(f"{message}: start some with `dask worker {address} --nworkers -1 --nthreads 1` in the project's folder") from None


def _check(client, mark: Path) -> None:
    """Raises OSError where a worker cannot do the tasks."""

    def fault_there(wanted: dict, mark: str, dask_worker=None) -> str | None:
        try:
            from pipeline.execution import dask_cluster
        except ImportError as error:  # so this function goes there by value
            return f"cannot import the project ({error}): start it in the project's folder and environment"
        return dask_cluster.fault(wanted, mark, dask_worker.state.nthreads)

    async def ask() -> dict:  # `client.run` alone waits for ever for a worker that is stopped
        return await asyncio.wait_for(client.run(fault_there, versions(), str(mark), on_error="return"), ANSWER)

    try:
        answers = client.sync(ask)
    except TimeoutError:
        raise OSError(f"a Dask worker did not answer within {ANSWER} s: end those that hang, and start the stage again") from None
    faults = [f"Dask worker {worker} {fault}" for worker, fault in answers.items() if fault]
    if faults:
        raise OSError(faults[0] + (f" (and {len(faults) - 1} more workers that are not fit)" if faults[1:] else ""))


# In the workers

_processes: dict[str, Process] = {}  # of the stage that ran last, by its token


def fault(wanted: dict[str, str], mark: str, nthreads: int) -> str | None:
    """Why a worker would not return the results that the client would; None if it would."""
    own = versions()
    differing = [f"{name} {own.get(name, 'missing')} instead of {value}" for name, value in wanted.items() if own.get(name) != value]
    if differing:
        return f"has {', '.join(differing)}: install the same there, and start it anew"
    if nthreads > 1:
        return f"has {nthreads} threads: start workers of one each, `dask worker ... --nworkers {nthreads} --nthreads 1`"
    if not Path(mark).exists():
        return f"does not see {Path(mark).parent}: workers need the project's folder under the same path"
    return None


def _run(token: str, preparation: bytes, item: object):
    """One item, after the set-up if this process has not been set up for this run of the stage."""
    wanted, folder, mark, threads, worker = pickle.loads(preparation)
    if token not in _processes:
        from distributed import get_worker

        if message := fault(wanted, mark, get_worker().state.nthreads):
            raise OSError(f"Dask worker {get_worker().address} {message}")
        _processes.clear()
        _processes[token] = Process(worker, 0, threads)
    os.chdir(folder)
    return _processes[token](item)
