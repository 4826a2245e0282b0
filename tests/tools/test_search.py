"""Search by words and by a sound."""

import json

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from made_model import calp, speech
from typer.testing import CliRunner

from calm.audio import pauses
from calm.cli import app
from calm.inference.processing import CalmFeatureExtractor
from calm.inference.recordings import Listener
from calm.models.language_model import load_language_model, text_vectors
from calm.tools import search, search_index


def calm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return calp(tmp_path_factory.mktemp("calp"))


@pytest.fixture(scope="module")
def encoder(model):
    return search.CalpEncoder(model)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three clips of "speech", one that is silent, one that is no audio; whoever is not silent speaks all the time."""
    monkeypatch.setattr(pauses, "speech", lambda samples, _: [(0.0, len(samples) / 16000)] if samples.any() else [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for seed in range(3):
        soundfile.write(tmp_path / f"clips/{seed}.wav", speech(1 + seed, seed), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "clips/silent.wav", np.zeros(16000), 16000)
    (tmp_path / "clips/wrong.wav").write_text("this is no audio")
    return tmp_path


def row(id, *vectors, start=0.0, end=9.0, **values):
    return {
        "id": id,
        "file": "a.wav",
        "start": start,
        "end": end,
        "text": None,
        "fault": None,
        "blocks": np.array(vectors, np.float16),
    } | values


def test_ranking_by_hand():
    """The mean of (0, 1) and (1, 0) lies at 45 degrees of (1, 0): 0.7071. Frames 30 to 80 are centred at 0.55 s."""
    rows = [row("b", (0.6, 0.8)), row("a", (0, 1), (1, 0), start=2.0), row("c", (0.6, 0.8), end=0.1), row("d", (-1, 0))]
    rows += [row(None, fault="no speech", file="s.wav"), row(None, fault="missing audio: g.wav")]
    result = search.rank(rows, np.array([1.0, 0.0], np.float32), 3, CalmFeatureExtractor())
    assert [hit.id for hit in result.hits] == ["a", "b", "c"] and [hit.rank for hit in result.hits] == [1, 2, 3]
    assert [hit.cosine for hit in result.hits] == pytest.approx([0.7071, 0.6, 0.6], abs=1e-3)
    assert [hit.at for hit in result.hits] == pytest.approx([2.55, 0.25, 0.1]) and result.hits[0].at_cosine == 1
    assert result.hits[0].seconds == 7 and (result.searched, result.silent, result.faults) == (4, ["s.wav"], ["missing audio: g.wav"])


def test_words_and_sounds_lie_where_the_model_puts_them(encoder):
    """T_i through the text's projection; the blocks through SpecTran and the audio's, each at length 1."""
    with torch.inference_mode():
        (words,) = encoder.model.embed_text(text_vectors(load_language_model("minilm", 1), encoder.processor.tokenizer, ["good morning"]))
        blocks = torch.from_numpy(encoder.extractor.acoustic_frames([speech(2)]).blocks_of(0))
        sounds = F.normalize(encoder.model.embed_audio(blocks), dim=-1)
    np.testing.assert_allclose(encoder.embed_text("Good Morning"), F.normalize(words, dim=0), atol=1e-5)
    assert sounds.shape == (5, 16)  # 198 frames: 1 + (198 - 50) // 30
    np.testing.assert_allclose(encoder.embed_samples(speech(2)), sounds, atol=1e-3)


def test_a_recording_is_most_like_itself(folder, model):
    done = calm("search", "--like", "clips/1.wav", "clips", "--model", model, "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 1 and "unreadable audio: clips/wrong.wav" in done.stderr and result["silent"] == ["clips/silent.wav"]
    assert result["searched"] == 3 and result["hits"][0]["file"] == "clips/1.wav"
    assert result["hits"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    cosines = [hit["cosine"] for hit in result["hits"]]
    assert cosines == sorted(cosines, reverse=True) and cosines[1] < 0.9999
    assert all(0.25 <= hit["at"] <= hit["seconds"] - 0.2 for hit in result["hits"])


def test_the_table(folder, model):
    done = calm("search", "good morning", "clips/0.wav", "clips/2.wav", "--model", model, "--top", 1)
    head, hit, summary = done.stdout.splitlines()
    assert done.exit_code == 0 and head.split() == ["rank", "cosine", "seconds", "at", "utterance"] and summary == "2 utterances searched"
    assert hit.split()[0] == "1" and "clips/" in hit


def test_an_index_is_computed_once(folder, model, monkeypatch):
    arguments = ["search", "good morning", "clips", "--model", model, "--json", "--index", "clips.parquet"]
    first = calm(*arguments)
    monkeypatch.setattr(search.CalpEncoder, "embed_frames", lambda *_: pytest.fail("computed again"))
    again = calm(*arguments)
    assert again.stdout == first.stdout and json.loads(first.stdout)["searched"] == 3 and first.exit_code == again.exit_code == 1
    assert "wrong.wav" in again.stderr and "computed again" not in again.stderr and not list(folder.glob(".*"))
    (folder / "clips/wrong.wav").unlink()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(pauses, "speech", lambda samples, _: [(0.0, len(samples) / 16000)])
    renewed = calm(*arguments)
    assert renewed.exit_code == 0 and "clips.parquet is computed again: files have changed" in renewed.stderr
    assert json.loads(renewed.stdout)["searched"] == 3 and calm(*arguments).stdout == renewed.stdout
    refused = calm(*["clips/0.wav" if argument == "clips" else argument for argument in arguments])
    assert refused.exit_code == 2 and "clips.parquet is an index of other recordings: name another file" in refused.stderr


def test_an_index_that_fails_leaves_nothing(folder, encoder, monkeypatch):
    listener, sources = Listener(16000), search.Sources.from_names(["clips"])
    rows, _ = search_index.indexed(sources, encoder, listener, folder / "i.parquet")
    next(rows)
    rows.close()
    assert not list(folder.glob("*.parquet*")) and not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["good morning", "clips/wrong.wav", "clips/gone.wav"], "none of 2 files can be searched"),
        (["good morning", "clips/silent.wav"], "nobody speaks in any of 1 files"),
        (["good morning", "empty"], "empty holds no audio"),
        (["good morning", "tapes"], "'tapes' is not a file, a folder, or a corpus with features in data/features (none)"),
        (["good morning"], "nothing to search was named: give a corpus, audio files or folders after the words"),
        (["  ", "clips"], "no words to search for"),
        (["so " * 600, "clips"], "more than the language model's 512 tokens"),
        (["--like", "clips/silent.wav", "clips"], "nobody speaks in clips/silent.wav"),
        (["--like", "clips/wrong.wav", "clips"], "unreadable audio: clips/wrong.wav"),
        (["good morning", "clips", "--index", "clips/wrong.wav"], "wrong.wav is not an index of `calm search`"),
        (["good morning", "clips", "--index", "gone/i.parquet"], "gone does not exist"),
        (["good morning", "clips", "--model", "empty"], "empty is not a CALP model: it has no config.json"),
        (["good morning", "clips", "--model", ""], "data/calp holds no model: name one"),
    ],
)
def test_nothing_is_done(folder, model, arguments, says):
    (folder / "empty").mkdir()
    completed = arguments[:-2] if arguments[-1] == "" else arguments if "--model" in arguments else [*arguments, "--model", model]
    done = calm("search", *completed)
    assert done.exit_code == 2 and says in done.stderr and not done.stdout
    assert (folder / "clips/wrong.wav").read_text() == "this is no audio"


def test_an_index_of_another_model(folder, model, tmp_path_factory):
    other = calp(tmp_path_factory.mktemp("other"), seed=6)
    assert calm("search", "hello", "clips/0.wav", "--model", model, "--index", "i.parquet").exit_code == 0
    done = calm("search", "hello", "clips/0.wav", "--model", other, "--index", "i.parquet")
    assert done.exit_code == 2 and "i.parquet is an index of another model: name another file" in done.stderr
