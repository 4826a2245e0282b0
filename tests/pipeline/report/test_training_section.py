"""Training and runs in words, with and without measurements."""

from types import SimpleNamespace

import pytest

from pipeline.report.training_section import probe_table, run_table, training_sentences
from pipeline.report.wording import audio_hours, duration, listed

SETTINGS = SimpleNamespace(
    heads={"c-small": SimpleNamespace(corpus="c", model="small")},
    models=["small", "mm"],
    pretraining_corpora={"small": ["a", "b"], "mm": ["a"]}.get,
)


def outputs(**measured: dict) -> SimpleNamespace:
    curve = [{"epoch": 1, "loss": 1.0}]
    calp = {"small": {"curve": curve, "corpora": ["a", "b"], "hours": 0.5}, "mm": {"curve": []}}
    pretrained = {"small": {"curve": curve, "cut": {"utterances": 0}, "validation": {"mlm": 3.14159, "mam": 0.5, "mam_middle": None}}}
    heads = {"c-small": [{"variant": "calm", "modality": "both", "seed": seed, "curve": curve} for seed in (1, 2)]}
    return SimpleNamespace(calp=calp, pretrained=pretrained, heads=heads, measured=measured)


def test_sentences_without_measurements():
    assert training_sentences(SETTINGS, outputs()) == [
        "CALP, small: 1 epoch on 30 min of a and b.",
        "CALP, mm: not trained, by its settings.",
        "Masked words and masked audio, small: 1 epoch; held-out losses: words 3.14, audio 0.5, its middle blocks –. "
        "No utterance was truncated.",
        "Heads on c, small: 2.",
    ]


def test_a_model_without_pretraining_is_named():
    none = SimpleNamespace(models=["small"], pretraining_corpora=lambda name: [], heads={})
    sentences = training_sentences(none, SimpleNamespace(calp={}, pretrained={}, heads={}, measured={}))
    assert sentences == ["Model small is not pretrained, by its settings (pretrain_on: none)."]


def test_sentences_with_measurements():
    """Two seeds of 45 s each, and one of 60 s: 150 s."""
    heads = [{"variant": "calm", "modality": "both", "seed": seed, "seconds": 45.0} for seed in (1, 2)]
    heads.append({"variant": "calm", "modality": "audio", "seed": 1, "seconds": 60.0})
    measured = {
        "calp@small": {"seconds": 64.0, "device": "cpu"},
        "pretrain@small": {"seconds": 600.0},
        "head@c-small": {"seconds": 99.0, "heads": heads},
    }
    calp, _, masked, trained = training_sentences(SETTINGS, outputs(**measured))
    assert calp.endswith(" of a and b in 64 s (cpu).") and "1 epoch in 10 min;" in masked
    assert trained == "Heads on c, small: 2; their runs add up to 2 min, several at once."


def test_run_table():
    heads = [{"variant": "calm_frozen", "modality": "both", "seed": seed, "mlflow_run": f"f{seed}"} for seed in (1, 2)]
    measured = {
        "calp@small": {"seconds": 64.0, "mlflow_run": "a"},
        "pretrain@small": {"seconds": 64.0},
        "head@c-small": {"heads": heads},
        "evaluate@c": {"mlflow_run": "e"},
    }
    table = run_table(SETTINGS, outputs(**measured))
    assert table.rows == [
        ["calp@small", "calm/small", "", "a"],
        ["head@c-small", "calm/c", "CALM, frozen, audio + text, seed 1", "f1"],
        ["head@c-small", "calm/c", "CALM, frozen, audio + text, seed 2", "f2"],
        ["evaluate@c", "calm/c", "", "e"],
    ]
    assert table.rules == {1, 3}


@pytest.mark.parametrize(("seconds", "text"), [(None, "–"), (9.6, "10 s"), (99.4, "99 s"), (150, "2 min"), (5400, "1.5 h")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_words():
    assert audio_hours(0.5) == "30 min" and audio_hours(1.25) == "1.2 h"
    assert [listed(list(parts)) for parts in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]


def test_probes_before_and_after_stand_side_by_side():
    shared = {"model": "small", "n": 20, "chance": 0.25, "classes": 4}
    rows = [
        {**shared, "corpus": "a", "of": "speaker", "when": "before", "balanced_accuracy": 0.5},
        {**shared, "corpus": "a", "of": "labels", "when": "before", "balanced_accuracy": 0.3},
        {**shared, "corpus": "a", "of": "speaker", "when": "after", "balanced_accuracy": 0.75},
    ]
    assert probe_table(rows).rows == [
        ["small", "a", "speaker", "20", "4", "50.0", "75.0", "25.0"],
        ["small", "a", "labels", "20", "4", "30.0", "–", "25.0"],
    ]
