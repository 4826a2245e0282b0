"""Stage `embed`: the blocks of the corpora that a model is pretrained on, encoded once; none if SpecTran is trained further later."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from calm import devices
from calm.data.examples import load_frames, shards, stored_normaliser
from calm.data.normalisation import Normaliser
from calm.data.ragged import Ragged
from calm.storage import parquet_writer
from pipeline import paths
from pipeline.execution.pool import pool
from pipeline.execution.workers import Worker, cores
from pipeline.settings import Settings, SpecTranSettings
from pipeline.stage import whole
from pipeline.state import visible

ROWS = 64  # utterances of an item: SpecTran's batches never go beyond them, so results do not depend on where they are computed


def run(settings: Settings, model: str) -> str:
    """Write `<corpus>.parquet` for every corpus that the model is pretrained on."""
    seen = visible(settings, "embed", model)
    with whole(paths.encoded(model)) as folder:
        if seen.pretrain.train_spectran:
            (folder / "README.txt").write_text("SpecTran is trained further (pretrain.train_spectran), so no encoded blocks are kept.\n")
            return f"{model}: SpecTran is trained further, no encoded blocks are kept"
        features = {corpus: paths.frames(corpus, seen.spectran.frames) for corpus in seen.pretraining}
        blocks = write(features, paths.calp(model), seen.spectran, folder, seen.compute.dask)
    return f"{model}: {blocks} encoded blocks"


def write(features: dict[str, Path], model: Path, section: SpecTranSettings, folder: Path, dask: str | None = None) -> int:
    """Write `<corpus>.parquet` for every folder of log-mel, a row group a shard; returns the number of blocks.

    The same bytes come from processes here and from the workers of a Dask cluster (`dask`: address of its scheduler), on processors of
    one kind.
    """
    items = {corpus: [_items(shard) for shard in shards(source)] for corpus, source in features.items()}
    flat = [item for of_corpus in items.values() for of_shard in of_corpus for item in of_shard]
    processes, blocks = min(devices.count() or cores(), max(1, len(flat))), 0
    bar = tqdm(total=len(flat), desc="SpecTran", unit="piece", delay=2)
    normalisers = {source: stored_normaliser(source, paths.utterances(corpus), section.normalise) for corpus, source in features.items()}
    with bar, pool(BlockWorker(model, section, normalisers), processes, dask=dask) as results_of:
        results = results_of(flat)
        for corpus, of_corpus in items.items():
            tables = (_table(_counted(results, len(pieces), bar)) for pieces in of_corpus if pieces)
            first = next(tables)
            with parquet_writer(folder / f"{corpus}.parquet", first.schema) as writer:
                for table in chain([first], tables):
                    writer.write_table(table)
                    blocks += pc.sum(table["blocks"]).as_py()
    return blocks


def _items(shard: Path) -> list[tuple[Path, int, int]]:
    """A shard in pieces of ROWS rows: its path, the piece's number, ROWS."""
    return [(shard, number, ROWS) for number in range(-(-pq.read_metadata(shard).num_rows // ROWS))]


def _counted(results: Iterator, number: int, bar: tqdm) -> list:
    """The next so many results."""
    taken = list(islice(results, number))
    bar.update(number)
    return taken


def _table(pieces: list[tuple[list[str], np.ndarray, np.ndarray]]) -> pa.Table:
    ids, lengths, encoded = zip(*pieces, strict=True)
    return Ragged(np.concatenate(encoded), np.concatenate(lengths)).to_table([id for some in ids for id in some])


@dataclass
class BlockWorker(Worker):
    """Encoded blocks of a piece of a shard."""

    model: Path  # folder of CALP's result
    section: SpecTranSettings
    normalisers: dict[Path, Normaliser]  # folder of shards -> what its frames are normalised by
    imports = ("calm.audio.encoder_states", "calm.models.encoder_blocks", "calm.models.modeling", "calm.training.forward")

    def set_up(self, number: int) -> None:
        import torch

        from calm.audio.encoder_states import load_encoder
        from calm.models.encoder_blocks import through
        from calm.models.modeling import CalmForContrastivePretraining

        torch.set_num_threads(1)
        gpus = devices.count()
        device = torch.device("cuda", number % gpus) if gpus else torch.device("cpu")
        self.spectran = CalmForContrastivePretraining.from_pretrained(self.model).spectran.to(device)
        self.through = through(load_encoder(self.model), device)

    def __call__(self, item: tuple[Path, int, int]) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Ids, numbers of blocks, and the encoded blocks of all (blocks, encoded width)."""
        from calm.training.forward import encode_blocks

        ids, frames = load_frames(*item, self.normalisers[item[0].parent], self.section.block, self.section.hop, self.through)
        encoded = encode_blocks(self.spectran, frames)
        return ids, encoded.lengths, encoded.values
