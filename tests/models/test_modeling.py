"""The multimodal transformer, its pretraining and its heads (4.4 - 4.6)."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertForMaskedLM, BertModel

from calm.models.configuration import CalmConfig
from calm.models.heads import FrozenHeads
from calm.models.language_model import load_language_model, load_mlm_head
from calm.models.losses import ContrastiveSettings
from calm.models.modeling import (
    CalmForContrastivePretraining,
    CalmForMaskedPretraining,
    CalmForSequenceClassification,
    CalmModel,
    count,
    parameter_table,
)

TEXT = BertConfig(
    vocab_size=60, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, max_position_embeddings=40
)


def config(**options) -> CalmConfig:
    return CalmConfig(TEXT, projection=16, **options)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    ids = torch.randint(5, 60, (3, 6))
    attention = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])
    acoustic = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    return {"input_ids": ids, "attention_mask": attention, "input_features": torch.randn(3, 4, 50, 64), "acoustic_mask": acoustic}


def test_text_alone_equals_the_language_model(batch):
    model = CalmModel(config()).eval()
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    expected = model.language_model(**text).last_hidden_state
    torch.testing.assert_close(model(**text).last_hidden_state, expected)


def test_fusion_embeddings_are_sums_under_layer_norm(batch):
    """Token + position + modality, then LayerNorm; audio positions restart at 0 (4.4)."""
    model = CalmModel(config()).eval()
    seen = {}
    model.language_model.encoder.register_forward_pre_hook(lambda module, args: seen.update(states=args[0]))
    model(**batch)
    parts = model.language_model.embeddings
    tokens = model.spectran.token(model.encode(batch["input_features"], batch["acoustic_mask"]))
    for position in (0, 3):
        audio = parts.LayerNorm(tokens[:, position] + parts.position_embeddings.weight[position] + parts.token_type_embeddings.weight[1])
        torch.testing.assert_close(seen["states"][:, 6 + position], audio)
        words = parts.word_embeddings(batch["input_ids"][:, position])
        text = parts.LayerNorm(words + parts.position_embeddings.weight[position] + parts.token_type_embeddings.weight[0])
        torch.testing.assert_close(seen["states"][:, position], text)


def test_padding_changes_nothing(batch):
    model = CalmModel(config()).eval()
    whole = model(**batch).last_hidden_state
    alone = model(batch["input_ids"][1:2, :4], input_features=batch["input_features"][1:2]).last_hidden_state
    torch.testing.assert_close(whole[1, :4], alone[0, :4], atol=1e-5, rtol=1e-4)
    short = model(batch["input_ids"][2:], input_features=batch["input_features"][2:, :2]).last_hidden_state
    torch.testing.assert_close(whole[2, 6:8], short[0, 6:8], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beside", [None, "frames"])
@pytest.mark.parametrize("pooling", ["cls", "bands"])
def test_blocks_encoded_before_equal_blocks_encoded_now(batch, pooling, beside):
    model = CalmModel(config(spectran_pooling=pooling, spectran_beside=beside)).eval()
    features = batch.pop("input_features")
    encoded = model.encode(features, batch["acoustic_mask"])
    assert encoded.shape[2] == model.spectran.encoded_width and (encoded[2, 2:] == 0).all()
    precomputed, computed = model(encoded_blocks=encoded, **batch), model(input_features=features, **batch)
    torch.testing.assert_close(precomputed.last_hidden_state, computed.last_hidden_state)
    assert torch.equal(precomputed.encoded_blocks, encoded) and torch.equal(computed.encoded_blocks, encoded)


def test_masked_blocks_are_zero_vectors(batch):
    """Tokens "set to the zero vector" (4.5): what a masked block sounded like makes no difference to any output."""
    model = CalmModel(config()).eval()
    masked = torch.tensor([[False, True, False, False]] * 3)
    before = model(**batch, audio_mask=masked).last_hidden_state
    batch["input_features"][:, 1] += 5
    torch.testing.assert_close(model(**batch, audio_mask=masked).last_hidden_state, before)
    assert not torch.allclose(model(**batch).last_hidden_state, before)


def test_auto_classes_and_round_trip(tmp_path, batch):
    model = CalmModel(config()).eval()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["patch"] == [10, 16]
    again = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(again(**batch).last_hidden_state, model(**batch).last_hidden_state)


@pytest.mark.parametrize("kind", [CalmForContrastivePretraining, CalmForMaskedPretraining, CalmForSequenceClassification])
def test_every_model_round_trips_exactly(tmp_path, kind):
    model = kind(config(heads={"emotion": ["a", "b"]}))
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_contrastive_loss_and_its_gradients():
    model = CalmForContrastivePretraining(config())
    blocks, texts = torch.randn(8, 50, 64), torch.randn(4, 64)
    output = model(blocks[:4], blocks[4:], texts)
    assert output.loss.item() == pytest.approx((output.audio_loss + 0.25 * output.text_loss).item(), rel=1e-5)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name != "log_scale")


def test_temperature_is_fixed_or_learned():
    assert CalmForContrastivePretraining(config()).temperature() == 0.07
    learned = CalmForContrastivePretraining(config(), settings=ContrastiveSettings(learn_temperature=True))
    assert learned.temperature().item() == pytest.approx(0.07)
    learned.log_scale.data.fill_(20.0)  # 1 / tau is clamped at 100, as in CLIP
    assert learned.temperature().item() == pytest.approx(0.01)


def test_language_model_can_be_trained_along():
    model = CalmForContrastivePretraining(config(), BertModel(TEXT, add_pooling_layer=False))
    ids = torch.randint(5, 60, (4, 6))
    blocks = torch.randn(8, 50, 64)
    words = torch.ones(4, 6, dtype=torch.bool)
    model(blocks[:4], blocks[4:], input_ids=ids, attention_mask=torch.ones_like(ids), words=words).loss.backward()
    assert model.language_model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


def masked_batch(batch):
    word_mask = torch.zeros(3, 6, dtype=torch.bool)
    word_mask[0, 2] = word_mask[1, 1] = True
    audio_mask = torch.zeros(3, 4, dtype=torch.bool)
    audio_mask[0, 1:4] = True
    labels = {"word_labels": batch["input_ids"][word_mask], "audio_labels": batch["input_features"][audio_mask]}
    return batch | labels | {"word_mask": word_mask, "audio_mask": audio_mask, "input_ids": batch["input_ids"].masked_fill(word_mask, 4)}


def test_masked_audio_is_zero_before_the_embeddings_are_added(batch):
    """A masked block is the zero vector (4.5): what was in it makes no difference."""
    model = CalmForMaskedPretraining(config()).eval()
    masked = masked_batch(batch)
    changed = masked | {"input_features": masked["input_features"].clone()}
    changed["input_features"][0, 2] += 5
    assert model(**masked).loss == model(**changed).loss
    changed["input_features"][0, 0] += 5
    assert model(**masked).loss != model(**changed).loss


def test_masked_losses_add_up(batch):
    output = CalmForMaskedPretraining(config()).eval()(**masked_batch(batch))
    assert output.loss.item() == pytest.approx((output.mlm_loss + output.mam_loss).item(), rel=1e-5)


@pytest.mark.parametrize("without", [("audio_mask", "audio_labels"), ("word_mask", "word_labels", "audio_mask", "audio_labels")])
def test_a_batch_without_masked_blocks_still_trains(batch, without):
    """Short utterances often have none, and in audio alone no word is masked either."""
    model, masked = CalmForMaskedPretraining(config()).train(), masked_batch(batch)
    masked |= {key: masked[key][:0] if key.endswith("labels") else torch.zeros_like(masked[key]) for key in without}
    output = model(**masked)
    output.loss.backward()
    assert output.mam_loss == 0 and (output.mlm_loss == 0) == ("word_mask" in without)
    gradient = model.mam_head.decoder.weight.grad
    assert gradient is not None and not gradient.any()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_middle_frames_are_those_no_neighbour_shows():
    assert CalmForMaskedPretraining(config()).middle_frames() == slice(20, 30)
    assert CalmForMaskedPretraining(config(block_hop=50)).middle_frames() == slice(0, 50)


def test_word_head_is_tied_to_the_embeddings():
    model = CalmForMaskedPretraining(config())
    assert model.mlm_head.decoder.weight is model.calm.language_model.embeddings.word_embeddings.weight


def test_heads_by_name_and_their_losses(batch):
    model = CalmForSequenceClassification(config(heads={"emotion": ["a", "b", "c"], "gender": ["x"]})).eval()
    labels = {"emotion": torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 1]]), "gender": torch.tensor([[1.0], [0], [1]])}
    output = model(**batch, labels=labels)
    assert {name: tuple(logits.shape) for name, logits in output.logits.items()} == {"emotion": (3, 3), "gender": (3, 1)}
    expected = sum(torch.nn.functional.binary_cross_entropy_with_logits(output.logits[name], labels[name]) for name in labels)
    assert output.loss.item() == pytest.approx(expected.item())


def test_heads_with_a_softmax_have_its_loss_and_smooth_labels_in_training_alone(batch):
    smooth = {"heads": {"emotion": ["a", "b", "c"]}, "head_loss": "softmax", "head_smoothing": 0.3, "head_dropout": 0.0}
    model, labels = CalmForSequenceClassification(config(**smooth)).eval(), torch.eye(3)
    output = model(**batch, labels=labels)
    assert output.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(output.logits, labels).item())
    heads, vectors = FrozenHeads(model.config, 3, [1, 2], TEXT.hidden_size), torch.randn(3, 1, TEXT.hidden_size)
    for training, share in ((False, 0.0), (True, 0.3)):
        output = heads.train(training)(vectors, labels)
        expected = sum(torch.nn.functional.cross_entropy(output.logits[:, head], labels, label_smoothing=share) for head in (0, 1))
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.config.problem_type == "single_label_classification"
    with pytest.raises(ValueError, match="head_loss is 'hinge': allowed are bce, softmax"):
        config(**smooth | {"head_loss": "hinge"})


def test_a_model_without_heads_is_refused():
    with pytest.raises(ValueError, match="names no head"):
        CalmForSequenceClassification(config())


def test_frozen_heads_do_not_touch_each_other():
    """Trained side by side or alone, a head ends with the same weights."""
    vectors, labels = torch.randn(20, 1, 64), (torch.rand(20, 3) > 0.5).float()

    def trained(seeds):
        heads = FrozenHeads(config(head_dropout=0.0), 3, seeds, TEXT.hidden_size)
        optimizer = torch.optim.SGD(heads.parameters(), 0.1)
        for _ in range(5):
            heads(vectors, labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in heads.heads[seeds.index(2)].parameters()]

    for alone, together in zip(trained([2]), trained([1, 2, 3]), strict=True):
        torch.testing.assert_close(alone, together)


def test_sizes_of_table_4():
    tiny, base = parameter_table()
    assert tiny["all"] == pytest.approx(5e6, rel=0.1)  # "5M"
    assert base["calm_besides_lm"] == pytest.approx(19e6, rel=0.05)  # "19M"


def test_sizes_of_models_saved_to_disk(tmp_path):
    """BERT-tiny's size with random weights, through a folder, counts as the table does."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(tmp_path)
    language_model = load_language_model(str(tmp_path))
    model = CalmForMaskedPretraining(CalmConfig(language_model.config, projection=128))
    assert count(language_model) == parameter_table()[0]["lm_parameters"] == count(model.calm.language_model)
    model.mlm_head.load_state_dict(load_mlm_head(str(tmp_path)), strict=False)
    expected = BertForMaskedLM.from_pretrained(tmp_path).cls.predictions.transform.dense.weight
    assert torch.equal(model.mlm_head.dense.weight, expected)


def test_first_layers_of_a_language_model(tmp_path):
    whole = BertModel(TEXT)
    whole.save_pretrained(tmp_path)
    first = load_language_model(str(tmp_path), 1)
    assert len(first.encoder.layer) == first.config.num_hidden_layers == 1
    assert torch.equal(first.encoder.layer[0].output.dense.weight, whole.encoder.layer[0].output.dense.weight)
    with pytest.raises(ValueError, match="has 2 layers, 3 were asked for"):
        load_language_model(str(tmp_path), 3)


def test_an_utterance_is_the_mean_of_its_blocks_unit_vectors():
    model = CalmForContrastivePretraining(config()).eval()
    blocks, mask = torch.randn(3, 50, 64), torch.tensor([[True, True], [True, False]])
    unit = torch.nn.functional.normalize(model.embed_audio(blocks), dim=-1)
    torch.testing.assert_close(model.embed_utterances(blocks, mask), torch.stack([(unit[0] + unit[1]) / 2, unit[2]]))


def test_several_blocks_stand_against_the_text_alone():
    model = CalmForContrastivePretraining(config()).eval()
    blocks, texts, mask = torch.randn(4, 50, 64), torch.randn(2, 64), torch.ones(2, 2, dtype=torch.bool)
    one = model(blocks[:2], blocks[2:], texts)
    own = model(blocks[:2], blocks[2:], texts, text_blocks=blocks[:2], text_block_mask=mask[:, :1])
    several = model(blocks[:2], blocks[2:], texts, text_blocks=torch.randn(4, 50, 64), text_block_mask=mask)
    assert own.text_loss.item() == pytest.approx(one.text_loss.item(), rel=1e-4)
    assert several.text_loss.item() != pytest.approx(one.text_loss.item(), rel=1e-4)
    assert several.audio_loss.item() == pytest.approx(one.audio_loss.item(), rel=1e-5)


def test_speakers_choose_the_negatives():
    model = CalmForContrastivePretraining(config(), settings=ContrastiveSettings(audio_negatives="same_speaker")).eval()
    blocks, texts = torch.randn(6, 50, 64), torch.randn(3, 64)
    own = model(blocks[:3], blocks[3:], texts, speaker_index=torch.tensor([0, 0, 0]))
    everyone = CalmForContrastivePretraining(config()).eval()
    everyone.load_state_dict(model.state_dict())
    assert own.audio_loss.item() == pytest.approx(everyone(blocks[:3], blocks[3:], texts).audio_loss.item(), rel=1e-5)
    assert model(blocks[:3], blocks[3:], texts, speaker_index=torch.arange(3)).audio_loss == 0


@pytest.mark.parametrize("trained", [True, False])
def test_the_projection_of_frames_beside_is_trained_or_stays(trained):
    model = CalmForContrastivePretraining(
        config(spectran_beside="frames", spectran_width=32), settings=ContrastiveSettings(train_beside=trained)
    )
    blocks, texts = torch.randn(8, 50, 64), torch.randn(4, 64)
    model(blocks[:4], blocks[4:], texts).loss.backward()
    assert all((parameter.grad is not None) == trained for parameter in model.spectran.projection_beside.parameters())
    assert model.spectran.projection.weight.grad.abs().sum() > 0
