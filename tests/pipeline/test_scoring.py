"""What the scoring of an inbox does with entries that are no recordings, and with subfolders of speakers. In a flow: test_flows.py."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from made_inbox import Stub
from made_model import release, speech
from made_project import small

from calm.audio.decoding import read_audio
from calm.inference.loading import load_classifier
from pipeline.flows import scoring

REPOSITORY = Path(__file__).parents[2]


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


def test_files_that_end_the_process_are_given_up(inbox, tmp_path):
    """Two in one batch, of which one is also heard to know the speaker of another file: each is tried `TRIES` times, and no other file
    is blamed for it. Who is heard is tried first, so `anna/crash.wav` ends the process before `anna/a good.wav` is begun."""
    (inbox / "anna").mkdir()
    for name in ("0 crash.wav", "anna/a good.wav", "anna/crash.wav", "good.wav"):
        put(inbox / name)
    code = (
        "import os, sys; from pathlib import Path; from pipeline.flows import scoring; from made_inbox import Stub\n"
        "Stub.heard = staticmethod(lambda path: 'crash' in path.name and os.kill(os.getpid(), 9)); scoring.Scorer = Stub\n"
        "print(scoring.score(Path(sys.argv[1]), Path(sys.argv[2]), 'model'))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, *Path(__file__).parents[:2])))}
    command = [sys.executable, "-c", code, str(inbox), str(tmp_path / "scores")]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(2 * scoring.TRIES + 1)]
    assert [run.returncode for run in runs] == [-9] * 2 * scoring.TRIES + [0] and runs[-1].stdout == "(4, 4, 0)\n", runs[-1].stderr
    faults = pd.read_parquet(tmp_path / "scores").set_index("file")["fault"].to_dict()
    given_up = "reading it ended the process 3 times"
    assert faults == {"0 crash.wav": given_up, "anna/crash.wav": given_up, "anna/a good.wav": "no speech", "good.wav": "no speech"}


def test_a_try_that_ends_with_an_error_is_not_counted(tmp_path):
    entry, tries = scoring.InboxFile("a.wav", 1, 2), scoring.Tries(tmp_path / "tried.json")
    with pytest.raises(KeyboardInterrupt), tries.of(entry):
        assert scoring.Tries(tmp_path / "tried.json").before(entry) == 1 and tries.before(entry) == 0
        raise KeyboardInterrupt
    assert scoring.Tries(tmp_path / "tried.json").before(entry) == 0


def test_a_subfolder_names_the_speaker(tmp_path, monkeypatch):
    """Each file is scored by the model that knows its folder's recordings, as `for_speaker` does; a torn one beside them harms nobody."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small() | {"flows": {"speaker_folders": True}}))
    monkeypatch.chdir(tmp_path)
    inbox, model = tmp_path / "inbox", release(tmp_path / "model", "audio")
    clips = {f"anna/{number}.wav": speech(2, number) for number in (4, 5)} | {"other.wav": speech(2, 3)}
    (inbox / "anna").mkdir(parents=True)
    for name, samples in clips.items():
        soundfile.write(inbox / name, samples, 16000)
        os.utime(inbox / name, (time.time() - 60,) * 2)
    put(inbox / "anna/torn.wav")
    assert scoring.score(inbox, tmp_path / "scores", str(model)) == (4, 1, 0)
    rows = pd.read_parquet(tmp_path / "scores").set_index("file")
    classifier = load_classifier(model)
    samples = {name: read_audio(inbox / name) for name in clips}
    anna = classifier.for_speaker([samples["anna/4.wav"], samples["anna/5.wav"]])
    for name, expected in {"anna/4.wav": anna, "anna/5.wav": anna, "other.wav": classifier}.items():
        assert list(dict(rows.loc[name, "probabilities"]).values()) == pytest.approx(expected([samples[name]], None)[0].tolist(), abs=1e-5)
    new = classifier([samples["anna/4.wav"]], None)[0]
    assert np.abs(np.array(list(dict(rows.loc["anna/4.wav", "probabilities"]).values())) - new).max() > 1e-4


def test_a_model_that_needs_no_other_recordings_says_so(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small() | {"flows": {"speaker_folders": True}}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="set flows.speaker_folders: false"):
        scoring.Scorer(str(release(tmp_path / "model", "audio", normalise="utterance", mean=None, std=None)), tmp_path)


def test_the_newest_recordings_make_a_speaker_known(tmp_path):
    for number in range(scoring.KNOWN_BY + 2):
        put(tmp_path / f"{number:02}.wav")
        os.utime(tmp_path / f"{number:02}.wav", (number, number))
    os.mkfifo(tmp_path / "pipe.wav")
    put(tmp_path / "copied.wav.part")
    (tmp_path / "still-copied.wav").touch()
    assert [path.stem for path, _ in scoring.newest(tmp_path)] == [f"{number:02}" for number in reversed(range(2, scoring.KNOWN_BY + 2))]
