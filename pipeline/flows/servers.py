"""Prefect's server, MLflow's server and the worker on this machine's loopback: started and ended together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths
from pipeline.settings import Flows, Settings
from pipeline.tracking import store

HOST = "127.0.0.1"
START_SECONDS = 120
NAMES = ("prefect", "mlflow", "worker")  # in the order of their start; they are ended the other way round


class ServerError(RuntimeError):
    """A server does not start, or is not there. One sentence that says what to do."""


@dataclass(frozen=True)
class Server:
    """A process of `up`: how it is started, and the address that tells that it is up (None: its log tells)."""

    name: str
    command: list[str]
    health: str | None


def environment(section: Flows) -> dict[str, str]:
    """What points Prefect's and MLflow's clients to the servers of `up`; what is set already goes before.

    Call it before Prefect is imported: it reads its settings then.
    """
    wanted = {
        "PREFECT_API_URL": f"{address(section.prefect_port)}/api",
        "PREFECT_HOME": str(paths.servers().resolve() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "INFO",
    }
    return {key: value for key, value in wanted.items() if key not in os.environ}


def address(port: int) -> str:
    """Of a server of this machine."""
    return f"http://{HOST}:{port}"


def up(given: Settings) -> list[str]:
    """Start what does not run yet; returns a line on each. Raises ServerError, with what was started ended again."""
    section = given.flows
    os.environ.update(environment(section))
    uri = store.absolute(given.tracking.uri, Path.cwd())
    with store.clear_errors(uri), store.lock(uri):
        store.connect(uri).search_experiments()  # sets the store up, before the server and a stage do so at once
    os.environ["MLFLOW_TRACKING_URI"] = address(section.mlflow_port)
    started, said = [], []
    try:
        for server in _servers(section, uri):
            if _running(server.name):
                said.append(f"{server.name} runs already")
                continue
            started.append(server.name)
            _start(server)
            if server.name == "prefect":
                from pipeline.flows import limits

                said.append(f"limits: {', '.join(f'{name} {slots}' for name, slots in limits.make(section).items())}")
    except BaseException:
        for name in reversed(started):
            _end(name, section.stop_seconds)
        raise
    pages = {"Prefect": address(section.prefect_port), "MLflow": address(section.mlflow_port)}
    return [*said, *(f"{name}: {page}" for name, page in pages.items()), f"logs: {paths.servers()}/*.log; `make down` ends all of it"]


def down(section: Flows) -> list[str]:
    """End exactly what `up` started; running stages write their checkpoints first. Returns a line on each."""
    return [f"{name} {'ended' if _end(name, section.stop_seconds) else 'did not run'}" for name in reversed(NAMES)]


def _servers(section: Flows, store: str) -> list[Server]:
    prefect_port, mlflow_port = section.prefect_port, section.mlflow_port
    own = f"sqlite+aiosqlite:///{paths.servers().resolve() / 'prefect.db'}"
    os.environ.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", section.prefect_database or own)
    mlflow = ["--host", HOST, "--port", str(mlflow_port), "--backend-store-uri", section.mlflow_database or store, "--workers", "1"]
    mlflow += ["--artifacts-destination", str(Path("mlartifacts").resolve())]
    return [
        Server(
            "prefect",
            [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)],
            f"{address(prefect_port)}/api/health",
        ),
        Server("mlflow", [sys.executable, "-m", "mlflow", "server", *mlflow], f"{address(mlflow_port)}/health"),
        Server("worker", [sys.executable, "-m", "pipeline.flows", "serve"], None),
    ]


def _start(server: Server) -> None:
    """Start a server in a session of its own and wait until it answers."""
    if server.health and _port_taken(int(server.health.split(":")[2].split("/")[0])):
        raise ServerError(f"{server.name}: its port ({server.health}) is taken: end what listens there, or set flows.{server.name}_port")
    paths.servers().mkdir(parents=True, exist_ok=True)
    log = _log(server.name)
    print(f"starting {server.name} ...", file=sys.stderr, flush=True)
    with log.open("wb") as file:
        process = subprocess.Popen(server.command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    _write(server.name, process.pid)
    limit = time.monotonic() + START_SECONDS
    while not (_answers(server.health) if server.health else b"serving" in log.read_bytes()):
        if process.poll() is not None:
            raise ServerError(f"{server.name} ended at once: {_last_line(log)} ({log})")
        if time.monotonic() > limit:
            raise ServerError(f"{server.name} does not answer after {START_SECONDS} s: see {log}")
        time.sleep(0.2)


def _end(name: str, seconds: float) -> bool:
    """SIGTERM to a server, SIGKILL to its group where it does not end; False where it did not run."""
    import psutil

    process = _running(name)
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    for number, wait in ((signal.SIGTERM, seconds + 10), (signal.SIGKILL, 10)):
        for one in family[:1] if number == signal.SIGTERM else family:
            if one.is_running():
                one.send_signal(number)
        if not psutil.wait_procs(family, wait)[1]:
            break
    _file(name).unlink(missing_ok=True)
    return True


def _running(name: str):
    """The process that `up` started under a name; None where it is gone (another one may have its number)."""
    import psutil

    try:
        kept = json.loads(_file(name).read_text())
        process = psutil.Process(kept["pid"])
        alive = process.create_time() == kept["create_time"] and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def _write(name: str, pid: int) -> None:
    import psutil

    from calm.storage import write_json

    write_json({"pid": pid, "create_time": psutil.Process(pid).create_time()}, _file(name))


def _file(name: str) -> Path:
    return paths.servers() / f"{name}.json"


def _log(name: str) -> Path:
    return paths.servers() / f"{name}.log"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _port_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
