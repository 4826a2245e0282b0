"""Training by the Trainer: resuming, averaging and the losses that are logged."""

import signal

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import ModelOutput

from calm.training.callbacks import last_checkpoint
from calm.training.forward import losses, predict, step_flops
from calm.training.trainer import Interrupted, Schedule, train

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS[:, :2] * 2


class Small(nn.Module):
    """A network with dropout, so that the state of the random generator matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x, y=None, return_loss: bool = True):
        predicted = self.head(torch.dropout(torch.relu(self.body(x)), 0.3, self.training))
        return {"loss": (predicted - y).square().mean(), "logits": predicted}


def collator(rows, generator=None):
    noise = 0 if generator is None else 0.1 * torch.randn(len(rows), 6, generator=generator)
    return {"x": INPUTS[rows] + noise, "y": TARGETS[rows]}


class StopAt(TrainerCallback):
    """Send this process SIGTERM at a step, as a scheduler would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def trained(folder, schedule, callbacks=(), lengths=None):
    model = Small()
    curve = train(model, range(30), collator, schedule, folder, seed=5, held_out=range(30, 40), lengths=lengths, callbacks=callbacks)
    return model, curve


@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize("stop", [3, 8, 17])
@pytest.mark.parametrize("lengths", [None, list(range(30))])
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(tmp_path, average, stop, lengths):
    schedule = Schedule(epochs=5, batch=8, learning_rate=0.01, average=average)
    uninterrupted, curve = trained(tmp_path / "uninterrupted", schedule, lengths=lengths)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", schedule, [StopAt(stop)], lengths)
    assert last_checkpoint(tmp_path / "stopped") is not None
    resumed, resumed_curve = trained(tmp_path / "stopped", schedule, lengths=lengths)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted.parameters(), resumed.parameters(), strict=True))
    assert resumed_curve == curve and [entry["epoch"] for entry in curve] == [1, 2, 3, 4, 5]


def test_the_sigterm_handler_is_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trained(tmp_path, Schedule(epochs=1, batch=8, learning_rate=0.01))
    assert signal.getsignal(signal.SIGTERM) is before


def test_incomplete_checkpoints_are_ignored(tmp_path):
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-10" / "complete").touch()
    assert last_checkpoint(tmp_path).endswith("checkpoint-10")
    assert last_checkpoint(tmp_path / "none") is None


def test_training_learns_and_logs_held_out_losses(tmp_path):
    model, curve = trained(tmp_path, Schedule(epochs=8, batch=8, learning_rate=0.03))
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    assert curve[-1]["validation_loss"] == pytest.approx(losses(model, range(30, 40), collator, 8)["loss"])


class Classifier(Small):
    """Logits as `predict` wants them."""

    def forward(self, x, y=None, return_loss: bool = True):
        return ModelOutput(super().forward(x, y))


def test_logits_after_mixed_precision_are_those_of_the_saved_weights(tmp_path, monkeypatch):
    """Thresholds are tuned on what `predict` gives after training; the released model loads the weights anew, in float32."""
    mixed = {"bf16": True, "use_cpu": True}
    monkeypatch.setattr("calm.training.trainer.TrainingArguments", lambda **others: TrainingArguments(**others | mixed))
    distances = []

    class Distances(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            model.eval()
            distances.append((model(**collator([0]))["logits"] - Small.forward(model, **collator([0]))["logits"]).abs().max().item())
            model.train()

    model = Classifier()
    rows, held_out = range(30), range(30, 40)
    schedule = Schedule(epochs=2, batch=8, learning_rate=0.01)
    curve = train(model, rows, collator, schedule, tmp_path, seed=5, held_out=held_out, callbacks=[Distances()])
    assert min(distances) > 1e-4  # training was in bfloat16
    fresh = Classifier()
    fresh.load_state_dict(model.state_dict())
    fresh.eval()
    expected = fresh(**collator(range(40)))
    np.testing.assert_allclose(predict(model, range(40), collator, 40), expected["logits"].detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(model(**collator(range(40)))["logits"], expected["logits"], rtol=0, atol=1e-6)
    assert curve[-1]["validation_loss"] == pytest.approx(fresh(**collator(held_out))["loss"].item(), abs=1e-6)


def test_losses_are_weighted_by_the_batch():
    model = Small().eval()
    whole = losses(model, range(10), collator, 10)["loss"]
    assert losses(model, range(10), collator, 4)["loss"] == pytest.approx(whole)  # 4 + 4 + 2
    assert losses(model, [], collator, 4) == {}


def test_averaged_weights_are_the_mean_of_the_last_epochs(tmp_path):
    class RecordWeights(TrainerCallback):
        weights = []

        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            self.weights.append(model.head.weight.detach().clone())

    record = RecordWeights()
    model, _ = trained(tmp_path, Schedule(epochs=4, batch=8, learning_rate=0.01, average=0.5), [record])
    torch.testing.assert_close(model.head.weight, (record.weights[2] + record.weights[3]) / 2)


def test_predict_keeps_the_order_of_rows():
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x, y):
            from calm.models.modeling import ClassificationOutput

            return ClassificationOutput(logits=x[:, :1] * self.weight)

    assert predict(Logits(), [7, 3, 5], collator, 2)[:, 0].tolist() == INPUTS[[7, 3, 5], 0].tolist()


def test_step_flops_of_a_linear_layer():
    """Forward, and the gradients of weights and of inputs: 2 x 4 x 8 x 16 operations each, but the input has no gradient."""

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(8, 16)

        def forward(self, x):
            return ModelOutput(loss=self.layer(x).sum())

    model = Layer()
    assert step_flops(model, {"x": torch.ones(4, 8)}) == 2 * (2 * 4 * 8 * 16)
    assert model.layer.weight.grad is None and model.training


def test_training_as_section_5_prints_it_is_adam_at_a_constant_rate(tmp_path):
    """Three steps of torch's Adam by hand, on gradients far above the norm that clipping would leave."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(6, 2)

        def forward(self, x, y):
            return {"loss": 1000 * (self.layer(x) - y).square().mean()}

    class Batches(TrainerCallback):
        rows, rates = [], []

        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            self.rates.append(optimizer.param_groups[0]["lr"])

    def recorded(rows, generator=None):
        Batches.rows.append(list(rows))
        return {"x": INPUTS[rows], "y": TARGETS[rows]}

    printed = Schedule(epochs=1, batch=10, learning_rate=0.01, optimiser="adam", warmup=0, schedule="constant", clip=0)
    model, by_hand = Linear(), Linear()
    train(model, range(30), recorded, printed, tmp_path, seed=5, callbacks=[Batches()])
    assert len(Batches.rows) == 3 and Batches.rates == [0.01] * 3
    adam = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for rows in Batches.rows:
        adam.zero_grad()
        by_hand(INPUTS[rows], TARGETS[rows])["loss"].backward()
        adam.step()
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("changes", [{"optimiser": "adamw", "weight_decay": 0.5}, {"warmup": 0.5}, {"schedule": "cosine"}, {"clip": 1e-6}])
def test_each_part_of_the_optimiser_changes_the_weights(tmp_path, changes):
    printed = {"optimiser": "adam", "weight_decay": 0.0, "warmup": 0, "schedule": "constant", "clip": 0}
    if "warmup" in changes:
        changes = changes | {"schedule": "constant_with_warmup"}
    shared = {"epochs": 1, "batch": 10, "learning_rate": 0.01}
    first, _ = trained(tmp_path / "a", Schedule(**shared, **printed))
    again, _ = trained(tmp_path / "again", Schedule(**shared, **printed))
    second, _ = trained(tmp_path / "b", Schedule(**shared, **printed | changes))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
