"""Utterances' log-mel, and whatever else has a length of its own, in one array; the blocks that are cut from log-mel (5.1).

Only numpy and pyarrow work here, so that a model in use need not load torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calm.storage import write_parquet

if TYPE_CHECKING:
    import torch

    from calm.data.augmentation import Augmentation


@dataclass
class Ragged:
    """Sequences of different lengths in one array: row i is values[offsets[i] : offsets[i] + lengths[i]]."""

    values: np.ndarray  # (all, ...)
    lengths: np.ndarray  # (rows,)
    offsets: np.ndarray = field(init=False)

    def __post_init__(self):
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> "Ragged":
        """From a list of arrays (length, ...)."""
        return cls(np.concatenate(rows), np.array([len(row) for row in rows], dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of several, one after another."""
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts]))

    @classmethod
    def read(cls, path: Path, ids: Sequence[str]) -> "Ragged":
        """Encoded blocks from Parquet; raises ValueError where the ids are not those of the file, in its order."""
        table = pq.read_table(path)
        if table.column("id").to_pylist() != list(ids):
            raise ValueError(f"{path} is of other utterances than the features: run its stage anew")
        width = int(table.schema.metadata[b"width"])
        values = table.column("encoded").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(values.reshape(-1, width), table.column("blocks").to_numpy().astype(np.int64))

    def write(self, path: Path, ids: Sequence[str]) -> None:
        """Encoded blocks (rows of (blocks, width) float16) to Parquet: id, blocks, encoded."""
        write_parquet(self.to_table(ids), path)

    def to_table(self, ids: Sequence[str]) -> pa.Table:
        """Encoded blocks as a table: id, blocks, encoded."""
        width = self.values.shape[1]
        offsets = np.append(self.offsets, len(self.values)) * width
        encoded = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(self.values.ravel(), pa.float16()))
        columns = {"id": pa.array(ids, pa.string()), "blocks": pa.array(self.lengths, pa.int32()), "encoded": encoded}
        return pa.table(columns, metadata={"width": str(width)})

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row] + self.lengths[row]]

    def pad(self, rows: np.ndarray, limit: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows side by side, zero where padded: values (rows, longest, ...) and mask (rows, longest) bool.

        Args:
            limit: (rows,) how much of each row to take; None: all.
        """
        lengths = self.lengths[rows] if limit is None else np.minimum(self.lengths[rows], limit)
        steps = np.arange(lengths.max(initial=0))
        mask = steps < lengths[:, None]
        values = self.values[np.where(mask, self.offsets[rows][:, None] + steps, 0)]
        values[~mask] = 0
        return values, mask


@dataclass
class LogMels:
    """Normalised log-mel of many utterances, and the blocks that are cut from it (5.1)."""

    frames: Ragged  # (frames, mels) float16, zero mean and unit deviation a mel
    scale: np.ndarray  # (rows,) mean over the mels of the deviation that was divided by, in nepers of power: for gain
    block: int = 50
    hop: int = 30

    @property
    def blocks(self) -> np.ndarray:
        """Number of blocks of every row: 1 + (frames - block) // hop."""
        return 1 + (self.frames.lengths - self.block) // self.hop

    def cut(self, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """One window a row, (rows, block, mels) float32, from frame `starts` (rows,) on."""
        index = (self.frames.offsets[rows] + starts)[:, None] + np.arange(self.block)
        return self.frames.values[index].astype(np.float32)

    def augmented(self, rows: np.ndarray, augment: "Augmentation", generator: "torch.Generator") -> "LogMels":
        """The given rows alone, with tempo, mel axis and gain changed."""
        made = [augment.frames(self.frames[row].astype(np.float32), self.scale[row], self.block, generator) for row in rows]
        return LogMels(Ragged.of(made), self.scale[rows], self.block, self.hop)

    def blocks_of(self, row: int) -> np.ndarray:
        """Every block of one row, (blocks, block, mels) float32."""
        return self.all_blocks(np.array([row]))[0][0]

    def all_blocks(self, rows: np.ndarray, limit: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Every block of each row: (rows, most blocks, block, mels) float32, zero where padded, and the mask (rows, most blocks)."""
        counts = self.blocks[rows] if limit is None else np.minimum(self.blocks[rows], limit)
        mask = np.arange(counts.max(initial=0)) < counts[:, None]
        row, block = np.nonzero(mask)
        blocks = np.zeros((*mask.shape, self.block, self.frames.values.shape[1]), dtype=np.float32)
        blocks[row, block] = self.cut(np.asarray(rows)[row], block * self.hop)
        return blocks, mask


def fit(tokens: np.ndarray, blocks: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens and blocks of each utterance go into `most` places: what is too much is cut, text to no less than half."""
    kept = np.minimum(tokens, np.maximum(most - blocks, most // 2))
    return kept, np.minimum(blocks, most - kept)
