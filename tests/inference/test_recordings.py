"""A model in use: recordings of every kind, over time, and as vectors."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from made_model import CLASSES, release, speech

from calm.audio.decoding import AudioError, read_audio
from calm.audio.pauses import Pauses, at_quiet_places
from calm.inference import recordings, voice
from calm.inference.recordings import Listener
from calm.inference.torch_classifier import Predictor
from calm.tools import embedding
from calm.tools.timeline import Sketch, neighbours, overlaps, timeline

CORPORA = os.environ.get("CALM_CORPORA")
real = pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")


@pytest.fixture(scope="module")
def predictor(released):
    return Predictor(released)


def clips(count: int) -> list[Path]:
    return sorted(Path(CORPORA, "ravdess", "Actor_03").glob("*.flac"))[:count]


def joined(count: int, rate: int = 16000) -> np.ndarray:
    return np.concatenate([read_audio(path, sample_rate=rate) for path in clips(count)])


def test_a_batch_is_its_utterances(predictor):
    """Alone, together, without text, without audio; the scores are those of the model's own call."""
    clips, texts = [speech(3), speech(0.4, 1), speech(1.5, 2)], ["Good morning", None, "so it is"]
    together = predictor(clips, texts, batch=2)
    for row, (samples, text) in enumerate(zip(clips, texts, strict=True)):
        np.testing.assert_allclose(together[row], predictor([samples], [text])[0], atol=1e-5)
    logits = predictor.model(**predictor.processor([clips[0]], ["good morning"], 16000)).logits
    np.testing.assert_allclose(together[0], logits.sigmoid()[0].detach(), atol=1e-5)
    assert predictor([], []).shape == (0, 3) and predictor(None, ["good morning"]).shape == (1, 3)


def test_some_have_audio_and_some_text_alone(predictor):
    clip, texts = speech(1.5), ["hello", "go away", None]
    mixed = predictor([clip, None, clip], texts)
    np.testing.assert_allclose(mixed[[0, 2]], predictor([clip, clip], [texts[0], None]), atol=1e-5)
    np.testing.assert_allclose(mixed[1:2], predictor(None, texts[1:2]), atol=1e-5)


def test_modalities(tmp_path):
    """What a model was not trained on changes nothing; what it cannot do without is asked for."""
    audio, text = (Predictor(release(tmp_path / name, name)) for name in ("audio", "text"))
    np.testing.assert_array_equal(audio([speech(1)], ["hello"]), audio([speech(1)], None))
    np.testing.assert_array_equal(text([speech(1)], ["hello"]), text(None, ["hello"]))
    with pytest.raises(ValueError, match="trained on audio alone: give audio"):
        audio(None, ["hello"])
    with pytest.raises(ValueError, match="trained on text alone: give a text"):
        text([speech(1)], None)
    with pytest.raises(ValueError, match="a timeline needs one of audio"):
        timeline(tmp_path / "any.wav", text)


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(ValueError, match="is not a released model: it has no config.json"):
        Predictor(tmp_path)
    with pytest.raises(ValueError, match="block_hop is 20 in the model's preprocessor_config.json and 30 in its config.json"):
        Predictor(release(tmp_path / "other", block_hop=20))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"])
def test_a_file_that_was_cut_off_is_told(tmp_path, name):
    folder = release(tmp_path / "model")
    (folder / name).write_bytes((folder / name).read_bytes()[:300])
    with pytest.raises(ValueError, match="model has a damaged file, write or copy it again"):
        Predictor(folder)


def test_less_than_a_frame_is_a_fault_of_its_file_alone(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "heard", lambda *_: True)
    for name, samples in (("a.wav", speech(1)[:399]), ("b.wav", speech(1))):
        soundfile.write(tmp_path / name, samples, 16000)
    files, listener = [tmp_path / "a.wav", tmp_path / "b.wav"], Listener(16000)
    rows = list(recordings.over_files(files, listener, partial(recordings.classify_segment, predictor)))
    assert rows[0]["fault"].startswith(f"{tmp_path / 'a.wav'}: 399 samples") and rows[1]["fault"] is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"heads": {"emotion": "x"}}),
        ("config.json", ["a list"]),
        ("preprocessor_config.json", {"sampling_rate": "16k"}),
        ("preprocessor_config.json", {"max_tokens": 0}),
        ("preprocessor_config.json", {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}),
    ],
)
def test_settings_of_another_kind_are_a_damaged_file(released, tmp_path, name, change):
    folder = Path(shutil.copytree(released, tmp_path / "model"))
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(settings | change if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match="model has a damaged file"):
        Predictor(folder)


@real
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 96000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_rates_and_channels(predictor, tmp_path, rate, channels):
    """The same speech: what 16 kHz holds is heard alike, and 8 kHz is scored too."""
    samples = read_audio(clips(1)[0], sample_rate=rate)
    soundfile.write(tmp_path / "a.wav", np.repeat(samples[:, None], channels, 1), rate, subtype="FLOAT")
    listener = Listener(predictor.sample_rate)
    (segment,) = listener(tmp_path / "a.wav")
    assert (segment.start, segment.end) == (0, pytest.approx(len(samples) / rate))
    probabilities = recordings.classify_segment(predictor, segment)["probabilities"]
    (expected,) = predictor([read_audio(clips(1)[0])], [None])
    if rate > 8000:
        np.testing.assert_allclose(list(probabilities.values()), expected, atol=0.02)
    assert list(probabilities) == CLASSES and all(0 < value < 1 for value in probabilities.values())


@real
def test_a_container_of_ffmpeg(predictor, tmp_path):
    samples = joined(1)
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    (segment,) = Listener(predictor.sample_rate)(tmp_path / "a.m4a")
    heard = segment.samples[1024:]  # the codec's delay
    assert len(heard) == pytest.approx(len(samples), abs=1024) and np.corrcoef(heard[:50000], samples[:50000])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (np.zeros(48000), "no speech"),
        (np.random.default_rng(0).normal(0, 0.01, 48000), "no speech"),
        (np.zeros(100), "no speech"),
        (np.zeros(0), "empty audio"),
        (None, "missing audio"),
        (b"", "empty audio"),
        (b"RIFF and no more", "unreadable audio"),
    ],
)
def test_what_has_no_answer_says_why(predictor, tmp_path, samples, fault):
    path = tmp_path / "a.wav"
    if isinstance(samples, bytes):
        path.write_bytes(samples)
    elif samples is not None:
        soundfile.write(path, samples, 16000)
    rows = list(recordings.over_files([path], Listener(16000), partial(recordings.classify_segment, predictor)))
    assert len(rows) == 1 and rows[0]["file"] == str(path) and rows[0]["fault"].startswith(fault) and "probabilities" not in rows[0]


@real
def test_the_others_are_done_where_one_fails(predictor, tmp_path):
    (tmp_path / "bad.flac").write_bytes(b"fLaC")
    files = [clips(1)[0], tmp_path / "bad.flac", clips(2)[1]]
    rows = list(recordings.over_files(files, Listener(16000), partial(recordings.classify_segment, predictor), ["one", None, "two"]))
    assert [row["file"] for row in rows] == [str(path) for path in files]
    assert [row["fault"] is None for row in rows] == [True, False, True] and rows[2]["text"] == "two"


def with_pauses(*seconds: float) -> np.ndarray:
    """Stretches of "speech" with 0.15 s of quiet between them."""
    quiet = np.full(2400, 1e-4, np.float32)
    return np.concatenate([part for number, own in enumerate(seconds) for part in (speech(own, number), quiet)][:-1])


def test_longer_speech_than_the_model_learned_from_is_cut_at_quiet_places(tmp_path, monkeypatch):
    """2, 1.5 and 1.8 s of speech: a cut in each pause; none in what is short enough, or has a text; no piece in which nobody speaks."""
    monkeypatch.setattr(voice, "detects", lambda: False)
    cuts = at_quiet_places(with_pauses(2, 1.5, 1.8), 2 * 16000 + 1600)
    assert [first / 16000 for first, _ in cuts] == pytest.approx([0, 2.075, 3.725], abs=0.08)
    assert all(last == first for (_, last), (first, _) in zip(cuts, cuts[1:], strict=False))
    assert all(last - first <= 1000 for first, last in at_quiet_places(np.zeros(9999, np.float32), 1000))

    predictor = Predictor(release(tmp_path / "model", longest=2))
    soundfile.write(tmp_path / "a.wav", np.concatenate([with_pauses(1.8, 1.8), np.zeros(64000)]), 16000, subtype="FLOAT")
    listener = Listener.of(predictor)
    segments = list(listener(tmp_path / "a.wav"))
    assert sum(segment.end - segment.start for segment in segments) < 5 and all(len(segment.samples) <= 32000 for segment in segments)
    (whole,) = listener(tmp_path / "a.wav", "one text")
    assert (whole.start, whole.end) == (0, pytest.approx(7.75)) and len(list(Listener(16000)(tmp_path / "a.wav"))) == 1

    answers = [predictor([segment.samples], None)[0] for segment in segments]
    mean = np.average(answers, axis=0, weights=[len(segment.samples) for segment in segments])
    np.testing.assert_allclose(recordings.classify_samples(predictor, whole.samples), mean, atol=1e-6)
    (expected,) = predictor([whole.samples], ["one text"])
    np.testing.assert_allclose(recordings.classify_samples(predictor, whole.samples, "one text"), expected, atol=1e-6)
    assert recordings.classify_samples(predictor, np.zeros(48000, np.float32)) is None


@real
def test_long_recordings_are_cut_at_their_pauses(predictor, tmp_path):
    """Ten sentences; every segment's answer is that of its samples, and one text cannot be all of theirs."""
    soundfile.write(tmp_path / "long.flac", joined(12), 16000)
    rows = list(recordings.over_files([tmp_path / "long.flac"], Listener(16000), partial(recordings.classify_segment, predictor)))
    assert len(rows) > 5 and all(after["start"] >= before["end"] for before, after in zip(rows, rows[1:], strict=False))
    row = rows[3]
    (expected,) = predictor([read_audio(tmp_path / "long.flac", row["start"], row["end"])], [None])
    np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-5)
    with pytest.raises(AudioError, match="one text was given for all of it"):
        list(Listener(16000)(tmp_path / "long.flac", "hello"))
    (whole,) = Listener(16000, pauses=Pauses(longer_than=60))(tmp_path / "long.flac", "hello")
    assert (whole.start, whole.text) == (0, "hello")


@real
@pytest.mark.parametrize("settings", [{}, {"normalise": "utterance"}], ids=["corpus", "utterance"])
def test_a_timeline_is_the_model_on_each_window(tmp_path, settings):
    """85 s, read in two parts: rows are what the model says of the samples of their windows, as if each were an utterance."""
    predictor, samples = Predictor(release(tmp_path / "model", **settings)), joined(24)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    result = timeline(tmp_path / "a.wav", predictor)
    frames = 1 + (len(samples) - 400) // 160
    assert len(result.time) == 1 + (frames - 50) // 30 and result.seconds == len(samples) / 16000 > 80
    np.testing.assert_allclose(np.diff(result.time), 0.3)
    np.testing.assert_allclose((result.end - result.start)[4:-4], 2.9)
    for row in (0, 2, 100, 199, 200, 203, len(result.time) - 1):
        cut = samples[round(result.start[row] * 16000) : round(result.end[row] * 16000) + 240]  # the last frame's window: 25 ms, its hop 10
        np.testing.assert_allclose(result.probabilities[row], predictor([cut], None)[0], atol=2e-5)


def test_a_timeline_of_silence_is_empty(predictor, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(3 * 16000), 16000)
    soundfile.write(tmp_path / "short.wav", np.zeros(1600), 16000)
    result = timeline(tmp_path / "a.wav", predictor)
    assert result.probabilities.shape == (9, 3) and np.isnan(result.probabilities).all()
    assert timeline(tmp_path / "short.wav", predictor).time.tolist() == [0.25]


def test_windows_by_hand(predictor):
    """(3.0 - 0.5) / 0.6 = 4.2 blocks on either side; speech from 1 s to 2 s."""
    assert neighbours(predictor.extractor, 3.0) == 4 and neighbours(predictor.extractor, 0.5) == 0
    assert neighbours(predictor.extractor, 1.1) == 1 and neighbours(predictor.extractor, 1e6) == 127
    with pytest.raises(ValueError, match="shorter than one block of 0.5 s"):
        neighbours(predictor.extractor, 0.4)
    start = np.array([0.0, 0.5, 1.2, 2.0])
    assert overlaps(start, start + 1.0, [(1.0, 2.0)]).tolist() == [False, True, True, False]
    assert not overlaps(start, start + 1, []).any()


def test_a_sketch_by_hand():
    sketch = Sketch(4, 1)
    sketch.add(np.array([0.1, -0.5, 0.2, 0.3], np.float32), np.array([[1.0], [2.0]]), hop=2)
    sketch.add(np.array([0, 0, -0.9, 0], np.float32), np.array([[3.0], [4.0]]), hop=2)
    np.testing.assert_allclose(sketch.peaks, [0.5, 0.3, 0, 0.9])
    assert sketch.mean().ravel().tolist() == [1, 2, 3, 4]


def test_vectors(predictor, tmp_path):
    """1 s has 2 blocks; the utterance's vector is what the heads see; the text's is the mean of its words' states."""
    segment = recordings.Segment(0.0, 1.0, speech(1), "Good morning")
    vectors = embedding.vectors(predictor, segment)
    inputs = predictor.processor([segment.samples], ["good morning"], 16000)
    with torch.inference_mode():
        blocks = predictor.model.calm.spectran(inputs["input_features"][0]).numpy()
        heads = predictor.model.heads["emotion"](torch.from_numpy(vectors["utterance"])[None])
        words = predictor.model.calm(**predictor.processor(text="good morning")).last_hidden_state[0, 1:-1].mean(0)
        np.testing.assert_allclose(heads, predictor.model(**inputs).logits, atol=1e-5)
    np.testing.assert_allclose(np.stack(vectors["blocks"]), blocks, atol=1e-5)
    np.testing.assert_allclose(vectors["text_vector"], words, atol=1e-5)
    rows = [{"file": "a", "fault": None, **vectors}, {"file": "b", "fault": "no speech"}] * 40
    assert embedding.write(iter(rows), tmp_path / "out.parquet") == 80
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert len(table) == 80 and table["blocks"][0][1].shape == (64,) and table["utterance"][1] is None
    np.testing.assert_array_equal(table["utterance"][78], vectors["utterance"])


MEASURED = """
import sys
from functools import partial
import psutil
from calm.inference import recordings
from calm.inference.torch_classifier import Predictor
from calm.tools import timeline
predictor, process, listener = Predictor(sys.argv[1]), psutil.Process(), recordings.Listener(16000)
timeline.timeline(sys.argv[2], predictor)
list(listener(sys.argv[2]))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = process.memory_info().rss
rows = list(recordings.over_files([sys.argv[3]], listener, partial(recordings.classify_segment, predictor)))
blocks = len(timeline.timeline(sys.argv[3], predictor).time)
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(len(rows), blocks, peak - before // 1024)
"""


@real
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory can be measured on Linux alone")
def test_memory_does_not_grow_with_the_recording(released, tmp_path):
    """8 minutes in 4 channels of 32 kHz hold 246 MB as float32 samples; 2 minutes, which are read at once, 61 MB."""
    minute = np.repeat(joined(18)[: 60 * 16000], 2)[:, None]
    for name, times in (("short", 1), ("long", 8)):
        with soundfile.SoundFile(tmp_path / f"{name}.wav", "w", 32000, 4) as file:
            for _ in range(times):
                file.write(np.repeat(minute, 4, 1))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, released, tmp_path / "short.wav", tmp_path / "long.wav"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    segments, blocks, grown = map(int, done.stdout.split())
    assert segments > 16 and blocks == 1599 and grown < 150_000, grown
