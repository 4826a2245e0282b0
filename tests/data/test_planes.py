"""A plane of another kind than log-mel, 20 channels at 50 Hz with blocks of 25 frames, through extractor, collators and models."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig

from calm.audio import features
from calm.corpora.utterances import Corpus, Utterance, write_table
from calm.data.augmentation import Augmentation
from calm.data.batching import MaskingCollator, PairCollator, SequenceCollator
from calm.data.examples import Examples, each_frames, load_examples, load_frames, read_normaliser
from calm.data.ragged import Ragged
from calm.evaluation.retrieval import retrieval
from calm.inference.processing import CalmFeatureExtractor
from calm.models.configuration import CalmConfig
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining, CalmForSequenceClassification
from calm.training.forward import encode_blocks, predict

BLOCK, HOP, CHANNELS, RATE = 25, 15, 20, 8000
TEXT = BertConfig(
    vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64, max_position_embeddings=40
)


@dataclass(frozen=True)
class Means:
    """Means over 20 pieces of every 20 ms: a kind of frames whose values are easily computed by hand."""

    sample_rate: int = RATE
    channels: int = CHANNELS
    hop_ms: float = 20

    @property
    def hop(self) -> int:
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def frame_seconds(self) -> float:
        return self.hop / self.sample_rate

    def frames(self, samples: int) -> int:
        return samples // self.hop

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        frames = self.frames(len(samples))
        return samples[: frames * self.hop].reshape(frames, self.channels, -1).mean(2)


@pytest.fixture
def extractor(monkeypatch) -> CalmFeatureExtractor:
    monkeypatch.setitem(features.KINDS, "means", Means)
    return CalmFeatureExtractor(RATE, kind="means", block_frames=BLOCK, block_hop=HOP)


@pytest.fixture
def examples(extractor, tmp_path) -> Examples:
    """Six utterances of 0.4 to 2.9 s, whose frames were stored as the stage `features` does."""
    draw = np.random.default_rng(0)
    stored = [extractor.frames(draw.normal(size=round(RATE * (0.4 + index / 2))).astype(np.float32)) for index in range(6)]
    ids, splits = [f"u{index}" for index in range(6)], ["train"] * 4 + ["validation"] * 2
    rows = [Utterance(id, tmp_path / "a", 0, 1, id, None, split, None, ["happy"]) for id, split in zip(ids, splits, strict=True)]
    write_table(Corpus(("happy", "sad"), False, rows), tmp_path / "utterances.parquet")
    pd.DataFrame({"id": ids, "text": ["So glad", "so glad", "", "d", "e", "f"]}).to_parquet(tmp_path / "texts.parquet")
    values = pa.array([frames.ravel() for frames in stored], pa.list_(pa.float16()))
    pq.write_table(pa.table({"id": ids, "frames": [len(frames) for frames in stored], "features": values}), tmp_path / "part-00000.parquet")
    (tmp_path / "stats.json").write_text(json.dumps({"mean": [0.0] * CHANNELS, "std": [1.0] * CHANNELS}))
    return load_examples({"made": (tmp_path / "utterances.parquet", tmp_path, tmp_path)}, BLOCK, HOP, "utterance")


def config(**options) -> CalmConfig:
    sizes = {"block_frames": BLOCK, "block_hop": HOP, "channels": CHANNELS, "patch": (5, 10), "stride": (5, 5), "spectran_layers": 1}
    return CalmConfig(TEXT, **{"projection": 16, "heads": {"emotion": ["happy", "sad"]}, **sizes, **options})


def tokens() -> Ragged:
    return Ragged.from_rows([np.array([2, 5 + row, 9, 3]) for row in range(6)])


def test_frames_by_hand(extractor, tmp_path):
    """The second frame of a ramp: samples 160 to 319, 8 to a channel."""
    ramp = np.arange(800, dtype=np.float32) / 800
    frames = extractor.frame_extractor(ramp)
    assert frames.shape == (5, CHANNELS) and extractor.frame_extractor.frame_seconds == 0.02
    assert frames[1, 3] == pytest.approx(np.mean(np.arange(184, 192)) / 800)
    assert extractor.acoustic_frames([ramp]).all_blocks(np.array([0]))[0].shape == (1, 1, BLOCK, CHANNELS)  # padded to one block
    with pytest.raises(ValueError, match="159 samples at 8000 Hz are less than a frame"):
        extractor(ramp[:159], sampling_rate=RATE)
    extractor.save_pretrained(tmp_path)
    again = CalmFeatureExtractor.from_pretrained(tmp_path)
    assert again.kind == "means" and again.frame_extractor == extractor.frame_extractor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cochleagram"}, "kind is 'cochleagram': allowed are log-mel, encoder, means"),
        ({"kind": "means", "trim_db": 40}, "quiet ends can only be found in log-mel"),
    ],
)
def test_settings_of_another_kind(extractor, settings, message):
    with pytest.raises(ValueError, match=message):
        CalmFeatureExtractor(RATE, **settings)


def test_blocks_of_the_examples(examples, tmp_path):
    lengths = examples.frames.utterances.lengths
    assert lengths.tolist() == [25, 45, 70, 95, 120, 145] and examples.frames.channels == CHANNELS
    assert examples.frames.blocks.tolist() == [1, 2, 4, 5, 7, 9]
    ids, piece = load_frames(tmp_path / "part-00000.parquet", 1, 2, read_normaliser(tmp_path, "utterance"), BLOCK, HOP)
    assert ids == ["u2", "u3"] and np.array_equal(piece.utterances[1], examples.frames.utterances[3])
    pieces = list(each_frames(tmp_path, 4, read_normaliser(tmp_path, "utterance"), BLOCK, HOP))
    assert [ids for ids, _ in pieces] == [["u0", "u1", "u2", "u3"], ["u4", "u5"]]
    assert np.array_equal(pieces[1][1].blocks_of(1), examples.frames.blocks_of(5))


@pytest.mark.parametrize("front_end", ["spectran", "linear", "cnn"])
def test_calp_encoded_blocks_and_retrieval(examples, front_end):
    augment = Augmentation(speed=0.1, warp=0.1, channel_masks=1, time_masks=1)
    collator = PairCollator(examples.frames, list(examples.table["text"]), torch.randn(6, 64), augment=augment)
    assert collator.text_index[:2].tolist() == [0, 0]  # the same but for case
    model = CalmForContrastivePretraining(config(front_end=front_end)).train()
    batch = collator(range(6), torch.Generator().manual_seed(0))
    assert batch["anchor"].shape == batch["neighbour"].shape == (6, BLOCK, CHANNELS)
    output = model(**batch)
    output.loss.backward()
    assert output.loss.isfinite() and all(parameter.grad.isfinite().all() for parameter in model.spectran.parameters())
    encoded = encode_blocks(model.spectran, examples.frames, batch=4)
    assert encoded.lengths.tolist() == [1, 2, 4, 5, 7, 9] and encoded.values.shape == (28, model.spectran.encoded_width)
    with torch.no_grad():
        blocks = torch.from_numpy(examples.frames.blocks_of(5))
        np.testing.assert_allclose(encoded[5], model.eval().spectran.encode(blocks).half().numpy(), atol=2e-3)
        vectors = [model.embed_audio(torch.from_numpy(examples.frames.blocks_of(row))).mean(0).numpy() for row in range(6)]
    assert retrieval(np.stack(vectors), np.stack(vectors))["recall_at_1"] == 1


def test_masked_audio(examples):
    sequences = SequenceCollator(examples.frames, tokens(), most=12)
    batch = MaskingCollator(sequences, 4, (2, 3, 4), 60, audio=0.4)(range(6), torch.Generator().manual_seed(0))
    assert batch["audio_labels"].shape == (int(batch["audio_mask"].sum()), BLOCK, CHANNELS)
    output = CalmForMaskedPretraining(config()).train()(**batch)
    output.loss.backward()
    assert output.mam_loss.isfinite() and output.mam_loss > 0


def test_heads(examples):
    model = CalmForSequenceClassification(config(head_pooling="cls_blocks"))
    targets = examples.targets()
    computed = SequenceCollator(examples.frames, tokens(), targets=targets, most=12)
    model(**computed(range(6))).loss.backward()
    encoded = SequenceCollator(examples.frames, tokens(), encode_blocks(model.calm.spectran, examples.frames), targets=targets, most=12)
    logits = [predict(model, np.arange(6), collator, 4) for collator in (computed, encoded)]
    assert logits[0].shape == (6, 2)
    np.testing.assert_allclose(*logits, atol=5e-3)  # encoded blocks are kept as float16
