"""Slots of Prefect's global concurrency limits, and the GPU that goes with a slot."""

import contextlib
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from calm import devices
from pipeline import paths
from pipeline.execution import gpus
from pipeline.execution.workers import cores
from pipeline.flows.subprocesses import raise_if_stopped
from pipeline.settings import Flows

P, T = ParamSpec("P"), TypeVar("T")
NAMES = ("gpu", "cpu")
LEASE_SECONDS = 60  # after this time, the least that the server takes, a slot whose holder was killed is free again
REQUEST_SECONDS = 1  # a request for a slot is repeated this often
ANSWER_SECONDS = 30  # that an answer may take; a slot that is given to a request after its end is free only when its lease ends
POLL_SECONDS = 0.2
TAKEN = 423  # the server's answer where no slot is free


class MissingLimit(RuntimeError):
    """Prefect's server lacks a global concurrency limit, or the limit has no slots."""


def waits_for_server(function: Callable[P, T]) -> Callable[P, T]:
    """A function that is run again where it ends because Prefect's server is gone, until the server answers."""

    @functools.wraps(function)
    def patient(*arguments: P.args, **options: P.kwargs) -> T:
        from httpx import TransportError

        warned = False
        while True:
            try:
                return function(*arguments, **options)
            except TransportError:
                warned = warned or _warn()
                time.sleep(REQUEST_SECONDS)

    return patient


def _warn() -> bool:
    print("Prefect's server does not answer: waiting for it", file=sys.stderr, flush=True)
    return True


def sizes(section: Flows) -> dict[str, int]:
    """Slots that each limit should have on this machine."""
    return {"gpu": section.gpu or max(1, devices.count()), "cpu": section.cpu or max(2, cores() // 2)}


@dataclass
class Limits:
    """The server's limits. Stages of one flow wait for each other here, where a free slot is noticed at once. Only for a slot that their
    own flow has free do they ask the server, which other flows ask too.
    """

    slots: dict[str, int]
    devices: list[str]  # names for CUDA_VISIBLE_DEVICES; [] without GPUs
    _free: dict[str, int] = field(init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self):
        self._free = dict(self.slots)

    @contextlib.contextmanager
    def take(self, name: str, count: int, stopped: threading.Event) -> Iterator[dict[str, str]]:
        """Hold `count` slots of a limit (at most all that it has); yields the environment in which only their devices are visible.

        Raises Stopped if the flow is stopped while it waits.
        """
        count = min(count, self.slots[name])
        with contextlib.ExitStack() as held:
            held.enter_context(self._take_within_flow(name, count, stopped))
            held.enter_context(_take_from_server(name, count, stopped))
            visible = self._lock_devices(name, count, stopped, held)
            yield {"CUDA_VISIBLE_DEVICES": ",".join(visible)} if self.devices else {}

    @contextlib.contextmanager
    def _take_within_flow(self, name: str, count: int, stopped: threading.Event) -> Iterator[None]:
        """Take slots that no other stage of this flow holds."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._free[name] >= count, POLL_SECONDS):
                raise_if_stopped(stopped)
            self._free[name] -= count
        try:
            yield
        finally:
            with self._changed:
                self._free[name] += count
                self._changed.notify_all()

    def _lock_devices(self, name: str, count: int, stopped: threading.Event, held: contextlib.ExitStack) -> list[str]:
        """Lock `count` devices that no other flow of this machine holds; none for stages that need none."""
        locked: list[str] = []
        while name == "gpu" and len(locked) < min(count, len(self.devices)):
            raise_if_stopped(stopped)
            free = next((device for device in self.devices if device not in locked and _lock(device, held)), None)
            if free is None:
                time.sleep(POLL_SECONDS)
            else:
                locked.append(free)
        return locked


@contextlib.contextmanager
def _take_from_server(name: str, count: int, stopped: threading.Event) -> Iterator[None]:
    """Take slots on the server, which is asked again until they are free.

    A server that is gone is waited for. A stage that has its slots goes on without it.
    """
    from httpx import HTTPError, HTTPStatusError, TransportError
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    options = {"max_retries": 0, "timeout_seconds": ANSWER_SECONDS, "lease_duration": LEASE_SECONDS, "strict": True}
    held, warned = contextlib.ExitStack(), False
    while True:
        raise_if_stopped(stopped)
        try:
            held.enter_context(concurrency(name, count, raise_on_lease_renewal_failure=False, **options))
            break
        except (TimeoutError, ConcurrencySlotAcquisitionError) as error:
            cause = error.__cause__
            gone = isinstance(error, TimeoutError) or isinstance(cause, TransportError)
            busy = isinstance(cause, HTTPStatusError) and (cause.response.status_code == TAKEN or cause.response.is_server_error)
            if not (gone or busy):
                raise
            warned = warned or (gone and _warn())
            stopped.wait(REQUEST_SECONDS)
    try:
        yield
    finally:
        with contextlib.suppress(HTTPError):  # the slots are free again when the lease ends
            held.close()


def _lock(device: str, held: contextlib.ExitStack) -> bool:
    try:
        held.enter_context(FileLock(paths.device_lock(device), timeout=0))
    except Timeout:
        return False
    return True


@waits_for_server
def read() -> Limits:
    """The limits of the server at `PREFECT_API_URL`. Raises MissingLimit."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    slots = {}
    with get_client(sync_client=True) as client:
        for name in NAMES:
            with contextlib.suppress(ObjectNotFound):
                limit = client.read_global_concurrency_limit_by_name(name)
                slots[name] = limit.limit if limit.active else 0
    missing = [name for name in NAMES if not slots.get(name)]
    if missing:
        raise MissingLimit(
            f"Prefect's server has no global concurrency limit {' and '.join(missing)} with slots: run `python -m pipeline.flows limits` "
            "or `make up`, which create them. No stage was run."
        )
    return Limits(slots, gpus.names())


def free_lost(leases: Path) -> dict[str, int]:
    """Free slots that the server counts as taken but has no lease of; returns how many of each limit.

    A server that is killed between the count and the lease leaves such a slot, which would stay taken for ever. To be called after a start.

    Args:
        leases: folder of the server's leases, one JSON file each.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    freed = {}
    with get_client(sync_client=True) as client:
        for name in NAMES:
            limit = client.read_global_concurrency_limit_by_name(name)
            if limit.active_slots > (held := _held(str(limit.id), leases)):
                client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=held))
                freed[name] = limit.active_slots - held
    return freed


def _held(limit: str, leases: Path) -> int:
    """Slots of a limit of which there are leases."""
    slots = 0
    for file in leases.glob("*-*.json"):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            lease = json.loads(file.read_text())
            slots += lease["metadata"]["slots"] if limit in lease["resource_ids"] else 0
    return slots


def create(section: Flows) -> dict[str, int]:
    """Create or change the limits on the server; returns their slots."""
    from prefect.client.orchestration import get_client

    slots = sizes(section)
    with get_client(sync_client=True) as client:
        for name, count in slots.items():
            client.upsert_global_concurrency_limit_by_name(name, count)
    return slots
