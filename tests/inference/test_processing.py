"""From samples and texts to the inputs of the models, and back from disk."""

import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soxr
import torch
from made_model import CLASSES, MEAN, STD, release, speech
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, AutoProcessor

from calm.audio.logmel import LogMel
from calm.corpora.utterances import Corpus, Utterance, write_table
from calm.data.batching import SequenceCollator, tokenise
from calm.data.examples import load_examples
from calm.data.normalisation import Sums, of_speaker
from calm.inference.processing import CalmFeatureExtractor, CalmProcessor


@pytest.fixture(scope="module")
def processor(released):
    return AutoProcessor.from_pretrained(released)


def test_blocks_by_hand():
    """1 s: 1 + (16000 - 400) // 160 = 98 frames, 1 + (98 - 50) // 30 = 2 blocks; half of it 48 frames, padded by 2 to one block."""
    extract, samples = CalmFeatureExtractor(normalise="corpus", mean=MEAN, std=STD), speech(1)
    batch = extract([samples, samples[:8000]], sampling_rate=16000)
    assert batch["input_features"].shape == (2, 2, 50, 64) and batch["acoustic_mask"].tolist() == [[True, True], [True, False]]
    stored = LogMel()(samples).astype(np.float16).astype(np.float32)
    expected = ((stored - np.float32(MEAN)) / np.float32(STD)).astype(np.float16)
    np.testing.assert_array_equal(batch["input_features"][0, 1], expected[30:80])
    np.testing.assert_array_equal(batch["input_features"][1, 0, :48], expected[:48])
    assert not batch["input_features"][1, 0, 48:].any() and not batch["input_features"][1, 1].any()


def test_normalised_by_the_utterance():
    """Of exactly one block: its mean is 0 and its deviation 1, as far as float16 tells."""
    samples = speech(0.515)
    (block,) = CalmFeatureExtractor()(samples, sampling_rate=16000)["input_features"][0]
    np.testing.assert_allclose(block.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(block.std(0), 1, atol=5e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
def test_any_rate(rate):
    samples, extract = speech(1, rate=rate), CalmFeatureExtractor(normalise="corpus", mean=MEAN, std=STD)
    at_16k = soxr.resample(samples, rate, 16000)
    np.testing.assert_array_equal(
        extract(samples, sampling_rate=rate)["input_features"], extract(at_16k, sampling_rate=16000)["input_features"]
    )


def test_kinds_of_input_and_output():
    extract, samples = CalmFeatureExtractor(), speech(1)
    expected = extract(samples, sampling_rate=16000, return_tensors="np")["input_features"]
    for kind in (torch.from_numpy(samples), samples.tolist(), [samples], samples[None], [torch.from_numpy(samples)]):
        np.testing.assert_array_equal(extract(kind, sampling_rate=16000)["input_features"], expected)
    batch = extract(samples, sampling_rate=16000, return_tensors="pt")
    assert batch["input_features"].dtype == torch.float32 and batch["acoustic_mask"].dtype == torch.bool
    with pytest.raises(ValueError, match="return_tensors is 'tf'"):
        extract(samples, sampling_rate=16000, return_tensors="tf")


@pytest.mark.parametrize(
    ("samples", "rate", "says"),
    [
        (speech(1), None, "sampling_rate is None: give the rate"),
        ([speech(1), np.zeros((2, 16000))], 16000, r"shape \(2, 16000\).*take the channels' mean"),
        (np.ones(16000, np.int16), 16000, "int16: give floats"),
        (np.full(16000, np.nan), 16000, "NaN or infinity"),
        (np.zeros(399), 16000, "399 samples at 16000 Hz are less than a frame"),
        (np.zeros(0), 16000, "0 samples"),
    ],
)
def test_samples_that_cannot_be_used(samples, rate, says):
    with pytest.raises(ValueError, match=says):
        CalmFeatureExtractor()(samples, sampling_rate=rate)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"normalise": "corpus"}, "mean and std are needed, for 64 channels"),
        ({"normalise": "corpus", "mean": MEAN[:9], "std": STD}, "for 64 channels"),
        ({"normalise": "batch"}, "'batch': allowed are corpus and utterance"),
        ({"high_hz": 9000}, "half of sample_rate 16000"),
    ],
)
def test_settings_that_do_not_go_together(settings, says):
    with pytest.raises(ValueError, match=says):
        CalmFeatureExtractor(**settings)


@pytest.mark.parametrize("normalise", ["corpus", "utterance"])
def test_inputs_are_those_of_training(processor, tmp_path, normalise):
    """The same utterances by way of the features' Parquet and the collator of training, bit by bit."""
    extractor = CalmFeatureExtractor(normalise=normalise, mean=MEAN, std=STD, max_tokens=12)
    clips, texts = [speech(seconds, seed) for seed, seconds in enumerate((0.3, 2.0, 5.0))], ["", "so it is", "a b c d e f g h i j k l"]
    corpus = Corpus(("x",), False, [Utterance(str(n), tmp_path / "a", 0, 1, text=text) for n, text in enumerate(texts)])
    write_table(corpus, tmp_path / "utterances.parquet")
    pd.DataFrame({"id": ["0", "1", "2"], "text": texts}).to_parquet(tmp_path / "texts.parquet")
    stored = [extractor.frame_extractor(clip).astype(np.float16) for clip in clips]
    columns = {"id": ["0", "1", "2"], "frames": [len(frames) for frames in stored]}
    values = pa.array([frames.ravel() for frames in stored], pa.list_(pa.float16()))
    pa.parquet.write_table(pa.table({**columns, "features": values}), tmp_path / "part-00000.parquet")
    (tmp_path / "stats.json").write_text(json.dumps({"mean": MEAN.tolist(), "std": STD.tolist()}))
    examples = load_examples({"mine": (tmp_path / "utterances.parquet", tmp_path, tmp_path)}, normalise=normalise)
    expected = SequenceCollator(examples.frames, tokenise(processor.tokenizer, texts), most=12)(np.arange(3))
    del expected["acoustic_places"]  # only training needs it
    batch = CalmProcessor(extractor, processor.tokenizer)(clips, texts, 16000)
    assert set(batch) == set(expected) == set(processor.model_input_names)
    for name in expected:
        torch.testing.assert_close(batch[name], expected[name], rtol=0, atol=0)


def test_a_speaker_is_heard_as_in_training():
    """By the frames of the recordings and those that count as heard from everybody; the extractor itself still knows nobody."""
    extractor = CalmFeatureExtractor(normalise="corpus", mean=MEAN, std=STD)
    clips = [speech(2), speech(3, 1)]
    frames = [extractor.frames(clip) for clip in clips]
    sums = Sums()
    sums.add(np.concatenate(frames))
    mean, std = of_speaker(sums, (MEAN, STD))
    known = extractor.for_speaker(clips)
    (found,) = (known.normalised(frames[:1]).utterances[0],)
    np.testing.assert_allclose(found, ((frames[0].astype(np.float32) - mean) / std), atol=4e-3)
    (new,) = (extractor.normalised(frames[:1]).utterances[0],)
    np.testing.assert_allclose(new, ((frames[0].astype(np.float32) - MEAN) / STD), atol=4e-3)
    with pytest.raises(ValueError, match="give one in which the person is heard"):
        extractor.for_speaker([])
    with pytest.raises(ValueError, match="normalises every utterance by its own frames"):
        CalmFeatureExtractor(normalise="utterance").for_speaker(clips)


def test_text_audio_or_both(processor):
    both = processor(speech(1), "Hello", 16000)
    text = processor(text="hello")
    audio = processor(speech(1), sampling_rate=16000)
    assert both["input_ids"].tolist() == text["input_ids"].tolist() == [[101, 7592, 102]] and audio["input_ids"].tolist() == [[101, 102]]
    assert "input_features" not in text
    assert isinstance(processor(text=["a", None], return_tensors="np")["input_ids"], np.ndarray)
    with pytest.raises(ValueError, match="neither audio nor text"):
        processor()
    with pytest.raises(ValueError, match="1 utterances have audio and 2 have a text"):
        processor(speech(1), ["a", "b"], 16000)
    with pytest.raises(ValueError, match="a text is int"):
        processor(text=[3])


def test_what_does_not_fit_is_told(released, caplog):
    """12 places: 5 s have 1 + (498 - 50) // 30 = 15 blocks, of which 10 fit beside [CLS] [SEP]."""
    short = CalmProcessor.from_pretrained(released)
    short.feature_extractor.max_tokens = 12
    batch = short([speech(5), speech(1)], sampling_rate=16000)
    assert batch["acoustic_mask"].sum(1).tolist() == [10, 2] and "1 of 2 utterances do not fit the 12 places" in caplog.text


def test_auto_classes_and_round_trips_are_exact(released, tmp_path):
    inputs = AutoProcessor.from_pretrained(released)([speech(1), speech(2, 1)], ["so", None], 16000)
    model = AutoModelForSequenceClassification.from_pretrained(released).eval()
    logits = model(**inputs).logits
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(released).save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    repeated = AutoProcessor.from_pretrained(tmp_path)([speech(1), speech(2, 1)], ["so", None], 16000)
    assert torch.equal(again(**repeated).logits, logits) and AutoConfig.from_pretrained(tmp_path).heads == {"emotion": CLASSES}
    assert torch.equal(AutoModel.from_pretrained(tmp_path).eval()(**inputs)[0], model.calm(**inputs)[0])
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == AutoFeatureExtractor.from_pretrained(released).to_dict()
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_settings_live_in_one_file(tmp_path):
    """What a released folder says of its inputs is obeyed."""
    folder = release(tmp_path)
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    assert settings["feature_extractor_type"] == "CalmFeatureExtractor" and settings["mean"] == MEAN.tolist()
    file.write_text(json.dumps(settings | {"normalise": "utterance", "trim_db": 30}))
    extractor = CalmProcessor.from_pretrained(folder).feature_extractor
    quiet = np.concatenate([np.full(8000, 1e-6), speech(1), np.full(8000, 1e-6)]).astype(np.float32)
    assert extractor.normalise == "utterance" and len(extractor.frames(quiet)) < 120


def test_padding_and_truncation_as_users_pass_them(processor):
    """At 16 kHz, 2 s have 198 frames and 5 blocks, 1 s has 98 and 2, 0.515 s has 50 and 1."""
    extract, long, short = CalmFeatureExtractor(), speech(2), speech(1)
    expected = extract([long, short], sampling_rate=16000)
    for padding in (True, "longest"):
        batch = extract([long, short], sampling_rate=16000, padding=padding, return_attention_mask=True)
        np.testing.assert_array_equal(batch["input_features"], expected["input_features"])
        np.testing.assert_array_equal(batch["acoustic_mask"], expected["acoustic_mask"])
    assert "acoustic_mask" not in extract(long, sampling_rate=16000, return_attention_mask=False)
    with pytest.raises(ValueError, match=r"have \[5, 2\] blocks: give utterances of equal length, or padding=True"):
        extract([long, short], sampling_rate=16000, padding=False)
    assert extract([long, long], sampling_rate=16000, padding=False)["acoustic_mask"].shape == (2, 5)
    padded = extract([short], sampling_rate=16000, padding="max_length", max_length=32000)
    assert padded["acoustic_mask"].tolist() == [[True, True, False, False, False]] and not padded["input_features"][0, 2:].any()
    np.testing.assert_array_equal(padded["input_features"][0, :2], expected["input_features"][1, :2])
    cut = extract([long, short], sampling_rate=16000, padding="max_length", max_length=16000, truncation=True)
    np.testing.assert_array_equal(cut["input_features"][0], extract(long[:16000], sampling_rate=16000)["input_features"][0])
    assert cut["acoustic_mask"].all() and cut["acoustic_mask"].shape == (2, 2)
    halved = extract(speech(2, rate=8000), sampling_rate=8000, max_length=8240, truncation=True)  # counted after resampling
    assert halved["acoustic_mask"].shape == (1, 1)
    both = processor([long, short], ["so", "it is"], 16000, padding="max_length", max_length=48000, truncation=True)
    assert both["acoustic_mask"].sum(1).tolist() == [5, 2] and both["acoustic_mask"].shape == (2, 9)  # 298 frames
    assert both["input_features"].shape == (2, 9, 50, 64) and both["input_ids"].shape == (2, 4)
    torch.testing.assert_close(processor(audio=long, sampling_rate=16000, padding=True), processor(long, sampling_rate=16000))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"padding": "max_length"}, "max_length is None: truncation and padding='max_length' need"),
        ({"truncation": True}, "max_length is None"),
        ({"truncation": True, "max_length": 300}, "max_length is 300: .* at least 400 samples"),
        ({"padding": "max_length", "max_length": 8000}, "16000 samples is longer than max_length 8000: cut it by truncation=True"),
        ({"padding": "shortest"}, "padding is 'shortest': allowed are"),
    ],
)
def test_padding_that_cannot_be_done(processor, settings, says):
    for call in (CalmFeatureExtractor(), processor):
        with pytest.raises(ValueError, match=says):
            call(speech(1), sampling_rate=16000, **settings)


def test_saved_processors_do_not_tell_where_they_come_from(released, tmp_path):
    """A tokenizer may have been saved with the local files that it was loaded from."""
    local = CalmProcessor.from_pretrained(released)
    local.tokenizer.init_kwargs["special_tokens_map_file"] = str(tmp_path / "special_tokens_map.json")
    local.tokenizer.init_kwargs["name_or_path"] = str(tmp_path)
    local.save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "saved").iterdir():
        assert str(tmp_path) not in path.read_text() and path.stat().st_mode & 0o777 == 0o666 & ~umask(), path


def umask() -> int:
    """The process's mask of permissions, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
