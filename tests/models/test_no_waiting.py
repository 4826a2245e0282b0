"""No step of training waits for the device: an operator whose shape or branch depends on values would, and fails on tensors without values.

Such tensors also say on which device they would be, so that a tensor left on the CPU is found without a GPU.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from transformers import BertConfig

from calm.data.batching import MaskingCollator, PairCollator, SequenceCollator
from calm.data.ragged import AcousticFrames, Ragged
from calm.models.configuration import CalmConfig
from calm.models.encoder_blocks import EncoderBlocks
from calm.models.heads import FrozenHeads
from calm.models.joint_transformer import JointTransformerForSequenceClassification
from calm.models.losses import ContrastiveSettings
from calm.models.modeling import (
    CalmForContrastivePretraining,
    CalmForMaskedPretraining,
    CalmForSequenceClassification,
)
from calm.models.text_encoders import build_encoder
from calm.training.loop import Training
from calm.training.schedule import Schedule

TEXT = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=200)
SIZES = {"spectran_layers": 1, "spectran_width": 64, "channels": 64}
ROWS, LENGTHS = [2, 0, 1, 3], [140, 60, 300, 50]
WHISPER = {"model_type": "whisper", "d_model": 32, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "encoder_layers": 2}


def frames() -> AcousticFrames:
    values = np.random.default_rng(0).normal(size=(sum(LENGTHS), 64)).astype(np.float16)
    return AcousticFrames(Ragged(values, np.array(LENGTHS)), np.ones(4, np.float32))


def tokens() -> Ragged:
    return Ragged.from_rows([np.array([101, *range(10, 10 + length), 102]) for length in (4, 2, 7, 0)])


def encoded(width: int) -> Ragged:
    return Ragged(np.zeros((int(frames().blocks.sum()), width), np.float16), frames().blocks)


def pairs(**options):
    texts = ["a", "", "b", "a"]
    vectors = None if "tokens" in options else torch.randn(4, 64)
    return PairCollator(frames(), texts, vectors, special=(101, 102), speakers=["x", "y", "x", None], **options)


def contrastive(language_model=None, **options):
    config = CalmConfig(TEXT, projection=16, spectran_dropout=0.1, **SIZES)
    return CalmForContrastivePretraining(config, language_model, ContrastiveSettings(**options))


def with_encoder(**options):
    """Of two corpora, with adapters beside the weights."""
    model = contrastive(**options)
    model.encoder = EncoderBlocks({"layers": [1, 2], "config": WHISPER})
    model.encoder.normalised_by(np.zeros((2, 64), np.float32), np.ones((2, 64), np.float32))
    model.encoder.adapt(2)
    return model


def masking(encoded=None, **options):
    return MaskingCollator(SequenceCollator(frames(), tokens(), encoded, **options), 103, (101, 102, 103), 200)


def heads(encoded=None, **options):
    return SequenceCollator(frames(), tokens(), encoded, targets=np.eye(4, dtype=np.float32), **options)


def classifier(kind=CalmForSequenceClassification, **options):
    return kind(CalmConfig(TEXT, heads={"emotion": list("abcd")}, **SIZES, **options))


CASES = {
    "CALP": lambda: (contrastive(), pairs()),
    "CALP, mended": lambda: (
        contrastive(keep_positive=True, symmetric=True, learn_temperature=True, ignore_same_text=True, audio_negatives="same_speaker"),
        pairs(text_blocks=2),
    ),
    "CALP with its language model": lambda: (contrastive(build_encoder(TEXT)), pairs(tokens=tokens())),
    "CALP with an encoder": lambda: (
        with_encoder(symmetric=True),
        pairs(text_blocks=2, corpora=np.array([0, 1, 1, 0])),
    ),
    "masked": lambda: (CalmForMaskedPretraining(CalmConfig(TEXT, **SIZES)), masking(encoded(64))),
    "masked, with SpecTran": lambda: (CalmForMaskedPretraining(CalmConfig(TEXT, **SIZES)), masking()),
    "head": lambda: (classifier(), heads()),
    "head on encoded blocks": lambda: (classifier(head_pooling="cls_blocks"), heads(encoded(64), mixup=0.4)),
    "head with functionals": lambda: (
        classifier(head_pooling="cls_mean_std", head_functionals="thirds", head_loss="softmax"),
        heads(functionals="thirds"),
    ),
    "head on the encoder": lambda: (
        classifier(encoder={"layers": [1, 2], "config": WHISPER}, head_functionals="thirds"),
        heads(functionals="thirds"),
    ),
    "joint transformer": lambda: (classifier(JointTransformerForSequenceClassification), heads()),
    "frozen heads": lambda: (
        FrozenHeads(CalmConfig(TEXT, heads={"emotion": list("abcd")}, head_standardise=True), 4, [1, 2], 8),
        lambda rows, generator: {"vectors": torch.randn(4, 1, 8), "labels": torch.eye(4)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_each_objective_waits_for_nothing(name):
    """Forward on a GPU and in its precision; forward and backward on the CPU, because the engine of gradients asks for the real device."""
    model, collator = CASES[name]()
    model.train()
    real = collator(ROWS, torch.Generator().manual_seed(0))
    mode = FakeTensorMode()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with mode:
        for device in ("cpu",) if name == "joint transformer" else ("cuda", "cpu"):  # an LSTM asks for the real GPU
            weights = {name: mode.from_tensor(value).to(device).detach() for name, value in state.items()}
            for key, value in weights.items():
                value.requires_grad_(state[key].requires_grad)
            batch = {key: mode.from_tensor(value).to(device) for key, value in real.items()}
            loss = torch.func.functional_call(model, weights, kwargs=batch)["loss"]
            assert loss.device.type == device and loss.dtype == torch.float32
        loss.backward()
        assert any(value.grad is not None for value in weights.values())


def test_what_waits_is_found():
    with FakeTensorMode():
        values = torch.randn(3, device="cuda")
        with pytest.raises(DynamicOutputShapeException):
            values[values > 0]
        with pytest.raises(DataDependentOutputException):
            (values > 0).any().item()


def test_the_loop_waits_for_nothing_between_looks(tmp_path, monkeypatch):
    """Clipping, optimiser, schedule and the watch over the losses; a look itself waits."""
    monkeypatch.setattr("accelerate.Accelerator.prepare", lambda self, model: model)  # it would move the weights to the device
    with FakeTensorMode():
        model = torch.nn.Linear(6, 2)
        model.forward = lambda x: {"loss": torch.nn.functional.linear(x, model.weight, model.bias).square().mean()}
        training = Training(model, range(8), None, Schedule(epochs=1, batch=4, learning_rate=0.1), tmp_path, seed=1)
        for _ in range(2):
            training._step([0, 1, 2, 3], {"x": torch.randn(4, 6)})
        assert training.step == 2
        with pytest.raises(DataDependentOutputException):
            training.watch.check()
