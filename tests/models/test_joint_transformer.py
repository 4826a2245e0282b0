"""Front ends and networks that CALM is compared with (tables 1, 3)."""

import pytest
import torch
from transformers import BertConfig

from calm.models.configuration import CalmConfig
from calm.models.front_ends import ConvolutionalFrontEnd, LinearFrontEnd
from calm.models.joint_transformer import Glimpse, JointTransformer, JointTransformerForSequenceClassification
from calm.models.modeling import CalmForSequenceClassification

TEXT = BertConfig(
    vocab_size=60, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, max_position_embeddings=40
)
HEADS = {"emotion": ["happy", "sad", "angry"]}


def config(**options) -> CalmConfig:
    return CalmConfig(TEXT, heads=HEADS, **options)


def batch(blocks: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    mask = torch.ones(2, blocks, dtype=torch.bool)
    mask[1, 2:] = False
    features = torch.randn(2, blocks, 50, 64) * mask[..., None, None]
    attention = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    return {
        "input_ids": torch.randint(5, 60, (2, 6)) * attention,
        "attention_mask": attention,
        "input_features": features,
        "acoustic_mask": mask,
    }


def test_the_linear_front_end_sees_mean_and_deviation():
    """Two frames of a mel at 1 and 3: mean 2, deviation 1."""
    layer = LinearFrontEnd(config(channels=2, block_frames=2, block_hop=2, patch=(1, 1), stride=(1, 1)))
    torch.nn.init.zeros_(layer.projection.weight)
    torch.nn.init.zeros_(layer.projection.bias)
    layer.projection.weight.data[0] = torch.tensor([1.0, 0.0, 10.0, 0.0])  # mean of mel 0, ten times its deviation
    token = layer(torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]))
    assert token.shape == (1, 64) and token[0, 0].item() == pytest.approx(2 + 10 * 1)


@pytest.mark.parametrize("front_end", ["linear", "cnn"])
def test_front_ends_take_the_place_of_spectran(front_end):
    model = CalmForSequenceClassification(config(front_end=front_end)).eval()
    inputs = batch()
    labels = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    output = model(**inputs, labels=labels)
    assert output.logits.shape == (2, 3)
    output.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.calm.spectran.parameters())
    with torch.no_grad():  # what is padded has no say
        inputs["input_features"] = inputs["input_features"].masked_fill(~inputs["acoustic_mask"][..., None, None], 9.0)
        torch.testing.assert_close(model(**inputs).logits, output.logits)


def test_the_convolutional_front_end_is_one_token_a_block():
    layer = ConvolutionalFrontEnd(config())
    assert layer(torch.randn(5, 50, 64)).shape == (5, 64)
    # 3 x 3 kernels: 1 x 32 + 32 x 64 + 64 x 128 channels and their biases; the projection
    assert sum(p.numel() for p in layer.parameters()) == 9 * (32 + 32 * 64 + 64 * 128) + 32 + 64 + 128 + 128 * 64 + 64


def test_unknown_front_end():
    with pytest.raises(ValueError, match="front_end is 'wavelet': allowed are spectran, linear, cnn"):
        CalmForSequenceClassification(config(front_end="wavelet"))


def test_a_glimpse_is_a_mean_by_learned_weights():
    """Equal scores: the mean of the two steps that are there."""
    glimpse = Glimpse(2)
    for parameter in glimpse.score[2].parameters():
        torch.nn.init.zeros_(parameter)
    glimpse.output = torch.nn.Identity()
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    torch.testing.assert_close(glimpse(states, torch.tensor([[True, True, False]])), torch.tensor([[2.0, 3.0]]))


def test_the_joint_transformer_sees_frames_once():
    """Blocks of 50 frames every 30: of each hop the frames 0 and 15, so that frame 30 is the next block's first."""
    joint = JointTransformer(config()).eval()
    seen = {}
    joint.audio_lstm.register_forward_pre_hook(lambda module, args: seen.update(steps=args[0]))
    frames = torch.arange(50 + 30.0)[:, None].expand(-1, 64)
    blocks = torch.stack([frames[:50], frames[30:]])[None]
    joint(torch.tensor([[2, 7, 3]]), torch.ones(1, 3, dtype=torch.long), blocks, torch.ones(1, 2, dtype=torch.bool))
    assert seen["steps"][0, :, 0].tolist() == [0, 15, 30, 45]


def test_joint_transformer_for_classification():
    words = torch.randn(60, 64)
    model = JointTransformerForSequenceClassification(config(head_pooling="cls_mean_std"), words).eval()
    torch.testing.assert_close(model.joint.words.weight, words)
    inputs = batch()
    output = model(**inputs, labels=torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    output.loss.backward()
    assert model.joint.words.weight.grad is None
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # a softmax does not change where all scores are moved alike, nor attention where all keys are
    still = [name for name, p in trained.items() if p.grad is None or p.grad.abs().sum() < 1e-12]
    assert all(name.endswith("score.2.bias") for name in still), still
    with torch.no_grad():
        alone = {key: value[1:, :4] if key != "input_features" else value[1:, :2] for key, value in inputs.items()}
        alone["acoustic_mask"] = inputs["acoustic_mask"][1:, :2]
        torch.testing.assert_close(model(**alone).logits, output.logits[1:])  # padding has no say
