"""The `calm` command, as it is typed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from calm import asr
from calm.cli import app
from calm.corpora import FORMATS, layout, needs

CORPORA = os.environ.get("CALM_CORPORA")


def calm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def manifest(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(32000, 0.1), 16000)
    rows = ["a.wav,0,1,hello,s1,train,x", "a.wav,1,2,,s2,test,y", "gone.wav,0,1,,s1,train,x", "gone.wav,1,2,,s1,train,x"]
    (tmp_path / "mine.csv").write_text("\n".join(["audio,start,end,text,speaker,split,labels", *rows]))
    return tmp_path / "mine.csv"


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(needs, "SECONDS", 0.05)


def test_faults_are_named_and_the_exit_code_tells_of_them(manifest):
    done = calm("corpus", "check", manifest, "--format", "manifest")
    assert done.exit_code == 1, done.output
    assert "2 of 4 rows can be used" in done.output and "FAULT missing audio: 2 rows" in done.output and "gone[0-1]: " in done.output
    assert "to be transcribed: 1 rows" in done.output


def test_the_result_for_programs(manifest):
    """Each row is 1 s: 1 + (16000 - 400) // 160 = 98 frames of 64 values, and 1 + (98 - 50) // 30 = 2 blocks of 768; in 2 bytes each."""
    found = json.loads(calm("corpus", "check", manifest, "--format", "manifest", "--json").output)
    assert (found["read"], found["kept"], found["to_transcribe"]["rows"]) == (4, 2, 1)
    assert found["faults"]["missing audio"]["rows"] == 2 and found["splits"]["train"]["labels"]["x"] == 1
    stages = {stage["stage"]: stage for stage in found["needs"]["stages"]}
    assert list(stages) == ["features", "transcription", "acoustic tokens", "training"]
    assert stages["features"]["megabytes"] == 0.025 and stages["acoustic tokens"]["megabytes"] == 0.006
    assert stages["transcription"]["how"].startswith("1 windows") and "CALP, 2 blocks" in stages["training"]["how"]
    assert found["needs"]["megabytes"] == pytest.approx(2 * 0.031) and found["needs"]["enough"]
    assert min(stages[name]["seconds"] for name in ("features", "acoustic tokens", "training")) > 0


@pytest.fixture
def measured(monkeypatch):
    """A machine of 10 blocks/s in training and 100 without gradients."""
    monkeypatch.setattr(needs, "block_rates", lambda: (10.0, 100.0))


@pytest.fixture
def without_whisper(monkeypatch):
    monkeypatch.setattr(asr, "PACKAGED", {})


@pytest.mark.usefixtures("measured", "without_whisper")
def test_seconds_are_those_measured_times_the_amount(manifest):
    """The two rows have 4 blocks; an epoch is the pair of the one row of the training split."""
    found = json.loads(calm("corpus", "check", manifest, "--format", "manifest", "--json").output)
    stages = {stage["stage"]: stage for stage in found["needs"]["stages"]}
    assert stages["acoustic tokens"]["seconds"] == pytest.approx(0.04) and stages["training"]["seconds"] == pytest.approx(0.2)
    assert stages["transcription"]["seconds"] is None and "not installed" in stages["transcription"]["how"]


@pytest.mark.usefixtures("measured", "without_whisper")
def test_too_little_disk_is_a_fault(manifest, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "gone.wav", np.full(32000, 0.1), 16000)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda folder: SimpleNamespace(free=60_000))
    done = calm("corpus", "check", manifest, "--format", "manifest")
    assert done.exit_code == 1 and "FAULT the disk does not suffice: 0.1 MB" in done.output and "4 of 4 rows" in done.output


@pytest.mark.usefixtures("measured", "without_whisper")
def test_long_recordings_are_faults_only_where_they_are_not_cut(tmp_path):
    """130 s without a text are cut to pieces of 20 s, 7 windows for Whisper; with a text they are too long."""
    soundfile.write(tmp_path / "a.wav", np.full(130 * 8000, 0.1), 8000)
    soundfile.write(tmp_path / "b.wav", np.full(130 * 8000, 0.1), 8000)
    (tmp_path / "mine.csv").write_text("audio,text,speaker,split\na.wav,,s1,train\nb.wav,hello,s2,train\n")
    found = json.loads(calm("corpus", "check", tmp_path / "mine.csv", "--format", "manifest", "--json").output)
    assert found["to_cut"] == {"rows": 1, "hours": 0.036} and found["faults"]["too long"]["rows"] == 1
    assert found["absent_columns"] == ["text", "labels"] and found["needs"]["stages"][1]["how"].startswith("7 windows")


@pytest.mark.usefixtures("measured", "without_whisper")
def test_parts_of_the_layout_that_are_not_there(tmp_path):
    """Of MSP-Podcast only what it cannot be read without; a clip that no row names."""
    for name in ("Audios", "labels"):
        (tmp_path / name).mkdir()
    for name in ("a.wav", "b.wav", "spare.wav"):
        soundfile.write(tmp_path / "Audios" / name, np.full(16000, 0.1), 16000)
    rows = ["a.wav,A,4,4,4,1,Male,Train", "b.wav,H,4,4,4,2,Female,Test1"]
    head = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    (tmp_path / "labels/labels_concensus.csv").write_text("\n".join([head, *rows]))
    found = json.loads(calm("corpus", "check", tmp_path, "--format", "msp", "--json").output)
    absent = {part["name"]: part["required"] for part in found["missing"]}
    assert absent == dict.fromkeys(["Labels/labels.txt", "Transcripts", "Partitions.txt", "Speaker_ids.txt"], False)
    assert found["unused_audio"] == {"files": 1, "first": [str(tmp_path / "Audios/spare.wav")]} and not found["faults"]


def test_required_parts_are_all_named(tmp_path):
    """The reader stops at the first; a person wants the list."""
    (tmp_path / "Raw/Audio/Full/WAV_16000").mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train_videos.txt").write_text("v1\n")
    done = calm("corpus", "check", tmp_path, "--format", "mosei", "--option", "folds=lists")
    named = [line.split()[1] for line in done.output.splitlines() if "MISSING" in line]
    expected = ["CMU_MOSEI_Labels.csd", "Raw/Transcript/Segmented/Combined", "lists/valid_videos.txt", "lists/test_videos.txt"]
    assert done.exit_code == 2 and named == expected


def test_every_format_has_a_layout():
    assert set(layout.LAYOUTS) == set(FORMATS)


def test_help_loads_no_heavy_library():
    code = "import sys, calm.cli; sys.exit(str({'torch', 'transformers', 'scipy'} & set(sys.modules) or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stderr.strip() == b""


@pytest.mark.usefixtures("measured", "without_whisper")
def test_no_fault_no_exit_code(tmp_path, manifest):
    soundfile.write(tmp_path / "gone.wav", np.full(32000, 0.1), 16000)
    done = calm("corpus", "check", manifest, "--format", "manifest", "--option", 'classes=["x", "y"]')
    assert done.exit_code == 0 and "4 of 4 rows" in done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "--format", "mosei"], "nowhere is missing"),
        (["mine.csv", "--format", "tapes"], "There is no corpus format 'tapes': choose one of mosei"),
        (["mine.csv", "--format", "msp"], "mine.csv"),
        (["mine.csv", "--format", "manifest", "--option", "tset=1"], "has no option 'tset'"),
        (["mine.csv", "--format", "manifest", "--option", "seed"], "is not NAME=VALUE"),
    ],
)
def test_a_corpus_that_cannot_be_used(manifest, monkeypatch, arguments, expected):
    monkeypatch.chdir(manifest.parent)
    done = calm("corpus", "check", *arguments)
    assert done.exit_code == 2 and expected in " ".join(done.output.split())


@pytest.mark.usefixtures("measured")
@pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")
def test_real_speech():
    found = json.loads(calm("corpus", "check", Path(CORPORA) / "ravdess", "--format", "ravdess", "--json").output)
    assert (found["kept"], found["faults"], found["splits"]["test"]["speakers"]) == (1200, {}, 4)
