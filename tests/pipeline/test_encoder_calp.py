"""CALP over a speech encoder that it trains along: what follows hears the trained encoder, and what is stored stays as it was."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from calm.audio.decoding import read_audio
from calm.audio.encoder_states import load_encoder
from calm.audio.speech_encoders import load_speech_encoder
from calm.inference.loading import load_compiled
from calm.inference.processing import CalmProcessor
from calm.inference.torch_classifier import Predictor
from calm.models.modeling import CalmForContrastivePretraining
from calm.storage import SUMS, read_json
from calm.tools.search import CalpEncoder, corpus_rows
from calm.training.forward import encode_blocks
from pipeline import factory, feature_extractors, paths
from pipeline.heads.conditions import Condition
from pipeline.heads.networks import Networks
from pipeline.settings import HeadRow
from pipeline.stages import baselines, calp, check, embed, evaluate, head, pretrain, release, transfer
from pipeline.state import visible
from tests.audio import encoders
from tests.pipeline import made_corpus

CLASSES = {"made": ("loud", "middle", "soft"), "other": ()}
CHANGES = {
    "seeds": [1],
    "features": {"encoder": "whisper", "layers": [1, 3], "speeds": [0.9], "workers": 1},
    "spectran": {"block": 25, "hop": 15, "patch": [5, 64], "stride": [5, 64], "width": 64, "layers": 1},
    "models": {"small": {"language_model": "minilm", "layers": 1, "pretrain_on": "."}},
    "calp": {"epochs": 2, "batch": 8, "learning_rate": 1e-3, "train_encoder": True, "encoder_rate": 1.0, "text_blocks": None},
    "pretrain": {"epochs": 1, "batch": 8},
    "head": {
        "epochs": 1,
        "frozen_epochs": 5,
        "functionals": "whole",
        "modalities": ["audio"],
        "tuning": ["frozen", "unfrozen"],
        "workers": 1,
    },
    "targets": ["made"],
    "heads": {"made": {"corpus": "made", "model": "small", "rows": {"calm": {}, "no_pretraining": {"start": "language_model"}}}},
    "evaluate": {"baselines": ["chance"], "bootstrap": 0},
    "tracking": {"uri": "sqlite:///mlflow.db", "system_metrics_seconds": 60},
}


@pytest.fixture(scope="module")
def rebuilt(lent, tmp_path_factory):
    """A project of two corpora of 30 clips, through every stage from CALP to the release."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        encoders.folder(folder / "whisper", "whisper")
        settings = made_corpus.make(30, CLASSES, **CHANGES)
        for stage in (calp, embed, pretrain):
            stage.run(settings, "small")
        for stage in (head, baselines, evaluate, release):
            stage.run(settings, "made")
    return folder, settings


@pytest.fixture(autouse=True)
def here(rebuilt, monkeypatch):
    monkeypatch.chdir(rebuilt[0])


def examples(settings, corpora: list[str], trained: bool):
    seen = visible(settings, "pretrain", "small")
    return factory.examples(seen, corpora, encoder=load_encoder(paths.calp("small")) if trained else None)


def test_the_blocks_above_the_first_layer_are_trained_and_no_others():
    before = load_speech_encoder("whisper", [1, 3]).model.state_dict()
    after = load_encoder(paths.calp("small")).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("layers.1.", "layers.2.")) for name in changed)
    assert len(read_json(paths.calp("small") / "metrics.json")["curve"]) == 2
    assert CalmForContrastivePretraining.from_pretrained(paths.calp("small")).encoder is None


def test_adapters_that_calp_trains_are_merged_into_the_encoder(rebuilt):
    """Statistics are those of each corpus; the encoder's linear layers change by matrices of the rank, and nothing else."""
    settings = rebuilt[1].model_copy(update={"calp": rebuilt[1].calp.model_copy(update={"encoder_rank": 2})})
    model = CalmForContrastivePretraining.from_pretrained(paths.calp("small"))
    encoder, before = calp.speech_encoder(["made"]), load_speech_encoder("whisper", [1, 3]).model.state_dict()
    model.encoder = calp.blocks_to_train(settings, encoder, ["made", "other"])
    assert model.encoder.mean.shape == (2, 128) and not torch.equal(*model.encoder.mean)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if parameter.requires_grad:
                assert "lora" in name
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    calp.take_out(model, encoder)
    differences = {name: values - before[name] for name, values in encoder.model.state_dict().items()}
    changed = {name: values for name, values in differences.items() if values.any()}
    assert model.encoder is None and len(changed) == 2 * 6
    assert {int(torch.linalg.matrix_rank(values, rtol=1e-3)) for values in changed.values()} == {2}


def test_the_processor_hears_the_trained_encoder(rebuilt):
    """Audio gives the frames that stored states give through the trained blocks; those of the first layer are the stored ones."""
    stored, trained = (examples(rebuilt[1], ["made"], given).frames.utterances for given in (False, True))
    np.testing.assert_allclose(trained.values[:, :64], stored.values[:, :64], atol=2e-3)
    assert np.abs(trained.values[:, 64:] - stored.values[:, 64:]).mean() > 0.01
    processor = CalmProcessor.from_pretrained(paths.calp("small"))
    extractor = feature_extractors.extractor(rebuilt[1].for_model("small").spectran, ["made"])  # statistics of one corpus
    extractor.uses("cpu", processor.feature_extractor.folder)
    table = pd.read_parquet(paths.segments("made"))
    for row in (0, 3):
        found = extractor.acoustic_frames([read_audio(table["audio"][row])])
        np.testing.assert_allclose(found.utterances[0], trained[row], atol=0.05)


def test_embedded_blocks_and_search_are_of_the_trained_encoder(rebuilt):
    """Of both corpora, each with its own statistics."""
    given = examples(rebuilt[1], ["made", "other"], True)
    spectran = CalmForContrastivePretraining.from_pretrained(paths.calp("small")).spectran
    found = factory.encoded("small", given, ["made", "other"])
    np.testing.assert_allclose(found.values, encode_blocks(spectran, given.frames).values, atol=5e-3)
    stale = encode_blocks(spectran, examples(rebuilt[1], ["made", "other"], False).frames)
    assert np.abs(found.values - stale.values).mean() > 0.01


def test_search_reads_features_as_the_trained_encoder_gives_them(rebuilt):
    """The model was trained on two corpora; of one of them it takes the stored features through its own blocks."""
    model = CalpEncoder(paths.calp("small"))
    given = examples(rebuilt[1], ["made"], True)
    rows = list(corpus_rows(model, "made"))
    assert [row["id"] for row in rows] == list(given.table["id"])
    np.testing.assert_allclose(rows[2]["blocks"], model.embed_frames(given.frames, 2), atol=5e-3)
    stale = model.embed_frames(examples(rebuilt[1], ["made"], False).frames, 2)
    assert np.abs(rows[2]["blocks"] - stale).max() > 0.01


def test_heads_hear_the_trained_encoder_where_they_start_after_calp(rebuilt, tmp_path):
    networks = Networks(visible(rebuilt[1], "head", "made"), "made", "small", tmp_path)
    for start, trained in (("pretrained", True), ("calp", True), ("language_model", False)):
        condition = Condition("row", HeadRow(start=start), "unfrozen", "audio")
        heard = networks.heard(condition)
        expected = examples(rebuilt[1], ["made"], trained)
        np.testing.assert_array_equal(heard.frames.utterances.values, expected.frames.utterances.values)
        copy, unchanged = heard.copies["speed-0.9"], networks.examples.copies["speed-0.9"]
        assert np.array_equal(copy.utterances.values, unchanged.utterances.values) != trained


def test_the_released_model_answers_as_the_stage_did(tmp_path):
    """By torch and by the two graphs, from audio."""
    folder = paths.model("made", "small")
    kept = read_json(folder / "release.json")
    assert kept["variant"] == "calm"
    logits = pd.read_parquet(paths.heads("made", "small") / "logits.parquet")
    logits = logits[(logits[list(kept)] == pd.Series(kept)).all(axis=1)].set_index("id")["logits"]
    table = pd.read_parquet(paths.segments("made")).set_index("id").loc[logits.index]
    clips = [read_audio(path) for path in table["audio"]]
    expected = np.stack(logits)
    for classifier in (Predictor(folder), load_compiled(folder, "cpu")):
        found = classifier(clips, None)
        np.testing.assert_allclose(np.log(found / (1 - found)), expected, atol=0.03)
    weights = shutil.copytree(folder, tmp_path / "weights", ignore=shutil.ignore_patterns("encoder.onnx", SUMS))
    found = Predictor(weights)(clips[:1], None)
    np.testing.assert_allclose(np.log(found / (1 - found)), expected[:1], atol=0.03)


def test_blocks_that_heads_train_start_from_the_trained_encoder(rebuilt, tmp_path):
    """And from the encoder as it was, where a row starts from the language model."""
    networks = training_networks(rebuilt[1], tmp_path)
    for start, encoder in (("pretrained", load_encoder(paths.calp("small"))), ("language_model", load_speech_encoder("whisper", [1, 3]))):
        network = networks.network(Condition("row", HeadRow(start=start), "unfrozen", "audio"), 1)
        found, expected = network.encoder.blocks.state_dict(), encoder.blocks[1:].state_dict()
        assert all(torch.equal(values.cpu(), expected[name]) for name, values in found.items())


def test_a_transferred_model_hears_another_corpus_by_its_trained_encoder(rebuilt, tmp_path):
    """As the released folder hears the audio, with the other corpus's statistics; blocks of a head take these too."""
    heads, seen = rebuilt[1].heads["made"], visible(rebuilt[1], "head", "made")
    released, about = transfer.load(heads)
    settings = SimpleNamespace(calp=rebuilt[1].calp, models=rebuilt[1].models)
    encoder = transfer.encoder_of(settings, heads, heads.rows[about["variant"].removesuffix("_frozen")])
    assert transfer.encoder_of(settings, heads, HeadRow(start="language_model")) is None
    table = pd.read_parquet(paths.segments("other")).head(4)
    found = transfer.transferred(seen, released, "small", "other", table["id"], encoder, None)
    folder, spectran = paths.model("made", "small"), rebuilt[1].for_model("small").spectran
    extractor = feature_extractors.extractor(spectran, ["other"], 512, "whole")
    extractor.uses("cpu", folder)
    predictor = Predictor.from_model(released, CalmProcessor(extractor, CalmProcessor.from_pretrained(folder).tokenizer))
    np.testing.assert_allclose(predictor([read_audio(path) for path in table["audio"]], None), found, atol=0.01)
    stale = transfer.transferred(seen, released, "small", "other", table["id"], None, None)
    assert np.abs(stale - found).max() > 1e-3

    network = training_networks(rebuilt[1], tmp_path).network(Condition("calm", HeadRow(), "unfrozen", "audio"), 1).eval()
    with_blocks = transfer.transferred(seen, network, "small", "other", table["id"], encoder, None)
    network.encoder = None
    without = transfer.transferred(seen, network, "small", "other", table["id"], encoder, None)
    frames = examples(rebuilt[1], ["other"], False).frames
    whole = frames.utterances.lengths[:4] == 25 + 15 * (frames.blocks[:4] - 1)
    assert whole.tolist() == [False, False, True, False]
    np.testing.assert_allclose(without[whole], with_blocks[whole], atol=1e-5)
    # A head's own blocks attend to the frames of acoustic blocks alone, without the few after the last one.
    np.testing.assert_allclose(without, with_blocks, atol=5e-3)


def training_networks(settings, folder) -> Networks:
    """Networks whose heads train the encoder, on the transformer alone."""
    section = settings.head.model_copy(update={"train_encoder": True, "functionals": None})
    return Networks(visible(settings.model_copy(update={"head": section}), "head", "made"), "made", "small", folder)


@pytest.mark.parametrize("part", ["calp", "head"])
def test_families_that_cannot_be_trained_are_refused_before_any_work(rebuilt, part):
    encoders.folder(rebuilt[0] / "moonshine", "moonshine")
    trained = {name: getattr(rebuilt[1], name).model_copy(update={"train_encoder": name == part}) for name in ("calp", "head")}
    settings = rebuilt[1].model_copy(update=trained | {"features": rebuilt[1].features.model_copy(update={"encoder": "moonshine"})})
    with pytest.raises(ValueError, match="an encoder of the family moonshine cannot be trained along"):
        check.run(settings)
    untrained = settings.model_copy(update={part: trained[part].model_copy(update={"train_encoder": False})})
    check.run(untrained)
