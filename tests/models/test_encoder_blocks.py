"""The upper blocks of a speech encoder within a model: frames and blocks, functionals with a gradient, saving, and the graph."""

import copy
import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, BertConfig

from calm.audio import functionals as by_numpy
from calm.audio.speech_encoders import load_speech_encoder
from calm.data.batching import PairCollator
from calm.data.ragged import AcousticFrames, Ragged
from calm.inference import classifier, onnx_export
from calm.models.configuration import CalmConfig
from calm.models.encoder_blocks import BLOCKS, EncoderBlocks, blocks_of_frames, frames_of_blocks, functionals
from calm.models.modeling import CalmForContrastivePretraining, CalmForSequenceClassification
from tests.audio import encoders

LAYERS, WIDTH = [1, 2, 3], 64
TEXT = BertConfig(
    vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64, max_position_embeddings=40
)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 6), st.data())
def test_blocks_come_from_their_frames(counts, hop, data):
    """Padded blocks hold other values than 0, which must not be seen."""
    size = data.draw(st.integers(hop, 9))
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    frames = torch.randn(len(counts), (max(counts) - 1) * hop + size, 2)
    blocks = blocks_of_frames(frames, max(counts), size, hop)
    assert torch.equal(blocks[0, -1], frames[0, (max(counts) - 1) * hop :][:size])
    found, present = frames_of_blocks(torch.where(mask[..., None, None], blocks, 99.0), mask, hop)
    assert present.sum(1).tolist() == [(count - 1) * hop + size for count in counts]
    assert torch.equal(found, frames * present[..., None])
    assert torch.equal(blocks_of_frames(found, max(counts), size, hop)[mask], blocks[mask])


@pytest.mark.parametrize("kind", ["whole", "thirds"])
def test_functionals_are_those_of_numpy_with_a_gradient(kind):
    """For every length from 1 on, beside longer utterances; nothing of an utterance without frames, and no gradient of padding."""
    torch.manual_seed(0)
    frames = torch.randn(41, 40, 3)
    mask = torch.arange(40) < torch.arange(41)[:, None]
    frames = torch.where(mask[..., None], frames, 99.0).requires_grad_()
    found = functionals(frames, mask, kind)
    assert found.shape == (41, 3 * by_numpy.PER_CHANNEL[kind]) and not found[0].any()
    for length in range(1, 41):
        expected = by_numpy.functionals(frames[length, :length].detach().numpy(), kind)
        np.testing.assert_allclose(found[length].detach(), expected, atol=1.1e-3 if length == 1 else 1e-4)  # deviation has a floor
    found.square().sum().backward()
    assert torch.isfinite(frames.grad).all() and not frames.grad[~mask].any()
    assert (frames.grad[mask] != 0).all()


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A small Whisper with random weights, and the states of its blocks for two clips."""
    encoder = load_speech_encoder(str(encoders.folder(tmp_path_factory.mktemp("encoder") / "whisper", "whisper")), LAYERS).eval()
    with torch.no_grad():
        return encoder, [encoder(torch.from_numpy(encoders.noise(samples))[None])[0] for samples in (14720, 8960)]  # whole blocks


def config(network, **changes) -> CalmConfig:
    sizes = {"block_frames": 10, "block_hop": 6, "channels": 3 * WIDTH, "patch": (5, WIDTH), "stride": (5, WIDTH), "projection": 16}
    about = {"layers": LAYERS, "config": network.model.config.to_dict()}
    heads = {"heads": {"emotion": ["a", "b"]}, "head_functionals": "thirds"}
    return CalmConfig(TEXT, **sizes | heads | {"spectran_layers": 1, "encoder": about} | changes)


def batch(states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised frames, padded, their mask, and the statistics that they were normalised by."""
    mean, deviation = torch.cat(states).mean(0), torch.cat(states).std(0)
    frames = torch.nn.utils.rnn.pad_sequence([(own - mean) / deviation for own in states], batch_first=True)
    mask = torch.arange(frames.shape[1]) < torch.tensor([[len(own)] for own in states])
    return frames, mask, mean, deviation


@pytest.fixture
def model(whisper) -> CalmForSequenceClassification:
    encoder, states = whisper
    torch.manual_seed(0)
    made = CalmForSequenceClassification(config(encoder)).eval()
    *_, mean, deviation = batch(states)
    made.encoder.load(encoder, mean.numpy(), deviation.numpy())
    return made


FAMILIES = [name for name, (family, _) in encoders.FAMILIES.items() if family in BLOCKS]


@pytest.mark.parametrize("layers", [[1, 2, 3], [0, 2], [0, 3], [2, 3]], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_untrained_blocks_return_the_frames_as_they_were(name, layers, tmp_path):
    """Of clips of different lengths too, of which the shorter one does not see its padding; for every family and all gaps of layers."""
    encoder = load_speech_encoder(str(encoders.folder(tmp_path, name)), layers)
    with torch.no_grad():
        frames, mask, mean, deviation = batch([encoder(torch.from_numpy(encoders.noise(samples))[None])[0] for samples in (14720, 8960)])
    blocks = EncoderBlocks({"layers": layers, "config": encoder.model.config.to_dict()}).eval()
    blocks.load(encoder, mean.numpy(), deviation.numpy())
    assert len(blocks.blocks) == layers[-1] - layers[0]
    with torch.no_grad():
        found = blocks(frames, mask)
    torch.testing.assert_close(found[mask], frames[mask], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(frames[..., :WIDTH], frames[..., -WIDTH:], atol=0.1)
    changed = frames.clone()
    changed[..., WIDTH:] = 7.0  # the upper layers come from the first one alone
    with torch.no_grad():
        torch.testing.assert_close(blocks(changed, mask), found)


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_change_nothing_at_first_and_are_merged_into_the_weights(name, tmp_path):
    """All of them are trained and no weight of the encoder; merged, the blocks are the encoder's own again, and answer the same."""
    torch.manual_seed(0)
    blocks = EncoderBlocks.of(load_speech_encoder(str(encoders.folder(tmp_path, name)), [1, 3])).eval()
    frames, mask = torch.randn(2, 40, WIDTH), torch.arange(40) < torch.tensor([[40], [25]])
    untrained, before = blocks.states(frames, mask).detach(), copy.deepcopy(blocks.blocks.state_dict())
    blocks.adapt(4)
    torch.testing.assert_close(blocks.states(frames, mask), untrained, atol=1e-4, rtol=1e-4)
    trained = {name: parameter for name, parameter in blocks.named_parameters() if parameter.requires_grad}
    assert {parameter.shape[0 if "lora_A" in name else 1] for name, parameter in trained.items()} == {4}
    optimiser = torch.optim.SGD(trained.values(), lr=0.3)
    for _ in range(2):  # an A learns only once its B is not zero
        optimiser.zero_grad()
        blocks.states(frames, mask)[mask].square().mean().backward()
        optimiser.step()
    still = [name for name, parameter in trained.items() if not parameter.grad.any() and "k_proj" not in name]
    assert not still
    found = blocks.states(frames, mask).detach()
    assert (found - untrained).abs().max() > 1e-3
    blocks.merge()
    assert blocks.blocks.state_dict().keys() == before.keys()
    torch.testing.assert_close(blocks.states(frames, mask).detach(), found, atol=1e-4, rtol=1e-4)
    changed = {name for name, values in blocks.blocks.state_dict().items() if not torch.equal(values, before[name])}
    linear = {f"{name}.weight" for name, module in blocks.blocks.named_modules() if isinstance(module, torch.nn.Linear)}
    assert changed == {name for name in linear if not (blocks.family == "wavlm" and "_proj" in name)}


@pytest.mark.parametrize(("first", "trained"), [(0, True), (1, False)])
def test_positions_of_wavlm_are_trained_with_all_blocks_only(first, trained, tmp_path):
    """They belong to its first block, and blocks below the first layer that is stored would hear a change of them."""
    encoder = load_speech_encoder(str(encoders.folder(tmp_path, "wavlm")), [first, 3])
    blocks = EncoderBlocks.of(encoder)
    frames = torch.randn(1, 40, WIDTH)
    blocks.states(frames, torch.ones(1, 40, dtype=torch.bool)).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in blocks.blocks.named_parameters()}
    positions = gradients.pop("0.attention.rel_attn_embed.weight")
    assert (positions is not None and positions.any().item()) == trained
    assert all(gradient is not None for gradient in gradients.values())


def test_a_model_hears_what_its_blocks_give_and_trains_them(whisper, model):
    """Untrained, it answers as a model without blocks on the same frames and their functionals; all blocks get gradients."""
    frames, mask, *_ = batch(whisper[1])
    counts = [1 + (int(length) - 10) // 6 for length in mask.sum(1)]
    blocks = blocks_of_frames(frames, max(counts), 10, 6)
    present = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    blocks = blocks * present[..., None, None]
    heard = [by_numpy.functionals(frames[row, : (count - 1) * 6 + 10].numpy(), "thirds") for row, count in enumerate(counts)]
    plain = CalmForSequenceClassification(config(whisper[0], encoder=None)).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    words = {"input_ids": torch.tensor([[5, 6, 7]] * 2), "input_features": blocks, "acoustic_mask": present}
    found = model(**words, labels=torch.eye(2))
    expected = plain(**words, functionals=torch.from_numpy(np.stack(heard))).logits
    torch.testing.assert_close(found.logits, expected, atol=1e-4, rtol=1e-3)
    found.loss.backward()
    for name, parameter in model.encoder.blocks.named_parameters():
        assert parameter.grad is not None and (parameter.grad.any() or "k_proj" in name), name


def test_blocks_are_saved_and_loaded(whisper, model, tmp_path):
    with torch.no_grad():
        model.encoder.blocks[1].fc1.weight.mul_(1.5)  # as if it had been trained
    model.save_pretrained(tmp_path)
    again = CalmForSequenceClassification.from_pretrained(tmp_path).eval()
    frames, mask, *_ = batch(whisper[1])
    with torch.no_grad():
        torch.testing.assert_close(again.encoder(frames, mask), model.encoder(frames, mask))
        assert not torch.allclose(again.encoder(frames, mask)[mask], frames[mask], atol=1e-2)


@pytest.mark.parametrize("name", ["whisper", "wav2vec2-layer-norm", "wavlm"])
def test_the_graph_computes_the_blocks(name, tmp_path):
    """For an utterance of another length than it was traced with."""
    encoder = load_speech_encoder(str(encoders.folder(tmp_path / name, name)), LAYERS)
    torch.manual_seed(0)
    model = CalmForSequenceClassification(config(encoder)).eval()
    frames = torch.randn(1, 46, 3 * WIDTH)
    model.encoder.load(encoder, np.zeros(3 * WIDTH, np.float32), np.ones(3 * WIDTH, np.float32))
    for file in classifier.MADE_OF:
        (tmp_path / file).touch()
    assert onnx_export.write(model, tmp_path)
    words, blocks = torch.tensor([[5, 6, 7]]), blocks_of_frames(frames, 7, 10, 6)
    with torch.no_grad():
        expected = model(input_ids=words, input_features=blocks).logits
    session = onnxruntime.InferenceSession(tmp_path / onnx_export.GRAPH)
    given = {"input_ids": words.numpy(), "blocks": blocks[0].numpy(), "functionals": np.zeros((1, 8 * 3 * WIDTH), np.float32)}
    (found,) = session.run(["logits"], {node.name: given[node.name] for node in session.get_inputs()})
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("most", [1, 2, None])
def test_contrastive_learning_hears_an_untrained_encoder_as_stored_frames(whisper, most):
    """Of two corpora with statistics of their own, beside an utterance of one block and longer ones; all its blocks get gradients."""
    states = [torch.cat(whisper[1])[first : first + length] for first, length in ((0, 10), (5, 29), (9, 40), (20, 13))]
    corpora, pairs = np.array([0, 1, 0, 1]), [batch(states[::2])[2:], batch(states[1::2])[2:]]
    blocks = EncoderBlocks.of(whisper[0])
    mean, deviation = (np.stack([own[part].numpy() for own in pairs]) for part in (0, 1))
    blocks.normalised_by(mean, deviation)
    rows = [blocks.changed(own.numpy()) for own in states]  # a piece of a clip has another context than the clip
    rows = [((own - mean[corpus]) / deviation[corpus]).astype(np.float16) for own, corpus in zip(rows, corpora, strict=True)]
    frames = AcousticFrames(Ragged.from_rows(rows), np.ones(4, np.float32), 10, 6)
    stored = PairCollator(frames, ["a", "b", "c", ""], torch.randn(4, 64), text_blocks=most)
    torch.manual_seed(0)
    model = CalmForContrastivePretraining(config(whisper[0], encoder=None)).eval()
    for seed in (None, 1, 2):
        plain, whole = (
            collator([0, 1, 2, 3], None if seed is None else torch.Generator().manual_seed(seed))
            for collator in (stored, dataclasses.replace(stored, corpora=corpora))
        )
        model.encoder = None
        expected = model(**plain)
        model.encoder = blocks
        whole["frames"][..., WIDTH:] = 7.0  # the upper layers come from the first one alone
        found = model(**whole)
        torch.testing.assert_close(found.loss, expected.loss, atol=5e-3, rtol=5e-3)
        torch.testing.assert_close(found.text_loss, expected.text_loss, atol=5e-3, rtol=5e-3)
    found.loss.backward()
    for name, parameter in blocks.blocks.named_parameters():
        assert parameter.grad is not None and (parameter.grad.any() or "k_proj" in name), name


@pytest.mark.parametrize("family", ["wav2vec2-bert", "moonshine"])
def test_other_families_are_refused(family):
    other = AutoConfig.for_model(family).to_dict()
    with pytest.raises(ValueError, match=f"an encoder of the family {family} cannot be trained along: families that can are whisper, wav2"):
        EncoderBlocks({"layers": LAYERS, "config": other})
