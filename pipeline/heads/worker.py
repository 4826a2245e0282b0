"""One process of the stage `head`: runs of training, one after another, on networks that it holds."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from calm.storage import write_json, write_parquet
from pipeline.execution.workers import Worker
from pipeline.heads.conditions import Condition
from pipeline.settings import Heads
from pipeline.state import Visible
from pipeline.tracking.tracker import TrackedRun

if TYPE_CHECKING:
    from pipeline.heads.networks import Networks


@dataclass
class HeadWorker(Worker):
    """Trains the heads of conditions with the same training. What ended before the stage was stopped is kept, and not trained again."""

    imports = ("pipeline.heads.training",)  # by its processes alone: PyTorch and Transformers take seconds to load

    settings: Visible
    heads: Heads
    folder: Path  # of the stage's checkpoints
    tracked: TrackedRun
    threads: int
    gpus: list[str]  # as CUDA_VISIBLE_DEVICES names them
    kept: tuple[Condition, int, int | None] | None  # condition, seed and fold whose network is kept

    def set_up(self, number: int) -> None:
        if self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]  # heeded, as CUDA has not been used yet
        import torch

        torch.set_num_threads(self.threads)
        self.networks, self.stopped = None, False

    def folder_of(self, fold: int | None) -> Path:
        """Where the runs of a fold, and what they share, are kept."""
        return self.folder if fold is None else self.folder / f"fold-{fold}"

    def networks_of(self, fold: int | None) -> "Networks":
        """Those of a fold; only one fold's are held."""
        from pipeline.heads.networks import Networks

        if self.networks is None or self.networks.fold != fold:
            folder = self.folder_of(fold)
            folder.mkdir(exist_ok=True)
            self.networks = Networks(self.settings, self.heads.corpus, self.heads.model, folder, fold)
        return self.networks

    def __call__(self, item: tuple[list[Condition], list[int], int | None]) -> tuple[Path, str]:
        """The run's folder, with `logits.parquet`, `curves.json` and `measured.json`, and its name."""
        from calm.training.loop import Interrupted
        from pipeline.heads.training import train_heads

        if self.stopped:  # this run waited in the queue when the stage was stopped
            raise Interrupted(143)
        conditions, seeds, fold = item
        folder = self.folder_of(fold) / f"{conditions[0].name}-{conditions[0].modality}-{seeds[0]}"
        if not (folder / "measured.json").exists():
            keep = folder / "network" if self.kept in [(own, seeds[0], fold) for own in conditions] else None
            try:
                trained = train_heads(self.networks_of(fold), conditions, seeds, folder, self.tracked, keep)
            except Interrupted:
                self.stopped = True
                raise
            write_parquet(pa.Table.from_pandas(trained.logits, preserve_index=False), folder / "logits.parquet")
            write_json(trained.curves, folder / "curves.json")
            write_json(trained.measured, folder / "measured.json")
        return folder, conditions[0].title(*seeds)
