"""Every family of text encoders in place of BERT: inputs, positions, special tokens, losses, and what is kept on disk."""

import json
import os
import stat

import families
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from calm.data.batching import SequenceCollator, tokenise
from calm.data.ragged import AcousticFrames, Ragged
from calm.models import text_encoders
from calm.models.configuration import CalmConfig
from calm.models.language_model import load_language_model, load_mlm_head, load_tokenizer, special_ids, text_vectors
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining, CalmForSequenceClassification
from calm.models.multimodal import CalmModel, ModalityEmbedding

TEXTS = ["hello there so glad to see you", "so glad"]
ALL = pytest.mark.parametrize("family", families.FAMILIES)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a family's checkpoint."""
    paths = {name: families.folder(tmp_path_factory.mktemp(name), name) for name in families.FAMILIES}
    return paths.__getitem__


@pytest.fixture
def loaded(family, checkpoint):
    """Language model, tokenizer, and configuration of a model on a plane of 20 channels with blocks of 25 frames."""
    language_model, tokenizer = load_language_model(str(checkpoint(family))), load_tokenizer(str(checkpoint(family)))
    config = CalmConfig(
        language_model.config.to_dict(),
        block_frames=25,
        block_hop=15,
        channels=20,
        patch=(5, 10),
        stride=(5, 5),
        spectran_layers=1,
        projection=16,
        heads={"emotion": ["happy", "sad"]},
        head_pooling="cls_mean_std",
        **special_ids(tokenizer),
    )
    return language_model, tokenizer, config


def calm(loaded) -> CalmModel:
    language_model, _, config = loaded
    torch.manual_seed(1)
    model = CalmModel(config).eval()
    model.language_model.load_state_dict(language_model.state_dict())
    if model.modality_embeddings is not None:
        torch.nn.init.normal_(model.modality_embeddings.weight)
    return model


def batch(tokenizer) -> dict[str, torch.Tensor]:
    """Two utterances; the second is shorter in text and audio."""
    torch.manual_seed(2)
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    features = torch.randn(2, 4, 25, 20) * mask[..., None, None]
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], "input_features": features, "acoustic_mask": mask}


@ALL
def test_text_alone_is_the_language_model(family, loaded):
    language_model, tokenizer, config = loaded
    model = CalmModel(config).eval()
    model.language_model.load_state_dict(language_model.state_dict())
    assert getattr(model.language_model, "pooler", None) is None
    text = {name: values for name, values in batch(tokenizer).items() if name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states, expected = model(**text).last_hidden_state, language_model(**text).last_hidden_state
    present = text["attention_mask"].bool()
    torch.testing.assert_close(states[present], expected[present], atol=1e-5, rtol=1e-5)


def test_text_alone_is_the_packaged_model():
    language_model, tokenizer = load_language_model("minilm"), load_tokenizer("minilm")
    model = CalmModel(CalmConfig(language_model.config, spectran_layers=0)).eval()
    model.language_model.load_state_dict(language_model.state_dict())
    text = tokenizer(["so glad to see you", "Leave me alone!"], padding=True, return_tensors="pt")
    text.pop("token_type_ids")
    with torch.no_grad():
        torch.testing.assert_close(model(**text).last_hidden_state, language_model(**text).last_hidden_state, atol=1e-5, rtol=1e-5)


@ALL
def test_padding_changes_nothing(family, loaded):
    model, inputs = calm(loaded), batch(loaded[1])
    with torch.no_grad():
        padded = model(**inputs).last_hidden_state[1]
        tokens = int(inputs["attention_mask"][1].sum())
        alone = model(inputs["input_ids"][1:, :tokens], input_features=inputs["input_features"][1:, :2]).last_hidden_state[0]
        width = inputs["input_ids"].shape[1]
        torch.testing.assert_close(torch.cat([padded[:tokens], padded[width : width + 2]]), alone, atol=1e-5, rtol=1e-4)
        silent = model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state[1]
    assert not torch.allclose(silent[0], padded[0], atol=1e-3)  # audio counts


@ALL
def test_audio_alone_is_the_pair_of_special_tokens(family, loaded):
    (_, tokenizer, config), model = loaded, calm(loaded)
    inputs = batch(tokenizer)
    pair = torch.tensor([[tokenizer.cls_token_id, tokenizer.sep_token_id]] * 2)
    audio = {name: inputs[name] for name in ("input_features", "acoustic_mask")}
    with torch.no_grad():
        expected = model(pair, **audio).last_hidden_state
        assert torch.equal(model(**audio).last_hidden_state, expected) and expected.shape == (2, 2 + 4, 64)
    collator = SequenceCollator(planes([100, 40]), tokenise(tokenizer, TEXTS), modality="audio")
    assert torch.equal(collator([0, 1])["input_ids"], pair)
    heads = CalmForSequenceClassification(config).eval()
    with torch.no_grad():
        assert torch.equal(heads(**audio).logits, heads(pair, **audio).logits)


def test_audio_alone_needs_known_special_tokens():
    config = CalmConfig(families.config("bert"), spectran_layers=0)
    with pytest.raises(ValueError, match="needs cls_token_id and sep_token_id"):
        CalmModel(config)(input_features=torch.randn(1, 1, 50, 64))
    with pytest.raises(ValueError, match="neither text nor audio"):
        CalmModel(config)()


@pytest.mark.parametrize(
    ("family", "first"), [("bert", 0), ("distilbert", 0), ("roberta", 2), ("xlm-roberta", 2), ("mpnet", 2), ("electra", 0)]
)
def test_absolute_positions_restart_for_audio(family, first, loaded):
    model, inputs, positions = calm(loaded), batch(loaded[1]), []
    table = text_encoders.position_table(model.language_model)
    table.register_forward_pre_hook(lambda module, args: positions.append(args[0]))
    model(**{name: values[:1] for name, values in inputs.items()})
    tokens = inputs["input_ids"].shape[1]
    assert positions[0].tolist() == [[first + step for step in [*range(tokens), *range(4)]]]
    assert text_encoders.places(model.language_model) == 40 - first


@pytest.mark.parametrize("family", ["deberta", "deberta-v2", "modernbert"])
def test_relative_positions_have_no_table(family, loaded):
    assert text_encoders.position_table(loaded[0]) is None and text_encoders.places(loaded[0]) == 40


@ALL
def test_modality_embeddings(family, loaded):
    """The two token types where there are two, else a table of our own that starts at zero."""
    config = loaded[2]
    model = CalmModel(config)
    if family in ("bert", "electra"):
        assert model.modality_embeddings is None
    else:
        assert isinstance(model.modality_embeddings, ModalityEmbedding)
        assert torch.equal(model.modality_embeddings.weight, torch.zeros(2, config.embedding_width))


def table_of_modality(model: CalmModel) -> torch.nn.Embedding:
    return model.modality_embeddings or model.language_model.embeddings.token_type_embeddings


@ALL
def test_one_step_of_each_training(family, loaded, checkpoint):
    language_model, tokenizer, config = loaded
    inputs = batch(tokenizer)
    masked = CalmForMaskedPretraining(config).train()
    masked.mlm_head.load_state_dict(load_mlm_head(str(checkpoint(family))), strict=False)
    words, audio = torch.zeros(2, inputs["input_ids"].shape[1], dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    words[:, 1], audio[0, 1:3] = True, True
    labels = {"word_mask": words, "word_labels": inputs["input_ids"][words], "audio_mask": audio}
    outputs = {"masked": masked(**inputs, **labels, audio_labels=inputs["input_features"][audio])}
    classifier = CalmForSequenceClassification(config).train()
    outputs["heads"] = classifier(**inputs, labels=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    for name, model in (("masked", masked), ("heads", classifier)):
        outputs[name].loss.backward()
        parts = (model.calm.spectran, model.calm.language_model.get_input_embeddings(), last_layer(model.calm.language_model))
        for part in (*parts, table_of_modality(model.calm)):
            gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
            assert gradients and all(gradient.isfinite().all() for gradient in gradients)
            assert max(gradient.abs().max() for gradient in gradients) > 0, name
        assert outputs[name].loss.isfinite()
    assert masked.mlm_head.decoder.weight is masked.calm.get_input_embeddings().weight


def last_layer(model) -> torch.nn.Module:
    return [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 2][0][-1]


@ALL
@pytest.mark.parametrize("pooling", ["last_mean", "input_mean", "cls"])
def test_calp_with_every_text_vector(family, pooling, loaded):
    language_model, tokenizer, config = loaded
    config.text_pooling = pooling
    texts = [*TEXTS, "hello", "see you"]
    vectors = text_vectors(language_model, tokenizer, texts, pooling)
    assert vectors.shape == (4, config.text_width) and vectors.isfinite().all()
    alone = text_vectors(language_model, tokenizer, texts[1:2], pooling)
    torch.testing.assert_close(vectors[1:2], alone, atol=1e-5, rtol=1e-4)  # padding has no effect
    model = CalmForContrastivePretraining(config).train()
    blocks = torch.randn(8, 25, 20)
    output = model(blocks[:4], blocks[4:], vectors.clone())
    output.loss.backward()
    assert output.loss.isfinite() and all(parameter.grad.abs().max() > 0 for parameter in model.spectran.parameters())


def test_a_narrow_embedding_needs_a_projection():
    with pytest.raises(ValueError, match="acoustic tokens are 32 and text vectors 64 wide"):
        CalmForContrastivePretraining(CalmConfig(families.config("electra")))


@ALL
def test_round_trip(family, loaded, tmp_path):
    inputs = batch(loaded[1])
    loaded[2].name_or_path = loaded[2].text_config.name_or_path = str(tmp_path)
    model = CalmForSequenceClassification(loaded[2]).eval()
    model.save_pretrained(tmp_path)
    again = CalmForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.calm.language_model.__class__ is model.calm.language_model.__class__
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    written = (tmp_path / "config.json").read_text()
    assert str(tmp_path) not in written and "_name_or_path" not in written
    assert json.loads(written)["text_config"]["model_type"] == family


def test_round_trip_of_the_tied_decoder(checkpoint, tmp_path):
    torch.manual_seed(4)
    model = CalmForMaskedPretraining(CalmConfig(families.config("modernbert"), spectran_layers=0))
    model.save_pretrained(tmp_path)
    again = CalmForMaskedPretraining.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert again.mlm_head.decoder.weight is again.calm.get_input_embeddings().weight


def test_files_have_ordinary_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        CalmModel(CalmConfig(families.config("bert"), spectran_layers=0)).save_pretrained(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640}


@ALL
def test_masked_word_head_is_the_checkpoints(family, checkpoint, loaded):
    """Same logits as the family's own masked-word model from the same hidden states."""
    language_model, tokenizer, config = loaded
    whole = AutoModelForMaskedLM.from_pretrained(checkpoint(family)).eval()
    model = CalmForMaskedPretraining(config).eval()
    model.calm.language_model.load_state_dict(language_model.state_dict())
    weights = load_mlm_head(str(checkpoint(family)))
    assert set(weights) == {name for name in model.mlm_head.state_dict() if name != "decoder.weight"}
    model.mlm_head.load_state_dict(weights, strict=False)
    text = tokenizer(TEXTS[:1], return_tensors="pt")
    text.pop("token_type_ids", None)
    with torch.no_grad():
        ours = model.mlm_head(model.calm(**text).last_hidden_state)
        torch.testing.assert_close(ours, whole(**text).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"hidden_act": "relu", "layer_norm_eps": 0.1}, {}])
def test_activation_and_epsilon_of_the_head(tmp_path, changes):
    families.folder(tmp_path, "bert", **changes)
    model = CalmForMaskedPretraining(CalmConfig(AutoConfig.from_pretrained(tmp_path), spectran_layers=0))
    model.mlm_head.load_state_dict(load_mlm_head(str(tmp_path)), strict=False)
    head, states = AutoModelForMaskedLM.from_pretrained(tmp_path).cls.predictions.transform, torch.randn(3, 64)
    torch.testing.assert_close(model.mlm_head.norm(model.mlm_head.activation(model.mlm_head.dense(states))), head(states))


@pytest.mark.parametrize("family", ["deberta", "deberta-v2"])
def test_the_newer_head_of_deberta_is_found_where_the_config_does_not_name_it(family, tmp_path):
    """As in the published checkpoints of version 3: same logits as Transformers' model of that layout."""
    families.folder(tmp_path, family, legacy=False)
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert config.pop("legacy") is False
    file.write_text(json.dumps(config))
    model = CalmForMaskedPretraining(CalmConfig(AutoConfig.from_pretrained(tmp_path), spectran_layers=0)).eval()
    model.mlm_head.load_state_dict(load_mlm_head(str(tmp_path)), strict=False)
    table, states = whole.get_input_embeddings(), torch.randn(3, 64)
    model.mlm_head.decoder.weight.data.copy_(table.weight.data)
    torch.testing.assert_close(model.mlm_head(states), whole.lm_predictions.lm_head(states, table))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "deberta", "deberta-v2"])
def test_an_encoder_alone_has_no_masked_word_head(family, tmp_path):
    assert load_mlm_head(str(families.folder(tmp_path, family, masked=False))) == {}


def test_an_electra_discriminator_has_no_masked_word_head(tmp_path):
    from transformers import ElectraForPreTraining

    ElectraForPreTraining(families.config("electra")).save_pretrained(tmp_path)
    assert load_mlm_head(str(tmp_path)) == {}
    assert load_language_model(str(tmp_path)).config.model_type == "electra"


@ALL
def test_first_layers(family, checkpoint):
    whole, first = load_language_model(str(checkpoint(family))), load_language_model(str(checkpoint(family)), 1)
    assert first.config.num_hidden_layers == 1
    layer = text_encoders.build_encoder(first.config)  # the configuration is that of the cut model
    layer.load_state_dict(first.state_dict())
    text = load_tokenizer(str(checkpoint(family)))(TEXTS[:1], return_tensors="pt")
    text.pop("token_type_ids", None)
    with torch.no_grad():
        states = layer.eval()(**text).last_hidden_state
        assert torch.equal(states, first(**text).last_hidden_state)
        if family != "modernbert":  # whose last hidden state is normalised once more
            torch.testing.assert_close(states, whole(**text, output_hidden_states=True).hidden_states[1])
    with pytest.raises(ValueError, match="has 2 layers, 3 were asked for"):
        load_language_model(str(checkpoint(family)), 3)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gpt2", {"n_embd": 8, "n_layer": 1, "n_head": 1}),
        ("t5", {"d_model": 8, "num_layers": 1, "num_heads": 1}),
        ("bart", {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1}),
        ("fnet", {"hidden_size": 8, "num_hidden_layers": 1}),
        ("bert", {"is_decoder": True}),
    ],
)
def test_other_architectures_are_refused(kind, sizes, tmp_path):
    AutoConfig.for_model(kind, **sizes).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"language model .* of type '{kind}' is not supported: .* of the families BERT, .* and ModernBERT"
    ):
        load_language_model(str(tmp_path))


def test_a_text_configuration_without_a_type_is_berts():
    config = CalmConfig({"hidden_size": 32, "num_attention_heads": 1})
    assert config.text_config.model_type == "bert" and config.embedding_width == config.hidden_size == 32
    assert CalmConfig(families.config("electra").to_dict()).embedding_width == 32


def test_labels_are_those_of_the_first_head(tmp_path):
    config = CalmConfig(families.config("bert"), heads={"emotion": ["angry", "happy", "sad"], "gender": ["x"]})
    config.save_pretrained(tmp_path)
    for known in (config, AutoConfig.from_pretrained(tmp_path)):
        assert known.id2label == {0: "angry", 1: "happy", 2: "sad"} and known.label2id == {"angry": 0, "happy": 1, "sad": 2}
        assert known.num_labels == 3 and known.problem_type == "multi_label_classification"


def planes(lengths: list[int]) -> AcousticFrames:
    values = np.random.default_rng(0).normal(size=(sum(lengths), 20)).astype(np.float16)
    return AcousticFrames(Ragged(values, np.array(lengths)), np.ones(len(lengths), np.float32), 25, 15)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_case_and_special_names_in_texts(family):
    """Case is left to the tokenizer, and the name of a special token in a text is no special token."""
    tokenizer = families.tokenizer(family)
    ids = tokenise(tokenizer, ["hello [MASK]", "hello [mask]", "Hello", "<s> hello", ""])
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    assert all(special.isdisjoint(ids[row][1:-1]) and tokenizer.mask_token_id not in ids[row] for row in range(5))
    assert len(ids[4]) == 2 and (ids[2][1] == tokenizer.convert_tokens_to_ids("hello")) == (family == "bert")
    assert np.array_equal(ids[0], ids[1]) == (family == "bert")


def test_ids_of_an_uncased_model_do_not_depend_on_case():
    texts = ["So GLAD to see you!", "McDonald's, ÉCLAIR and Über", "I said [SEP] and [MASK]", "USA 2020 — it's FINE", ""]
    tokenizer = load_tokenizer("minilm")
    ids, lowered = tokenise(tokenizer, texts), tokenise(tokenizer, [text.lower() for text in texts])
    before = tokenizer([text.lower() for text in texts])["input_ids"]  # as lower-cased texts went in
    for row, expected in enumerate(before):
        assert ids[row].tolist() == lowered[row].tolist() == expected


def test_a_family_without_absolute_positions_as_a_graph(tmp_path):
    """Lengths other than those of the example that the graph was traced with."""
    import onnxruntime

    from calm.inference import onnx_export
    from calm.inference.processing import CalmFeatureExtractor, CalmProcessor

    torch.manual_seed(0)
    config = CalmConfig(families.config("modernbert"), spectran_layers=1, heads={"emotion": ["a", "b"]})
    model = CalmForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    CalmProcessor(CalmFeatureExtractor(), families.tokenizer("modernbert")).save_pretrained(tmp_path)
    onnx_export.write(model, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / onnx_export.GRAPH, providers=["CPUExecutionProvider"])
    for tokens, blocks in ((2, 1), (7, 12)):
        ids, features = torch.randint(5, 20, (1, tokens)), torch.randn(blocks, 50, 64)
        with torch.no_grad():
            expected = model(input_ids=ids, input_features=features[None]).logits
        (logits,) = session.run(["logits"], {"input_ids": ids.numpy(), "blocks": features.numpy()})
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
