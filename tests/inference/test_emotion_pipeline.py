"""`pipeline("calm-emotion")`."""

import numpy as np
import pytest
import soundfile
import torch
from made_model import CLASSES, speech
from transformers import AutoModelForAudioClassification, pipeline

from calm.audio.decoding import AudioError
from calm.inference import emotion_pipeline, voice
from calm.inference.torch_classifier import Predictor


@pytest.fixture(scope="module")
def scored(released):
    return pipeline(emotion_pipeline.TASK, model=str(released), device="cpu")


@pytest.fixture(autouse=True)
def made_speech_is_heard(monkeypatch):
    """Voice activity detection would not take the clips made here for speech; levels decide."""
    monkeypatch.setattr(voice, "detects", lambda: False)


@pytest.fixture
def clip(tmp_path):
    """8 kHz in two channels, of which one is silent: half as loud."""
    samples = speech(2, rate=8000)
    soundfile.write(tmp_path / "clip.wav", np.stack([samples, 0 * samples], 1), 8000, subtype="FLOAT")
    return tmp_path / "clip.wav", samples / 2


def as_scores(rows: list[dict]) -> list[float]:
    return [next(row["score"] for row in rows if row["label"] == name) for name in CLASSES]


class Decoder:
    """Answers as torchcodec's AudioDecoder does in a column of `datasets`."""

    def __init__(self, samples):
        self.samples = samples

    def __getitem__(self, key):
        return {"array": self.samples, "sampling_rate": 8000}[key]


def test_every_way_to_give_an_utterance_has_the_same_scores(scored, released, clip):
    path, samples = clip
    predictor = Predictor(released)
    (expected,) = predictor(predictor.extractor.clips(samples, 8000), ["So it is"])
    stereo, cancelling = np.stack([samples, samples], 1), np.stack([samples, -samples])
    ways = [
        {"audio": path, "text": "so it is"},
        {"audio": {"bytes": path.read_bytes(), "path": "elsewhere.wav"}, "text": "so it is"},
        {"audio": Decoder(samples), "text": "so it is"},
        {"array": stereo, "sampling_rate": 8000, "text": "so it is"},
        {"array": cancelling, "sampling_rate": 8000, "text": "so it is"},
        {"array": torch.from_numpy(stereo.T), "sampling_rate": 8000, "text": "so it is"},
        {"path": str(path), "text": "So it is"},
        {"audio": path.read_bytes(), "text": "so it is"},
        {"array": samples, "sampling_rate": 8000, "text": "so it is"},
        {"audio": {"array": samples, "sampling_rate": 8000, "path": None}, "text": "so it is"},
    ]
    for way in ways:
        np.testing.assert_allclose(as_scores(scored(way)), expected, atol=1e-5)
    (unheard,) = predictor(predictor.extractor.clips(samples, 8000), [None])
    assert np.abs(unheard - expected).max() > 1e-3
    for way, options in ((str(path), {}), (path.read_bytes(), {}), (samples, {"sampling_rate": 8000})):
        np.testing.assert_allclose(as_scores(scored(way, **options)), unheard, atol=1e-5)


def test_labels_are_ordered_by_score(scored, clip):
    rows = scored(str(clip[0]))
    assert sorted(row["label"] for row in rows) == CLASSES and [row["score"] for row in rows] == sorted(
        (r["score"] for r in rows), reverse=True
    )
    assert scored(str(clip[0]), top_k=1) == rows[:1]


@pytest.mark.parametrize("size", [1, 3])
def test_batches_of_any_lengths_and_kinds(scored, clip, size):
    inputs = [
        str(clip[0]),
        {"text": "alone"},
        {"array": speech(0.3), "sampling_rate": 16000, "text": "short"},
        {"audio": clip[0], "text": "b"},
    ]
    together = scored(inputs, batch_size=size)
    assert len(together) == 4
    for rows, single in zip(together, inputs, strict=True):
        np.testing.assert_allclose(as_scores(rows), as_scores(scored(single)), atol=1e-5)


def test_what_cannot_be_used(scored, tmp_path):
    with pytest.raises(ValueError, match="neither audio nor text"):
        scored({})
    with pytest.raises(ValueError, match="sampling_rate is None"):
        scored(speech(1))
    with pytest.raises(ValueError, match=r"shape \(100, 100\)"):
        scored(np.zeros((100, 100), np.float32), sampling_rate=16000)
    with pytest.raises(ValueError, match="divide them"):
        scored(speech(1) * 32768, sampling_rate=16000)
    with pytest.raises(AudioError, match="does not exist"):
        scored(str(tmp_path / "gone.wav"))


def test_saved_and_loaded_again(scored, clip, tmp_path):
    scored.save_pretrained(tmp_path / "saved")
    again = pipeline(emotion_pipeline.TASK, model=str(tmp_path / "saved"), device="cpu")
    assert again(str(clip[0])) == scored(str(clip[0]))


def test_transformers_own_task_has_the_same_scores(released):
    """`pipeline("audio-classification")` gives the sigmoids of audio alone, with the names of the classes."""
    audio = pipeline("audio-classification", model=str(released), device="cpu")
    emotion = pipeline(emotion_pipeline.TASK, model=str(released), device="cpu")
    assert isinstance(audio.model, AutoModelForAudioClassification.from_pretrained(released).__class__)
    clips = [speech(2.0), speech(0.4, 1)]
    for clip in clips:
        expected = emotion(clip, sampling_rate=16000)
        rows = audio({"array": clip, "sampling_rate": 16000})
        assert [row["label"] for row in rows] == [row["label"] for row in expected]
        assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in expected], abs=1e-5)
        assert audio(clip, top_k=1) == rows[:1]
    assert sum(row["score"] for row in audio(clips[0])) != pytest.approx(1, abs=1e-3)  # sigmoids, not a softmax


def test_silence_has_no_class(scored, clip, tmp_path):
    path, _ = clip
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    first, second, third = scored([tmp_path / "silence.wav", path, {"audio": tmp_path / "silence.wav", "text": "hello"}], batch_size=3)
    assert first == third == [{"label": "no speech", "score": 1.0, "decided": True, "decision": "no speech"}]
    assert as_scores(second) == pytest.approx(as_scores(scored(path)), abs=1e-5)
