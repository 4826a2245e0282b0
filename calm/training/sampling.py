"""Which rows make up each batch: shuffled by seed and epoch alone, and shared by the processes that train together."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from calm.array_types import Ints

GROUPS = 4  # groups in a batch of whole runs


def mix(*numbers: int) -> int:
    """One seed derived from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class RowDataset(Dataset[tuple[int, int]]):
    """Row numbers, each with the epoch in which it is drawn: item `epoch * len + index` is (row, epoch)."""

    def __init__(self, rows: Sequence[int]):
        self.rows = np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[int, int]:
        epoch, index = divmod(item, len(self))
        return int(self.rows[index]), epoch


class EpochSampler(Sampler[int]):
    """Items of one epoch, shuffled by seed and epoch alone, so that a resumed run draws what an uninterrupted run draws.

    Args:
        lengths: length of every row; if not None, batches contain utterances of similar length.
        groups: number of every row's group; if not None, rows come in runs of a quarter of a batch of one group, so that a batch holds
            many rows of few groups (`in_runs`).
    """

    def __init__(self, size: int, batch: int, seed: int, lengths: Sequence[int] | None = None, groups: Sequence[int] | None = None):
        self.size, self.batch, self.seed, self.lengths, self.groups, self.epoch = size, batch, seed, lengths, groups, 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        if self.groups is not None:
            order = in_runs(self.groups, max(2, self.batch // GROUPS), generator)
        elif self.lengths is None:
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = get_length_grouped_indices(list(self.lengths), self.batch, generator=generator)
        return iter(self.epoch * self.size + index for index in order)


def in_runs(groups: Sequence[int], run: int, generator: torch.Generator) -> list[int]:
    """All rows in random order, but in runs of at most `run` rows of one group.

    The runs of full length come first, so that full batches are made of whole ones, and all shorter ones after them.
    """
    numbers = np.asarray(groups)
    runs: list[Ints] = []
    for members in (np.flatnonzero(numbers == group) for group in np.unique(numbers)):
        shuffled = members[torch.randperm(len(members), generator=generator).numpy()]
        runs += np.split(shuffled, range(run, len(shuffled), run))
    order = torch.randperm(len(runs), generator=generator).tolist()
    order.sort(key=lambda index: len(runs[index]) < run)  # stable: random within the full and within the shorter ones
    rows: list[int] = np.concatenate([runs[index] for index in order]).tolist()
    return rows


class DistributedBatchSampler(Sampler[list[int]]):
    """This process's share of every batch.

    The shares of a batch differ by one row at most. A last batch with fewer rows than processes is left out of its epoch.
    """

    def __init__(self, sampler: EpochSampler, batch: int, processes: int = 1, rank: int = 0):
        self.sampler, self.batch, self.processes, self.rank = sampler, batch, processes, rank

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch)
        return full + (rest >= self.processes)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        for first in range(0, len(self) * self.batch, self.batch):
            yield order[first : first + self.batch][self.rank :: self.processes]
