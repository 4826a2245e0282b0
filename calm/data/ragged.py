"""Sequences of different lengths in one array; acoustic frames, and the blocks that are cut from them (5.1).

Only numpy is imported, so that a trained model can be used without torch and pyarrow.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calm.array_types import Bools, Floats16, Floats32, Ints
from calm.audio.functionals import functionals
from calm.data.arrays import filled
from calm.storage import parquet_batches, read_parquet, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa  # otherwise imported by the functions, because inference does not need it

GROUP, BATCH = 256, 32  # rows that lie together in a file, and that are decoded at once


@dataclass
class Ragged:
    """Sequences of different lengths in one array: row i is values[offsets[i] : offsets[i] + lengths[i]]."""

    values: npt.NDArray[Any]  # (all, ...)
    lengths: Ints  # (rows,)
    offsets: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @classmethod
    def from_rows(cls, rows: Sequence[npt.NDArray[Any]]) -> "Ragged":
        """From a list of arrays (length, ...)."""
        return cls(np.concatenate(rows), np.array([len(row) for row in rows], dtype=np.int64))

    @classmethod
    def read(cls, files: Sequence[tuple[Path, Sequence[str]]], work: Path | None = None) -> "Ragged":
        """Encoded blocks from Parquet files, one after another.

        The array is filled a few rows at a time, so that little more than the array itself is held.

        Args:
            files: each with its ids in order.
            work: see `calm.data.examples.load_examples`.

        Raises:
            ValueError: a file has other ids or another order.
        """
        counts = [_counted(path, ids) for path, ids in files]
        lengths, width = np.concatenate([own for own, _ in counts]), counts[0][1]

        def fill(values: Floats16) -> Floats32:
            first = 0
            for path, _ in files:
                for part in _encoded(path, width):
                    values[first : first + len(part)] = part
                    first += len(part)
            return np.empty(0, np.float32)

        about = json.dumps([[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path, _ in files])
        file = work and work / f"encoded-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
        return cls(filled((int(lengths.sum()), width), fill, file)[0], lengths)

    def write(self, path: Path, ids: Sequence[str]) -> None:
        """Encoded blocks (rows of (blocks, width) float16) to Parquet: id, blocks, encoded."""
        write_parquet(self.to_table(ids), path, row_group_size=GROUP)

    def to_table(self, ids: Sequence[str]) -> "pa.Table":
        """Encoded blocks as a table: id, blocks, encoded."""
        import pyarrow as pa

        width = self.values.shape[1]
        offsets = np.append(self.offsets, len(self.values)) * width
        encoded = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(self.values.ravel(), pa.float16()))
        columns = {"id": pa.array(ids, pa.string()), "blocks": pa.array(self.lengths, pa.int32()), "encoded": encoded}
        return pa.table(columns, metadata={"width": str(width)})

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row] + self.lengths[row]]

    def pad(self, rows: Ints, limit: Ints | None = None) -> tuple[npt.NDArray[Any], Bools]:
        """Rows padded with zeros to the longest: values (rows, longest, ...) and mask (rows, longest) bool.

        Args:
            limit: (rows,) how much of each row to take; None: all.
        """
        lengths = self.lengths[rows] if limit is None else np.minimum(self.lengths[rows], limit)
        steps = np.arange(lengths.max(initial=0))
        mask = steps < lengths[:, None]
        values = self.values[np.where(mask, self.offsets[rows][:, None] + steps, 0)]
        values[~mask] = 0
        return values, mask


def _counted(path: Path, ids: Sequence[str]) -> tuple[Ints, int]:
    """Blocks of each row of a file, and the width of one. Raises ValueError if it has other ids or another order."""
    import pyarrow as pa

    about = read_parquet(path, ["id", "blocks"])
    if not about.column("id").equals(pa.chunked_array([pa.array(ids, pa.string())])):
        raise ValueError(f"{path} holds other utterances than the features: run its stage again")
    return about.column("blocks").to_numpy().astype(np.int64), int(about.schema.metadata[b"width"])


def _encoded(path: Path, width: int) -> Iterator[Floats16]:
    """Encoded blocks of a file, (blocks, width) float16, a few rows at a time."""
    import pyarrow.parquet as pq

    for group in range(pq.read_metadata(path).num_row_groups):  # all at once, the compressed columns would be held too
        for batch in parquet_batches(path, BATCH, ["encoded"], [group]):
            yield batch.column("encoded").flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


@dataclass
class AcousticFrames:
    """Normalised acoustic frames of many utterances, and the blocks that are cut from them (5.1).

    Args:
        utterances: rows of (frames, channels) float16, with zero mean and unit deviation in each channel.
        scale: (rows,) mean over the channels of the deviation that was divided by; of log-mel in nepers of power, for gain.
        block, hop: frames of a block, and from one block to the next.
    """

    utterances: Ragged
    scale: Floats32
    block: int = 50
    hop: int = 30

    @property
    def channels(self) -> int:
        """Channels of a frame."""
        return int(self.utterances.values.shape[1])

    @property
    def blocks(self) -> Ints:
        """Number of blocks of every row: 1 + (frames - block) // hop."""
        return 1 + (self.utterances.lengths - self.block) // self.hop

    def functionals(self, rows: Ints, kind: str) -> Floats32:
        """`calm.audio.functionals` of each row, (rows, width) float32."""
        return np.stack([functionals(self.utterances[row], kind) for row in rows])

    def cut(self, rows: Ints, starts: Ints) -> Floats32:
        """One window of each row, (rows, block, channels) float32, from frame `starts` (rows,) on."""
        index = (self.utterances.offsets[rows] + starts)[:, None] + np.arange(self.block)
        windows: Floats32 = self.utterances.values[index].astype(np.float32)
        return windows

    def blocks_of(self, row: int) -> Floats32:
        """All blocks of one row, (blocks, block, channels) float32."""
        blocks, _ = self.all_blocks(np.array([row]))
        return blocks.squeeze(0)

    def all_blocks(self, rows: Ints) -> tuple[Floats32, Bools]:
        """All blocks of each row, (rows, most blocks, block, channels) float32, zero where padded; and the mask (rows, most blocks)."""
        counts = self.blocks[rows]
        mask = np.arange(counts.max(initial=0)) < counts[:, None]
        row, block = np.nonzero(mask)
        blocks = np.zeros((*mask.shape, self.block, self.channels), dtype=np.float32)
        blocks[row, block] = self.cut(np.asarray(rows)[row], block * self.hop)
        return blocks, mask


def fit(tokens: Ints, blocks: Ints, most: int) -> tuple[Ints, Ints]:
    """How many tokens and blocks of each utterance fit in `most` places together; text is cut to no less than half of them."""
    kept = np.minimum(tokens, np.maximum(most - blocks, most // 2))
    return kept, np.minimum(blocks, most - kept)
