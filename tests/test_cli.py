"""The `calm` command, as it is typed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from calm.cli import app

CORPORA = os.environ.get("CALM_CORPORA")


def calm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def manifest(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(32000, 0.1), 16000)
    rows = ["a.wav,0,1,hello,s1,train,x", "a.wav,1,2,,s2,test,y", "gone.wav,0,1,,s1,train,x", "gone.wav,1,2,,s1,train,x"]
    (tmp_path / "mine.csv").write_text("\n".join(["audio,start,end,text,speaker,split,labels", *rows]))
    return tmp_path / "mine.csv"


def test_faults_are_named_and_the_exit_code_tells_of_them(manifest):
    done = calm("corpus", "check", manifest, "--format", "manifest")
    assert done.exit_code == 1, done.output
    assert "2 of 4 rows can be used" in done.output and "FAULT missing audio: 2 rows" in done.output and "gone[0-1]: " in done.output
    assert "to transcribe: 1 rows" in done.output


def test_the_result_for_programs(manifest):
    found = json.loads(calm("corpus", "check", manifest, "--format", "manifest", "--json").output)
    assert (found["read"], found["kept"], found["without_text"]) == (4, 2, 1)
    assert found["faults"]["missing audio"]["rows"] == 2 and found["splits"]["train"]["labels"]["x"] == 1
    assert found["needs"]["logmel_megabytes"] == pytest.approx(2 * 100 * 64 * 2 / 1e6, abs=0.06)


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


@pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")
def test_real_speech():
    found = json.loads(calm("corpus", "check", Path(CORPORA) / "ravdess", "--format", "ravdess", "--json").output)
    assert (found["kept"], found["faults"], found["splits"]["test"]["speakers"]) == (1200, {}, 4)
