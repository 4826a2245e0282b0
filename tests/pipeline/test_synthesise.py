"""The stage `synthesise`: what it says where it cannot run, and that it hands every setting on."""

import shutil
from pathlib import Path

import pytest

from calm.synthesis import corpus
from pipeline.settings import Synthetic
from pipeline.stages import synthesise

DEMO = Path(__file__).parents[2] / "recipes/demo.yaml"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO, "params.yaml")
    return tmp_path


def call(monkeypatch, *arguments: str):
    monkeypatch.setattr("sys.argv", ["synthesise", *arguments])
    synthesise.main()


def test_every_setting_reaches_the_corpus(monkeypatch):
    given = {}
    monkeypatch.setattr(corpus, "make", lambda *positional, **named: given.update(named, positional=positional) or 90.0)
    settings = Synthetic(format="mosei", path="raw", utterances=100, speakers=25, label_noise=0.2, seed=7)
    assert synthesise.run(settings, workers=1) == 90.0
    assert given == {"positional": (Path("raw"), "mosei", 100, 25), "label_noise": 0.2, "seed": 7, "workers": 1}


def test_one_line_says_what_was_made(here, monkeypatch, capsys):
    monkeypatch.setattr(corpus, "make", lambda *positional, **named: 90.0)
    call(monkeypatch, "--corpus", "mosei")
    assert "1.5 min of synthetic speech in data/raw/mosei-synthetic" in capsys.readouterr().out


def test_an_unknown_name_is_one_sentence(here, monkeypatch):
    with pytest.raises(SystemExit, match="--corpus iemocap: none of params.yaml's synthetic corpora .mosei, msp."):
        call(monkeypatch, "--corpus", "iemocap")


def test_a_real_corpus_in_the_way_is_one_sentence(here, monkeypatch):
    (here / "data/raw/mosei-synthetic/Raw").mkdir(parents=True)
    with pytest.raises(SystemExit, match="is not a corpus of synthetic speech: move it away"):
        call(monkeypatch, "--corpus", "mosei")
