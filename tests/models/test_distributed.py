"""Training by two processes under torchrun: what comes out is what one process gives with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from calm.models import distributed
from calm.training.checkpoints import last_checkpoint
from calm.training.loop import train
from calm.training.sampling import DistributedBatchSampler, EpochSampler
from calm.training.schedule import Schedule
from tests import ranks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict]:
    """The outcomes of each of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.ranks", str(folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"outcomes-{rank}.pt", map_location="cpu", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict:
    """The same steps in this process."""
    return ranks.steps()


@pytest.mark.parametrize("name", [*ranks.CONTRASTIVE, *ranks.masks()])
def test_two_processes_give_the_loss_and_gradients_of_one(outcomes, alone, name):
    (loss, gradients), (expected_loss, expected) = outcomes[0]["steps"][name], alone[name]
    assert loss.item() == pytest.approx(expected_loss.item(), abs=1e-5)
    assert gradients.keys() == expected.keys() and len(gradients) > 10
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-5, rtol=1e-5, msg=lambda message, key=key: f"{key}: {message}")
    assert max(gradient.abs().max() for gradient in gradients.values()) > 0.01


def test_without_text_its_projection_has_no_gradient(outcomes):
    assert "text_projection.weight" not in outcomes[0]["steps"]["without text"][1]


def test_both_processes_end_with_the_same_weights(outcomes):
    first, second = (process["undisturbed"][0] for process in outcomes)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_of_two_stopped_at_one_of_them_ends_with_the_same_weights(outcomes):
    for process in outcomes:
        assert process["code"] == 143
        assert process["checkpoints"] == ["checkpoint-5"]
        (weights, curve), (resumed, continued) = process["undisturbed"], process["resumed"]
        assert all(torch.equal(weights[name], resumed[name]) for name in weights)
        for entry, again in zip(curve, continued, strict=True):
            assert again == pytest.approx(entry, abs=1e-6)


def test_a_training_of_two_is_that_of_one(outcomes, tmp_path):
    """Without what is drawn at random (dropout; of two blocks there is one pair), three epochs whose last batches are of 3 rows."""
    (weights, curve), (expected, alone) = outcomes[0]["two blocks"], ranks.calp(tmp_path, blocks=2, dropout=0.0)
    for name in weights:
        torch.testing.assert_close(weights[name], expected[name], atol=1e-4, rtol=1e-4)
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]
    for entry, expected_entry in zip(curve, alone, strict=True):
        assert entry == pytest.approx(expected_entry, abs=1e-4)
    assert abs(curve[1]["loss"] - curve[0]["loss"]) > 0.1  # it moved


def test_one_process_goes_on_from_the_checkpoint_of_two(outcomes):
    assert last_checkpoint(outcomes[0]["left"]).name == "checkpoint-5"
    (weights, curve), (resumed, continued) = outcomes[0]["two blocks"], ranks.calp(Path(outcomes[0]["left"]), blocks=2, dropout=0.0)
    for name in weights:
        torch.testing.assert_close(weights[name], resumed[name], atol=1e-4, rtol=1e-4)
    for entry, again in zip(curve, continued, strict=True):
        assert again == pytest.approx(entry, abs=1e-4)


def test_processes_end_together_at_a_loss_that_is_not_finite(outcomes):
    (first, files), (second, _) = (process["not finite"] for process in outcomes)
    assert first == second and first.startswith("step 1 (epoch 1) is not finite: its loss is ")
    assert all(f"utterance {row}" in first for row in range(8)) and files == ["not-finite.json"]


def test_shares_make_up_the_batches():
    sampler = EpochSampler(19, 8, seed=1)
    both = [DistributedBatchSampler(sampler, 8, 2, rank) for rank in range(2)]
    alone = DistributedBatchSampler(sampler, 8)
    for epoch in range(2):
        alone.set_epoch(epoch)
        batches = list(alone)
        assert sum(batches, []) == list(sampler) and [len(batch) for batch in batches] == [8, 8, 3]
        shares = [list(share) for share in both]
        assert [sorted(first + second) for first, second in zip(*shares, strict=True)] == [sorted(batch) for batch in batches]
        assert [len(share) for share in shares[0]] == [4, 4, 2] and len(both[0]) == 3


def test_a_last_batch_that_does_not_reach_all_processes_is_left_out():
    sampler = EpochSampler(17, 8, seed=1)
    assert [len(list(DistributedBatchSampler(sampler, 8, 2, rank))) for rank in range(2)] == [2, 2]
    assert len(DistributedBatchSampler(sampler, 8, 2)) == 2
    assert len(DistributedBatchSampler(sampler, 8)) == 3


def test_a_batch_that_cannot_be_shared_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 3)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="batch of 8 utterances cannot be divided among 3 processes"):
        train(model, range(9), None, Schedule(epochs=1, batch=8, learning_rate=0.1), tmp_path, seed=1)
    with pytest.raises(ValueError, match="2 training utterances are too few for 3 processes"):
        train(model, range(2), None, Schedule(epochs=1, batch=9, learning_rate=0.1), tmp_path, seed=1)
