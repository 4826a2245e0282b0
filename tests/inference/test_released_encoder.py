"""A released model that hears through a speech encoder: the encoder comes with it, as weights and as a graph."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from made_model import release, speech

from calm.audio import pauses
from calm.audio.encoder_states import GRAPH, WEIGHTS, EncoderStates
from calm.audio.functionals import PER_CHANNEL
from calm.inference import loading, onnx_export
from calm.inference.classifier import probabilities
from calm.inference.onnx_classifier import Compiled
from calm.inference.processing import CalmProcessor
from calm.inference.torch_classifier import Predictor
from calm.tools.timeline import draw, minutes, timeline
from tests.audio import encoders

EXPORTED = ("whisper", "wavlm", "data2vec-audio", "moonshine")  # the others compute as one of these


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model on the mean of two layers of a small wav2vec 2.0, with functionals; the folder that the encoder came from is gone."""
    base = tmp_path_factory.mktemp("with-encoder")
    origin = encoders.folder(base / "origin", "wav2vec2-layer-norm")
    states = EncoderStates.describe(str(origin), [1, 3])
    sizes = {"channels": 128, "block_frames": 25, "block_hop": 15}
    settings = sizes | {"kind": "encoder", "encoder": "origin", "layers": [1, 3], "hop": 320, "window": 400, "functionals": "thirds"}
    settings |= {"mean": np.linspace(-1, 1, 128), "std": np.linspace(24, 36, 128)}
    network = sizes | {"averaged_layers": 2, "patch": (5, 64), "stride": (5, 64), "head_functionals": "thirds"}
    made = release(base / "model", with_graph=True, config=network, **settings)
    assert onnx_export.write_encoder(states, made)
    shutil.rmtree(origin)
    return made


@pytest.mark.parametrize("name", EXPORTED)
def test_the_graph_gives_what_torch_gives(tmp_path, name):
    """For one frame, a few, and half a minute."""
    states = EncoderStates.describe(str(encoders.folder(tmp_path / name, name)), [0, 2])
    (tmp_path / "out").mkdir()
    assert onnx_export.write_encoder(states, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*.*") if str(tmp_path).encode() in path.read_bytes()]
    assert (tmp_path / "out" / WEIGHTS / "model.safetensors").stat().st_mode & 0o777 == (tmp_path / "out" / GRAPH).stat().st_mode & 0o777
    clips = [encoders.noise(samples) for samples in (states.window, states.window + 3 * states.hop + 5, 7777, 30 * 16000)]
    by_graph = states.of_clips(clips, folder=tmp_path / "out")
    (tmp_path / "out" / GRAPH).unlink()
    by_torch = states.of_clips(clips, folder=tmp_path / "out")
    for ours, theirs, clip in zip(by_graph, by_torch, clips, strict=True):
        assert ours.shape == theirs.shape == (states.frames(len(clip)), 128)
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())
    np.testing.assert_array_equal(by_torch[2], states(clips[2]))  # and the saved weights are those of the encoder


def test_what_cannot_be_exported_is_computed_by_torch(tmp_path, caplog):
    states = EncoderStates.describe(str(encoders.folder(tmp_path / "bert", "wav2vec2-bert")), [2])
    (tmp_path / "out").mkdir()
    assert not onnx_export.write_encoder(states, tmp_path / "out")
    assert "no ONNX graph of the encoder is written" in caplog.text and not (tmp_path / "out" / GRAPH).exists()
    clip = encoders.noise(8000)
    np.testing.assert_array_equal(states.of_clips([clip], folder=tmp_path / "out")[0], states(clip))


@pytest.mark.parametrize("seconds", [None, 0.025, 0.3, 1, 3.7])
@pytest.mark.parametrize("text", [None, "Good Morning"])
def test_answers_are_those_of_torch(folder, seconds, text):
    quick, slow = loading.load_classifier(folder, "cpu"), Predictor(folder)
    assert isinstance(quick, Compiled)
    clip = None if seconds is None else speech(seconds)
    if clip is not None or text is not None:
        np.testing.assert_allclose(quick([clip], [text]), slow([clip], [text]), atol=1e-4)


def test_a_damaged_graph_is_not_used(folder, tmp_path, caplog):
    model, clip = shutil.copytree(folder, tmp_path / "model"), speech(1)
    expected = Compiled.read(model)([clip], None)
    (model / GRAPH).write_bytes((model / GRAPH).read_bytes()[:1000])
    np.testing.assert_allclose(Compiled.read(model)([clip], None), expected, atol=1e-4)
    assert f"{GRAPH} is damaged, torch is used instead" in caplog.text


def test_without_the_folder_of_weights_the_encoder_is_looked_for_by_its_name(folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    (model / GRAPH).unlink()
    shutil.rmtree(model / WEIGHTS)
    settings = model / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"origin"', '"/gone/origin"'))
    with pytest.raises(ValueError, match="encoder '/gone/origin' is neither a folder"):
        Predictor(model)([speech(1)], None)


def test_neither_torch_nor_transformers_is_loaded(folder, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(2), 16000)
    asked = ["calm", "predict", str(tmp_path / "a.wav"), "--model", str(folder), "--text", "hello", "--json"]
    code = f"import sys; sys.argv = {asked}\nfrom calm.cli import app\ntry: app()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "transformers", "pandas", "sklearn"} & set(done.stderr.split())
    (row,) = json.loads(done.stdout)["rows"]
    np.testing.assert_allclose([*row["probabilities"].values()], Predictor(folder)([speech(2)], ["hello"])[0], atol=1e-3)


def test_the_processor_gives_functionals(folder):
    """Of the normalised frames, padded to a block at least, as the network sees them."""
    processor = CalmProcessor.from_pretrained(folder)
    batch = processor([speech(1), speech(0.3, 1)], ["hello", "so"], 16000)
    assert batch["input_features"].shape == (2, 2, 25, 128) and batch["acoustic_mask"].tolist() == [[True, True], [True, False]]
    assert batch["functionals"].shape == (2, 128 * PER_CHANNEL["thirds"]) and batch["functionals"].dtype == torch.float32
    extractor = processor.feature_extractor
    short = batch["input_features"][1, 0].numpy()
    np.testing.assert_allclose(batch["functionals"][1, :128], short.mean(0), atol=1e-3)
    assert np.abs(short[14:]).max() == 0 < np.abs(short[13]).max()  # 0.3 s: 14 frames
    torch.testing.assert_close(extractor([speech(1)], 16000, "pt")["functionals"], batch["functionals"][:1])
    assert "functionals" not in processor(text="hello")
    assert not any(name.startswith("_") for name in extractor.to_dict())


def test_a_timeline_is_the_model_on_each_window(folder, tmp_path, monkeypatch):
    """70 s, read in two parts, whose frames join and are near those of the whole. Each row is what the model, with its functionals, says of
    the frames of its window. The picture shows log-mel, whose values are readable."""
    samples, predictor = speech(70), Predictor(folder)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    monkeypatch.setattr(pauses, "cut", lambda *_: [(0.0, 70.0)])
    parts = list(minutes(tmp_path / "a.wav", predictor.extractor, 70.0))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), samples)
    count = 1 + (len(samples) - 400) // 320
    assert [len(part) for _, part in parts] == [3000, count - 3000]
    frames = np.concatenate([part for _, part in parts]).astype(np.float32)
    whole = predictor.extractor.frames(samples).astype(np.float32)
    assert np.abs(frames - whole).mean() < 0.2 * np.abs(whole - whole.mean(0)).mean()
    result = timeline(tmp_path / "a.wav", predictor)
    assert len(result.time) == 1 + (count - 25) // 15
    np.testing.assert_allclose(np.diff(result.time), 0.3)
    assert result.frames.shape == (2000, 64) and -24 < result.frames.min() < result.frames.max() < 15
    draw(result, tmp_path / "a.png")
    for row in (0, 50, 198, 199, 200, 220):  # a minute ends at row 199
        window = frames[round(result.start[row] / 0.02) : round(result.end[row] / 0.02)].astype(np.float16)
        np.testing.assert_allclose(result.probabilities[row], probabilities(predictor.logits([window], [None]))[0], atol=1e-4)
    assert result.probabilities.std(0).max() > 1e-3
