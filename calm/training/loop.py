"""The training loop of all objectives: steps and epochs, stops and resumption, and a check that every number is finite."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from calm.data.windows import Batch, Plan, ahead, pinned, ready
from calm.models import distributed
from calm.training import checkpoints
from calm.training.finite import NotFiniteError, Watch
from calm.training.forward import Collator, losses, planned
from calm.training.sampling import DistributedBatchSampler, EpochSampler, RowDataset, mix
from calm.training.schedule import Schedule, matrix_products, optimizer, precision, rates

STOPPED = 143  # exit code after SIGTERM
# Steps from one look at the losses, and at requests to stop, to the next: a look waits until the GPU has done all its work.
STEPS_BETWEEN_LOOKS = {"cpu": 1}
OF_OTHERS = 8
Numbers = dict[str, float]  # of an epoch


class Interrupted(SystemExit):
    """Training was stopped by SIGTERM and has written a checkpoint. The same command continues from it."""


def train(
    model: nn.Module, rows: Sequence[int], collator: Collator, schedule: Schedule, folder: Path, seed: int, **options: Any
) -> list[Numbers]:
    """Train a model in place, from the last checkpoint in `folder` if there is one.

    Under torchrun, the processes train one model together, each on its share of every batch: call this in all of them, with the same
    arguments. The mean over the processes of the loss that the model returns must then be the loss of the whole batch, as it is for
    CALP and for masked prediction.

    Args:
        options: and the other arguments: see `Training`.

    Returns:
        One entry per epoch: epoch, loss, and validation_<loss> for each loss that the model returns.

    Raises:
        Interrupted: SIGTERM arrived; a checkpoint was written.
        NotFiniteError: a loss or a gradient was not finite; the error and `not-finite.json` in the folder name the batch.
        ValueError: there are fewer rows than processes, or the batch cannot be divided among the processes.
    """
    training = Training(model, rows, collator, schedule, folder, seed, **options)
    with training.signals(), matrix_products(training.precision, training.device):
        training.run()
    return training.curve


@dataclass
class Training:
    """A training and its state.

    Args:
        rows: row numbers of the utterances.
        collator: makes a batch from row numbers, `collator(rows, generator)`; without a generator, nothing in it is random.
        folder: for checkpoints; the caller removes it once the result is saved.
        held_out: rows whose losses are logged after every epoch.
        lengths: length of every one of `rows`, to batch utterances of similar length.
        groups: number of the group of every one of `rows`, to batch many rows of few groups.
        shares: parts of the model, and the share of the learning rate that each is trained at; 1 for the rest.
        ids: by row number, to name the utterances of a batch whose loss is not finite.
        log: gets the numbers of every epoch, and the step, in the first process.
        on_step: called before every step.
        title: of the progress bar; None: no bar.
        dtype: of mixed precision, torch.float32 for none; None: by hardware (`calm.training.schedule.precision`).
    """

    model: nn.Module
    rows: Sequence[int]
    collator: Collator
    schedule: Schedule
    folder: Path
    seed: int
    held_out: Sequence[int] = ()
    lengths: Sequence[int] | None = None
    groups: Sequence[int] | None = None
    shares: Sequence[tuple[nn.Module, float]] = ()
    ids: Sequence[str] | None = None
    log: Callable[[Numbers, int], None] | None = None
    on_step: Callable[["Training"], None] | None = None
    title: str | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        self.folder, batch = Path(self.folder), self.schedule.batch
        self._start_processes()
        self.precision = self.dtype or precision(self.device)
        sampler = EpochSampler(len(self.rows), batch, self.seed, self.lengths, self.groups)
        self.batches = DistributedBatchSampler(sampler, batch, distributed.processes(), distributed.rank())
        self.steps, self.step = len(self.batches) * self.schedule.epochs, 0
        self.curve: list[Numbers] = []
        self.optimizer = optimizer(self.model, self.schedule, self.shares)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if hasattr(self.collator, "to"):
            self.collator.to(self.device)
        self.rates = rates(self.optimizer, self.schedule, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.average: AveragedModel | None = None
        self.total = torch.zeros((), device=self.device)  # of the losses since the epoch began
        self.watch = Watch(self.folder, len(self.batches), self.scaler, self.ids)
        self.every, self.last_save = STEPS_BETWEEN_LOOKS.get(self.device.type, OF_OTHERS), time.monotonic()
        self.stop_requested = False
        self.random: checkpoints.State | None = None  # of the generators in the checkpoint, until they have it

    def _start_processes(self) -> None:
        """Find the other processes and the device, and seed the generators, so that dropout differs between the processes."""
        alone_without = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()  # else Accelerate would see one process
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # in one process or in all
        accelerator = Accelerator(cpu=alone_without, mixed_precision="no", kwargs_handlers=[unused])
        batch, rows, processes = self.schedule.batch, len(self.rows), distributed.processes()
        if batch % processes:
            raise ValueError(f"a batch of {batch} utterances cannot be divided among {processes} processes: use a multiple of {processes}")
        if rows < processes:
            raise ValueError(f"{rows} training utterances are too few for {processes} processes: use fewer processes")
        self.device, self.parallel = accelerator.device, accelerator.prepare(self.model)
        set_seed(self.seed)
        if distributed.rank():
            torch.manual_seed(mix(self.seed, distributed.rank()))

    def run(self) -> None:
        """Train from the last checkpoint to the end; the model then has its averaged weights, if the schedule averages."""
        checkpoint = distributed.of_first(None if distributed.rank() else checkpoints.last_checkpoint(self.folder))
        if checkpoint is not None:
            self._load_state(checkpoints.read(checkpoint))
        hidden = self.title is None or distributed.rank() > 0
        with tqdm(total=self.steps, initial=self.step, desc=self.title, unit="step", mininterval=1, disable=hidden) as self.bar:
            while self.step < self.steps:
                self._rest_of_epoch()
        self._save_if_due()  # a request to stop may have come after the last look
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        self.model.eval()

    def _rest_of_epoch(self) -> None:
        """The steps of an epoch that are not done yet, and its end."""
        self.model.train()
        for rows, batch in self._rest_of_batches():
            if self.on_step:
                self.on_step(self)
            self._step(rows, batch)
            self.bar.update()
            is_last = self.step % len(self.batches) == 0
            if is_last or self.step % self.every == 0:
                self.watch.check()
                if is_last:
                    self._end_epoch()
                self._save_if_due()

    def _rest_of_batches(self) -> Iterator[tuple[list[int], Batch]]:
        """Rows and batch of every step of an epoch that is not done yet."""
        epoch, done = divmod(self.step, len(self.batches))
        self.batches.set_epoch(epoch)
        if not done:
            self._restore_random_state()
        loader = iter(DataLoader(RowDataset(self.rows), batch_sampler=list(self.batches)[done:], collate_fn=self._collate))
        if done:  # the loader has drawn a number, as it had before the checkpoint
            self._restore_random_state()
        for rows, batch in loader if self.device.type == "cpu" else ahead(loader, self.device):
            yield rows, ready(batch, self.device)

    def _collate(self, items: list[tuple[int, int]]) -> tuple[list[int], Plan]:
        rows = [row for row, _ in items]
        batch = planned(self.collator, rows, torch.Generator().manual_seed(mix(self.seed, *items[0])))
        return rows, pinned(batch) if self.device.type == "cuda" else batch

    def _step(self, rows: list[int], batch: Batch) -> None:
        """One update of the weights; nothing here waits for the device."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            loss = self.parallel(**batch)["loss"]
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        if self.schedule.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.schedule.clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.rates.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.total += loss.detach()
        self.watch.note(self.step, rows, loss, norm)

    def _end_epoch(self) -> None:
        """Held-out losses, the average of the weights, and the log."""
        epoch, steps = self.step // len(self.batches), len(self.batches)
        held_out = losses(self.model, self.held_out, self.collator, self.schedule.batch)
        if wrong := [name for name, value in held_out.items() if not math.isfinite(value)]:
            raise NotFiniteError(f"after epoch {epoch}, {', '.join(wrong)} is not finite: look at the features of the held-out utterances")
        if epoch > self.schedule.epochs * (1 - self.schedule.average) + 1e-6:
            self.average = self.average or AveragedModel(self.model)
            self.average.update_parameters(self.model)
        loss = distributed.mean(self.total).item() / steps
        self.total.zero_()
        self.curve.append({"epoch": epoch, "loss": loss, **{f"validation_{name}": value for name, value in held_out.items()}})
        self.bar.set_postfix_str(f"epoch {epoch}, loss {loss:.3f}")
        if self.log and not distributed.rank():
            self.log({**self.curve[-1], "grad_norm": self.watch.norm, "learning_rate": float(self.rates.get_last_lr()[0])}, self.step)

    def _save_if_due(self) -> None:
        """Save every few minutes, because an epoch may take seconds or hours, and on SIGTERM, which then ends the training.

        All processes save, and stop, at the same step.
        """
        due = time.monotonic() - self.last_save > 60 * self.schedule.checkpoint_minutes
        due, stop = distributed.anywhere(due, self.stop_requested)
        if due or stop:
            state = self._state()  # of all processes
            if not distributed.rank():
                checkpoints.write(state, self.folder, self.step)
            distributed.wait()
            self.last_save = time.monotonic()
        if stop:
            raise Interrupted(STOPPED)

    def _state(self) -> checkpoints.State:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "curve": self.curve,
            "total": distributed.mean(self.total),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rates": self.rates.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "random": distributed.of_all(checkpoints.random_state(self.device)),
        }

    def _load_state(self, state: checkpoints.State) -> None:
        self.step, self.curve = state["step"], state["curve"]
        self.total += state["total"].to(self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rates.load_state_dict(state["rates"])
        self.scaler.load_state_dict(state["scaler"])
        if state["average"] is not None:
            self.average = AveragedModel(self.model)
            self.average.load_state_dict(state["average"])
        if distributed.rank() < len(state["random"]):  # else more processes go on than there were
            self.random = state["random"][distributed.rank()]

    def _restore_random_state(self) -> None:
        if self.random is not None:
            checkpoints.restore_random_state(self.random, self.device)
        self.random = None

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Note SIGTERM while the body runs. Then the former handler is back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop_requested", True))
        try:
            yield
        except Interrupted:
            # torchrun repeats the signal as soon as one process has ended, but each process must finish on its own.
            before = signal.SIG_IGN if distributed.processes() > 1 else before
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
