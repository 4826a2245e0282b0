"""The stage `calp`: what its probes hear, and who is one speaker."""

import numpy as np
import pandas as pd
import torch
from transformers import BertConfig

from calm.data.examples import Examples
from calm.data.ragged import AcousticFrames, Ragged
from calm.models.configuration import CalmConfig
from calm.models.modeling import CalmForContrastivePretraining
from pipeline.stages import calp

TEXT = BertConfig(vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)


def examples() -> Examples:
    """60 utterances of two blocks, five speakers of twelve; speaker and label are heard in two channels each, the split is by speaker."""
    rng, speaker, label = np.random.default_rng(0), np.arange(60) // 12, np.arange(60) % 2
    frames = rng.normal(0, 0.1, (60, 80, 64))
    frames[np.arange(60), :, speaker] += 3
    frames[np.arange(60), :, 10 + label] += 3
    split = np.array(["train", "train", "train", "validation", "test"])[speaker]
    table = pd.DataFrame({"corpus": "acted", "id": [str(row) for row in range(60)], "split": split})
    table["speaker"], table["labels"] = [f"s{number}" for number in speaker], [["sad"] if value else ["happy"] for value in label]
    return Examples(table, AcousticFrames(Ragged.from_rows(list(frames.astype(np.float16))), np.ones(60, np.float32)))


def model() -> CalmForContrastivePretraining:
    torch.manual_seed(0)
    return CalmForContrastivePretraining(CalmConfig(TEXT, projection=16, spectran_width=64, spectran_beside="frames"))


def test_probes_hear_held_out_speakers_and_labels():
    rows = {row["of"]: row for row in calp.probes(model(), examples(), "before")}
    assert rows["speaker"] == {
        "corpus": "acted", "of": "speaker", "when": "before", "balanced_accuracy": 1.0, "chance": 0.5, "n": 12, "classes": 2
    }  # fmt: skip
    assert rows["labels"] == {
        "corpus": "acted", "of": "labels", "when": "before", "balanced_accuracy": 1.0, "chance": 0.5, "n": 24, "classes": 2
    }  # fmt: skip


def test_labels_that_are_not_heard_are_not_read():
    given = examples()
    given.table["labels"] = [["sad"] if value else ["happy"] for value in np.random.default_rng(1).random(60) < 0.5]
    rows = {row["of"]: row for row in calp.probes(model(), given, "after")}
    assert rows["labels"]["balanced_accuracy"] < 0.8 and rows["speaker"]["balanced_accuracy"] == 1.0


def test_a_corpus_without_speakers_and_labels_has_no_probes():
    given = examples()
    given.table["speaker"], given.table["labels"] = None, None
    assert calp.probes(model(), given, "before") == []


def test_statistics_are_mean_and_deviation_of_the_tokens():
    given, network = examples(), model()
    tokens = network.spectran(torch.from_numpy(given.frames.blocks_of(3))).detach()
    expected = torch.cat([(tokens[0] + tokens[1]) / 2, (tokens[0] - tokens[1]).abs() / 2])
    np.testing.assert_allclose(calp.token_statistics(network, given, np.array([3]))[0], expected, atol=1e-5)


def test_speakers_of_two_corpora_differ_and_unknown_ones_are_none():
    given = examples()
    given.table.loc[59, "speaker"] = None
    given.table.loc[0, "corpus"] = "other"
    names = calp.speakers(given)
    assert names[0] == "other/s0" and names[1] == "acted/s0" and names[59] is None
