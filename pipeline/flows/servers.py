"""Prefect's server, MLflow's server and the worker, on this machine's loopback address: started and ended together."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import paths
from pipeline.settings import Flows, Settings
from pipeline.tracking import store
from pipeline.uris import masked

HOST = "127.0.0.1"
START_SECONDS = 120
LEASES = "prefect.server.concurrency.lease_storage.filesystem"  # in memory, slots would stay taken when the server is killed
LOOP_SECONDS = 2  # the server looks for leases that have ended this often, of itself every 15 s
NAMES = ("prefect", "mlflow", "worker")  # the worker needs both servers; they are ended in reverse order


class ServerError(RuntimeError):
    """A server cannot be started. The message says what to do."""


@dataclass(frozen=True)
class Server:
    """A process that `up` starts. It is ready when `health` answers or, if that is None, when its log says so."""

    name: str
    command: tuple[str, ...]
    health: str | None
    environment: dict[str, str] = field(default_factory=dict, hash=False)  # what others must not read in the list of processes


def environment(section: Flows) -> dict[str, str]:
    """Variables that point the clients of Prefect and MLflow to the servers of `up`. Variables that are set already are kept.

    Set them before Prefect is imported, which reads its settings then.
    """
    variables = {
        "PREFECT_API_URL": f"{address(section.prefect_port)}/api",
        "PREFECT_HOME": str(paths.servers().resolve() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "INFO",
    }
    return {key: value for key, value in variables.items() if key not in os.environ}


def address(port: int) -> str:
    """URL of a server on this machine."""
    return f"http://{HOST}:{port}"


def up(settings: Settings) -> list[str]:
    """Start what is not running yet; returns lines about each server. Raises ServerError after ending what it had started."""
    section = settings.flows
    os.environ.update(environment(section))
    uri = store.absolute(settings.tracking.uri, Path.cwd())
    with store.clear_errors(uri), store.lock(uri):
        store.connect(uri).search_experiments()  # sets the store up before the server and a stage do so at the same time
    os.environ["MLFLOW_TRACKING_URI"] = address(section.mlflow_port)
    *both, worker = _servers(section, uri)
    lines, started = [], []
    try:
        _start(both, started, lines)
        lines.append(_create_limits(section, fresh="prefect" in started))
        _start([worker], started, lines)
    except BaseException:
        for name in reversed(started):
            _end(name, section.stop_seconds)
        raise
    section.inbox.mkdir(parents=True, exist_ok=True)
    pages = {"Prefect": address(section.prefect_port), "MLflow": f"{address(section.mlflow_port)}/#/experiments?{store.VIEW}"}
    return [
        *lines,
        *(f"{name}: {page}" for name, page in pages.items()),
        f"audio to score: {section.inbox}",
        f"logs: {paths.servers()}/*.log; `make down` ends all of it",
    ]


def down(section: Flows) -> list[str]:
    """End what `up` started and nothing else; running stages write their checkpoints first. Returns a line about each server."""
    return [f"{name} {'ended' if _end(name, section.stop_seconds) else 'was not running'}" for name in reversed(NAMES)]


def _servers(section: Flows, store_uri: str) -> list[Server]:
    prefect_port, mlflow_port = section.prefect_port, section.mlflow_port
    sqlite = f"sqlite+aiosqlite:///{paths.servers().resolve() / 'prefect.db'}"
    os.environ.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", section.prefect_database or sqlite)
    database = os.environ.get("MLFLOW_BACKEND_STORE_URI") or section.mlflow_database or store_uri
    mlflow = ["--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--artifacts-destination", str(Path("mlartifacts").resolve())]
    return [
        Server(
            "prefect",
            (sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)),
            f"{address(prefect_port)}/api/health",
            {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES, "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": str(LOOP_SECONDS)},
        ),
        Server(
            "mlflow",
            (sys.executable, "-m", "mlflow", "server", *mlflow),
            f"{address(mlflow_port)}/health",
            {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # of jobs of its own, which nobody gives
        ),
        Server("worker", (sys.executable, "-m", "pipeline.flows", "serve"), None),
    ]


def _create_limits(section: Flows, fresh: bool) -> str:
    """`fresh`: the server was just started. With SQLite no other server has leases of its slots."""
    from pipeline.flows import limits

    created = limits.create(section)
    alone = fresh and os.environ["PREFECT_API_DATABASE_CONNECTION_URL"].startswith("sqlite")
    freed = limits.free_lost(Path(os.environ["PREFECT_HOME"]) / "concurrency_leases") if alone else {}
    lost = f"; {', '.join(f'{slots} of {name}' for name, slots in freed.items())} freed, which a killed server had lost" if freed else ""
    return f"limits: {', '.join(f'{name} {slots}' for name, slots in created.items())}{lost}"


def _start(servers: list[Server], started: list[str], lines: list[str]) -> None:
    """Start servers at the same time and wait until all are ready. Their names go to `started`, what there is to say to `lines`."""
    processes = {}
    for server in servers:
        if _running(server.name):
            lines.append(f"{server.name} is running already")
            continue
        started.append(server.name)
        processes[server] = _launch(server)
    for server, process in processes.items():
        _wait_until_ready(server, process)


def _launch(server: Server) -> subprocess.Popen:
    """Start a server in a session of its own, after what is left of one that was killed."""
    _end_left(server.name)
    if server.health and _is_port_taken(urlsplit(server.health).port):
        raise ServerError(
            f"{server.name}: another process listens on its port ({server.health}): end it, or set flows.{server.name}_port in params.yaml"
        )
    paths.servers().mkdir(parents=True, exist_ok=True)
    print(f"starting {server.name} ...", file=sys.stderr, flush=True)
    with _log(server.name).open("wb") as file:
        options = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file, "start_new_session": True}
        process = subprocess.Popen(server.command, env={**os.environ, **server.environment}, **options)
    _write_process_file(server.name, process.pid)
    return process


def _wait_until_ready(server: Server, process: subprocess.Popen) -> None:
    log, limit = _log(server.name), time.monotonic() + START_SECONDS
    while not (_answers(server.health) if server.health else b"serving" in log.read_bytes()):
        if process.poll() is not None:
            raise ServerError(f"{server.name} ended at once: {_last_line(log)} ({log})")
        if time.monotonic() > limit:
            raise ServerError(f"{server.name} is not ready after {START_SECONDS} s: see {log}")
        time.sleep(0.2)


def _end(name: str, seconds: float) -> bool:
    """SIGTERM to a server, and SIGKILL to it and its descendants if it does not end; False if it was not running."""
    import psutil

    process = _running(name)
    if process is None:
        _end_left(name)
        return False
    family = [process, *process.children(recursive=True)]
    for number, wait in ((signal.SIGTERM, seconds + 10), (signal.SIGKILL, 10)):
        for member in family[:1] if number == signal.SIGTERM else family:
            if member.is_running():
                member.send_signal(number)
        if not psutil.wait_procs(family, wait)[1]:
            break
    _process_file(name).unlink(missing_ok=True)
    return True


def _end_left(name: str) -> None:
    """SIGKILL to the processes that a server had started, which outlive it if it is killed, and keep its port."""
    import psutil

    if not _process_file(name).exists():
        return
    session, left = json.loads(_process_file(name).read_text())["pid"], []
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(session).status() != psutil.STATUS_ZOMBIE:  # the number is that of another process now
            return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                process.kill()
                left.append(process)
    psutil.wait_procs(left, 10)
    _process_file(name).unlink()


def _running(name: str):
    """The process that `up` started under a name; None if it has ended, even if another process has its number now."""
    import psutil

    try:
        entry = json.loads(_process_file(name).read_text())
        process = psutil.Process(entry["pid"])
        alive = process.create_time() == entry["create_time"] and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def _write_process_file(name: str, pid: int) -> None:
    import psutil

    from calm.storage import write_json

    write_json({"pid": pid, "create_time": psutil.Process(pid).create_time()}, _process_file(name))


def _process_file(name: str) -> Path:
    return paths.servers() / f"{name}.json"


def _log(name: str) -> Path:
    return paths.servers() / f"{name}.log"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return masked(lines[-1].strip()) if lines else "its log is empty"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _is_port_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
