"""Servers that are killed and started again while flows run."""

import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import yaml

from tests.faults.kills import FLOWS
from tests.faults.processes import Wrong, finished, said, started, wait_for_end
from tests.faults.project import compare, with_servers

SHORT = 12  # stages of 2 seconds
FREE = 120  # seconds in which a slot is free again whose holder could not give it back


def slots(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """However often Prefect's server is killed while stages take and give back slots, the flow ends and no slot stays taken."""
    folder, lost = fresh("slots"), 0
    stages = {f"short-{n}": {"cmd": "sleep 2", "meta": {"limit": "gpu"}, "always_changed": True} for n in range(SHORT)}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    with with_servers(folder, gpu=2, retries=3):
        while lost < max(1, length // 10):
            flow = _begun(folder)
            while flow.poll() is None and lost < max(1, length // 10):
                lost += _lose(folder, "prefect", flow, chance.uniform(1, 15))
            if flow.wait():
                raise Wrong(f"the flow failed: {said(folder)}")
        limit = time.monotonic() + FREE
        while taken := _taken(folder):
            if time.monotonic() > limit:
                raise Wrong(f"slots stay taken: {taken}")
            time.sleep(1)
    wait_for_end(folder)
    shutil.rmtree(folder)
    return f"{lost} times lost Prefect's server"


def _begun(folder: Path) -> subprocess.Popen:
    """A `rebuild` that runs its stages: without a server it does not begin, and says so."""
    before = (folder / "faults.log").stat().st_size
    flow = started(folder, *FLOWS, "rebuild")
    while flow.poll() is None and b"Beginning flow run" not in (folder / "faults.log").read_bytes()[before:]:
        time.sleep(0.1)
    return flow


def _lose(folder: Path, name: str, flow: subprocess.Popen, after: float) -> bool:
    """Kill a server after some seconds, unless the flow has ended, and start it again; returns whether it was killed."""
    time.sleep(after)
    if flow.poll() is not None:
        return False
    psutil.Process(json.loads((folder / f"data/servers/{name}.json").read_text())["pid"]).kill()
    finished(folder, *FLOWS, "up")
    return True


def _taken(folder: Path) -> dict[str, int]:
    """Slots that are taken, of each limit that has such."""
    port = yaml.safe_load((folder / "params.yaml").read_text())["flows"]["prefect_port"]
    limits = httpx.post(f"http://127.0.0.1:{port}/api/v2/concurrency_limits/filter", json={}, timeout=30).raise_for_status().json()
    return {limit["name"]: limit["active_slots"] for limit in limits if limit["active_slots"]}


def servers(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """A flow whose servers are killed and started again ends as an undisturbed rebuild; MLflow's and Prefect's in turn."""
    folder = fresh("servers")
    with with_servers(folder):
        flow = _begun(folder)
        lost = sum(_lose(folder, name, flow, chance.uniform(5, 30)) for name in ("prefect", "mlflow", "prefect"))
        ended = flow.wait()
        if ended:  # a flow that could not report its end has kept what was finished
            finished(folder, *FLOWS, "rebuild")
        compare(base, folder)
    wait_for_end(folder)
    shutil.rmtree(folder)
    return f"{lost} lost servers; the flow {'was started again' if ended else 'went on'}"
