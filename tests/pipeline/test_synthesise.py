"""The stage `synthesise`: what it says where it cannot run, and that it hands every setting on."""

import shutil
from pathlib import Path

import pytest

from pipeline import paths, stage
from pipeline.settings import load
from pipeline.stages import synthesise

DEMO = Path(__file__).parents[2] / "recipes/demo.yaml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty project with the settings of the embedded default."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO, "params.yaml")
    return tmp_path


def make_nothing(seen: dict, monkeypatch) -> None:
    """Replace the synthesis by a function that notes its arguments, and says that it made 90 s."""
    monkeypatch.setattr(synthesise, "make", lambda *positional, **named: seen.update(named, positional=positional) or 90.0)


def test_every_setting_reaches_the_corpus(folder, monkeypatch):
    seen = {}
    make_nothing(seen, monkeypatch)
    synthetic = {"format": "mosei", "path": "raw", "utterances": 100, "speakers": 25, "label_noise": 0.2, "seed": 7}
    synthetic |= {"voices_per_recording": 2}
    settings = load(DEMO)
    changed = settings.model_copy(update={"synthetic": {"mosei": type(settings.synthetic["mosei"])(**synthetic)}})
    synthesise.run(changed, "mosei", workers=1)
    named = {"label_noise": 0.2, "seed": 7, "voices_per_recording": 2, "workers": 1}
    assert seen == {"positional": (Path("raw"), "mosei", 100, 25)} | named


def test_summary_and_fingerprint(folder, monkeypatch, capsys):
    make_nothing({}, monkeypatch)
    raw = folder / "data/raw/mosei-synthetic"
    raw.mkdir(parents=True)
    (raw / "a.wav").write_bytes(b"1234")
    stage.start("synthesise", ["mosei"])
    assert "1.5 min of synthetic speech in data/raw/mosei-synthetic" in capsys.readouterr().out
    first = (paths.fingerprint("mosei") / "audio.json").read_text()
    assert '"files": 1' in first and '"bytes": 4' in first
    (raw / "a.wav").write_bytes(b"1235")
    stage.start("synthesise", ["mosei"])
    assert (paths.fingerprint("mosei") / "audio.json").read_text() != first


def test_an_unknown_name_is_one_sentence(folder):
    with pytest.raises(SystemExit, match="'iemocap' is none of synthetic in params.yaml, which has mosei, msp"):
        stage.start("synthesise", ["iemocap"])


def test_a_real_corpus_in_the_way_is_one_sentence(folder):
    (folder / "data/raw/mosei-synthetic/Raw").mkdir(parents=True)
    with pytest.raises(SystemExit, match="is not a corpus of synthetic speech: move it away"):
        stage.start("synthesise", ["mosei"])
