"""What the scoring of an inbox does with entries that are no recordings; with a model see test_flows.py."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from pipeline.flows import scoring

REPOSITORY = Path(__file__).parents[2]


class Stub(scoring.Scorer):
    """Hears every file but those called `bad...`; `heard` is called for each."""

    def __init__(self, model: str):
        self.model, self.classifier = model, None

    heard = staticmethod(lambda path: None)

    def listener(self, path: Path):
        self.heard(path)
        if path.name.startswith("bad"):
            raise ValueError(f"{path} cannot be read")
        return []


@pytest.fixture
def inbox(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "Scorer", Stub)
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def put(path: Path | bytes, content: bytes = b"RIFF") -> None:
    with open(path, "wb") as file:  # noqa: PTH123, a name in bytes
        file.write(content)
    os.utime(path, (time.time() - 60,) * 2)


def test_a_bad_entry_has_its_fault_and_the_others_are_scored(inbox, tmp_path):
    """Names that are not UTF-8, pipes (which would be waited for), links to nothing, and files that cannot be read."""
    put(inbox / "good.wav")
    put(inbox / "bad.wav")
    put(os.fsencode(inbox) + b"/bad caf\xe9.wav")
    (inbox / "gone.wav").symlink_to("/nowhere/x.wav")
    os.utime(inbox / "gone.wav", (1, 1), follow_symlinks=False)
    os.mkfifo(inbox / "pipe.wav")
    os.utime(inbox / "pipe.wav", (1, 1))
    (inbox / "folder.wav").mkdir()
    assert scoring.score(inbox, tmp_path / "scores", "model") == (5, 5, 0)
    faults = pd.read_parquet(tmp_path / "scores").set_index("file")["fault"]
    assert faults["good.wav"] == "no speech" and faults["pipe.wav"] == "not a regular file" and faults["gone.wav"] == "a link to nothing"
    assert "cannot be read" in faults["bad.wav"] and r"bad caf\xe9.wav" in faults[r"bad caf\xe9.wav"]
    assert scoring.score(inbox, tmp_path / "scores", "model") == (0, 0, 0)


def test_a_file_that_changes_while_it_is_heard_is_deferred(inbox, tmp_path, monkeypatch):
    put(inbox / "good.wav")
    put(inbox / "long.wav")
    content = [b"other"]  # of the same size and time, and then of none

    def change(path: Path) -> None:
        if path.name == "long.wav" and content:
            stat = path.stat()
            path.write_bytes(content.pop()[: stat.st_size])
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    monkeypatch.setattr(Stub, "heard", staticmethod(change))
    assert scoring.score(inbox, tmp_path / "scores", "model") == (1, 1, 1)
    assert scoring.score(inbox, tmp_path / "scores", "model") == (1, 1, 0)
    table = pd.read_parquet(tmp_path / "scores").set_index("file")
    assert table.loc["long.wav", "sha256"] == scoring.digest(inbox / "long.wav") != table.loc["good.wav", "sha256"]


def test_a_file_that_ends_the_process_is_given_up(inbox, tmp_path):
    put(inbox / "a crash.wav")
    put(inbox / "good.wav")
    code = (
        "import os, sys; from pathlib import Path; from pipeline.flows import scoring; from test_scoring import Stub\n"
        "Stub.heard = staticmethod(lambda path: 'crash' in path.name and os.kill(os.getpid(), 9)); scoring.Scorer = Stub\n"
        "print(scoring.score(Path(sys.argv[1]), Path(sys.argv[2]), 'model'))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}"}
    command = [sys.executable, "-c", code, str(inbox), str(tmp_path / "scores")]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(scoring.TRIES + 1)]
    assert [run.returncode for run in runs] == [-9] * scoring.TRIES + [0] and runs[-1].stdout == "(2, 2, 0)\n"
    assert pd.read_parquet(tmp_path / "scores").set_index("file")["fault"]["a crash.wav"] == "reading it ended the process 3 times"
