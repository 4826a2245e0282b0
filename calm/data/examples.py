"""Utterances of one or several corpora with their acoustic frames, read from the Parquet files that the stages wrote."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from calm.array_types import Floats16, Floats32, Ints
from calm.corpora.folds import split_in
from calm.corpora.utterances import SOFT, read_table
from calm.data.arrays import filled
from calm.data.normalisation import OF_SPEAKERS, Normaliser, Statistics, Sums, of_speaker, outside
from calm.data.ragged import AcousticFrames, Ragged
from calm.storage import check_sums, parquet_batches, read_parquet

if TYPE_CHECKING:
    import pandas as pd  # imported in functions: a trained model is used without it

ROWS = 64  # of a shard that are decoded at once
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
        normalise: by the statistics of the training split ("corpus"), of the utterance, or of its speaker; see `speakers_heard`.
        fold: whose splits the utterances have; its tested utterances are in no statistics of the corpus. 0: the splits of the table.
        copies: whether to read the copies at other speeds, which take as much memory again each.
        through: changes the frames of each utterance before they are normalised; None: they are as stored.
        work: folder of files for large arrays, shared by all processes that are given it; None: each process has its own.
    """
    table, classes, one_hot = _read_tables(corpora, fold)
    folders = [Path(features) for *_, features in corpora.values()]
    ids = [list(table.loc[table["corpus"] == name, "id"]) for name in corpora]
    channels = len(statistics(folders[0])[0])

    @cache
    def normaliser(corpus: int) -> Normaliser:
        heard = speakers_heard(table[table["corpus"] == list(corpora)[corpus]], normalise)
        return read_normaliser(folders[corpus], normalise, fold, heard, through)

    def frames_in(speed: str) -> AcousticFrames:
        about = [speed, [str(folder) for folder in folders], ids, block, normalise, fold, through is not None]
        file = work and work / f"frames-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}"
        parts = [
            StoredFrames(folder / speed, own, partial(normaliser, corpus), through)
            for corpus, (folder, own) in enumerate(zip(folders, ids, strict=True))
        ]
        return _frames(parts, channels, block, hop, file)

    speeds = sorted({speed.name for folder in folders for speed in folder.glob("speed-*")}) if copies else []
    frames, changed = frames_in(""), {speed: frames_in(speed) for speed in speeds}
    columns = ["corpus", "id", "split", "speaker", "text", "labels", *(name for name in table.columns if name.startswith(SOFT))]
    return Examples(table[columns], frames, classes, one_hot, changed)


def _read_tables(corpora: dict[str, tuple[Path, Path, Path]], fold: int) -> tuple["pd.DataFrame", tuple[str, ...], bool]:
    """Utterances with frames and their texts, in the order of the shards; classes, and whether each utterance has exactly one."""
    import pandas as pd

    tables, classes, one_hot = [], (), False
    for name, (utterances, texts, features) in corpora.items():
        table = read_table(utterances)
        table["split"] = split_in(table, fold)
        classes, one_hot = table.attrs["classes"], table.attrs["one_hot"]
        spoken = read_parquet(Path(texts) / "texts.parquet", ["id", "text"]).to_pandas()
        stored = pd.concat([read_parquet(shard, ["id"]).to_pandas() for shard in shards(features)])
        table = table.drop(columns="text").merge(spoken, on="id", how="left", validate="one_to_one").assign(corpus=name)
        tables.append(stored.merge(table, on="id", how="left", validate="one_to_one"))
    table = pd.concat(tables, ignore_index=True)
    table["text"] = table["text"].fillna("")
    return table, classes, one_hot


def speakers_heard(table: "pd.DataFrame", normalise: str) -> dict[str, str]:
    """Id -> speaker, of the utterances that are normalised by the statistics of their speaker.

    For "speaker" these are all whose speaker is named. For "tested_speaker" they are those of the test split alone: what is trained is the
    same as with "corpus", and those who are tested are known by their recordings.
    """
    if normalise not in OF_SPEAKERS:
        return {}
    known = table["speaker"].notna() & (table["speaker"] != "")
    if not known.any():
        raise ValueError(f"normalise is {normalise}, but no utterance names its speaker: name them, or set spectran.normalise: corpus")
    chosen = table[known & (table["split"] == "test")] if normalise == "tested_speaker" else table[known]
    return dict(zip(chosen["id"], chosen["speaker"], strict=True))


def read_normaliser(
    folder: Path, normalise: str, fold: int = 0, speaker_of: Mapping[str, str] | None = None, through: Through | None = None
) -> Normaliser:
    """What the frames of a folder of shards are normalised by. The shards are read once more for the statistics of speakers.

    Args:
        normalise, fold, through: see `load_examples`.
        speaker_of: see `speakers_heard`.
    """
    corpus = statistics(folder, fold)
    if not speaker_of:
        return Normaliser(corpus, normalise == "utterance")
    sums = {speaker: Sums() for speaker in speaker_of.values()}
    for shard in shards(folder):
        for batch in _batches(shard, ROWS):
            for id, frames in _rows(batch, len(corpus[0]), through):
                if id in speaker_of:
                    sums[speaker_of[id]].add(frames)
    return Normaliser(corpus, False, speaker_of, {speaker: of_speaker(own, corpus) for speaker, own in sums.items()})


def stored_normaliser(folder: Path, utterances: Path, normalise: str) -> Normaliser:
    """What the frames of a folder of shards are normalised by, whose utterances are in a table; the splits are those of the table."""
    heard = speakers_heard(read_table(utterances, ["id", "speaker", "split"]), normalise) if normalise in OF_SPEAKERS else {}
    return read_normaliser(folder, normalise, speaker_of=heard)


@dataclass(frozen=True)
class StoredFrames:
    """The shards of a corpus at one speed.

    Attributes:
        ids: of the corpus's rows, in the order of the shards, some of which may have no frames at this speed.
        normaliser: gives what they are normalised by, once they are read.
        through: see `load_examples`.
    """

    folder: Path
    ids: list[str]
    normaliser: Callable[[], Normaliser]
    through: Through | None

    def lengths(self, block: int) -> Ints:
        """Frames of every row, those of a block at least; 0 for a row without frames."""
        rows, lengths = {id: row for row, id in enumerate(self.ids)}, np.zeros(len(self.ids), np.int64)
        for shard in shards(self.folder):
            table = read_parquet(shard, ["id", "frames"])
            chosen = [rows[id] for id in table["id"].to_pylist()]
            lengths[chosen] = np.maximum(table["frames"].to_numpy(), block)
        return lengths

    def normalised(self) -> Iterator[tuple[Floats32, np.float32]]:
        """Of every row with frames in turn, as `_normalised` gives it."""
        for batch in (batch for shard in shards(self.folder) for batch in _batches(shard, ROWS)):
            yield from _normalised(batch, self.normaliser(), self.through)


def _frames(parts: list[StoredFrames], channels: int, block: int, hop: int, file: Path | None) -> AcousticFrames:
    """Normalised frames of all rows; a row without frames has none, and a shorter one than a block is padded to it.

    `file`: see `calm.data.arrays.filled`.
    """
    lengths = np.concatenate([part.lengths(block) for part in parts])
    utterances, present = Ragged(np.empty(0), lengths), np.flatnonzero(lengths)

    def fill(values: Floats16) -> Floats32:
        scale, every = np.zeros(len(lengths), np.float32), chain.from_iterable(part.normalised() for part in parts)
        for row, start, (frames, deviation) in zip(present, utterances.offsets[present], every, strict=True):
            values[start : start + len(frames)] = frames
            scale[row] = deviation
        return scale

    utterances.values, scale = filled((int(lengths.sum()), channels), fill, file)
    return AcousticFrames(utterances, scale, block, hop)


def shards(folder: Path) -> list[Path]:
    """The Parquet files that `features` wrote, in order. Raises Damaged if one of them, or their statistics, are not what was written."""
    check_sums(Path(folder))
    return sorted(Path(folder).glob("part-*.parquet"))


def load_frames(
    shard: Path, number: int, rows: int, normaliser: Normaliser, block: int = 50, hop: int = 30, through: Through | None = None
) -> tuple[list[str], AcousticFrames]:
    """Ids and frames of one piece of a shard, counted from 0 in pieces of `rows` rows. Only the piece is held in memory.

    `normaliser`: see `read_normaliser`; `through`: see `load_examples`.
    """
    batch = next(islice(_batches(shard, rows), number, None))
    return _piece(batch, normaliser, block, hop, through)


def each_frames(
    folder: Path, rows: int, normaliser: Normaliser, block: int = 50, hop: int = 30, through: Through | None = None
) -> Iterator[tuple[list[str], AcousticFrames]]:
    """Ids and frames of all shards, `rows` rows at a time. Only these are held in memory. Arguments as for `load_frames`."""
    for shard in shards(folder):
        for batch in _batches(shard, rows):
            yield _piece(batch, normaliser, block, hop, through)


def _batches(shard: Path, rows: int) -> Iterator[pa.RecordBatch]:
    return parquet_batches(shard, rows, ["id", "features"])


def _piece(
    batch: pa.RecordBatch, normaliser: Normaliser, block: int, hop: int, through: Through | None
) -> tuple[list[str], AcousticFrames]:
    rows = list(_normalised(batch, normaliser, through))
    utterances = Ragged(np.empty(0), np.array([max(len(frames), block) for frames, _ in rows], np.int64))
    utterances.values = np.zeros((int(utterances.lengths.sum()), len(normaliser.corpus[0])), np.float16)
    for first, (frames, _) in zip(utterances.offsets, rows, strict=True):
        utterances.values[first : first + len(frames)] = frames
    scale = np.array([deviation for _, deviation in rows], np.float32)
    return batch.column("id").to_pylist(), AcousticFrames(utterances, scale, block, hop)


def statistics(folder: Path, fold: int = 0) -> Statistics:
    """Mean and deviation of every channel over the training split, or over all folds but one, (channels,) each."""
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    if fold:
        mean, deviation = outside({name: Sums.of(sums) for name, sums in stats["folds"].items()}, fold)
    else:
        mean, deviation = np.array(stats["mean"], np.float64), np.array(stats["std"], np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError(f"{folder / 'stats.json'} has a mean or a deviation that is not a number: run the stage features again")
    return mean.astype(np.float32), deviation.astype(np.float32)


def _rows(batch: pa.RecordBatch, channels: int, through: Through | None) -> Iterator[tuple[str, Floats32]]:
    """Id and frames of every row, (frames, channels) float32, not normalised."""
    features = batch.column("features")
    flat, ends = features.flatten().to_numpy(zero_copy_only=False), features.offsets.to_numpy() - features.offsets[0].as_py()
    for id, (first, last) in zip(batch.column("id").to_pylist(), pairwise(ends), strict=True):
        frames = flat[first:last].reshape(-1, channels).astype(np.float32)
        yield id, through(frames) if through else frames


def _normalised(batch: pa.RecordBatch, normaliser: Normaliser, through: Through | None) -> Iterator[tuple[Floats32, np.float32]]:
    """Every row's normalised frames, (frames, channels) float32, and the mean of the deviations that it was divided by."""
    for id, frames in _rows(batch, len(normaliser.corpus[0]), through):
        mean, deviation = normaliser.of(id, frames)
        yield (frames - mean) / deviation, deviation.mean()
