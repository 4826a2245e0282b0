"""Samplers: order by seed and epoch alone, and batches of similar lengths."""

import numpy as np

from calm.training.sampling import EpochSampler


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
