"""The tasks of a stage on a Dask cluster: its workers take the place of the processes of `workers.processes`.

Each worker is one process of one thread on the same file system and with the same code. It prepares itself before its first task of a
stage, so that one that joins late, or in place of a killed one, is as good as the others. Tasks only give back results: Dask may run
one twice.
"""

import contextlib
import hashlib
import importlib
import os
import pickle
import platform
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline import paths
from pipeline.execution import workers

CONNECT = 10  # seconds to wait for the scheduler
JOIN = 20  # seconds to wait for the first worker
ALONE = 60  # seconds without any worker after which a stage gives up
PACKAGES = ("numpy", "soundfile", "soxr", "torch", "transformers", "faster-whisper", "ctranslate2", "openai-whisper")


def _code() -> str:
    """Digest of the project's code, as it was when this process imported it."""
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted([*root.glob("calm/**/*.py"), *root.glob("pipeline/**/*.py")]):
        found.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]


CODE = _code()


def versions() -> dict[str, str]:
    """What results may depend on, by name."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2]), "the project's code": CODE}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@contextlib.contextmanager
def connect(address: str, limit: int, initializer: Callable | None, arguments: tuple) -> Iterator["Cluster"]:
    """The workers of a scheduler as an executor.

    Args:
        limit: threads of the numeric libraries in each worker.
        initializer: called with the arguments in every worker before its first task.

    Raises:
        OSError: no scheduler, no workers, workers that are not fit, or all of them lost on the way.
    """
    from distributed import Client, KilledWorker
    from distributed.comm import CommClosedError

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
        pool = Cluster(client, mark, limit, initializer, arguments)
        yield pool
    except KilledWorker as error:
        raise OSError(
            f"Dask gave a task up, as {error.last_worker.address} and others before it were lost while they ran it, most often because "
            "memory ran out: start workers with more memory, or fewer on a host"
        ) from None
    except (CancelledError, CommClosedError):  # of what waits, and of a result that is on its way
        lost = pool.lost if pool else "is gone"
        raise OSError(f"the Dask scheduler at {address} {lost}: what is finished is kept, start the stage again") from None
    finally:
        if pool:
            pool.end()
        client.close(CONNECT)
        mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another stage's mark is there
            mark.parent.rmdir()


class Cluster:
    """The workers that a scheduler has at the time, with an executor's `submit`.

    Dask's own executor (`Client.get_executor`) waits for ever for a task that is cancelled while its result is on the way.
    """

    def __init__(self, client, mark: Path, limit: int, initializer: Callable | None, arguments: tuple):
        named = initializer and _name(initializer)
        self._preparation = mark.name, pickle.dumps((versions(), str(Path.cwd()), str(mark), limit, named, arguments))
        self._client, self._futures = client, weakref.WeakSet()
        self._workers, self._ended, self.lost = _count(client), threading.Event(), "is gone"
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def ahead(self) -> int:
        """Tasks that keep all workers busy."""
        return 4 * self._workers

    def submit(self, function: Callable, *arguments: object):
        """One task, as a Dask future; `function` is one of a module's top level."""
        future = self._client.submit(_run, *self._preparation, _name(function), arguments, pure=False)
        self._futures.add(future)
        return future

    def end(self) -> None:
        """Drop what was not done."""
        self._ended.set()
        self._client.cancel(list(self._futures))

    def _watch(self) -> None:
        """Count the workers; without any, tasks would wait for ever."""
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
        told = f"the Dask scheduler at {address} has no workers, and none joined within {JOIN} s"
        raise OSError(f"{told}: start some with `dask worker {address} --nworkers -1 --nthreads 1` in the project's folder") from None


def _check(client, mark: Path) -> None:
    """Raises OSError where a worker cannot do the tasks."""

    def fault_there(given: dict, mark: str, dask_worker=None) -> str | None:
        try:
            from pipeline.execution import dask_cluster
        except ImportError as error:  # so this function goes there by value
            return f"cannot import the project ({error}): start it in the project's folder and environment"
        return dask_cluster.fault(given, mark, dask_worker.state.nthreads)

    found = client.run(fault_there, versions(), str(mark), on_error="return")
    faults = [f"Dask worker {worker} {fault}" for worker, fault in found.items() if fault]
    if faults:
        raise OSError(faults[0] + (f" (and {len(faults) - 1} more workers that are not fit)" if faults[1:] else ""))


# In the workers

_prepared: dict[str, str] = {}  # by module of the tasks: the stage's run that it is prepared for


def fault(given: dict[str, str], mark: str, nthreads: int) -> str | None:
    """Why a worker would not give the results that the client gives; None where it would."""
    own = versions()
    differing = [f"{name} {own.get(name, 'missing')} instead of {wanted}" for name, wanted in given.items() if own.get(name) != wanted]
    if differing:
        return f"has {', '.join(differing)}: install the same there, and start it anew"
    if nthreads > 1:
        return f"has {nthreads} threads: start workers of one each, `dask worker ... --nworkers {nthreads} --nthreads 1`"
    if not Path(mark).exists():
        return f"does not see {Path(mark).parent}: workers need the project's folder under the same path"
    return None


def _run(token: str, preparation: bytes, name: str, arguments: tuple):
    """One task, after the preparation where this process has not had it."""
    given, folder, mark, limit, initializer, values = pickle.loads(preparation)
    module = name.split(":")[0]
    if _prepared.get(module) != token:
        from distributed import get_worker

        if told := fault(given, mark, get_worker().state.nthreads):
            raise OSError(f"Dask worker {get_worker().address} {told}")
        os.chdir(folder)
        workers.prepare(limit, initializer and _find(initializer), values)
        _prepared[module] = token
    os.chdir(folder)
    return _find(name)(*arguments)


def _name(function: Callable) -> str:
    """Module and name by which a worker finds a function, also one of the module that was started."""
    module = sys.modules["__main__"].__spec__.name if function.__module__ == "__main__" else function.__module__
    return f"{module}:{function.__qualname__}"


def _find(name: str) -> Callable:
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)
