"""Which rows make up each batch: shuffled by seed and epoch alone, and shared by the processes that train together."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


def mix(*numbers: int) -> int:
    """One seed derived from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class RowDataset(Dataset):
    """Row numbers, each with the epoch in which it is drawn: item `epoch * len + index` is (row, epoch)."""

    def __init__(self, rows: Sequence[int]):
        self.rows = np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[int, int]:
        epoch, index = divmod(item, len(self))
        return int(self.rows[index]), epoch


class EpochSampler(Sampler):
    """Items of one epoch, shuffled by seed and epoch alone, so that a resumed run draws what an uninterrupted run draws.

    Args:
        lengths: length of every row; if not None, batches contain utterances of similar length.
    """

    def __init__(self, size: int, batch: int, seed: int, lengths: Sequence[int] | None = None):
        self.size, self.batch, self.seed, self.lengths, self.epoch = size, batch, seed, lengths, 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        if self.lengths is None:
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = get_length_grouped_indices(list(self.lengths), self.batch, generator=generator)
        return iter(self.epoch * self.size + index for index in order)


class DistributedBatchSampler(Sampler):
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


class EpochLoader(DataLoader):
    """A loader whose batch sampler learns which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)
