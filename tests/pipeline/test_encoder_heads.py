"""Heads over a speech encoder: its blocks trained along, and held-out utterances heard at several speeds."""

import numpy as np
import pandas as pd
import pytest
import torch

from calm.audio.decoding import read_audio
from calm.inference.onnx_export import _one_utterance
from calm.inference.processing import CalmProcessor
from calm.inference.torch_classifier import Predictor
from calm.models.modeling import CalmForSequenceClassification
from calm.training.forward import predict
from pipeline import feature_extractors, paths
from pipeline.heads import training
from pipeline.heads.conditions import Condition
from pipeline.heads.networks import TASK, Networks
from pipeline.settings import HeadRow
from pipeline.state import visible
from pipeline.tracking.tracker import TrackedRun
from tests.audio import encoders
from tests.pipeline import made_corpus

SPECTRAN = {"block": 25, "hop": 15, "patch": [5, 64], "stride": [5, 64], "width": 64, "layers": 1}
HEAD = {"hidden": None, "standardise": True, "functionals": "thirds", "pooling": "cls_blocks", "modalities": ["audio"], "epochs": 2}
HEAD |= {"loss": "softmax", "mixup": 0.4, "label_smoothing": 0.1, "augment": {"crop": 0.3}, "batch": 8, "learning_rate": 1e-3}
HEAD |= {"frozen_fit": "logistic", "train_words": False, "body_rate": 1.0}
ROW, SPEED = HeadRow(start="language_model"), "speed-0.9"
FROZEN = Condition("no_pretraining_frozen", ROW, "frozen", "audio")
UNFROZEN = Condition("no_pretraining", ROW, "unfrozen", "audio")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project of 30 clips with three layers of a small Whisper, and copies at another speed."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        encoders.folder(folder / "whisper", "whisper")
        section = {"encoder": "whisper", "layers": [1, 2, 3], "speeds": [0.9], "workers": 1}
        models = {"small": {"language_model": "minilm", "layers": 1}}
        classes = {"made": ("loud", "middle", "soft")}
        yield made_corpus.make(30, classes, features=section, spectran=SPECTRAN, head=HEAD, models=models)


@pytest.fixture
def trained(made, tmp_path, monkeypatch):
    """A function that trains the heads of a condition: their networks, logits by id, and the network that is kept."""
    folder = paths.features("made").resolve().parents[2]
    monkeypatch.chdir(folder)

    def run(condition: Condition, name: str, refit: bool = False, **changes):
        corpora = {"made": made.corpora["made"].model_copy(update={"refit": refit})}
        settings = made.model_copy(update={"head": made.head.model_copy(update=changes), "corpora": corpora})
        (place := tmp_path / name).mkdir()
        networks = Networks(visible(settings, "head", "made"), "made", "small", place)
        found = training.train_heads(networks, [condition], [1], place / "run", TrackedRun(), place / "kept")
        kept = CalmForSequenceClassification.from_pretrained(place / "kept").eval()
        return networks, found.logits.set_index("id"), kept

    return run


def answers(made, networks: Networks, network: CalmForSequenceClassification, ids: list[str], speeds: bool) -> np.ndarray:
    """Log-probabilities that a released model gives for the audio files."""
    extractor = feature_extractors.extractor(made.for_model("small").spectran, ["made"], 512, network.config.head_functionals, speeds)
    assert extractor.speeds == ([0.9] if speeds else [])
    table = pd.read_parquet(paths.segments("made")).set_index("id").loc[ids]
    predictor = Predictor.from_model(network, CalmProcessor(extractor, networks.tokenizer))
    return np.log(predictor([read_audio(path) for path in table["audio"]], None))


def changes(network: CalmForSequenceClassification, networks: Networks) -> float:
    """Mean distance of the weights of the encoder's blocks from those of the encoder."""
    _, encoder, *_ = networks.encoder
    assert len(network.encoder.blocks) == 2
    pairs = zip(network.encoder.blocks.parameters(), encoder.model.layers[1:].parameters(), strict=True)
    return np.mean([(ours - theirs).abs().mean().item() for ours, theirs in pairs])


def test_the_encoder_is_trained_at_a_rate_of_its_own(made, trained):
    """A tenth of the rate changes its blocks a tenth as much; the statistics of the frames stay. It answers audio as the stage did."""
    networks, logits, fast = trained(UNFROZEN, "fast", train_encoder=True, average_speeds=True)
    *_, slow = trained(UNFROZEN, "slow", train_encoder=True, body_rate=0.1)
    *_, own = trained(UNFROZEN, "own", train_encoder=True, encoder_rate=0.1)
    assert changes(fast, networks) > 1e-4
    assert changes(own, networks) == pytest.approx(changes(slow, networks), rel=0.3)
    assert changes(fast, networks) / changes(slow, networks) == pytest.approx(10, rel=0.3)
    _, _, mean, deviation = networks.encoder
    np.testing.assert_array_equal(fast.encoder.mean, mean)
    np.testing.assert_array_equal(fast.encoder.deviation, deviation)
    assert fast.config.encoder["layers"] == [1, 2, 3] and fast.config.encoder["config"]["model_type"] == "whisper"
    ids = list(logits.index)
    assert set(logits["split"]) == {"validation", "test"} and len(ids) == 6
    expected = torch.from_numpy(np.stack(logits["logits"])).log_softmax(1)
    np.testing.assert_allclose(answers(made, networks, fast, ids, True), expected, atol=0.03)
    assert np.abs(answers(made, networks, fast, ids, False) - expected.numpy()).max() > 0.03


@pytest.mark.parametrize("train_encoder", [False, True])
def test_attention_over_frames_is_learned_with_the_head(made, trained, train_encoder):
    """Without functionals and statistics, and with the encoder's blocks or without; the released model answers audio as the stage did, at
    both speeds, and what its graph is made of as the model does."""
    condition = Condition(
        "attention", HeadRow(start="language_model", pooling="frames", modalities=["audio"], tuning=["unfrozen"]), "unfrozen", "audio"
    )
    sizes = {"members": 2, "frames_width": 16}
    networks, logits, network = trained(condition, "attention", average_speeds=True, train_encoder=train_encoder, **sizes)
    assert network.config.head_functionals is None and len(network.frames.members) == 2 and (network.encoder is not None) == train_encoder
    torch.manual_seed(1)
    fresh = networks.network(condition, 1).frames.state_dict()
    assert all((fresh[name] - weights).abs().max() > 0 for name, weights in network.frames.state_dict().items())
    ids = list(logits.index)
    expected = torch.from_numpy(np.stack(logits["logits"])).log_softmax(1)
    np.testing.assert_allclose(answers(made, networks, network, ids, True), expected, atol=0.03)
    text, blocks = torch.tensor([[101, 102]]), torch.randn(4, 25, network.config.channels, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        one, answer = _one_utterance(network)(text, blocks), network(input_ids=text, input_features=blocks[None]).logits
    torch.testing.assert_close(one, answer)


def test_adapters_are_trained_in_place_of_the_blocks_and_merged(made, trained):
    """What is kept has the encoder's own weights, of which linear layers alone have changed, by matrices of the rank."""
    networks, logits, network = trained(UNFROZEN, "adapted", train_encoder=True, encoder_rank=2, average_speeds=True)
    _, encoder, *_ = networks.encoder
    ours, theirs = network.encoder.blocks.state_dict(), encoder.blocks[1:].state_dict()
    assert ours.keys() == theirs.keys()
    differences = {name: ours[name] - theirs[name] for name in ours}
    changed = {name: values for name, values in differences.items() if values.any()}
    assert len(changed) == 2 * 6  # four projections and two layers of each block
    assert {int(torch.linalg.matrix_rank(values, rtol=1e-2)) for values in changed.values()} == {2}
    ids = list(logits.index)
    expected = torch.from_numpy(np.stack(logits["logits"])).log_softmax(1)
    np.testing.assert_allclose(answers(made, networks, network, ids, True), expected, atol=0.03)


def test_blocks_are_part_of_unfrozen_audio_alone(made, trained):
    """Frozen heads, those of text, and a setting that does not ask for them have none."""
    networks, _, frozen = trained(FROZEN, "frozen", train_encoder=True)
    assert frozen.encoder is None and frozen.config.encoder is None
    assert networks.trains_encoder(UNFROZEN) and not networks.trains_encoder(FROZEN)
    assert not networks.trains_encoder(Condition("no_pretraining", ROW, "unfrozen", "text"))
    assert not networks.trains_encoder(Condition("peer", HeadRow(network="cnn"), "unfrozen", "both"))


def test_a_head_by_the_speaker_is_averaged_with_the_one_by_the_corpus(made, trained):
    """The weights that are released, on vectors as they are, are the means of those of two rows. It answers audio as the stage did."""

    def kept(name: str, **row) -> tuple[Networks, pd.DataFrame, CalmForSequenceClassification, torch.Tensor]:
        row = HeadRow(start="language_model", pooling="none", **row)
        networks, logits, network = trained(Condition(name, row, "frozen", "audio"), name, refit=True)
        statistics, *_, layer = network.heads[TASK]
        return networks, logits, network, layer.weight / statistics.deviation

    *_, by_corpus = kept("by_corpus")
    *_, by_speaker = kept("by_speaker", normalise="speaker")
    networks, logits, network, both = kept("both", by_speaker_too=True)
    torch.testing.assert_close(both, (by_corpus + by_speaker) / 2, rtol=1e-3, atol=1e-4)
    assert (by_corpus - by_speaker).abs().max() > 0.01
    ids = list(logits.query("split == 'test'").index)
    expected = torch.from_numpy(np.stack(logits.loc[ids, "logits"])).log_softmax(1)
    np.testing.assert_allclose(answers(made, networks, network, ids, False), expected, atol=0.03)


def test_logits_of_trained_networks_are_means_over_speeds(trained):
    """By the network that is kept: of the utterance and of its copy; an utterance without one counts as it is."""
    networks, alone, network = trained(UNFROZEN, "alone")
    averaging, averaged, _ = trained(UNFROZEN, "averaged", average_speeds=True)
    rows = networks.splits["test"]
    ids = networks.examples.table["id"].to_numpy()[rows]
    once = predict(network, rows, networks.collator(UNFROZEN, network), 8)
    slower = predict(network, rows, networks.collator(UNFROZEN, network, speed=SPEED), 8)
    np.testing.assert_allclose(np.stack(alone["logits"][ids]), once, atol=1e-2)  # encoded blocks are kept in float16
    np.testing.assert_allclose(np.stack(averaged["logits"][ids]), (once + slower) / 2, atol=1e-2)
    assert np.abs(once - slower).max() > 0.05
    averaging.examples.copies[SPEED].utterances.lengths[rows[0]] = 0
    found = training._predicted(averaging, UNFROZEN, network, rows)
    np.testing.assert_allclose(found[0], once[0], atol=1e-2)
    np.testing.assert_allclose(found[1:], (once + slower)[1:] / 2, atol=1e-2)


def test_a_refit_is_for_test_and_for_release(trained):
    """Validation, by which thresholds are tuned, keeps the answers of the fit that never saw it; the network that is kept did."""
    networks, once, _ = trained(FROZEN, "once")
    _, again, network = trained(FROZEN, "again", refit=True)
    ids, rows = networks.examples.table["id"].to_numpy(), networks.splits
    validation, test = (ids[rows[split]] for split in ("validation", "test"))
    np.testing.assert_array_equal(np.stack(again["logits"][validation]), np.stack(once["logits"][validation]))
    vectors, _ = training.represented(networks, FROZEN, [1])
    with torch.no_grad():
        released = network.heads[TASK](vectors[: len(ids), 0]).numpy()
    np.testing.assert_allclose(np.stack(again["logits"][test]), released[rows["test"]], atol=1e-4)
    for split, found in (("test", once["logits"][test]), ("validation", again["logits"][validation])):
        assert np.abs(np.stack(found) - released[rows[split]]).max() > 0.01


def test_a_network_is_trained_again_for_test_and_for_release(trained):
    """By a second training on training and validation together, whose network answers test and is kept."""
    networks, once, first = trained(UNFROZEN, "once")
    _, again, network = trained(UNFROZEN, "again", refit=True)
    ids, rows = networks.examples.table["id"].to_numpy(), networks.splits
    validation, test = (ids[rows[split]] for split in ("validation", "test"))
    np.testing.assert_array_equal(np.stack(again["logits"][validation]), np.stack(once["logits"][validation]))
    assert np.abs(np.stack(again["logits"][test]) - np.stack(once["logits"][test])).max() > 0.01
    collator = networks.collator(UNFROZEN, network)
    released = predict(network, rows["test"], collator, 8)
    np.testing.assert_allclose(np.stack(again["logits"][test]), released, atol=1e-2)
    assert np.abs(predict(first, rows["test"], collator, 8) - released).max() > 0.01


def test_logits_of_frozen_heads_are_means_over_speeds(made, trained):
    """By the regression that is kept; the released model answers audio in the same way."""
    networks, logits, network = trained(FROZEN, "averaged", average_speeds=True)
    head, (vectors, sources) = network.heads[TASK], training.represented(networks, FROZEN, [1])
    assert head.width == vectors.shape[-1] and len(head) == 3 and not head.training
    for split in ("validation", "test"):
        rows = networks.splits[split]
        ids = networks.examples.table["id"].to_numpy()[rows]
        copies = training.pooled(networks, FROZEN, 1, training.at_speed(networks, SPEED), speed=SPEED)
        with torch.no_grad():
            once, slower = head(vectors[rows, 0]), head(copies[rows])
        np.testing.assert_allclose(np.stack(logits["logits"][ids]), (once + slower) / 2, atol=1e-4)
        assert (once - slower).abs().max() > 0.05
        expected = torch.from_numpy(np.stack(logits["logits"][ids])).log_softmax(1)
        np.testing.assert_allclose(answers(made, networks, network, list(ids), True), expected, atol=0.03)
    assert sources.tolist() == [*range(30), *networks.splits["train"]]
