"""Overhead of the flow `rebuild` over plain `dvc repro`: `python benchmarks/flow_overhead.py`

Rebuilds the committed state of this repository from nothing in both ways, in clean clones, and prints both times and their ratio. The
start of the servers does not count. The embedded default takes a quarter of an hour on two cores.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", choices=("dvc", "flow"), default="dvc", help="which of the two is timed first")
    first = parser.parse_args().first
    with tempfile.TemporaryDirectory(prefix="calm-overhead-") as temporary:
        order = ("dvc", "flow") if first == "dvc" else ("flow", "dvc")
        seconds = {way: rebuild(Path(temporary) / way, way) for way in order}
    ratio = seconds["flow"] / seconds["dvc"]
    print(f"dvc repro {seconds['dvc']:.1f} s, flow {seconds['flow']:.1f} s: the flow takes {100 * (ratio - 1):+.1f} %")


def rebuild(folder: Path, way: str) -> float:
    """Seconds of a rebuild in a clean clone without a lock file, so that nothing is reused."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    ports = {"prefect_port": free_port(), "mlflow_port": free_port()}
    params["flows"] = params.get("flows", {}) | ports | {"rebuild": None, "study": None, "score_new": None}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    flows = [sys.executable, "-m", "pipeline.flows"]
    if way == "dvc":
        return timed(["dvc", "repro"], folder)
    run([*flows, "up"], folder)
    try:
        return timed([*flows, "rebuild"], folder)
    finally:
        run([*flows, "down"], folder)


def timed(command: list[str], folder: Path) -> float:
    """Seconds that a command takes. Raises CalledProcessError if it fails."""
    begin = time.perf_counter()
    run(command, folder)
    return time.perf_counter() - begin


def run(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)}, check=True)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
