"""Label pairs, and utterances to hear."""

import base64
import io

import numpy as np
import pytest
import soundfile

from calm.corpora.utterances import Corpus, Utterance, write_table
from pipeline.report import figure_style, figures, utterance_examples
from pipeline.settings import Features


@pytest.fixture
def table(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.01 * np.sin(np.arange(48000)), 16000)
    corpus = Corpus(classes=("x", "y", "z"))
    labels = [["x"], ["x", "y"], ["x"], [], None, ["y"], ["x", "y"]]
    lengths = [3, 3, 2, 1.5, 3, 0.5, 3]
    for number, (names, seconds) in enumerate(zip(labels, lengths, strict=True)):
        corpus.utterances.append(
            Utterance(f"u{number}", tmp_path / "a.wav", 0.0, seconds, labels=names, split="train" if number else "test")
        )
    write_table(corpus, tmp_path / "table.parquet")
    return utterance_examples.read_utterances(tmp_path / "table.parquet")


def test_labels_that_occur_together(table):
    counts = utterance_examples.label_pairs(table)
    assert counts.to_numpy().tolist() == [[4, 2, 0], [2, 3, 0], [0, 0, 0]] and list(counts.columns) == ["x", "y", "z"]
    table.attrs["one_hot"] = True
    assert utterance_examples.label_pairs(table) is None


def test_examples_are_of_different_labels_a_few_seconds_long_and_have_a_text(table):
    texts = {f"u{number}": "hello" for number in (0, 1, 2, 3, 4, 5)}
    assert list(utterance_examples.choose_examples(table, texts, 3)["id"]) == ["u0", "u1", "u3"]
    assert list(utterance_examples.choose_examples(table, texts, 9)["id"]) == ["u0", "u1", "u3", "u2"]
    assert utterance_examples.choose_examples(table, {}, 3).empty


def test_a_clip_can_be_played(table):
    clip = utterance_examples.clip(next(table.itertuples()), "hello", Features())
    kind, _, data = clip["audio"].partition(";base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:audio/mpeg" and rate == 16000 and 2.9 < len(samples) / rate < 3.2 and 0.6 < np.abs(samples).max() < 1
    assert clip["label"] == "x" and clip["logmel"].shape[1] == Features().mels


def test_figures(tmp_path, table):
    svg = figure_style.save(figures.label_pairs(utterance_examples.label_pairs(table)), "both", tmp_path)
    assert svg.count(">4</text>") == 1 and (tmp_path / "both.png").exists()
    assert "<svg" in figure_style.save(figures.durations({"train": [1.0, 2.0, 3.0], "test": [2.0]}), "durations", tmp_path)
    assert "<image" in figure_style.save(figures.logmel(np.random.default_rng(1).normal(size=(90, 64)), 10), "logmel", tmp_path)


def test_no_table_no_frame(tmp_path):
    assert utterance_examples.read_utterances(tmp_path / "none.parquet") is None
