"""From Parquet to batches: ragged arrays, blocks, pairs and masks."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calm.corpora.utterances import Corpus, Utterance, write_table
from calm.data.augmentation import Augmentation, hide
from calm.data.batching import MaskingCollator, PairCollator, SequenceCollator, mixed
from calm.data.examples import load_examples
from calm.data.ragged import AcousticFrames, Ragged, fit


def rows_of(lengths, channels=64):
    """Every frame holds its own number in all channels, row r starting at 1000 r, so that a block tells where it was cut."""
    return Ragged.from_rows(
        [np.repeat((1000 * row + np.arange(length))[:, None], channels, 1).astype(np.float16) for row, length in enumerate(lengths)]
    )


def frames_of(lengths):
    return AcousticFrames(rows_of(lengths), np.ones(len(lengths), dtype=np.float32))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.data())
def test_padding_keeps_every_row(lengths, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    ragged = rows_of(lengths, 2)
    values, mask = ragged.pad(rows)
    assert mask.sum(1).tolist() == [lengths[row] for row in rows]
    for index, row in enumerate(rows):
        assert np.array_equal(values[index][mask[index]], ragged[row])
    assert (values[~mask] == 0).all()


@pytest.mark.parametrize(("frames", "blocks"), [(50, 1), (79, 1), (80, 2), (109, 2), (110, 3), (300, 9)])
def test_number_of_blocks(frames, blocks):
    assert frames_of([frames]).blocks.tolist() == [blocks]


def test_blocks_are_50_frames_every_30():
    blocks, mask = frames_of([60, 111]).all_blocks(np.array([1, 0]))
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    assert blocks[0, :, 0, 0].tolist() == [1000, 1030, 1060] and blocks[0, 2, 49, 63] == 1109
    assert blocks[1, 0, 0, 0] == 0 and (blocks[1, 1:] == 0).all()


def test_pairs_are_neighbours_of_the_same_utterance():
    collator = PairCollator(frames_of([300, 500, 80]), ["a", "b", "a"], torch.zeros(3, 4))
    firsts = set()
    for seed in range(40):
        batch = collator([2, 0, 1], torch.Generator().manual_seed(seed))
        anchor, neighbour = batch["anchor"][:, 0, 0], batch["neighbour"][:, 0, 0]
        assert (neighbour - anchor).tolist() == [30, 30, 30]
        assert (anchor // 1000).tolist() == [2, 0, 1]
        firsts.add(anchor[1].item())
    assert firsts == {0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0, 210.0}  # every j is drawn
    assert batch["text_index"].tolist() == [0, 0, 1]


def test_without_a_generator_the_middle_pair_is_taken():
    collator = PairCollator(frames_of([300]), ["a"], torch.zeros(1, 4))
    assert collator([0])["anchor"][0, 0, 0] == 120 == collator([0])["anchor"][0, 0, 0]


def test_one_block_is_paired_with_itself_shifted():
    collator = PairCollator(frames_of([65, 50]), ["a", ""], torch.zeros(2, 4))
    batch = collator([0, 1], torch.Generator().manual_seed(0))
    assert (batch["anchor"][0, 0, 0], batch["neighbour"][0, 0, 0]) == (0, 15)  # the last window
    assert torch.equal(batch["neighbour"][1], batch["anchor"][1].roll(16, 0))
    assert batch["has_text"].tolist() == [True, False]


@given(st.integers(2, 600), st.integers(0, 600), st.integers(8, 512))
def test_fit_never_exceeds_and_cuts_only_where_needed(tokens, blocks, most):
    kept, left = (int(part[0]) for part in fit(np.array([tokens]), np.array([blocks]), most))
    assert kept + left <= most and kept <= tokens and left <= blocks
    if tokens + blocks <= most:
        assert (kept, left) == (tokens, blocks)
    else:
        assert kept >= min(tokens, most // 2)


TOKENS = Ragged.from_rows([np.array([101, 7, 8, 9, 102]), np.array([101, 102]), np.array([101, 5, 102])])


def sequences(**options):
    acoustic = Ragged.from_rows([np.full((n, 4), n, dtype=np.float16) for n in (9, 1, 2)])
    return SequenceCollator(frames_of([300, 60, 80]), TOKENS, acoustic, **options)


def test_modalities():
    both, audio, text = (sequences(modality=name)([0, 2]) for name in ("both", "audio", "text"))
    assert both["input_ids"].tolist() == [[101, 7, 8, 9, 102], [101, 5, 102, 0, 0]]
    assert both["acoustic_mask"].sum(1).tolist() == [9, 2]
    assert audio["input_ids"].tolist() == [[101, 102], [101, 102]] and audio["encoded_blocks"].shape == (2, 9, 4)
    assert "acoustic_mask" not in text and text["attention_mask"].sum(1).tolist() == [5, 3]


def test_cut_texts_end_in_sep():
    batch = sequences(most=8)([0])
    assert batch["input_ids"].tolist() == [[101, 7, 8, 102]] and batch["acoustic_mask"].sum() == 4


def masking(**options):
    return MaskingCollator(sequences(), 103, (101, 102, 103), 200, **options)


def test_masks_replace_words_and_keep_what_they_were():
    batch = masking(words=0.34, audio=0.2)([0, 2], torch.Generator().manual_seed(0))
    masked = batch["word_mask"]
    assert masked.sum(1).tolist() == [1, 1] and (batch["input_ids"][masked] == 103).all()
    assert set(batch["word_labels"].tolist()) <= {5, 7, 8, 9}
    assert not (masked & torch.isin(batch["input_ids"], torch.tensor([101, 102]))).any()
    row, block = batch["audio_mask"].nonzero(as_tuple=True)
    assert batch["audio_labels"][:, 0, 0].tolist() == [2000 * (r == 1) + 30 * b for r, b in zip(row.tolist(), block.tolist(), strict=True)]


@pytest.mark.parametrize(("draw", "least"), [("each", 0), ("count", 1)])
def test_a_batch_may_have_no_masked_block(draw, least):
    counts = [masking(audio=0.05, audio_draw=draw)([2], torch.Generator().manual_seed(seed))["audio_mask"].sum() for seed in range(30)]
    assert min(counts) == least
    assert all(len(masking(audio=0.0)(rows)["audio_labels"]) == 0 for rows in ([1], [0, 2]))


def test_masks_without_a_generator_repeat():
    first, second = masking()([0, 1, 2]), masking()([0, 1, 2])
    assert torch.equal(first["audio_mask"], second["audio_mask"]) and torch.equal(first["input_ids"], second["input_ids"])


def test_80_10_10():
    collator = masking(style="80/10/10")
    ids = torch.full((200, 200), 150)
    replaced = collator.replace(ids, torch.ones_like(ids, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert (replaced == 103).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (replaced == 150).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_augmentation_off_is_falsy_and_on_changes_only_training():
    assert not Augmentation()
    augment = Augmentation(speed=0.2, warp=0.1, gain_db=6, time_masks=1, channel_masks=1)
    collator = SequenceCollator(frames_of([300, 120, 200]), TOKENS, None, augment=augment)
    plain, first, again = (
        collator([0, 1]),
        collator([0, 1], torch.Generator().manual_seed(5)),
        collator([0, 1], torch.Generator().manual_seed(5)),
    )
    assert torch.equal(plain["input_features"], collator([0, 1])["input_features"])
    assert torch.equal(first["input_features"], again["input_features"])
    assert not torch.equal(first["input_features"][0, 0], plain["input_features"][0, 0])


def test_gain_is_in_decibels():
    frames = np.zeros((60, 64), dtype=np.float32)
    moved = [Augmentation(gain_db=10).draw(60, 64, 2.0, 50, torch.Generator().manual_seed(seed))(frames)[0, 0] for seed in range(300)]
    assert max(moved) == pytest.approx(np.log(10) / 2, rel=0.02)  # 10 dB is a factor 10 of power; the log-mel was divided by 2
    assert min(moved) == pytest.approx(-np.log(10) / 2, rel=0.02)


def test_masks_hide_at_most_their_longest():
    masks = Augmentation(time_masks=1, time_mask_frames=10).masks((500,), 50, 64, torch.Generator().manual_seed(0))
    blocks = torch.ones(500, 50, 64)
    hide(blocks, masks)
    hidden = (blocks[:, :, 0] == 0).sum(1)
    assert hidden.max() <= 10 and hidden.max() >= 9
    assert ((blocks == 0).all(2) | (blocks == 1).all(2)).all()  # whole frames


def test_crop_keeps_a_stretch_of_the_frames():
    """Half may go, and no more than leaves a block; both ends lose some."""
    frames, draw = np.arange(200, dtype=np.float32)[:, None], torch.Generator().manual_seed(0)
    assert Augmentation(crop=0.5)
    kept = [Augmentation(crop=0.5).draw(200, 1, 1.0, 120, draw)(frames)[:, 0] for _ in range(300)]
    assert all((np.diff(own) == 1).all() for own in kept)
    lengths, firsts, lasts = [len(own) for own in kept], [own[0] for own in kept], [own[-1] for own in kept]
    assert (min(lengths), max(lengths)) == (120, 200)
    assert (min(firsts), max(lasts)) == (0, 199) and max(firsts) > 50 and min(lasts) < 150
    short = Augmentation(crop=0.9).draw(60, 1, 1.0, 120, draw)(frames[:60])
    assert len(short) == 60  # an utterance shorter than a block stays whole


def test_utterances_are_drawn_from_their_copies():
    """Each as often as the other; a row without a copy is itself; the same generator draws the same."""
    frames = frames_of([60, 60])
    copies = [AcousticFrames(Ragged(np.full((50, 64), value, np.float16), np.array([50, 0])), frames.scale) for value in (5000, 6000)]
    collator = SequenceCollator(frames, TOKENS, None, copies=copies)

    def first_values(generator) -> list[list[float]]:
        return collator([0, 1], generator)["input_features"][:, 0, 0, 0].tolist()

    drawn = [first_values(torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert {second for _, second in drawn} == {1000.0}
    for value in (0, 5000, 6000):
        assert sum(first == value for first, _ in drawn) == pytest.approx(100, abs=25)
    assert drawn[7] == first_values(torch.Generator().manual_seed(7)) and first_values(None) == [0, 1000]


def test_functionals_of_a_batch_are_those_of_what_it_hears():
    frames, copy = frames_of([60]), frames_of([80])
    frames.utterances.values[0] = 64  # a copy starts otherwise
    collator = SequenceCollator(frames, TOKENS, None, copies=[copy], functionals="thirds")
    means = {collator([0], torch.Generator().manual_seed(seed))["functionals"][0, 0].item() for seed in range(20)}
    assert sorted(means) == pytest.approx([(64 + 59 * 60 / 2) / 60, 39.5]) and collator([0])["functionals"].shape == (1, 8 * 64)


def test_mixed_labels_are_shares_of_two_rows():
    labels = torch.eye(4)
    batch = mixed(labels, 0.4, torch.Generator().manual_seed(1))
    share, others = batch["share"], batch["mixed_with"]
    assert share.shape == (4, 1) and sorted(others.tolist()) == [0, 1, 2, 3] and others.tolist() != [0, 1, 2, 3]
    for row, other in enumerate(others.tolist()):
        expected = torch.zeros(4)
        expected[row] += share[row, 0]
        expected[other] += 1 - share[row, 0]
        torch.testing.assert_close(batch["labels"][row], expected)
    again = mixed(labels, 0.4, torch.Generator().manual_seed(1))
    assert all(torch.equal(again[name], values) for name, values in batch.items())
    many = mixed(torch.zeros(20000, 1), 0.4, torch.Generator().manual_seed(2))["share"]
    assert many.mean().item() == pytest.approx(0.5, abs=0.02)
    assert many.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of Beta(a, a)


def test_only_training_with_labels_is_mixed():
    collator = sequences(targets=np.eye(3, dtype=np.float32), mixup=0.4)
    assert "share" not in collator([0, 1, 2]) and collator([0, 1, 2])["labels"].tolist() == np.eye(3).tolist()
    batch = collator([0, 1, 2], torch.Generator().manual_seed(3))
    assert batch["share"].shape == (3, 1) and batch["labels"].sum(1).tolist() == pytest.approx([1, 1, 1])
    assert "share" not in sequences(targets=np.eye(3, dtype=np.float32))([0, 1, 2], torch.Generator().manual_seed(3))


@pytest.fixture
def corpus(tmp_path):
    """A corpus of three utterances on disk; the second has no features, the third is shorter than a block."""
    rows = [Utterance(name, "x.wav", 0, 1, name, None, "train", None, labels) for name, labels in (("a", ["sad"]), ("b", []), ("c", None))]
    write_table(Corpus(("happy", "sad"), False, rows), tmp_path / "utterances.parquet")
    texts = tmp_path / "texts"
    texts.mkdir()
    pd.DataFrame({"id": ["a", "b", "c"], "text": ["hello", "there", None]}).to_parquet(texts / "texts.parquet")
    features = tmp_path / "features"
    features.mkdir()
    for number, (name, length) in enumerate((("a", 60), ("c", 20))):
        features_column = pa.array([np.full(length * 64, 3.0, dtype=np.float16)], pa.list_(pa.float16()))
        pq.write_table(
            pa.table({"id": [name], "frames": pa.array([length], pa.int32()), "features": features_column}),
            features / f"part-{number:05}.parquet",
        )
    (features / "stats.json").write_text(json.dumps({"mean": [1.0] * 64, "std": [4.0] * 64}))
    return {"corpus": (tmp_path / "utterances.parquet", texts, features)}


def test_examples_join_what_has_features(corpus):
    examples = load_examples(corpus)
    assert examples.table["id"].tolist() == ["a", "c"] and examples.table["text"].tolist() == ["hello", ""]
    assert examples.frames.utterances.lengths.tolist() == [60, 50]
    assert examples.frames.utterances[0][0, 0] == 0.5  # (3 - 1) / 4
    assert (examples.frames.utterances[1][20:] == 0).all()  # padded with the mean
    assert examples.targets().tolist() == [[0, 1], [0, 0]]
    assert examples.rows("train", labelled=True).tolist() == [0]


def test_soft_labels_stand_for_the_others_where_a_row_has_them(corpus):
    """As columns of the table; a row without a label stays without one, whatever its columns say."""
    rows = [Utterance(name, "x.wav", 0, 1, name, None, "train", None, labels) for name, labels in (("a", ["sad"]), ("b", []), ("c", None))]
    for row, share in zip(rows[::2], (0.6, 0.9), strict=True):
        row.extra = {"target_happy": share, "target_sad": 0.4}
    write_table(Corpus(("happy", "sad"), False, rows), corpus["corpus"][0])
    assert load_examples(corpus).targets().tolist() == [[np.float32(0.6), np.float32(0.4)], [0, 0]]
    rows[0].extra = {"target_happy": float("nan"), "target_sad": float("nan")}
    write_table(Corpus(("happy", "sad"), False, rows), corpus["corpus"][0])
    assert load_examples(corpus).targets().tolist() == [[0, 1], [0, 0]]


def test_examples_of_two_corpora_are_normalised_apart(corpus, monkeypatch):
    files = corpus["corpus"]
    examples = load_examples({"one": files, "two": files})
    assert examples.table["corpus"].tolist() == ["one", "one", "two", "two"]
    assert examples.frames.utterances[2][0, 0] == 0.5
    monkeypatch.setattr("calm.data.arrays.IN_MEMORY", 0)
    mapped = load_examples(corpus)
    assert isinstance(mapped.frames.utterances.values, np.memmap) and mapped.frames.utterances[0][0, 0] == 0.5


def test_utterance_normalisation(corpus):
    examples = load_examples(corpus, normalise="utterance")
    assert examples.frames.utterances[0].astype(float).max() == 0


def test_tokens_round_trip_and_refuse_others(tmp_path):
    ragged = Ragged.from_rows([np.random.default_rng(0).normal(size=(n, 3)).astype(np.float16) for n in (2, 0, 4)])
    ragged.write(tmp_path / "tokens.parquet", ["a", "b", "c"])
    again = Ragged.read([(tmp_path / "tokens.parquet", ["a", "b", "c"])])
    assert np.array_equal(again.values, ragged.values) and np.array_equal(again.lengths, ragged.lengths)
    with pytest.raises(ValueError, match="other utterances"):
        Ragged.read([(tmp_path / "tokens.parquet", ["a", "c", "b"])])


READ = """
import re, sys
from pathlib import Path
from calm.data.ragged import Ragged
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Ragged.read([(Path(sys.argv[2]), ["a"])])  # imports and allocators
ids, before = [str(row) for row in range(3000)], peak()
values = Ragged.read([(Path(sys.argv[1]), ids)]).values
print((peak() - before) / values.nbytes)
"""


def test_reading_takes_little_more_memory_than_the_array(tmp_path):
    values = np.random.default_rng(0).integers(0, 1 << 16, (60_000, 1000), np.uint16).view(np.float16)  # 120 MB
    Ragged(values, np.full(3000, 20)).write(tmp_path / "blocks.parquet", [str(row) for row in range(3000)])
    Ragged(values[:1], np.array([1])).write(tmp_path / "small.parquet", ["a"])
    files = [str(tmp_path / name) for name in ("blocks.parquet", "small.parquet")]
    done = subprocess.run([sys.executable, "-c", READ, *files], capture_output=True, text=True, check=True, timeout=60)
    assert 1 <= float(done.stdout) < 1.8
    again = Ragged.read([(tmp_path / "blocks.parquet", [str(row) for row in range(3000)])])
    assert np.array_equal(again.values.view(np.uint16), values.view(np.uint16))


def test_several_blocks_of_an_utterance_for_its_text():
    collator = PairCollator(frames_of([300, 50, 110]), ["a", "b", "c"], torch.zeros(3, 4), text_blocks=4)
    batch = collator([0, 1, 2], torch.Generator().manual_seed(0))
    assert batch["text_block_mask"].tolist() == [[True] * 4, [True, False, False, False], [True] * 3 + [False]]
    starts = batch["text_blocks"][:, 0, 0]
    assert len(set(starts[:4].tolist())) == 4 and set(starts[:4].tolist()) <= {30.0 * block for block in range(9)}
    assert starts[4] == 1000 and sorted(starts[5:].tolist()) == [2000, 2030, 2060]
    again = collator([0, 1, 2], torch.Generator().manual_seed(0))
    assert all(torch.equal(value, again[key]) for key, value in batch.items())


def test_without_a_generator_the_blocks_are_evenly_spread():
    collator = PairCollator(frames_of([300, 50]), ["a", "b"], torch.zeros(2, 4), text_blocks=3)
    assert collator([0, 1])["text_blocks"][:, 0, 0].tolist() == [30, 120, 210, 1000]  # blocks 1, 4 and 7 of 9
    everything = PairCollator(frames_of([300]), ["a"], torch.zeros(1, 4), text_blocks=None)
    assert everything([0])["text_blocks"][:, 0, 0].tolist() == [30 * block for block in range(9)]


def test_one_block_for_the_text_changes_nothing():
    frames, texts = frames_of([300, 500]), ["a", "b"]
    plain = PairCollator(frames, texts, torch.zeros(2, 4))([0, 1], torch.Generator().manual_seed(2))
    several = PairCollator(frames, texts, torch.zeros(2, 4), text_blocks=2)([0, 1], torch.Generator().manual_seed(2))
    assert set(plain) == {"anchor", "neighbour", "text_index", "has_text", "text_vectors"}
    assert all(torch.equal(plain[key], several[key]) for key in plain)  # the pair is drawn first


def test_speakers_are_numbered_and_unknown_ones_differ():
    collator = PairCollator(frames_of([80] * 5), ["a"] * 5, torch.zeros(5, 4), speakers=["x", None, "y", "x", None])
    numbers = collator([0, 1, 2, 3, 4])["speaker_index"].tolist()
    assert numbers[0] == numbers[3] and len(set(numbers)) == 4


@pytest.mark.parametrize("augment", [None, Augmentation(speed=0.2, gain_db=6, crop=0.3)])
@pytest.mark.parametrize("seed", [None, 3])
def test_whole_utterances_and_where_their_blocks_begin(augment, seed):
    """The same draws as without an encoder to train: blocks of the utterances, changed alike, are those of the other batch."""

    def batch(**options) -> dict[str, torch.Tensor]:
        collator = PairCollator(frames_of([300, 60, 110]), ["a", "b", "c"], torch.zeros(3, 4), augment=augment, text_blocks=2, **options)
        return collator([0, 1, 2], None if seed is None else torch.Generator().manual_seed(seed))

    plain, whole = batch(), batch(corpora=np.array([0, 1, 1]))
    assert whole["corpus"].tolist() == [0, 1, 1] and whole["frame_mask"].shape == whole["frames"].shape[:2]
    starts = {"anchor": range(3), "neighbour": range(3), "text_blocks": plain["text_block_mask"].nonzero()[:, 0]}
    for name, rows in starts.items():
        found = [whole["frames"][row, start : start + 50] for row, start in zip(rows, whole[name], strict=True)]
        same = whole["anchor"] == whole["neighbour"]
        for row, window, expected in zip(rows, found, plain[name], strict=True):
            if not (name == "neighbour" and same[row]):  # exactly one block long: shifted where it is cut
                assert torch.equal(window, expected)
