"""The graph of a released model: what torch answers, without torch."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from made_model import release, speech

from calm.inference import loading, onnx_export
from calm.inference.onnx_classifier import Compiled
from calm.inference.torch_classifier import Predictor
from calm.models.modeling import CalmForSequenceClassification


@pytest.fixture(scope="module", params=[("both", "cls_blocks", "bands"), ("audio", "cls", "cls"), ("text", "cls_mean_std", "mean")])
def both_ways(request, tmp_path_factory):
    """One model by ONNX Runtime and by torch."""
    modality, head_pooling, spectran_pooling = request.param
    config = {"head_pooling": head_pooling, "spectran_pooling": spectran_pooling, "head_standardise": True}
    folder = release(tmp_path_factory.mktemp("model") / modality, modality, with_graph=True, config=config)
    return loading.load(folder, "cpu"), Predictor(folder)


@pytest.mark.parametrize("seconds", [None, 0.1, 0.8, 3.7, 29])
@pytest.mark.parametrize("text", [None, "", "Good Morning", "so it is, " * 300])
def test_answers_are_those_of_torch(both_ways, seconds, text, caplog):
    """No block, one block, many; no words, some, and more than there are places for."""
    quick, slow = both_ways
    clip = None if seconds is None else speech(seconds)
    if (slow.modality == "audio" and clip is None) or (slow.modality == "text" and text is None):
        for model in both_ways:
            with pytest.raises(ValueError, match=f"trained on {slow.modality} alone"):
                model([clip], [text])
        return
    np.testing.assert_allclose(quick([clip], [text]), slow([clip], [text]), atol=1e-5)
    if slow.modality == "both" and clip is not None and text and len(text) > 1000:
        assert [record.message[:21] for record in caplog.records] == ["1 of 1 utterances do "] * 2


def test_several_at_once(both_ways):
    quick, slow = both_ways
    heard, texts = [speech(2), speech(0.5, 1)], ["hello", "go away"]
    np.testing.assert_allclose(quick(heard, texts), slow(heard, texts), atol=1e-5)
    assert quick([], []).shape == (0, 3)


def test_it_tells_of_itself_what_the_model_tells(both_ways):
    quick, slow = both_ways
    for name in ("classes", "modality", "synthetic", "tuned", "needs_text", "sample_rate"):
        assert getattr(quick, name) == getattr(slow, name), name
    np.testing.assert_array_equal(quick.thresholds, slow.thresholds)


def test_torch_answers_where_the_graph_does_not_fit(tmp_path, monkeypatch, caplog):
    """There is a GPU; the weights or the settings were changed since; the graph is damaged; there is none."""
    folder = release(tmp_path / "model", "text", with_graph=True)
    assert isinstance(loading.load(folder), Compiled)
    monkeypatch.setattr(loading, "GPUS", (str(tmp_path),))
    assert isinstance(loading.load(folder), Predictor) and isinstance(loading.load(folder, "cpu"), Compiled)
    monkeypatch.undo()
    model = CalmForSequenceClassification.from_pretrained(folder)
    model.heads["emotion"][-1].bias.data += 1
    model.save_pretrained(folder)
    assert isinstance(loading.load(folder), Predictor)
    onnx_export.write(model.eval(), folder)
    again = loading.load(folder)
    assert isinstance(again, Compiled)
    np.testing.assert_allclose(again(None, ["hello"]), Predictor(folder)(None, ["hello"]), atol=1e-5)
    for damaged in ((folder / onnx_export.GRAPH).read_bytes()[:10_000], b""):
        (folder / onnx_export.GRAPH).write_bytes(damaged)
        caplog.clear()
        assert isinstance(loading.load(folder), Predictor)
        assert "model.onnx is damaged" in caplog.text
    (folder / onnx_export.GRAPH).unlink()
    assert isinstance(loading.load(folder), Predictor)
    with pytest.raises(ValueError, match="is no released model: it has no config.json"):
        loading.load(tmp_path)


def test_neither_torch_nor_transformers_is_loaded(tmp_path):
    """A prediction from a file, as the command makes it."""
    folder = release(tmp_path / "model", "both", with_graph=True)
    soundfile.write(tmp_path / "a.wav", speech(2), 16000)
    asked = ["calm", "predict", str(tmp_path / "a.wav"), "--model", str(folder), "--text", "hello", "--json"]
    code = f"import sys; sys.argv = {asked}\nfrom calm.cli import app\ntry: app()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and '"classes"' in done.stdout
    assert not {"torch", "transformers", "pandas", "sklearn"} & set(done.stderr.split())
