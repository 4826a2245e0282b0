"""What a card says of a speech encoder."""

import json

import pandas as pd
import pytest

from pipeline import model_card, paths


def test_the_encoder_its_licence_and_where_it_is(tmp_path, monkeypatch):
    """Of a local folder, its name without the way to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/hubert").mkdir(parents=True)
    for encoder, name in (("whisper-tiny.en", "whisper-tiny.en"), (str(tmp_path / "mine/hubert"), "hubert"), ("owner/x@1", "owner/x@1")):
        folder = paths.frames("corpus", "encoder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stats.json").write_text(json.dumps({"encoder": encoder, "layers": [2, 3]}))
        assert model_card._encoder("corpus") == (name, [2, 3])


@pytest.mark.parametrize(
    ("states", "graph", "says"),
    [
        (None, False, {"encoder": "", "licence": "", "graph": ""}),
        (("whisper-tiny.en", [2]), True, {"encoder": "whisper-tiny.en, layer 2", "licence": "MIT (OpenAI", "graph": "`encoder.onnx`"}),
        (("hubert", [2, 3]), False, {"encoder": "hubert, layers 2, 3", "licence": "see where it was published", "graph": "weights."}),
    ],
)
def test_words_of_the_card(states, graph, says):
    words = model_card._about_encoder(states, graph)
    assert set(words) == set(says)
    for place, part in says.items():
        assert part in words[place] if part else words[place] == ""
    assert "encoder.onnx" in words["graph"] or not graph


def test_what_was_learned_from():
    """The labelled rows of the training split."""
    table = pd.DataFrame(
        {
            "split": ["train", "train", "train", "test"],
            "labels": [["x"], ["x", "y"], None, ["y"]],
            "speaker": ["a", "b", "c", "d"],
            "duration": [1800.0, 1800.0, 9.0, 9.0],
        }
    )
    assert model_card.learned(table, ["x", "y", "z"]) == "2 utterances, 1.00 h, of 2 speakers: x 2, y 1, z 0"
