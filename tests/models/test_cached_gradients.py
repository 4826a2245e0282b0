"""Large contrastive batches in chunks: the gradients of the whole batch, at the memory of a chunk."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import BertConfig

from calm.models import modeling
from calm.models.configuration import CalmConfig
from calm.models.encoder_blocks import EncoderBlocks
from calm.models.losses import ContrastiveSettings
from calm.models.modeling import CalmForContrastivePretraining
from calm.models.text_encoders import build_encoder

ROWS = 32


def text(dropout: float) -> BertConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 60}
    return BertConfig(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **sizes)


def model(chunk: int | None, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> CalmForContrastivePretraining:
    """CALP with its language model trained along."""
    torch.manual_seed(3)
    config = CalmConfig(text(dropout), projection=16, spectran_layers=1, spectran_width=64, spectran_dropout=dropout)
    settings = ContrastiveSettings(symmetric=True, learn_temperature=True, alpha=1.0, chunk=chunk)
    return CalmForContrastivePretraining(config, build_encoder(config.text_config), settings).to(dtype).train()


def batch(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(3) < torch.randint(1, 4, (ROWS, 1), generator=draw)
    blocks = torch.randn(2 * ROWS + int(mask.sum()), 50, 64, generator=draw).to(dtype)
    ids = torch.randint(5, 60, (ROWS, 6), generator=draw)
    return {
        "anchor": blocks[:ROWS],
        "neighbour": blocks[ROWS : 2 * ROWS],
        "text_blocks": blocks[2 * ROWS :],
        "text_block_mask": mask,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "words": torch.ones_like(ids, dtype=torch.bool),
        "has_text": torch.arange(ROWS) != 4,
    }


def gradients(trained: CalmForContrastivePretraining, inputs: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(8)
    trained(**inputs).loss.backward()
    return {name: parameter.grad for name, parameter in trained.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunk", [5, 16, 200])
def test_gradients_of_chunks_are_those_of_the_whole_batch(dtype, tolerance, chunk):
    expected = gradients(model(None, dtype=dtype), batch(dtype))
    found = gradients(model(chunk, dtype=dtype), batch(dtype))
    assert found.keys() == expected.keys() and {"log_scale", "text_projection.weight"} <= found.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected[name], atol=tolerance, rtol=tolerance, msg=lambda message, name=name: f"{name}: {message}"
        )


def test_dropout_is_the_same_when_a_chunk_is_computed_again(monkeypatch):
    """Against chunks whose activations are kept; a second draw of dropout would give other gradients."""
    found = gradients(model(5, dropout=0.3), batch())
    again = torch.rand(3)  # the generator goes on as if nothing had been computed twice
    plain, drawn = modeling.checkpoint, []
    monkeypatch.setattr(modeling, "checkpoint", lambda embed, *inputs, **options: embed(*inputs))
    expected = gradients(model(5, dropout=0.3), batch())
    assert torch.equal(torch.rand(3), again)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)

    def other_dropout(embed, *inputs, **options):
        drawn.append(len(inputs[0]))
        return plain(embed, *inputs, preserve_rng_state=False, **options)

    monkeypatch.setattr(modeling, "checkpoint", other_dropout)
    other = gradients(model(5, dropout=0.3), batch())
    assert max(drawn) == 5 and any((other[name] - gradient).abs().max() > 1e-3 for name, gradient in expected.items())


def test_chunks_keep_little_for_the_gradients():
    """Of the whole batch, all activations are kept; of chunks, the inputs and what the loss needs of the vectors."""

    def kept(chunk: int | None) -> int:
        own, sizes, inputs = model(chunk), {}, batch()
        weights = {parameter.untyped_storage().data_ptr() for parameter in own.parameters()}

        def note(values: torch.Tensor) -> torch.Tensor:
            if values.untyped_storage().data_ptr() not in weights:
                sizes[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
            return values

        with saved_tensors_hooks(note, lambda values: values):
            own(**inputs)
        return sum(sizes.values())

    assert kept(4) < kept(None) / 5


def test_answers_of_a_trained_model_do_not_depend_on_chunks():
    with torch.no_grad():
        assert torch.equal(model(5).eval()(**batch()).loss, model(None).eval()(**batch()).loss)


def test_chunks_of_utterances_go_through_an_encoder_that_is_trained_along():
    """Of two corpora and all lengths: the gradients of its blocks, and of all else, are those of the whole batch."""

    def found(chunk: int | None) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(2)
        own = model(chunk, dtype=torch.float64)
        config = {"model_type": "whisper", "d_model": 32, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "encoder_layers": 2}
        own.encoder = EncoderBlocks({"layers": [0, 2], "config": config}).double()
        own.encoder.mean, own.encoder.deviation = torch.randn(2, 64, generator=draw), 1 + torch.rand(2, 64, generator=draw)
        own.encoder.double()
        lengths = torch.randint(80, 120, (ROWS,), generator=draw)
        inputs = batch(torch.float64)
        inputs |= {"anchor": lengths - 80, "neighbour": lengths - 50, "corpus": torch.arange(ROWS) % 2}
        inputs |= {"text_blocks": torch.randint(0, 30, (len(inputs["text_blocks"]),), generator=draw)}
        inputs |= {"frames": torch.randn(ROWS, 120, 64, generator=draw).double(), "frame_mask": torch.arange(120) < lengths[:, None]}
        return gradients(own, inputs)

    expected, chunked = found(None), found(5)
    assert chunked.keys() == expected.keys() and chunked["encoder.blocks.1.fc1.weight"].abs().max() > 1e-4
    for name, gradient in chunked.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-7)
