"""Slots of Prefect's global concurrency limits, and the GPU that goes with a slot."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from filelock import FileLock, Timeout

from pipeline import paths
from pipeline.execution.workers import cores
from pipeline.flows.subprocesses import refuse_if
from pipeline.settings import Flows

NAMES = ("gpu", "cpu")
LEASE_SECONDS = 60  # a slot whose holder was killed is free again after that
ASK_SECONDS = 5
POLL_SECONDS = 0.2


class MissingLimit(RuntimeError):
    """Prefect's server has no such global concurrency limit, or one of no slots."""


def sizes(section: Flows) -> dict[str, int]:
    """Slots that each limit should have on this machine."""
    return {"gpu": section.gpu or max(1, devices()), "cpu": section.cpu or max(2, cores() // 2)}


def devices() -> int:
    """GPUs that this process may use."""
    from torch.cuda import device_count

    return device_count()


@dataclass
class Limits:
    """The limits as the server has them. Stages of one flow wait for each other here, where a free slot is seen at once, and ask
    the server, which other flows ask too, only for a slot that their own flow has left free.
    """

    slots: dict[str, int]
    devices: list[str]  # names for CUDA_VISIBLE_DEVICES; [] without GPUs
    _free: dict[str, int] = field(init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self):
        self._free = dict(self.slots)

    @contextlib.contextmanager
    def take(self, name: str, count: int, stopped: threading.Event) -> Iterator[dict[str, str]]:
        """Hold `count` slots of a limit (at most all that it has); gives the environment in which only their devices are seen.

        Raises Stopped where the flow is stopped while it waits.
        """
        count = min(count, self.slots[name])
        with contextlib.ExitStack() as held:
            held.enter_context(self._own(name, count, stopped))
            held.enter_context(_of_all_flows(name, count, stopped))
            seen = self._lock_devices(name, count, stopped, held)
            yield {"CUDA_VISIBLE_DEVICES": ",".join(seen)} if self.devices else {}

    @contextlib.contextmanager
    def _own(self, name: str, count: int, stopped: threading.Event) -> Iterator[None]:
        """Slots that no other stage of this flow holds."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._free[name] >= count, POLL_SECONDS):
                refuse_if(stopped)
            self._free[name] -= count
        try:
            yield
        finally:
            with self._changed:
                self._free[name] += count
                self._changed.notify_all()

    def _lock_devices(self, name: str, count: int, stopped: threading.Event, held: contextlib.ExitStack) -> list[str]:
        """So many devices that no other flow of this machine holds; none for stages that need none."""
        taken: list[str] = []
        while name == "gpu" and len(taken) < min(count, len(self.devices)):
            refuse_if(stopped)
            free = next((device for device in self.devices if device not in taken and _lock(device, held)), None)
            if free is None:
                time.sleep(POLL_SECONDS)
            else:
                taken.append(free)
        return taken


@contextlib.contextmanager
def _of_all_flows(name: str, count: int, stopped: threading.Event) -> Iterator[None]:
    """Slots on the server, asked for anew every few seconds: a stopped flow must not wait for another flow's stage."""
    from prefect.concurrency.sync import concurrency

    with contextlib.ExitStack() as held:
        while True:
            refuse_if(stopped)
            try:
                held.enter_context(concurrency(name, count, timeout_seconds=ASK_SECONDS, lease_duration=LEASE_SECONDS, strict=True))
            except TimeoutError:
                continue
            yield
            return


def _lock(device: str, held: contextlib.ExitStack) -> bool:
    try:
        held.enter_context(FileLock(paths.device_lock(device), timeout=0))
    except Timeout:
        return False
    return True


def of_server() -> Limits:
    """The limits of the server that `PREFECT_API_URL` names; raises MissingLimit."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    slots = {}
    with get_client(sync_client=True) as client:
        for name in NAMES:
            with contextlib.suppress(ObjectNotFound):
                found = client.read_global_concurrency_limit_by_name(name)
                slots[name] = found.limit if found.active else 0
    missing = [name for name in NAMES if not slots.get(name)]
    if missing:
        raise MissingLimit(
            f"Prefect's server has no global concurrency limit {' and '.join(missing)} with slots: `python -m pipeline.flows limits` "
            "makes them (`make up` does so too). Nothing was run."
        )
    return Limits(slots, _visible())


def make(section: Flows) -> dict[str, int]:
    """Make or change the limits on the server; returns their sizes."""
    from prefect.client.orchestration import get_client

    wanted = sizes(section)
    with get_client(sync_client=True) as client:
        for name, slots in wanted.items():
            client.upsert_global_concurrency_limit_by_name(name, slots)
    return wanted


def _visible() -> list[str]:
    """Names of the GPUs that this process may use."""
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return given.split(",")
    return [str(index) for index in range(devices())]
