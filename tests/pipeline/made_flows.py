"""A rebuilt project whose flows run on real servers, with stages made for it."""

import contextlib
import json
import socket
import sys
import textwrap
import time

import httpx
import psutil
import yaml
from made_project import Project, small

SECONDS = 90  # that anything may take

# A stage that records when it ran, continues from where it was stopped, and may wait until others run too.
WORK = """
    import json, signal, sys, time
    from pathlib import Path
    name, seconds, *together = sys.argv[1:]
    checkpoint = Path(f"checkpoint-{name}")
    began, tries = time.time(), int(checkpoint.read_text()) if checkpoint.exists() else 0
    def stop(*_):
        checkpoint.write_text(str(tries + 1))
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    print(f"{name} continues from {tries}", flush=True)
    Path(f"began-{name}").touch()
    while not all(Path(f"began-{other}").exists() for other in together):
        if time.time() > began + 60:
            sys.exit(f"{name} was not run at the same time as {together}")
        time.sleep(0.05)
    if name == "broken":
        sys.exit(1)
    if name == "flaky" and not tries:
        checkpoint.write_text("1")
        sys.exit(1)
    if not tries:
        time.sleep(float(seconds))
    with open("times.jsonl", "a") as file:
        print(json.dumps([name, began, time.time()]), file=file)
    Path(f"{name}.out").write_text(f"after {tries} stops")
"""
STAGES = {  # name: arguments after it, limit, what it needs
    "first-gpu": ("1 first-cpu", "gpu", []),
    "second-gpu": ("1", "gpu", []),
    "first-cpu": ("0 first-gpu", "cpu", []),
    "last": ("0", "cpu", ["first-gpu", "first-cpu"]),
    "flaky": ("0", "cpu", []),
    "broken": ("0", "cpu", []),
    "descendant": ("0", "cpu", ["broken"]),
    "long": ("300", "gpu", []),
    "longer": ("300", "gpu", []),
}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


class Flows:
    """A rebuilt project with more stages, and its servers."""

    def __init__(self, project: Project):
        self.project, self.folder = project, project.folder
        project.lent = False  # Prefect's processes are killed, and read the environment when they load
        (self.folder / "work.py").write_text(textwrap.dedent(WORK))
        pipeline = yaml.safe_load((self.folder / "dvc.yaml").read_text())
        for name, (arguments, limit, needs) in STAGES.items():
            pipeline["stages"][name] = {
                "cmd": f"{sys.executable} work.py {name} {arguments}",
                "meta": {"limit": limit},
                "deps": ["work.py", *(f"{need}.out" for need in needs)],
                "outs": [f"{name}.out"],
            }
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
        prefect, mlflow = free_ports(2)
        flows = {"prefect_port": prefect, "mlflow_port": mlflow, "cpu": 2, "gpu": 1, "retries": 1, "retry_seconds": 0.1, "study": None}
        self.settings = small() | {"flows": {**flows, "rebuild": None, "score_new": "* * * * *"}}
        project.write(self.settings)
        self.api, self.ports = f"http://127.0.0.1:{prefect}/api", (prefect, mlflow)

    def command(self, *arguments: str):
        return self.project.run(sys.executable, "-m", "pipeline.flows", *arguments)

    def ask(self, method: str, path: str, **body):
        """The server's answer. It is 503 while the database is locked; then Prefect's own client asks again too."""
        for pause in (0.5, 1, 2, 4, 0):
            answer = httpx.request(method, f"{self.api}/{path}", json=None if method == "GET" else body, timeout=30)
            if answer.status_code != 503:
                break
            time.sleep(pause)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def post(self, path: str, **body):
        return self.ask("POST", path, **body)

    def trigger(self, *targets: str) -> str:
        """Request a rebuild from the worker; returns the id of the flow run."""
        deployment = self.ask("GET", "deployments/name/rebuild/rebuild")["id"]
        body = {"parameters": {"targets": list(targets)}, "state": {"type": "SCHEDULED"}}
        return self.post(f"deployments/{deployment}/create_flow_run", **body)["id"]

    def state(self, run: str) -> str:
        return self.ask("GET", f"flow_runs/{run}")["state"]["name"]

    def log(self, run: str) -> str:
        lines = self.post("logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200)
        return "\n".join(line["message"] for line in lines)

    def slots(self) -> dict[str, int]:
        return {limit["name"]: limit["active_slots"] for limit in self.post("v2/concurrency_limits/filter") if ":" not in limit["name"]}

    def worker(self) -> psutil.Process:
        return psutil.Process(json.loads((self.folder / "data/servers/worker.json").read_text())["pid"])

    def processes(self, *parts: str) -> list[str]:
        """Command lines of the processes in the project's folder that contain one of the parts."""
        matches = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if process.cwd() == str(self.folder) and any(part in line for part in parts):
                    matches.append(line)
        return matches


def until(condition, what: str, seconds: float = SECONDS):
    limit = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < limit, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return value
