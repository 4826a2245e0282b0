"""The small project that is rebuilt, and what its rebuild ends with."""

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.faults.processes import Wrong, finished, started
from tests.pipeline.made_project import Project, small

REBUILD = (sys.executable, "-m", "pipeline.repro")
RESULTS = ("reports/metrics.json", "data/calp/small/model.safetensors", "data/pretrained/small/model.safetensors")


def made(folder: Path) -> Path:
    """A project that writes a checkpoint after every step, which changes no result."""
    folder.mkdir()
    given = small()
    for section in ("calp", "pretrain"):
        given[section] |= {"checkpoint_minutes": 0.001}
    Project(folder).write(given)
    return folder


def compare(base: Path, folder: Path) -> None:
    """Raises Wrong where a result differs from that of the undisturbed rebuild."""
    expected, actual = results(base), results(folder)
    if differing := [name for name in expected if actual.get(name) != expected[name]]:
        raise Wrong(f"{', '.join(differing)} differ from the undisturbed rebuild")


def results(folder: Path) -> dict[str, bytes]:
    """What a rebuild ends with; a released model is compared by its weights."""
    files = [folder / name for name in RESULTS] + sorted(folder.glob("data/models/*/*/model.safetensors"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@contextlib.contextmanager
def with_servers(folder: Path, **given: object) -> Iterator[None]:
    """The project's servers, on free ports; `given`: further settings of the flows."""
    with socket.socket() as one, socket.socket() as other:
        for held in (one, other):
            held.bind(("127.0.0.1", 0))
        ports = {"prefect_port": one.getsockname()[1], "mlflow_port": other.getsockname()[1]}
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    flows = {**ports, "rebuild": None, "study": None, "score_new": None, "retry_seconds": 0.1, **given}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings | {"flows": flows}))
    try:
        finished(folder, sys.executable, "-m", "pipeline.flows", "up")
        yield
    finally:
        started(folder, sys.executable, "-m", "pipeline.flows", "down").wait()
