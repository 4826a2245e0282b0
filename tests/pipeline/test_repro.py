"""What is told of how far a rebuild is."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.repro import Progress, mend_lock


def test_time_left_is_that_of_stages_of_the_same_kind():
    now = [0.0]
    progress = Progress(["check", "calp@a", "calp@b", "head@a"], lambda: now[0])
    assert progress.read("Running stage 'check':") == "[1/4] check: 0 s so far"
    now[0] = 2
    assert progress.read("Running stage 'calp@a':") == "[2/4] calp@a: 2 s so far, about 6 s left"  # three of 2 s
    assert progress.read("> python -m pipeline.stages.calp") is None
    now[0] = 102
    # calp@b as calp@a: 100 s; head@a as the mean of check and calp@a: 51 s
    assert progress.read("Running stage 'calp@b':") == "[3/4] calp@b: 2 min so far, about 3 min left"
    now[0] = 110
    assert progress.read("Stage 'head@a' didn't change, skipping") is None
    assert progress.left == {} and progress.took == {"check": [2], "calp": [100, 8]}


def test_stages_that_dvc_leaves_out_cost_nothing():
    progress = Progress(["a", "b"], lambda: 0.0)
    for line in ("Stage 'a' didn't change, skipping", "Stage 'b' is cached - skipping run, checking out outputs"):
        assert progress.read(line) is None
    assert progress.left == {} and not progress.took


@pytest.mark.parametrize("left", [b"", b'{"read": {"data/te', b"\0" * 40])
def test_a_half_written_list_of_running_stages_is_removed(tmp_path, left):
    """As a `dvc` leaves it that is killed while it writes; DVC itself starts no more with it."""
    from dvc.fs import LocalFileSystem
    from dvc.rwlock import RWLockFileCorruptedError, rwlock

    lists, fs = tmp_path / ".dvc/tmp/rwlock", LocalFileSystem()
    assert not mend_lock(tmp_path)
    lists.parent.mkdir(parents=True)
    lists.write_bytes(left)
    with pytest.raises(RWLockFileCorruptedError), rwlock(str(lists.parent), fs, "repro", [], [], False):
        pass
    assert mend_lock(tmp_path) and not lists.exists()
    with rwlock(str(lists.parent), fs, "repro", [], [], False):
        assert not mend_lock(tmp_path) and json.loads(lists.read_text()) == {"read": {}, "write": {}}


def test_a_list_of_processes_that_are_gone_is_removed(tmp_path):
    """The number of a killed `dvc` may be another process's by now, or one of a process that nobody reaps: DVC takes both for busy."""
    lists = tmp_path / ".dvc/tmp/rwlock"
    lists.parent.mkdir(parents=True)

    def holds(pid: int, cmd: str = "/bin/dvc repro") -> bool:
        lists.write_text(json.dumps({"write": {"data/texts": {"pid": pid, "cmd": cmd}}, "read": {"data/raw": [{"pid": pid, "cmd": cmd}]}}))
        return not mend_lock(tmp_path)

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert not holds(other.pid) and not lists.exists()
        assert holds(other.pid, f"{sys.executable} -c")  # DVC within another program
        other.kill()
        while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not holds(other.pid, f"{sys.executable} -c")
    assert not holds(other.pid)
    script = tmp_path / "dvc"
    script.write_text("print(flush=True); input()")
    with subprocess.Popen([sys.executable, script, "repro"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dvc:
        dvc.stdout.readline()  # before it has begun, a process bears the name of the one that starts it
        assert holds(dvc.pid)
        dvc.kill()
