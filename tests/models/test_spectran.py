"""Patches and SpecTran (4.2)."""

import math

import pytest
import torch
from transformers import BertConfig

from calm.models.configuration import CalmConfig
from calm.models.spectran import LayerMean, PatchEmbedding, SpecTran

TEXT = BertConfig(vocab_size=50, hidden_size=128, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


def test_63_patches_of_160_values():
    config = CalmConfig(TEXT)
    assert config.patches == (9, 7)
    embedding = PatchEmbedding(config, 128)
    assert embedding.convolution.weight[0].numel() == 160
    assert embedding(torch.zeros(2, 50, 64)).shape == (2, 63, 128)


@pytest.mark.parametrize(
    ("patch", "stride", "shape"), [((10, 16), (5, 8), (9, 7)), ((2, 64), (1, 64), (49, 1)), ((20, 8), (10, 4), (4, 15))]
)
def test_patch_order_is_time_first_then_frequency(patch, stride, shape):
    config = CalmConfig(TEXT, patch=patch, stride=stride)
    assert config.patches == shape
    embedding = PatchEmbedding(config, 1)
    torch.nn.init.zeros_(embedding.convolution.weight)
    embedding.convolution.weight.data[0, 0, 0, 0] = 1  # picks the first frame and mel of each patch
    torch.nn.init.zeros_(embedding.convolution.bias)
    block = torch.arange(50 * 64, dtype=torch.float32).view(1, 50, 64)  # value = 64 frame + mel
    values = embedding(block)[0, :, 0]
    times, bands = shape
    for f in range(bands):
        for t in range(times):
            assert values[f * times + t] == 64 * t * stride[0] + f * stride[1]


def test_patch_embedding_is_a_linear_map_of_the_unfolded_patch():
    config = CalmConfig(TEXT)
    embedding = PatchEmbedding(config, 8)
    blocks = torch.randn(3, 50, 64)
    patches = blocks.unfold(1, 10, 5).unfold(2, 16, 8)  # (3, 9, 7, 10, 16)
    linear = patches.permute(0, 2, 1, 3, 4).reshape(3, 63, 160) @ embedding.convolution.weight.view(8, 160).T + embedding.convolution.bias
    torch.testing.assert_close(embedding(blocks), linear, atol=1e-5, rtol=1e-5)


def random_spectran(**options) -> SpecTran:
    spectran = SpecTran(CalmConfig(TEXT, **options)).eval()
    for parameter in spectran.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return spectran


def test_token_has_the_language_models_width():
    assert random_spectran()(torch.randn(4, 50, 64)).shape == (4, 128)
    assert random_spectran(spectran_width=64)(torch.randn(4, 50, 64)).shape == (4, 128)


def test_blocks_do_not_mix():
    spectran, blocks = random_spectran(), torch.randn(4, 50, 64)
    torch.testing.assert_close(spectran(blocks)[2:3], spectran(blocks[2:3]), atol=1e-5, rtol=1e-5)


def test_position_matters():
    spectran, block = random_spectran(), torch.randn(1, 50, 64)
    assert not torch.allclose(spectran(block), spectran(block.flip(1)), atol=1e-4)


def test_mean_pooling_differs_from_cls():
    torch.manual_seed(0)
    cls = random_spectran()
    mean = random_spectran(spectran_pooling="mean")
    mean.load_state_dict(cls.state_dict())
    block = torch.randn(1, 50, 64)
    assert not torch.allclose(cls(block), mean(block), atol=1e-4)


def test_bands_pooling_by_hand():
    """Mean and deviation over time of every row of patches of one frequency, the lowest first."""
    spectran = random_spectran(
        patch=(50, 32), stride=(50, 32), block_frames=100, spectran_layers=0, spectran_pooling="bands", spectran_width=64
    )
    assert spectran.norm.normalized_shape == (2 * 2 * 64,)
    low, high = torch.arange(64.0), -torch.arange(64.0)
    outputs = torch.stack([torch.full((64,), 9.0), low, low + 2, high, high + 8])[None]  # [CLS], then (frequency, time)
    expected = torch.cat([low + 1, torch.ones(64), high + 4, torch.full((64,), 4.0)])[None]
    torch.testing.assert_close(spectran._pooled(outputs), expected)


def test_bands_pooling_has_gradients_where_nothing_varies():
    spectran = random_spectran(spectran_pooling="bands")
    blocks = torch.zeros(2, 50, 64, requires_grad=True)
    assert spectran(blocks).shape == (2, 128)
    spectran(blocks).sum().backward()
    assert blocks.grad.isfinite().all()


def test_layer_equals_torch_transformer_layer():
    """Same mathematics as PyTorch's pre-norm encoder layer with the same weights."""
    from calm.models.spectran import SpecTranLayer

    ours = SpecTranLayer(128, 0.0).eval()
    theirs = torch.nn.TransformerEncoderLayer(128, 2, 512, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    theirs.self_attn.in_proj_weight.data, theirs.self_attn.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    pairs = [(theirs.self_attn.out_proj, ours.output), (theirs.linear1, ours.expand), (theirs.linear2, ours.contract)]
    for there, here in [*pairs, (theirs.norm1, ours.norm_attention), (theirs.norm2, ours.norm_mlp)]:
        there.load_state_dict(here.state_dict())
    x = torch.randn(2, 10, 128)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_wrong_sizes_are_told():
    with pytest.raises(ValueError, match="50 frames, 64 channels"):
        random_spectran()(torch.randn(1, 50, 40))
    with pytest.raises(ValueError, match="does not fit"):
        CalmConfig(TEXT, patch=(60, 16))
    with pytest.raises(ValueError, match="spectran_pooling is 'max': allowed are cls, mean, bands"):
        CalmConfig(TEXT, spectran_pooling="max")
    with pytest.raises(ValueError, match="spectran_beside is 'mean': allowed are None, frames"):
        CalmConfig(TEXT, spectran_beside="mean")
    with pytest.raises(ValueError, match="multiple of 64"):
        SpecTran(CalmConfig(TEXT, spectran_width=100))


def test_layers_of_an_encoder_are_averaged_by_learned_weights():
    """Two layers of width 3 side by side: equal weights at first, then by the softmax of (0, ln 3), a quarter and three quarters."""
    mean = LayerMean(2)
    frames = torch.tensor([[[4.0, 0, 8, 0, 4, 4]]])
    torch.testing.assert_close(mean(frames), torch.tensor([[[2.0, 2, 6]]]))
    mean.weights.data = torch.tensor([0.0, math.log(3)])
    torch.testing.assert_close(mean(frames), torch.tensor([[[1.0, 3, 5]]]))


def test_spectran_over_averaged_layers_has_patches_of_one_layer():
    sizes = {"block_frames": 25, "channels": 192, "averaged_layers": 3, "patch": (5, 64), "stride": (5, 64)}
    config = CalmConfig(TEXT, **sizes)
    assert config.patches == (5, 1)
    torch.manual_seed(0)
    spectran = SpecTran(config)
    blocks = torch.randn(2, 25, 192)
    torch.nn.init.normal_(spectran.positions)
    torch.nn.init.normal_(spectran.cls)
    mean = blocks.unflatten(-1, (3, 64)).mean(2)
    single = SpecTran(CalmConfig(TEXT, **sizes | {"channels": 64, "averaged_layers": 1}))
    single.load_state_dict({name: values for name, values in spectran.state_dict().items() if name != "layer_mean.weights"})
    torch.testing.assert_close(spectran.encode(blocks), single.encode(mean))
    spectran(blocks).square().sum().backward()
    assert spectran.layer_mean.weights.grad.abs().min() > 0
    for wrong, says in ({"channels": 190}, "190 channels cannot be 3 layers"), ({"patch": (5, 65)}, r"\(25, 64\)"):
        with pytest.raises(ValueError, match=says):
            CalmConfig(TEXT, **sizes | wrong)


def test_frames_beside_by_hand():
    """An encoded block is what was pooled, then the mean and the deviation over the frames of every channel."""
    options = {"patch": (2, 2), "stride": (2, 2), "block_frames": 2, "channels": 2, "spectran_width": 64}
    spectran = random_spectran(spectran_beside="frames", **options)
    blocks = torch.tensor([[[1.0, 10.0], [3.0, 10.0]]])
    encoded = spectran.encode(blocks)
    assert encoded.shape == (1, 64 + 4) == (1, spectran.encoded_width)
    torch.testing.assert_close(encoded[0, 64:], torch.tensor([2.0, 10.0, 1.0, 0.001]), atol=1e-5, rtol=1e-5)
    alone = random_spectran(**options)
    own = {key: value for key, value in spectran.state_dict().items() if not key.startswith("projection_beside.")}
    alone.load_state_dict(own)
    torch.testing.assert_close(encoded[:, :64], alone.encode(blocks))


def test_a_token_is_the_sum_of_two_projections():
    spectran = random_spectran(spectran_beside="frames", spectran_width=64)
    encoded = torch.randn(3, 64 + 128)
    beside = spectran.projection_beside[1](spectran.projection_beside[0](encoded[:, 64:]))
    torch.testing.assert_close(spectran.token(encoded), spectran.projection(spectran.norm(encoded[:, :64])) + beside)
