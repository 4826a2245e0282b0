"""A stage runs once at a time, and ends with what started it; so do its workers."""

import os
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from pipeline.execution import alone

REPOSITORY = Path(__file__).parents[2]
POOL = """
    import os, sys, time
    from pipeline.execution.pool import pool
    from pipeline.execution.workers import Worker

    class Sleeper(Worker):
        def __call__(self, item):
            open(f"worker-{os.getpid()}", "w").close()
            time.sleep(60)

    if __name__ == "__main__":
        with pool(Sleeper(), 2) as results_of:
            list(results_of([1, 2]))
"""
STAGE = """
    import os, time
    from pipeline.execution.alone import end_with_starter

    open(f"worker-{os.getpid()}", "w").close()
    end_with_starter()
    time.sleep(60)
"""


def started(folder: Path, code: str, workers: int, *command: str, **environment: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """A process that runs some code, and those that have said that they are at work."""
    (folder / "code.py").write_text(textwrap.dedent(code))
    environment = {**os.environ, **environment, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}
    process = subprocess.Popen([*command, sys.executable, "code.py"], cwd=folder, env=environment)
    limit = time.monotonic() + 60
    while len(files := list(folder.glob("worker-*"))) < workers:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    return process, [psutil.Process(int(file.name.split("-")[1])) for file in files]


def test_workers_end_with_a_stage_that_is_killed(tmp_path):
    stage, workers = started(tmp_path, POOL, 2)
    others = [process for process in psutil.Process(stage.pid).children(recursive=True) if process not in workers]
    stage.kill()
    stage.wait()
    assert not psutil.wait_procs([*workers, *others], timeout=10)[1]


def test_a_stage_ends_with_the_dvc_that_started_it(tmp_path):
    """Even where a shell stands between both, which is not killed."""
    (tmp_path / "dvc").write_text('#!/bin/sh\nshift\nsh -c "$*; :" & wait\n')
    (tmp_path / "dvc").chmod(0o755)
    dvc, stages = started(tmp_path, STAGE, 1, str(tmp_path / "dvc"), "repro")
    time.sleep(2 * alone.POLL_SECONDS)
    assert stages[0].is_running()
    dvc.kill()
    dvc.wait()
    assert not psutil.wait_procs(stages, timeout=10)[1]


@pytest.mark.parametrize("alive", [True, False])
def test_a_stage_ends_with_what_started_dvc_even_before_the_stage(tmp_path, alive):
    """As `pipeline.repro` and the flows' supervisor, whose `dvc` goes on when they are killed."""
    above = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = f"{platform.node()} {above.pid} {psutil.Process(above.pid).create_time()}"
    if not alive:
        above.kill()
        above.wait()
    _, stages = started(tmp_path, STAGE, 1, **{alone.STARTER: known})
    if alive:
        time.sleep(2 * alone.POLL_SECONDS)
        assert stages[0].is_running()
        above.kill()
        above.wait()
    above.stdin.close()
    assert not psutil.wait_procs(stages, timeout=10)[1]


def test_a_stage_whose_dvc_was_killed_before_it_looked_ends(tmp_path):
    command = f"{sys.executable} code.py & sleep 0.1; kill -9 $$"  # leaves the stage to the system's first process
    (tmp_path / "code.py").write_text("import time; time.sleep(1)\n" + textwrap.dedent(STAGE))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "DVC_STAGE": "calp@small"}
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=False)
    limit = time.monotonic() + 60
    while not (files := list(tmp_path.glob("worker-*"))):
        assert time.monotonic() < limit
        time.sleep(0.05)
    number, limit = int(files[0].name.split("-")[1]), time.monotonic() + 10
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_stage_of_another_host_or_of_a_person_goes_on(monkeypatch):
    for value in ("", f"elsewhere {os.getpid()} 1.0"):
        monkeypatch.setenv(alone.STARTER, value)
        assert None not in alone._starters()


def test_a_second_writer_of_a_stage_waits_and_then_says_so(tmp_path, monkeypatch, capsys):
    lock = tmp_path / "work/head@a.lock"
    monkeypatch.setattr(alone, "STOP_SECONDS", 0.2)
    with alone.alone(lock, "head@a"):
        with pytest.raises(OSError, match="another process runs this stage"), alone.alone(lock, "head@a"):
            pytest.fail("there are two")
        assert "waiting for its end" in capsys.readouterr().err
    with alone.alone(lock, "head@a"), pytest.raises(TimeoutError):
        FileLock(lock, timeout=0).acquire()
