"""Samplers: order by seed and epoch alone, and batches of similar lengths."""

import numpy as np
import torch

from calm.training.sampling import EpochSampler, in_runs


def test_sampler_depends_on_seed_and_epoch_alone():
    sampler = EpochSampler(20, 4, 7)
    sampler.set_epoch(2)
    order = list(sampler)
    assert sorted(order) == list(range(40, 60)) and order == list(sampler)
    sampler.set_epoch(3)
    assert [item % 20 for item in sampler] != [item % 20 for item in order]


def test_batches_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    sampler = EpochSampler(400, 8, 1, lengths)
    batches = np.array([item % 400 for item in sampler]).reshape(-1, 8)
    assert sorted(batches.ravel()) == list(range(400))
    padded = lengths[batches].max(1).sum() * 8
    assert padded < 1.2 * lengths.sum() < 400 * lengths.max() / 1.2


def test_a_batch_holds_many_rows_of_few_groups():
    groups = np.repeat(np.arange(10), 20)
    sampler = EpochSampler(200, 16, 3, groups=groups)
    sampler.set_epoch(5)
    order = list(sampler)
    assert sorted(order) == list(range(1000, 1200)) and order == list(sampler)  # by seed and epoch alone, so a resumed run draws it again
    batches = groups[np.array(order) - 1000].reshape(-1, 4)
    assert all(len(set(run)) == 1 for run in batches.tolist())  # runs of a quarter of a batch
    sampler.set_epoch(6)
    assert [item - 1200 for item in sampler] != [item - 1000 for item in order]


def test_short_runs_come_last_and_no_row_is_lost():
    groups = [0] * 5 + [1] * 7 + [2, 3, 4]
    order = in_runs(groups, 4, torch.Generator().manual_seed(1))
    assert sorted(order) == list(range(15))
    assert [groups[row] for row in order[:8]] in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert sorted(groups[row] for row in order[8:]) == [0, 1, 1, 1, 2, 3, 4]
