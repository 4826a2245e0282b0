"""The graph of a released model: what torch answers, without torch."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import soundfile
import torch
from made_model import release, speech

from calm.inference import loading, onnx_export, voice
from calm.inference.onnx_classifier import Compiled
from calm.inference.torch_classifier import Predictor
from calm.models.modeling import CalmForSequenceClassification

WAYS = [("both", "cls_blocks", "bands", None), ("audio", "cls", "cls", "frames"), ("text", "cls_mean_std", "mean", None)]
WAYS += [("audio", "frames", "mean", None)]


@pytest.fixture(scope="module", params=WAYS)
def both_ways(request, tmp_path_factory):
    """One model by ONNX Runtime and by torch."""
    modality, head_pooling, spectran_pooling, beside = request.param
    config = {"head_pooling": head_pooling, "spectran_pooling": spectran_pooling, "spectran_beside": beside, "head_standardise": True}
    config |= {"head_members": 2, "head_frames_width": 16}
    folder = release(tmp_path_factory.mktemp("model") / modality, modality, with_graph=True, config=config)
    return loading.load_classifier(folder, "cpu"), Predictor(folder)


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
    for name in ("classes", "modality", "synthetic", "tuned", "needs_text", "sample_rate", "loss", "argmax", "decision"):
        assert getattr(quick, name) == getattr(slow, name), name
    np.testing.assert_array_equal(quick.thresholds, slow.thresholds)


def test_torch_answers_where_the_graph_does_not_fit(tmp_path, monkeypatch, caplog):
    """There is a GPU; the weights or the settings were changed since; the graph is damaged; there is none."""
    folder = release(tmp_path / "model", "text", with_graph=True)
    assert isinstance(loading.load_classifier(folder), Compiled)
    monkeypatch.setattr(loading, "GPUS", (str(tmp_path),))
    assert isinstance(loading.load_classifier(folder), Predictor) and isinstance(loading.load_classifier(folder, "cpu"), Compiled)
    monkeypatch.undo()
    model = CalmForSequenceClassification.from_pretrained(folder)
    model.heads["emotion"][-1].bias.data += 1
    model.save_pretrained(folder)
    assert isinstance(loading.load_classifier(folder), Predictor)
    onnx_export.write(model.eval(), folder)
    again = loading.load_classifier(folder)
    assert isinstance(again, Compiled)
    np.testing.assert_allclose(again(None, ["hello"]), Predictor(folder)(None, ["hello"]), atol=1e-5)
    for damaged in ((folder / onnx_export.GRAPH).read_bytes()[:10_000], b""):
        (folder / onnx_export.GRAPH).write_bytes(damaged)
        caplog.clear()
        assert isinstance(loading.load_classifier(folder), Predictor)
        assert "model.onnx is damaged" in caplog.text
    (folder / onnx_export.GRAPH).unlink()
    assert isinstance(loading.load_classifier(folder), Predictor)
    (folder / "tokenizer.json").unlink()
    for empty, name in ((tmp_path, "config.json"), (folder, "tokenizer.json")):
        with pytest.raises(ValueError, match=f"is not a released model: it has no {name}"):
            loading.load_classifier(empty)


def test_no_path_of_this_machine_is_released(tmp_path):
    """Neither of the working folder, nor of the home folder, the environment or the model's own."""
    folder = release(tmp_path / "model", with_graph=True)
    places = {str(Path.cwd()), str(Path.home()), sys.prefix, str(Path(onnx_export.__file__).parents[2]), str(tmp_path)}
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not [place for place in places - {"/"} if f"{place}/".encode() in content], path
    graph = onnx.load(folder / onnx_export.GRAPH)
    assert {entry.key for entry in graph.metadata_props} == {"made_of", "about"}
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)


@pytest.mark.parametrize("fails", ["export", "answers"])
def test_torch_is_used_if_the_graph_cannot_be_exported(tmp_path, monkeypatch, caplog, fails):
    """The exporter raises, or its graph computes something else; an older graph does not stay."""
    folder = release(tmp_path / "model", "text", with_graph=True)
    model = CalmForSequenceClassification.from_pretrained(folder).eval()
    if fails == "export":
        monkeypatch.setattr(torch.onnx, "export", Mock(side_effect=RuntimeError("no operator for this\nmore")))
    else:
        exported = onnx_export._export(onnx_export._one_utterance(deepcopy(model)), model.config)
        model.heads["emotion"][-1].bias.data += 1
        monkeypatch.setattr(onnx_export, "_export", lambda *_: exported)
    assert not onnx_export.write(model, folder)
    reason = "no operator for this" if fails == "export" else "its logits differ from torch's by 1"
    messages = [record.message for record in caplog.records if record.name == onnx_export.__name__]
    assert messages == [f"no ONNX graph is written to {folder}, predictions will use torch: {reason}"]
    assert not list(folder.glob("*.onnx*")) and not list(folder.glob(".*"))
    assert isinstance(loading.load_classifier(folder, "cpu"), Predictor)


def test_a_head_whose_inputs_hardly_varied_in_training_has_a_graph(tmp_path):
    """Divided by deviations of 0.00005, float32's rounding is large, and so are the logits but one, which is compared beside them."""
    folder = release(tmp_path, config={"head_standardise": True})
    model = CalmForSequenceClassification.from_pretrained(folder).eval()
    *_, last = model.heads["emotion"]
    model.heads["emotion"][0].deviation.fill_(5e-5)
    first = map(torch.from_numpy, onnx_export._inputs(model.config, 2, 1).values())
    with torch.no_grad():
        logits = onnx_export._one_utterance(deepcopy(model))(*first).flatten()
        last.bias[0] -= logits[0]
    assert logits.abs().max() > 1000
    model.save_pretrained(folder)
    assert onnx_export.write(model, folder)
    clip = [speech(3)]
    by_graph, by_torch = loading.load_classifier(folder, "cpu")(clip, None), Predictor(folder)(clip, None)
    np.testing.assert_allclose(by_graph, by_torch, atol=2e-3)


def test_neither_torch_nor_transformers_is_loaded(tmp_path):
    """A prediction from a file, as the command makes it."""
    folder = release(tmp_path / "model", "both", with_graph=True)
    soundfile.write(tmp_path / "a.wav", speech(2), 16000)
    asked = ["calm", "predict", str(tmp_path / "a.wav"), "--model", str(folder), "--text", "hello", "--json"]
    code = f"import sys; sys.argv = {asked}\nfrom calm.cli import app\ntry: app()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and '"classes"' in done.stdout
    assert not {"torch", "transformers", "pandas", "sklearn"} & set(done.stderr.split())


def test_a_softmax_its_temperature_and_its_decision_are_the_same_everywhere(tmp_path, monkeypatch):
    """Graph, torch, pipeline, timeline and page; the temperature divides the logits of the same weights."""
    from transformers import pipeline

    from calm.inference.emotion_pipeline import TASK
    from calm.inference.recordings import Segment, classify_segment
    from calm.tools.analysis import Analyser, Analysis, analysis_html
    from calm.tools.timeline import timeline

    softmax = {"one_hot": ["emotion"], "head_loss": "softmax", "decisions": {"emotion": "argmax"}}
    plain = release(tmp_path / "plain", config=softmax, with_graph=True)
    folder = release(tmp_path / "calibrated", config=softmax | {"temperatures": {"emotion": 2.5}}, with_graph=True)
    quick, slow, before = Compiled.read(folder), Predictor(folder), Predictor(plain)
    clip = speech(2)
    expected = np.exp(before.logits([before.extractor.frames(clip)], ["hello"]).astype(float) / 2.5)
    expected /= expected.sum()
    assert not np.allclose(before([clip], ["hello"]), expected, atol=1e-2)
    for model in (quick, slow):
        np.testing.assert_allclose(model([clip], ["hello"]), expected, atol=1e-5)
        answer = classify_segment(model, Segment(0, 2, clip, "hello"))
        assert answer["decided"] == [model.classes[expected.argmax()]] and answer["decision"] == "argmax"
    monkeypatch.setattr(voice, "detects", lambda: False)  # which would not take the clip for speech
    scores = pipeline(TASK, model=str(folder))({"array": clip, "sampling_rate": 16000, "text": "hello"})
    np.testing.assert_allclose([one["score"] for one in scores], -np.sort(-expected[0]), atol=1e-5)
    assert [one["decided"] for one in scores] == [True, False, False] and {one["decision"] for one in scores} == {"argmax"}
    soundfile.write(tmp_path / "clip.wav", clip, 16000)
    over_time = timeline(tmp_path / "clip.wav", slow).probabilities
    np.testing.assert_allclose(over_time[np.isfinite(over_time).all(axis=1)].sum(axis=1), 1, atol=1e-6)
    page = analysis_html(Analyser(slow), Analysis([Segment(0, 2, clip, None)], [{"both": expected[0]}]))
    assert "Decided is the likeliest class (argmax). The probabilities sum to 1." in page
    assert page.count("✓") == 1 and 'class="threshold"' not in page and "--t:" not in page
