"""Blocks of the corpora that a model is pretrained on, encoded once; none where SpecTran is trained along later."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from calm.data.examples import load_logmels, shards
from calm.data.ragged import Ragged
from calm.models.modeling import CalmForContrastivePretraining
from calm.training.forward import encode_blocks
from pipeline import paths, stage
from pipeline.execution import workers
from pipeline.settings import Settings, SpecTranSettings

ROWS = 64  # utterances a task: SpecTran's batches never go beyond them, so that what comes out does not depend on where they are computed


def run(settings: Settings, name: str) -> str:
    """Write `<corpus>.parquet` for every corpus that the model `name` is pretrained on."""
    settings = settings.for_model(name)
    with stage.whole(paths.encoded(name)) as folder:
        if settings.pretrain.train_spectran:
            (folder / "README.txt").write_text("SpecTran is trained along (pretrain.train_spectran), so no encoded blocks are kept.\n")
            return f"{name}: SpecTran is trained along, no encoded blocks are kept"
        features = {corpus: paths.features(corpus) for corpus in settings.pretraining_corpora(name)}
        blocks = write(features, paths.calp(name), settings.spectran, folder, settings.compute.dask)
    return f"{name}: {blocks} encoded blocks"


def write(features: dict[str, Path], model: Path, section: SpecTranSettings, folder: Path, dask: str | None = None) -> int:
    """Write `<corpus>.parquet` for every folder of log-mel, a row group a shard; returns the number of blocks.

    The same bytes come out of processes here and of the workers of a Dask cluster (`dask`: address of its scheduler), on processors of
    one kind.
    """
    tasks = {corpus: [_tasks(shard) for shard in shards(source)] for corpus, source in features.items()}
    flat = [task for of_corpus in tasks.values() for of_shard in of_corpus for task in of_shard]
    count, blocks = min(torch.cuda.device_count() or workers.cores(), max(1, len(flat))), 0
    bar = tqdm(total=len(flat), desc="SpecTran", unit="task", delay=2)
    with bar, workers.processes(count, _prepare, model, section, dask=dask) as pool:
        results = workers.in_order(pool, _embed, flat, ahead=4 * count)
        for corpus, of_corpus in tasks.items():
            tables = (_table(_counted(results, len(pieces), bar)) for pieces in of_corpus if pieces)
            first = next(tables)
            with pq.ParquetWriter(folder / f"{corpus}.parquet", first.schema) as writer:
                for table in chain([first], tables):
                    writer.write_table(table)
                    blocks += pc.sum(table["blocks"]).as_py()
    return blocks


def _tasks(shard: Path) -> list[tuple[Path, int, int]]:
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


# In the workers


def _prepare(model: Path, section: SpecTranSettings) -> None:
    global _folder, _section, _spectran
    torch.set_num_threads(1)
    _folder, _section, _spectran = model, section, None


def _embed(task: tuple[Path, int, int]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, numbers of blocks and these encoded (blocks of all, encoded width) of one piece of a shard."""
    global _spectran
    _spectran = _spectran or _load()  # here and not before, so that what fails is told
    ids, logmels = load_logmels(*task, _section.block, _section.hop, _section.normalise)
    made = encode_blocks(_spectran, logmels)
    return ids, made.lengths, made.values


def _load() -> torch.nn.Module:
    gpus = torch.cuda.device_count()
    device = torch.device("cuda", workers.turn() % gpus) if gpus else torch.device("cpu")
    return CalmForContrastivePretraining.from_pretrained(_folder).spectran.to(device)


if __name__ == "__main__":
    stage.start(run, model=lambda settings: settings.models)
