"""Training: resuming, averaging, precision, and the losses that are logged."""

import json
import signal

import numpy as np
import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

from calm.training.checkpoints import last_checkpoint, read
from calm.training.finite import NotFiniteError
from calm.training.forward import losses, predict, step_flops
from calm.training.loop import Interrupted, train
from calm.training.schedule import Schedule, optimizer, precision, rates

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS[:, :2] * 2


class Small(nn.Module):
    """A network with dropout, so that the state of the random generator matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x, y=None):
        predicted = self.head(torch.dropout(torch.relu(self.body(x)), 0.3, self.training))
        return {"loss": (predicted - y).square().mean(), "logits": predicted}


def collator(rows, generator=None):
    noise = 0 if generator is None else 0.1 * torch.randn(len(rows), 6, generator=generator)
    return {"x": INPUTS[rows] + noise, "y": TARGETS[rows]}


def stop_at(step):
    """Send this process SIGTERM at a step, as a scheduler would."""

    def on_step(training):
        if training.step == step:
            signal.raise_signal(signal.SIGTERM)

    return on_step


def trained(folder, schedule, **options):
    model = Small()
    curve = train(model, range(30), collator, schedule, folder, seed=5, held_out=range(30, 40), **options)
    return model, curve


def test_parts_learn_at_their_share_of_the_learning_rate():
    """Biases without weight decay; what is frozen is left out, and what no part holds learns at the whole rate."""
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2), "rest": nn.Linear(2, 2, bias=False)})
    model["two"].bias.requires_grad_(False)
    shares = [(model["one"], 0.1), (model["two"], 0.5)]
    groups = optimizer(model, Schedule(epochs=1, batch=1, learning_rate=0.2, weight_decay=0.3), shares).param_groups
    of = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert {name: of[id(own)] for name, own in model.named_parameters() if id(own) in of} == {
        "one.weight": (pytest.approx(0.02), 0.3),
        "one.bias": (pytest.approx(0.02), 0.0),
        "two.weight": (0.1, 0.3),
        "rest.weight": (0.2, 0.3),
    }


@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize("stop", [3, 8, 17])
@pytest.mark.parametrize("lengths", [None, list(range(30))])
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(tmp_path, average, stop, lengths):
    schedule = Schedule(epochs=5, batch=8, learning_rate=0.01, average=average)
    uninterrupted, curve = trained(tmp_path / "uninterrupted", schedule, lengths=lengths)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", schedule, lengths=lengths, on_step=stop_at(stop))
    assert last_checkpoint(tmp_path / "stopped") is not None
    resumed, resumed_curve = trained(tmp_path / "stopped", schedule, lengths=lengths)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted.parameters(), resumed.parameters(), strict=True))
    assert resumed_curve == curve and [entry["epoch"] for entry in curve] == [1, 2, 3, 4, 5]


def test_the_sigterm_handler_is_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trained(tmp_path, Schedule(epochs=1, batch=8, learning_rate=0.01))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("damage", ["cut", "changed", "without checksum"])
def test_a_torn_checkpoint_is_left_for_the_one_before(tmp_path, capsys, damage):
    """Two are kept; what a killed process left half written has no name of a checkpoint."""
    uninterrupted, curve = trained(tmp_path / "whole", Schedule(epochs=4, batch=8, learning_rate=0.01))
    schedule, folder = Schedule(epochs=4, batch=8, learning_rate=0.01, checkpoint_minutes=0), tmp_path / "stopped"
    with pytest.raises(Interrupted):
        trained(folder, schedule, on_step=stop_at(9))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    (folder / ".checkpoint-11.partial").mkdir()
    newest = folder / "checkpoint-10"
    content = (newest / "state.pt").read_bytes()
    middle = len(content) // 2
    if damage == "without checksum":
        (newest / "sha256").unlink()
    else:
        torn = content[:middle] if damage == "cut" else content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        (newest / "state.pt").write_bytes(torn)
    assert last_checkpoint(folder).name == "checkpoint-9" and "checkpoint-10 is torn" in capsys.readouterr().err
    resumed, resumed_curve = trained(folder, schedule)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted.parameters(), resumed.parameters(), strict=True))
    assert resumed_curve == curve


def test_a_request_to_stop_after_the_last_step_is_heeded(tmp_path):
    """It comes while the last epoch is logged; the next start has nothing left to train and gives the result."""
    schedule, model = Schedule(epochs=2, batch=8, learning_rate=0.01), Small()

    def log(numbers, step):
        if step == 8:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted) as stop:
        train(model, range(30), collator, schedule, tmp_path / "stopped", seed=5, held_out=range(30, 40), log=log)
    assert stop.value.code == 143
    assert trained(tmp_path / "stopped", schedule)[1] == trained(tmp_path / "whole", schedule)[1]


@pytest.mark.parametrize("every", [1, 3])
def test_a_loss_that_is_not_finite_stops_training(tmp_path, monkeypatch, every):
    """With the step, the epoch and the utterances of its batch, and before any checkpoint has its weights."""
    monkeypatch.setattr("calm.training.loop.STEPS_BETWEEN_LOOKS", {"cpu": every})
    drawn = []

    def spoilt(rows, generator=None):
        batch = collator(rows, generator)
        drawn.append(list(rows))
        if len(drawn) >= 6:  # the second batch of the second epoch, and all after it
            batch["x"][0, 0] = torch.nan
        return batch

    schedule, ids = Schedule(epochs=3, batch=8, learning_rate=0.01, checkpoint_minutes=0), [f"clip {row}" for row in range(40)]
    with pytest.raises(NotFiniteError, match=r"step 6 \(epoch 2\) is not finite: its loss is nan.*clip ") as error:
        train(Small(), range(30), spoilt, schedule, tmp_path, seed=5, ids=ids)
    assert len(drawn) == 6
    about = json.loads((tmp_path / "not-finite.json").read_text())
    assert (about["step"], about["epoch"], about["rows"]) == (6, 2, drawn[5])
    assert about["utterances"] == [f"clip {row}" for row in drawn[5]] and all(name in str(error.value) for name in about["utterances"])
    for path in tmp_path.glob("checkpoint-*"):
        assert all(values.isfinite().all() for values in read(path)["model"].values())
    assert last_checkpoint(tmp_path).name == ("checkpoint-5" if every == 1 else "checkpoint-4")


def test_gradients_that_are_not_finite_stop_training(tmp_path):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6))

        def forward(self, x, y):
            return {"loss": (x @ self.weight).square().sum().sqrt()}  # at 0 the loss is 0, its gradient infinite x 0

    with pytest.raises(NotFiniteError, match="step 1 .* loss is 0.0, its gradient norm nan"):
        train(Root(), range(30), collator, Schedule(epochs=1, batch=8, learning_rate=0.01), tmp_path, seed=5)


def test_a_held_out_loss_that_is_not_finite_stops_training(tmp_path):
    def spoilt(rows, generator=None):
        batch = collator(rows, generator)
        return batch if generator else batch | {"y": batch["y"] / 0}

    with pytest.raises(NotFiniteError, match="after epoch 1, loss is not finite"):
        train(Small(), range(30), spoilt, Schedule(epochs=1, batch=8, learning_rate=0.01), tmp_path, seed=5, held_out=range(30, 40))


def test_precision_by_hardware(monkeypatch):
    """An RTX 2080 (7.5) emulates bfloat16; an A100 (8.0) has it."""
    for capability, expected in (((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert precision(torch.device("cuda")) == expected
    assert precision(torch.device("cpu")) == torch.float32


def test_float16_scales_the_losses(tmp_path):
    """Gradients below float16's least number count; too large a scale halves, without an update, and is resumed with the rest."""

    class Tiny(Small):
        def forward(self, x, y=None):
            output = super().forward(x, y)
            return output | {"loss": output["loss"] * 1e-8}

    def run(folder, **options):
        model, scales = Tiny(), []

        def on_step(training):
            scales.append(training.scaler.get_scale())
            if training.step == options.get("stop"):
                signal.raise_signal(signal.SIGTERM)

        schedule = Schedule(epochs=4, batch=8, learning_rate=0.01, clip=0, weight_decay=0)
        train(model, range(30), collator, schedule, folder, seed=5, dtype=torch.float16, on_step=on_step)
        return model, scales

    before = Small()
    model, scales = run(tmp_path / "whole")
    assert any((a - b).abs().max() > 0.01 for a, b in zip(before.parameters(), model.parameters(), strict=True))
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", stop=6)
    resumed, _ = run(tmp_path / "stopped")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_float16_survives_gradients_too_large_for_its_scale(tmp_path):
    class Large(Small):
        def forward(self, x, y=None):
            output = super().forward(x, y)
            return output | {"loss": output["loss"].float() * 100}

    scales = []
    train(
        Large(),
        range(30),
        collator,
        Schedule(epochs=6, batch=8, learning_rate=0.001),
        tmp_path,
        seed=5,
        dtype=torch.float16,
        on_step=lambda training: scales.append(training.scaler.get_scale()),
    )
    assert scales[0] == 65536 and scales[-1] < scales[0] and scales[-1] == scales[-2]


def test_training_learns_and_logs_held_out_losses(tmp_path):
    model, curve = trained(tmp_path, Schedule(epochs=8, batch=8, learning_rate=0.03))
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    assert curve[-1]["validation_loss"] == pytest.approx(losses(model, range(30, 40), collator, 8)["loss"])


class Classifier(Small):
    """Logits as `predict` wants them."""

    def forward(self, x, y=None):
        return ModelOutput(super().forward(x, y))


def test_logits_after_mixed_precision_are_those_of_the_saved_weights(tmp_path):
    """Thresholds are tuned on what `predict` gives after training; the released model loads the weights anew, in float32."""
    distances = []

    def distance(training):
        model.eval()
        exact = model(**collator([0]))["logits"]
        with torch.autocast("cpu", training.precision):
            distances.append((model(**collator([0]))["logits"] - exact).abs().max().item())
        model.train()

    model = Classifier()
    rows, held_out = range(30), range(30, 40)
    schedule = Schedule(epochs=2, batch=8, learning_rate=0.01)
    curve = train(model, rows, collator, schedule, tmp_path, seed=5, held_out=held_out, on_step=distance, dtype=torch.bfloat16)
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
    model, weights = Small(), []

    def record(numbers, step):
        weights.append(model.head.weight.detach().clone())

    train(model, range(30), collator, Schedule(epochs=4, batch=8, learning_rate=0.01, average=0.5), tmp_path, seed=5, log=record)
    torch.testing.assert_close(model.head.weight, (weights[2] + weights[3]) / 2)


def test_predict_keeps_the_order_of_rows():
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x, y):
            from calm.models.heads import ClassificationOutput

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

    batches, rates = [], []

    def recorded(rows, generator=None):
        batches.append(list(rows))
        return {"x": INPUTS[rows], "y": TARGETS[rows]}

    def rate(training):
        rates.append(training.optimizer.param_groups[0]["lr"])

    printed = Schedule(epochs=1, batch=10, learning_rate=0.01, optimiser="adam", warmup=0, schedule="constant", clip=0)
    model, by_hand = Linear(), Linear()
    train(model, range(30), recorded, printed, tmp_path, seed=5, on_step=rate)
    assert len(batches) == 3 and rates == [0.01] * 3
    adam = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for rows in batches:
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


@pytest.mark.parametrize(("steps", "expected"), [(1, [0.1]), (2, [0.0, 0.1]), (4, [0.0, 0.05, 0.1, 0.1])])
def test_the_rise_leaves_a_step_to_learn_in(steps, expected):
    """Half of the steps, from 0. Of a single step none, which would learn nothing at a rate of 0."""
    optimiser = torch.optim.SGD(Small().parameters(), 0.1)
    course, found = rates(optimiser, Schedule(1, 1, 0.1, warmup=0.5, schedule="constant_with_warmup"), steps), []
    for _ in range(steps):
        found += course.get_last_lr()
        optimiser.step()
        course.step()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant_with_warmup"])
def test_a_training_of_one_step_changes_the_weights(kind, tmp_path):
    network, before = Small(), Small().state_dict()
    train(network, np.arange(40), collator, Schedule(1, 40, 0.01, schedule=kind), tmp_path, 0)
    assert not any(torch.equal(value, before[name]) for name, value in network.state_dict().items())
