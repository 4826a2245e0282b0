"""From Parquet to batches: utterances with their log-mel, pairs of blocks for CALP, masked and supervised batches."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from calm import objectives
from calm.augmentation import Augmentation
from calm.corpora.utterances import SOFT, read_table
from calm.ragged import LogMels, Ragged, fit

if TYPE_CHECKING:
    import pandas as pd  # else where it is needed: a model in use does not

IN_MEMORY = 4 << 30  # bytes; a larger array is memory-mapped from a temporary file


@dataclass
class Examples:
    """Utterances of one or several corpora with their log-mel: row i of `table` is row i of `logmels`."""

    table: "pd.DataFrame"  # corpus, id, split, speaker, text, labels, and soft labels where a corpus has them
    logmels: LogMels
    classes: tuple[str, ...] = ()
    one_hot: bool = False

    def rows(self, split: str, labelled: bool = False) -> np.ndarray:
        """Row numbers of a split."""
        keep = self.table["split"] == split
        return np.flatnonzero(keep & self.table["labels"].notna() if labelled else keep)

    def targets(self) -> np.ndarray:
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


def load_examples(corpora: dict[str, tuple[Path, Path, Path]], block: int = 50, hop: int = 30, normalise: str = "corpus") -> Examples:
    """Read utterances, texts and log-mel of the named corpora.

    Args:
        corpora: name -> (table of utterances, folder of texts, folder of log-mel shards).
        normalise: "corpus", by the training split's statistics; "utterance", by the utterance's own.
    """
    import pandas as pd

    tables, classes, one_hot = [], (), False
    for name, (utterances, texts, features) in corpora.items():
        table = read_table(utterances)
        classes, one_hot = table.attrs["classes"], table.attrs["one_hot"]
        spoken = pd.read_parquet(Path(texts) / "texts.parquet", columns=["id", "text"])
        counted = pd.concat([pd.read_parquet(shard, columns=["id", "frames"]) for shard in shards(features)])
        table = table.drop(columns="text").merge(spoken, on="id", how="left", validate="one_to_one").assign(corpus=name)
        tables.append(counted.merge(table, on="id", how="left", validate="one_to_one"))
    table = pd.concat(tables, ignore_index=True)
    table["text"] = table["text"].fillna("")
    lengths = np.maximum(table.pop("frames").to_numpy(np.int64), block)  # a shorter utterance is padded to one block
    frames, scale = Ragged(np.empty(0), lengths), np.empty(len(table), dtype=np.float32)
    row = 0
    for _, _, features in corpora.values():
        for logmel, deviation in _all_normalised(Path(features), normalise):
            if not row:
                frames.values = _empty((int(lengths.sum()), logmel.shape[1]))
            frames.values[frames.offsets[row] : frames.offsets[row] + len(logmel)] = logmel
            scale[row] = deviation
            row += 1
    columns = ["corpus", "id", "split", "speaker", "text", "labels", *(name for name in table.columns if name.startswith(SOFT))]
    return Examples(table[columns], LogMels(frames, scale, block, hop), classes, one_hot)


def shards(folder: Path) -> list[Path]:
    """The files of log-mel that `features` wrote, in order."""
    return sorted(Path(folder).glob("part-*.parquet"))


def load_logmels(shard: Path, number: int, rows: int, block: int = 50, hop: int = 30, normalise: str = "corpus") -> tuple[list, LogMels]:
    """Ids and log-mel of a piece of one shard: the `number`-th so many rows of it. No more than the piece is held."""
    batch = next(islice(_batches(shard, rows), number, None))
    return _piece(batch, _statistics(shard.parent), block, hop, normalise)


def each_logmels(folder: Path, rows: int, block: int = 50, hop: int = 30, normalise: str = "corpus") -> Iterator[tuple[list, LogMels]]:
    """Ids and log-mel of all shards, so many rows at once. No more than these are held."""
    stats = _statistics(Path(folder))
    for shard in shards(folder):
        for batch in _batches(shard, rows):
            yield _piece(batch, stats, block, hop, normalise)


def _batches(shard: Path, rows: int) -> Iterator[pa.RecordBatch]:
    return pq.ParquetFile(shard).iter_batches(batch_size=rows, columns=["id", "logmel"])


def _piece(batch: pa.RecordBatch, stats: tuple[np.ndarray, np.ndarray], block: int, hop: int, normalise: str) -> tuple[list, LogMels]:
    made = list(_normalised(batch.column("logmel"), stats, normalise))
    frames = Ragged(np.empty(0), np.array([max(len(logmel), block) for logmel, _ in made], np.int64))
    frames.values = np.zeros((int(frames.lengths.sum()), len(stats[0])), np.float16)
    for first, (logmel, _) in zip(frames.offsets, made, strict=True):
        frames.values[first : first + len(logmel)] = logmel
    scale = np.array([deviation for _, deviation in made], np.float32)
    return batch.column("id").to_pylist(), LogMels(frames, scale, block, hop)


def _statistics(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every band over the training split, (mels,) each."""
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    return np.array(stats["mean"], dtype=np.float32), np.array(stats["std"], dtype=np.float32)


def _all_normalised(folder: Path, normalise: str) -> Iterator[tuple[np.ndarray, np.floating]]:
    """`_normalised` of every utterance, shard by shard."""
    stats = _statistics(folder)
    for shard in shards(folder):
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=64, columns=["logmel"]):
            yield from _normalised(batch.column("logmel"), stats, normalise)


def _normalised(logmel: pa.ListArray, stats: tuple[np.ndarray, np.ndarray], normalise: str) -> Iterator[tuple[np.ndarray, np.floating]]:
    """Every row's normalised log-mel, (frames, mels) float32, and the mean deviation it was divided by."""
    flat, ends = logmel.flatten().to_numpy(zero_copy_only=False), logmel.offsets.to_numpy() - logmel.offsets[0].as_py()
    for first, last in pairwise(ends):
        frames = flat[first:last].reshape(-1, len(stats[0])).astype(np.float32)
        mean, std = stats if normalise == "corpus" else (frames.mean(0), frames.std(0) + 1e-3)
        yield (frames - mean) / std, std.mean()


def _empty(shape: tuple[int, int]) -> np.ndarray:
    """Zeros in float16, in memory or, where that would be too much, in a temporary file."""
    if 2 * shape[0] * shape[1] <= IN_MEMORY:
        return np.zeros(shape, dtype=np.float16)
    return np.memmap(tempfile.NamedTemporaryFile(prefix="calm-logmel-"), dtype=np.float16, mode="w+", shape=shape)  # noqa: SIM115


def tokenise(tokenizer, texts: Sequence[str]) -> Ragged:
    """Token ids of every text with [CLS] and [SEP]; an empty text is [CLS] [SEP]."""
    return Ragged.of([np.array(ids, dtype=np.int64) for ids in tokenizer(list(texts), truncation=True, max_length=512)["input_ids"]])


def tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Arrays as torch has them, in the same memory."""
    return tuple(torch.from_numpy(array) for array in arrays)


@dataclass
class PairCollator:
    """Batches of CALP (4.3): one A_ij, A_i(j+1), T_i an utterance.

    Args:
        text_vectors: (rows, width) T_i of every row, or None where the language model is trained along (`tokens` given).
        special: ids of the tokenizer's special tokens.
    """

    logmels: LogMels
    texts: Sequence[str]
    text_vectors: torch.Tensor | None = None
    tokens: Ragged | None = None
    special: tuple[int, ...] = ()
    augment: Augmentation | None = None

    def __post_init__(self):
        import pandas as pd

        self.text_index = torch.from_numpy(pd.factorize(np.asarray(self.texts, dtype=object))[0])
        self.has_text = torch.tensor([bool(text) for text in self.texts])

    def __call__(self, rows: Sequence[int], generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """A batch; `generator` draws j and the augmentation, None takes the middle pair as it is."""
        rows = np.asarray(rows)
        anchor, neighbour = self.pairs(rows, generator)
        batch = {"anchor": anchor, "neighbour": neighbour, "text_index": self.text_index[rows], "has_text": self.has_text[rows]}
        if self.text_vectors is not None:
            return batch | {"text_vectors": self.text_vectors[rows]}
        ids, mask = tensors(*self.tokens.pad(rows))
        return batch | {"input_ids": ids, "attention_mask": mask.long(), "words": mask & ~torch.isin(ids, torch.tensor(self.special))}

    def pairs(self, rows: np.ndarray, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Two neighbouring blocks of each row, (rows, block, mels) each."""
        augment = self.augment if generator is not None and self.augment else None
        logmels = self.logmels.augmented(rows, augment, generator) if augment else self.logmels
        rows = np.arange(len(rows)) if augment else rows
        blocks = logmels.blocks[rows]
        draw = np.full(len(rows), 0.5) if generator is None else torch.rand(len(rows), generator=generator).numpy()
        start = np.floor(draw * np.maximum(blocks - 1, 1)).astype(np.int64) * logmels.hop
        # With one block only, the neighbour is the last window of the utterance: the same sounds, shifted in time.
        following = np.where(blocks > 1, start + logmels.hop, logmels.frames.lengths[rows] - logmels.block)
        anchor, neighbour = (torch.from_numpy(logmels.cut(rows, at)) for at in (start, following))
        same = torch.from_numpy(following == start)
        if same.any():  # exactly one block long: shifted around its end
            neighbour[same] = neighbour[same].roll(logmels.block // 3, 1)
        if augment:
            anchor, neighbour = augment.blocks(anchor, generator), augment.blocks(neighbour, generator)
        return anchor, neighbour


@dataclass
class SequenceCollator:
    """Batches of text and audio for the multimodal transformer (4.4).

    Args:
        tokens: token ids of every row.
        encoded: encoded blocks of every row (blocks, encoded width); None: the log-mel blocks themselves, to train SpecTran along.
        modality: "audio" replaces the text by [CLS] [SEP]; "text" leaves the audio out; or "both".
        targets: (rows, classes); None: no labels in the batch.
    """

    logmels: LogMels
    tokens: Ragged
    encoded: Ragged | None = None
    modality: str = "both"
    targets: np.ndarray | None = None
    most: int = 512
    augment: Augmentation | None = None

    def lengths(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and blocks that are used of each row."""
        tokens = np.full(len(rows), 2) if self.modality == "audio" else self.tokens.lengths[rows]
        blocks = np.zeros(len(rows), dtype=np.int64) if self.modality == "text" else self.logmels.blocks[rows]
        return fit(tokens, blocks, self.most)

    def __call__(self, rows: Sequence[int], generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """A batch; `generator` draws the augmentation of log-mel blocks, None leaves them as they are."""
        rows = np.asarray(rows)
        tokens, blocks = self.lengths(rows)
        ids, mask = tensors(*self.tokens.pad(rows, tokens))
        self._end(ids, tokens, rows)
        batch = {"input_ids": ids, "attention_mask": mask.long()}
        if self.modality != "text":
            if self.encoded is not None:
                values, mask = tensors(*self.encoded.pad(rows, blocks))
                batch |= {"encoded_blocks": values.float(), "acoustic_mask": mask}
            else:
                values, mask = self._blocks(rows, blocks, generator)
                batch |= {"input_features": values, "acoustic_mask": mask}
        if self.targets is not None:
            batch["labels"] = torch.from_numpy(self.targets[rows])
        return batch

    def _blocks(self, rows: np.ndarray, limit: np.ndarray, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        if generator is None or not self.augment:
            return tensors(*self.logmels.all_blocks(rows, limit))
        blocks, mask = tensors(*self.logmels.augmented(rows, self.augment, generator).all_blocks(np.arange(len(rows))))
        return self.augment.blocks(blocks[:, : self.most // 2], generator), mask[:, : self.most // 2]

    def _end(self, ids: torch.Tensor, kept: np.ndarray, rows: np.ndarray) -> None:
        """Put [SEP] back at the end of texts that were cut."""
        last = self.tokens.values[self.tokens.offsets[rows] + self.tokens.lengths[rows] - 1]
        ids[np.arange(len(rows)), kept - 1] = torch.from_numpy(last)


@dataclass
class MaskingCollator:
    """Batches of masked prediction (4.5) over those of a SequenceCollator.

    Args:
        mask_id, special, vocabulary: the tokenizer's [MASK], its special tokens and its size.
        style: "mask", always [MASK]; "80/10/10", as in BERT.
    """

    sequences: SequenceCollator
    mask_id: int
    special: tuple[int, ...]
    vocabulary: int
    words: float = 0.15
    audio: float = 0.10
    span: int = 3
    audio_share_of: str = "starts"
    style: str = "mask"

    def __call__(self, rows: Sequence[int], generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """A batch; `generator` draws the masks, None takes the same ones at every call."""
        batch = self.sequences(rows, generator)
        generator = generator or torch.Generator().manual_seed(int(rows[0]))
        ids, present = batch["input_ids"], batch["acoustic_mask"]
        word_mask = objectives.choose(batch["attention_mask"].bool() & ~torch.isin(ids, torch.tensor(self.special)), self.words, generator)
        audio_mask = objectives.choose_spans(present, self.audio, self.span, self.audio_share_of, generator)
        if self.sequences.encoded is not None:
            row, block = (index.numpy() for index in audio_mask.nonzero(as_tuple=True))
            audio_labels = torch.from_numpy(self.sequences.logmels.cut(np.asarray(rows)[row], block * self.sequences.logmels.hop))
        else:
            audio_labels = batch["input_features"][audio_mask]
        masked = {"word_mask": word_mask, "word_labels": ids[word_mask], "audio_mask": audio_mask, "audio_labels": audio_labels}
        return batch | masked | {"input_ids": self.replace(ids, word_mask, generator)}

    def replace(self, ids: torch.Tensor, masked: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Token ids with the masked ones replaced by `style`."""
        if self.style == "mask":
            return ids.masked_fill(masked, self.mask_id)
        draw = torch.rand(ids.shape, generator=generator)
        randoms = torch.randint(self.vocabulary, ids.shape, generator=generator)
        return torch.where(masked & (draw < 0.8), self.mask_id, torch.where(masked & (draw >= 0.9), randoms, ids))
