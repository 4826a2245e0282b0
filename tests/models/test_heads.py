"""What a head sees, and the head itself (4.6, 5.2)."""

import pytest
import torch
from transformers import BertConfig

from calm.models.configuration import CalmConfig
from calm.models.heads import AttentivePooling, FrozenHeads, Head, Standardise, pool
from calm.models.modeling import CalmForSequenceClassification
from calm.models.multimodal import CalmOutput

TEXT = BertConfig(
    vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64, max_position_embeddings=40
)


def config(**options) -> CalmConfig:
    return CalmConfig(TEXT, **{"head_dropout": 0.0, **options})


def test_pooling_by_hand():
    states = torch.tensor([[[1.0], [3.0], [5.0], [2.0], [4.0], [100.0]]])  # 3 text, 2 audio, 1 padded
    words, blocks = torch.tensor([[1, 1, 1]]), torch.tensor([[True, True, False]])
    encoded = torch.tensor([[[10.0, 1.0], [16.0, 1.0], [-50.0, -50.0]]])
    output = CalmOutput(last_hidden_state=states, text_length=3, encoded_blocks=encoded, acoustic_mask=blocks)
    assert pool(output, words, "cls").tolist() == [[1.0]]
    expected = torch.tensor([[1.0, 3.0, (8 / 3) ** 0.5, 3.0, 1.0]])  # [CLS], mean and spread of text, mean and spread of audio
    torch.testing.assert_close(pool(output, words, "cls_mean_std"), expected, atol=1e-5, rtol=1e-5)
    expected = torch.tensor([[1.0, 13.0, 1.0, 3.0, 0.001]])  # [CLS], mean and spread of the encoded blocks
    torch.testing.assert_close(pool(output, words, "cls_blocks"), expected, atol=1e-5, rtol=1e-5)
    silent = CalmOutput(last_hidden_state=states[:, :3], text_length=3, encoded_blocks=encoded[:, :0], acoustic_mask=blocks[:, :0])
    assert pool(silent, words, "cls_blocks").tolist() == [[1, 0, 0, 0, 0]]
    assert pool(silent, words, "cls_mean_std")[0, 3:].tolist() == [0, 0]


def test_standardise_by_hand():
    layer = Standardise(3)
    vectors = torch.tensor([[1.0, 10.0, 5.0], [3.0, 30.0, 5.0]])
    assert torch.equal(layer(vectors), vectors)
    layer.fit(vectors)
    assert layer(vectors).tolist() == [[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]
    assert layer(torch.tensor([[2.0, 40.0, 6.0]])).tolist() == [[0.0, 2.0, 1.0]]


@pytest.mark.parametrize("pooling", ["cls", "cls_mean_std", "cls_blocks"])
def test_statistics_and_answers_are_kept_on_disk(tmp_path, pooling):
    classes = {"emotion": ["a", "b", "c"]}
    settings = config(heads=classes, head_pooling=pooling, head_standardise=True)
    model = CalmForSequenceClassification(settings).eval()
    ids, features = torch.randint(5, 60, (4, 6)), torch.randn(4, 3, 50, 64)
    with torch.no_grad():
        vectors = model.pooled(ids, torch.ones_like(ids), input_features=features)
        model.heads["emotion"].fit(vectors)
        seen = model.heads["emotion"][0](vectors)
        torch.testing.assert_close(seen.mean(0), torch.zeros(seen.shape[1]), atol=1e-4, rtol=0)
        answer = model(ids, input_features=features).logits
        masked = model(ids, input_features=features, acoustic_mask=torch.ones(4, 3, dtype=torch.bool)).logits
    torch.testing.assert_close(masked, answer)  # no mask: all blocks are there
    model.save_pretrained(tmp_path)
    again = CalmForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids, input_features=features).logits, answer)


def test_frozen_heads_have_statistics_of_their_own():
    heads = FrozenHeads(config(head_standardise=True), 2, [1, 2], 64)
    shared, own = torch.randn(6, 1, 64), torch.randn(6, 2, 64) * torch.tensor([1.0, 5.0])[:, None]
    heads.fit(own)
    for index, head in enumerate(heads.heads):
        torch.testing.assert_close(head[0].deviation, own[:, index].std(0, correction=0))
    heads.fit(shared)
    torch.testing.assert_close(heads.heads[1][0].mean, shared[:, 0].mean(0))
    FrozenHeads(config(), 2, [1, 2], 64).fit(own)  # nothing to fit


def test_a_linear_head_is_a_matrix():
    """Without a hidden layer: standardised inputs times weights, plus bias. It is kept on disk as it is."""
    settings = config(heads={"emotion": ["a", "b"]}, head_hidden=None, head_standardise=True)
    head = Head(settings, 2, 3)
    head.fit(torch.tensor([[1.0, 10.0, 5.0], [3.0, 30.0, 5.0]]))
    with torch.no_grad():
        head[-1].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.0]]))
        head[-1].bias.copy_(torch.tensor([0.5, 0.0]))
    assert head(torch.tensor([[3.0, 40.0, 6.0]])).tolist() == [[1 + 4 + 3 + 0.5, -2.0]]
    assert sum(parameter.numel() for parameter in head.parameters()) == 2 * 3 + 2


def test_what_heads_see_is_mixed():
    """Logits of a linear head are mixed as its inputs are: shares of 1, 0 and 1/4."""
    model = CalmForSequenceClassification(config(heads={"emotion": ["a", "b"]}, head_hidden=None)).eval()
    batch = {"input_ids": torch.randint(5, 60, (3, 6)), "input_features": torch.randn(3, 2, 50, 64)}
    with torch.no_grad():
        plain = model(**batch).logits
        share, others = torch.tensor([[1.0], [0.0], [0.25]]), torch.tensor([1, 2, 0])
        mixed = model(**batch, share=share, mixed_with=others, labels=torch.tensor([[1.0, 0], [0, 1], [0.25, 0.75]]))
    expected = torch.stack([plain[0], plain[2], plain[2] / 4 + 3 * plain[0] / 4])
    torch.testing.assert_close(mixed.logits, expected)
    labels = torch.tensor([[1.0, 0], [0, 1], [0.25, 0.75]])
    by_hand = -(labels * expected.sigmoid().log() + (1 - labels) * (-expected).sigmoid().log()).mean()
    torch.testing.assert_close(mixed.loss, by_hand)


def test_unknown_pooling_is_told():
    with pytest.raises(ValueError, match="head_pooling is 'max': allowed are cls, cls_mean_std, cls_blocks"):
        config(head_pooling="max")


def frames_config(**options) -> CalmConfig:
    sizes = {"block_frames": 4, "block_hop": 2, "channels": 8, "patch": (2, 8), "stride": (2, 8), "cls_token_id": 1, "sep_token_id": 2}
    return config(head_pooling="frames", head_frames_width=8, modality="audio", heads={"emotion": ["a", "b"]}, **sizes, **options)


def test_attentive_pooling_by_hand():
    """Every second frame counts, by softmax weights; its layer is the identity here, and the convolution adds nothing."""
    (member,) = AttentivePooling(frames_config()).eval().members
    member.inputs, member.norm = torch.nn.Identity(), torch.nn.Identity()
    with torch.no_grad():
        for parameter in (*member.around.parameters(), *member.attention.parameters()):
            parameter.zero_()
        member.attention.weight[1, 0] = 1.0  # the second attention head goes by the first channel
    frames = torch.zeros(1, 7, 8)
    frames[0, :, 0] = torch.tensor([1.0, 50.0, 3.0, 50.0, 70.0, 50.0, 70.0])  # the third that counts is padded, and so is the fourth
    found = member(frames, torch.tensor([[True] * 4 + [False] * 3])).view(4, 2, 8)
    first, second = 1 / (1 + 2.718281828**2), 1 / (1 + 2.718281828**-2)
    mean = first + 3 * second
    expected = torch.tensor([[2.0, 1.0], [mean, (first + 9 * second - mean**2) ** 0.5]])
    flat = found.flatten(0, 1).flatten()  # means of all attention heads and channels interleaved by head
    means, deviations = flat.view(4, 16)[:2, 0], flat.view(4, 16)[:2, 8]
    torch.testing.assert_close(torch.stack([means, deviations], 1), expected, atol=1e-5, rtol=1e-5)


def test_padded_frames_change_nothing():
    """An utterance gives the same logits alone and in a batch with a longer one."""
    torch.manual_seed(0)
    model = CalmForSequenceClassification(frames_config(head_members=2)).eval()
    short, long = torch.randn(1, 2, 4, 8), torch.randn(1, 5, 4, 8)
    for blocks in (short, long):
        blocks[:, 1:, :2] = blocks[:, :-1, 2:]  # neighbouring blocks share two frames
    padded = torch.cat([torch.nn.functional.pad(short, (0, 0, 0, 0, 0, 3)), long])
    with torch.no_grad():
        alone = torch.cat([model(input_features=blocks).logits for blocks in (short, long)])
        together = model(input_features=padded, acoustic_mask=torch.tensor([[True] * 2 + [False] * 3, [True] * 5])).logits
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_members_are_averaged_and_learn_alone():
    """Logits are the members' mean. A member's gradient is half of that which its own loss has, whatever the other member says."""
    torch.manual_seed(0)
    model = CalmForSequenceClassification(frames_config(head_members=2, head_loss="softmax", one_hot=["emotion"])).eval()
    blocks, labels = torch.randn(3, 2, 4, 8), torch.eye(2)[[0, 1, 1]]
    output = model(input_features=blocks, labels=labels)
    each = model.heads["emotion"](model.pooled(torch.ones(3, 2).long(), None, input_features=blocks))
    torch.testing.assert_close(output.logits, each.mean(1))
    assert (each[:, 0] - each[:, 1]).abs().max() > 0.01
    weight = model.frames.members[0].inputs[1].weight
    (own,) = torch.autograd.grad(-(each[:, 0].log_softmax(-1) * labels).sum(-1).mean(), weight, retain_graph=True)
    (found,) = torch.autograd.grad(output.loss, weight)
    torch.testing.assert_close(found, own / 2)


def test_frames_are_of_audio_alone():
    with pytest.raises(ValueError, match="frames of audio alone"):
        config(head_pooling="frames", modality="both")
    with pytest.raises(ValueError, match="multiple of 8"):
        config(head_pooling="frames", modality="audio", head_frames_width=12)
