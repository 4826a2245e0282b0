"""Utterances of one or several corpora with their acoustic frames, read from the Parquet files that the stages wrote."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from calm.array_types import Floats16, Floats32, Ints
from calm.corpora.folds import split_in
from calm.corpora.utterances import SOFT, read_table
from calm.data.arrays import filled
from calm.data.normalisation import outside
from calm.data.ragged import AcousticFrames, Ragged
from calm.storage import check_sums, parquet_batches, read_parquet

if TYPE_CHECKING:
    import pandas as pd  # imported in functions: a trained model is used without it

Through = Callable[[Floats32], Floats32]  # stored frames to those that are used, both (frames, channels) and not normalised


@dataclass
class Examples:
    """Utterances of one or several corpora with their acoustic frames: row i of `table` is row i of `frames`."""

    table: "pd.DataFrame"  # corpus, id, split (in the fold), speaker, text, labels, and soft labels where a corpus has them
    frames: AcousticFrames
    classes: tuple[str, ...] = ()
    one_hot: bool = False
    copies: dict[str, AcousticFrames] = field(default_factory=dict)  # by speed; a row without a copy has no frame

    def rows(self, split: str, labelled: bool = False) -> Ints:
        """Row numbers of a split."""
        keep = self.table["split"] == split
        return np.flatnonzero(keep & self.table["labels"].notna() if labelled else keep)

    def targets(self) -> Floats32:
        """(rows, classes) float32 multi-hot labels, or soft ones where the corpus has them; rows without labels are all zero."""
        index = {name: column for column, name in enumerate(self.classes)}
        targets = np.zeros((len(self.table), len(self.classes)), dtype=np.float32)
        for row, labels in enumerate(self.table["labels"]):
            if labels is not None:
                targets[row, [index[label] for label in labels]] = 1
        soft = self.table.reindex(columns=[SOFT + name for name in self.classes]).to_numpy(np.float32)
        known = self.table["labels"].notna().to_numpy() & np.isfinite(soft).all(axis=1)
        targets[known] = soft[known]
        return targets


def load_examples(
    corpora: dict[str, tuple[Path, Path, Path]],
    block: int = 50,
    hop: int = 30,
    normalise: str = "corpus",
    fold: int = 0,
    copies: bool = False,
    through: Through | None = None,
    work: Path | None = None,
) -> Examples:
    """Read utterances, texts and features of the named corpora.

    Args:
        corpora: name -> (table of utterances, folder of texts, folder of feature shards).
        block, hop: frames of a block, and from one block to the next.
        normalise: "corpus", by the statistics of the training split; "utterance", by those of the utterance.
        fold: whose splits the utterances have; its tested utterances are in no statistics of the corpus. 0: the splits of the table.
        copies: whether to read the copies at other speeds, which take as much memory again each.
        through: changes the frames of each utterance before they are normalised; None: they are as stored.
        work: folder of files for large arrays, shared by all processes that are given it; None: each process has its own.
    """
    import pandas as pd

    tables, classes, one_hot = [], (), False
    for name, (utterances, texts, features) in corpora.items():
        table = read_table(utterances)
        table["split"] = split_in(table, fold)
        classes, one_hot = table.attrs["classes"], table.attrs["one_hot"]
        spoken = read_parquet(Path(texts) / "texts.parquet", ["id", "text"]).to_pandas()
        counted = pd.concat([read_parquet(shard, ["id", "frames"]).to_pandas() for shard in shards(features)])
        table = table.drop(columns="text").merge(spoken, on="id", how="left", validate="one_to_one").assign(corpus=name)
        tables.append(counted.merge(table, on="id", how="left", validate="one_to_one"))
    table = pd.concat(tables, ignore_index=True)
    table["text"] = table["text"].fillna("")
    table = table.drop(columns="frames")
    folders = [Path(features) for *_, features in corpora.values()]
    ids = [list(table.loc[table["corpus"] == name, "id"]) for name in corpora]
    how = (block, hop, normalise, fold, through, work)
    frames = _frames(ids, [(folder, folder) for folder in folders], *how)
    speeds = sorted({speed.name for folder in folders for speed in folder.glob("speed-*")}) if copies else []
    changed = {speed: _frames(ids, [(folder / speed, folder) for folder in folders], *how) for speed in speeds}
    columns = ["corpus", "id", "split", "speaker", "text", "labels", *(name for name in table.columns if name.startswith(SOFT))]
    return Examples(table[columns], frames, classes, one_hot, changed)


def _frames(
    ids: list[list[str]],
    folders: list[tuple[Path, Path]],
    block: int,
    hop: int,
    normalise: str,
    fold: int,
    through: Through | None,
    work: Path | None,
) -> AcousticFrames:
    """Normalised frames of all rows, in their order; a row without frames has none, and a shorter one than a block is padded to it.

    Args:
        ids: of the rows of each corpus.
        folders: of the shards and of their statistics, of each corpus.
    """
    lengths, before = np.zeros(sum(map(len, ids)), np.int64), 0
    for (folder, _), own in zip(folders, ids, strict=True):
        rows = {id: row for row, id in enumerate(own, before)}
        before += len(own)
        for shard in shards(folder):
            table = read_parquet(shard, ["id", "frames"])
            chosen = [rows[id] for id in table["id"].to_pylist()]
            lengths[chosen] = np.maximum(table["frames"].to_numpy(), block)
    utterances, present = Ragged(np.empty(0), lengths), np.flatnonzero(lengths)
    starts = utterances.offsets[present]

    def fill(values: Floats16) -> Floats32:
        scale, row = np.zeros(len(lengths), np.float32), 0
        for folder, beside in folders:
            for frames, deviation in _all_normalised(folder, beside, normalise, fold, through):
                values[starts[row] : starts[row] + len(frames)] = frames
                scale[present[row]] = deviation
                row += 1
        return scale

    about = json.dumps([[str(folder) for folder, _ in folders], ids, block, normalise, fold, through is not None])
    file = work and work / f"frames-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    mean, _ = statistics(folders[0][1])
    utterances.values, scale = filled((int(lengths.sum()), len(mean)), fill, file)
    return AcousticFrames(utterances, scale, block, hop)


def shards(folder: Path) -> list[Path]:
    """The Parquet files that `features` wrote, in order. Raises Damaged if one of them, or their statistics, are not what was written."""
    check_sums(Path(folder))
    return sorted(Path(folder).glob("part-*.parquet"))


def load_frames(
    shard: Path, number: int, rows: int, block: int = 50, hop: int = 30, normalise: str = "corpus", through: Through | None = None
) -> tuple[list[str], AcousticFrames]:
    """Ids and frames of one piece of a shard, counted from 0 in pieces of `rows` rows. Only the piece is held in memory.

    `through`: see `load_examples`.
    """
    batch = next(islice(_batches(shard, rows), number, None))
    return _piece(batch, statistics(shard.parent), block, hop, normalise, through)


def each_frames(
    folder: Path, rows: int, block: int = 50, hop: int = 30, normalise: str = "corpus", through: Through | None = None
) -> Iterator[tuple[list[str], AcousticFrames]]:
    """Ids and frames of all shards, `rows` rows at a time. Only these are held in memory. `through`: see `load_examples`."""
    stats = statistics(Path(folder))
    for shard in shards(folder):
        for batch in _batches(shard, rows):
            yield _piece(batch, stats, block, hop, normalise, through)


def _batches(shard: Path, rows: int) -> Iterator[pa.RecordBatch]:
    return parquet_batches(shard, rows, ["id", "features"])


def _piece(
    batch: pa.RecordBatch, stats: tuple[Floats32, Floats32], block: int, hop: int, normalise: str, through: Through | None = None
) -> tuple[list[str], AcousticFrames]:
    rows = list(_normalised(batch.column("features"), stats, normalise, through))
    utterances = Ragged(np.empty(0), np.array([max(len(frames), block) for frames, _ in rows], np.int64))
    utterances.values = np.zeros((int(utterances.lengths.sum()), len(stats[0])), np.float16)
    for first, (frames, _) in zip(utterances.offsets, rows, strict=True):
        utterances.values[first : first + len(frames)] = frames
    scale = np.array([deviation for _, deviation in rows], np.float32)
    return batch.column("id").to_pylist(), AcousticFrames(utterances, scale, block, hop)


def statistics(folder: Path, fold: int = 0) -> tuple[Floats32, Floats32]:
    """Mean and deviation of every channel over the training split, or over all folds but one, (channels,) each."""
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    mean, deviation = outside(stats["folds"], fold) if fold else (np.array(stats["mean"], float), np.array(stats["std"], float))
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError(f"{folder / 'stats.json'} has a mean or a deviation that is not a number: run the stage features again")
    return mean.astype(np.float32), deviation.astype(np.float32)


def _own_statistics(frames: Floats32) -> tuple[Floats32, Floats32]:
    """Mean and deviation of every channel over the frames of one utterance, (channels,) each."""
    return frames.mean(0), frames.std(0) + 1e-3


def _all_normalised(
    folder: Path, beside: Path, normalise: str, fold: int, through: Through | None
) -> Iterator[tuple[Floats32, np.float32]]:
    """`_normalised` of every utterance, shard by shard, by the statistics of another folder."""
    stats = statistics(beside, fold)
    for shard in shards(folder):
        for batch in parquet_batches(shard, 64, ["features"]):
            yield from _normalised(batch.column("features"), stats, normalise, through)


def _normalised(
    features: pa.ListArray, stats: tuple[Floats32, Floats32], normalise: str, through: Through | None
) -> Iterator[tuple[Floats32, np.float32]]:
    """Every row's normalised frames, (frames, channels) float32, and the mean of the deviations that it was divided by."""
    flat, ends = features.flatten().to_numpy(zero_copy_only=False), features.offsets.to_numpy() - features.offsets[0].as_py()
    for first, last in pairwise(ends):
        frames = flat[first:last].reshape(-1, len(stats[0])).astype(np.float32)
        frames = through(frames) if through else frames
        mean, std = stats if normalise == "corpus" else _own_statistics(frames)
        yield (frames - mean) / std, std.mean()
