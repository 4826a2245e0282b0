"""Processes of a project: started, killed, and waited for."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ENDS = 120  # seconds in which all that a killed process had started has to end
GOES_ON = 3600  # seconds in which a command that goes on has to end
GROUP = 0.4  # share of kills that go to a whole group
PROGRAMS = (
    "pipeline.repro",
    "flows.supervisor",
    "flows.scoring",
    "pipeline.flows",
    "forkserver",
    "resource_tracker",
    "pipeline.stages",
    "dvc",
)


class Wrong(AssertionError):
    """A result differs, or something lives on."""


def family(folder: Path, besides: frozenset[int] = frozenset()) -> list[psutil.Process]:
    """Processes that run in a folder, or in one below it, but for this one and those of the given numbers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            inside = Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE
            if inside and process.pid not in besides | {os.getpid()}:
                found.append(process)
    return found


def wait_for_end(folder: Path, besides: frozenset[int] = frozenset()) -> None:
    """Raises Wrong if a process of the project outlives the one that was killed."""
    limit = time.monotonic() + ENDS
    while living := family(folder, besides):
        if time.monotonic() > limit:
            raise Wrong(f"{[' '.join(process.cmdline())[:90] for process in living]} live on")
        time.sleep(0.2)


def started(folder: Path, *command: str) -> subprocess.Popen:
    """A command in the project, in a session of its own; what it prints goes to the end of `faults.log`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "PREFECT_", "CALM_"))}
    environment |= {"PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "faults.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def finished(folder: Path, *command: str) -> None:
    """Run a command to its end. Raises Wrong with the end of its output if it fails."""
    if started(folder, *command).wait():
        raise Wrong(f"{' '.join(command)} failed:\n{said(folder)}")


def said(folder: Path) -> str:
    """The end of what the project's commands have printed."""
    return (folder / "faults.log").read_text(errors="replace")[-3000:]


def kill(folder: Path, process: subprocess.Popen, chance: random.Random, last: float, within: str = "", besides=frozenset()) -> str:
    """SIGKILL to the group of a process or to one process of the project, and wait until all has ended; returns what was killed.

    Args:
        last: seconds after which it is killed at the latest; drawn between 0 and this.
        within: part of a command line; the seconds count from when such a process runs. "": from now.
        besides: numbers of processes that are none of this command's.
    """
    while within and process.poll() is None and not any(within in _line(member) for member in family(folder, besides)):
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0, last))
        wait_for_end(folder, besides)
        return ""
    victims = family(folder, besides)
    if not victims or chance.random() < GROUP:
        os.killpg(process.pid, signal.SIGKILL)
        what = "a group"
    else:
        victim = chance.choice(victims)
        line = _line(victim)
        what = next((program for program in PROGRAMS if program in line), "another process")
        with contextlib.suppress(psutil.Error):
            victim.kill()
    process.wait(GOES_ON)  # what was killed may be no loss: the command goes on
    wait_for_end(folder, besides)
    return what


def _line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
