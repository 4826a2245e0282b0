"""Training of the three objectives by Transformers' Trainer: resume, mixed precision and devices come with it."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from calm.models import distributed
from calm.training.forward import Collator, losses

COMPLETE = "complete"  # in a checkpoint that was written to its end


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. `warmup` is a share of the steps; `body_rate` the share of the learning rate that
    pretrained parts get; `average` the share of the last epochs whose weights are averaged."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: str = "cosine"
    checkpoint_minutes: float = 10
    body_rate: float = 1.0
    average: float = 0.0
    clip: float = 1.0  # norm of all gradients together; 0: not clipped


class Interrupted(SystemExit):
    """Training was asked to stop (SIGTERM) and has written a checkpoint: the same command goes on from it."""


class Rows(torch.utils.data.Dataset):
    """Row numbers, with the epoch that they are drawn for: item `epoch * len + index` is (row, epoch)."""

    def __init__(self, rows: Sequence[int]):
        self.rows = np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[int, int]:
        epoch, index = divmod(item, len(self))
        return int(self.rows[index]), epoch


class EpochSampler(torch.utils.data.Sampler):
    """Shuffles by seed and epoch alone, so that a resumed run draws what an undisturbed one draws.

    Args:
        lengths: of every row; where given, batches hold utterances of like length.
    """

    def __init__(self, size: int, batch: int, seed: int, lengths: Sequence[int] | None = None):
        self.size, self.batch, self.seed, self.lengths, self.epoch = size, batch, seed, lengths, 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        if self.lengths is None:
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = get_length_grouped_indices(list(self.lengths), self.batch, generator=generator)
        return iter(self.epoch * self.size + index for index in order)


def mix(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Shares(torch.utils.data.Sampler):
    """Batches of a sampler's rows, of each the share of one of the processes that train together.

    Shares of a batch differ by one row at most. A last batch of fewer rows than processes is left out of its epoch.
    """

    def __init__(self, sampler: EpochSampler, batch: int, processes: int = 1, rank: int = 0):
        self.sampler, self.batch, self.processes, self.rank = sampler, batch, processes, rank

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch)
        return whole + (rest >= self.processes)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self):
        order = list(self.sampler)
        for first in range(0, len(self) * self.batch, self.batch):
            yield order[first : first + self.batch][self.rank :: self.processes]


class Loader(torch.utils.data.DataLoader):
    """Batches of an epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class RowTrainer(Trainer):
    """Trainer over row numbers; `batch` is that of all processes together, `lengths` are those of the rows."""

    batch: int
    lengths: Sequence[int] | None = None

    def get_train_dataloader(self) -> Loader:
        """Not by accelerate, which repeats rows to fill the last batch: they would be negatives of themselves."""
        sampler = EpochSampler(len(self.train_dataset), self.batch, self.args.seed, self.lengths)
        shares = Shares(sampler, self.batch, distributed.processes(), distributed.rank())
        pin = self.args.dataloader_pin_memory
        return Loader(self.train_dataset, batch_sampler=shares, collate_fn=self.data_collator, pin_memory=pin)


class Progress(TrainerCallback):
    """A bar with the epoch and the loss."""

    def __init__(self, title: str):
        self.title, self.bar = title, None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step", mininterval=1)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is not None and "loss" in logs:
            self.bar.set_postfix_str(f"epoch {state.epoch:.0f}, loss {logs['loss']:.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()


class Checkpoints(TrainerCallback):
    """Save every so many minutes (an epoch may take seconds or hours), and on SIGTERM, which then ends the training.

    Processes that train together ask each other at every step, so that all save, and stop, at the same one.
    """

    def __init__(self, minutes: float):
        self.seconds, self.last, self.asked, self.stopped, self.previous = 60 * minutes, time.monotonic(), False, False, None

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number, frame):
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs):
        if not self._epoch_ends(args, state):
            self._save(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        # The last step of an epoch is saved here, so that what is logged at its end is in the checkpoint. An epoch that was
        # stopped half-way ends here too, and is saved already.
        if self._epoch_ends(args, state):
            self._save(control)

    def _epoch_ends(self, args, state) -> bool:
        return state.global_step % (state.max_steps // args.num_train_epochs) == 0

    def _save(self, control) -> None:
        due, self.stopped = distributed.anywhere(time.monotonic() - self.last > self.seconds, self.asked)
        if self.stopped or due:
            self.last = time.monotonic()
            control.should_save = True
            control.should_training_stop = self.stopped or control.should_training_stop

    def on_save(self, args, state, control, **kwargs):
        distributed.wait()  # until all processes have written their parts
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def on_train_end(self, args, state, control, **kwargs):
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)
        (self.stopped,) = distributed.anywhere(self.asked)
        if self.previous is not None and self.stopped and distributed.processes() > 1:
            # torchrun sends the signal again as soon as one process has ended, and each must come to its own end.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    complete = [path.parent for path in Path(folder).glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


class EpochMetrics(TrainerCallback):
    """After every epoch, the losses on held-out rows, beside the training loss in the log."""

    def __init__(self, rows: Sequence[int], collator: Collator, batch: int):
        self.rows, self.collator, self.batch, self.validation = rows, collator, batch, {}

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.validation = {f"validation_{key}": value for key, value in losses(model, self.rows, self.collator, self.batch).items()}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            logs.update(self.validation)
            state.log_history[-1].update(self.validation)


class EpochLoss(TrainerCallback):
    """Keep the sum of the losses since the epoch began in each checkpoint: Trainer logs only those since it was started."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_save(self, args, state, control, **kwargs):
        total = distributed.mean(self.trainer._tr_loss).cpu()
        if state.is_world_process_zero:
            torch.save((total, self.trainer._globalstep_last_logged), self._file(args, state))

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step and self._file(args, state).exists():
            total, self.trainer._globalstep_last_logged = torch.load(self._file(args, state), weights_only=True)
            self.trainer._tr_loss += total.to(args.device)

    def _file(self, args, state) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "loss.pt"


class Averaging(TrainerCallback):
    """Average the weights at the ends of the last epochs, and put the average in place when training ends."""

    def __init__(self, share: float):
        self.share, self.average = share, None

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        if state.epoch > args.num_train_epochs * (1 - self.share) + 1e-6:
            if self.average is None:
                self.average = AveragedModel(model)
            self.average.update_parameters(model)

    def on_save(self, args, state, control, **kwargs):
        if self.average is not None and state.is_world_process_zero:
            torch.save(self.average.state_dict(), self._file(args, state))

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step and self._file(args, state).exists():
            self.average = AveragedModel(model)
            self.average.load_state_dict(torch.load(self._file(args, state), weights_only=True))

    def _file(self, args, state) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "average.pt"

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self.average is not None:
            model.load_state_dict(self.average.module.state_dict())


def train(
    model: nn.Module,
    rows: Sequence[int],
    collator: Collator,
    schedule: Schedule,
    folder: Path,
    seed: int,
    held_out: Sequence[int] = (),
    lengths: Sequence[int] | None = None,
    body: Sequence[nn.Module] = (),
    callbacks: Sequence[TrainerCallback] = (),
    title: str | None = None,
) -> list[dict]:
    """Train a model in place, from the last checkpoint in `folder` where there is one.

    Under torchrun its processes train one model together, each on its share of every batch: call this in all of them, with the same
    arguments. The loss that the model returns must then be, averaged over the processes, that of the whole batch, as those of CALP
    and of masked prediction are.

    Args:
        rows: row numbers of the utterances.
        collator: makes a batch of some of them, `collator(rows, generator)`; without a generator nothing in it is random.
        folder: for checkpoints; the caller removes it when the result is safe.
        held_out: rows whose losses are logged after every epoch.
        lengths: of every one of `rows`, to batch like with like.
        body: pretrained parts, trained at `schedule.body_rate` of the learning rate.
        title: of the progress bar; None: no bar.

    Returns:
        One entry an epoch: epoch, loss, and validation_<loss> of each loss that the model returns.

    Raises:
        Interrupted: SIGTERM came; a checkpoint was written.
        ValueError: there are fewer rows than processes, or the batch cannot be shared.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=schedule.batch,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.clip,
        warmup_steps=schedule.warmup,
        lr_scheduler_type=schedule.schedule,
        logging_strategy="epoch",
        save_strategy="no",
        save_total_limit=2,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        use_cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),  # else accelerate would take torchrun's processes for one
        dataloader_pin_memory=torch.cuda.is_available(),
        **precision(),
    )
    _share(arguments, schedule.batch, len(rows))
    checkpoints = Checkpoints(schedule.checkpoint_minutes)
    extra = [Averaging(schedule.average)] if schedule.average else []
    extra += [Progress(title)] if title else []
    trainer = RowTrainer(
        model,
        arguments,
        data_collator=lambda items: collator([row for row, _ in items], torch.Generator().manual_seed(mix(seed, *items[0]))),
        train_dataset=Rows(rows),
        callbacks=[EpochMetrics(held_out, collator, schedule.batch), *extra, checkpoints, *callbacks],
        optimizers=(optimizer(model, schedule, body), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.callback_handler.callbacks.insert(0, EpochLoss(trainer))  # before Checkpoints, which marks a checkpoint as complete
    trainer.batch, trainer.lengths = schedule.batch, lengths
    if distributed.rank():
        torch.manual_seed(mix(seed, distributed.rank()))  # so that processes drop out different parts of the network
    trainer.train(resume_from_checkpoint=distributed.of_first(last_checkpoint(folder)))
    if checkpoints.stopped:
        raise Interrupted(143)
    model.eval()
    return [
        {"epoch": round(entry["epoch"]), **{k: v for k, v in entry.items() if k == "loss" or k.startswith("validation_")}}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def _share(arguments: TrainingArguments, batch: int, rows: int) -> None:
    """Let each process take its part of the batch, on one device. Raises ValueError where the batch or the rows do not suffice."""
    arguments._n_gpu = min(arguments.n_gpu, 1)  # further GPUs are for further processes: DataParallel would multiply the batch
    processes = distributed.processes()
    if batch % processes:
        raise ValueError(f"a batch of {batch} utterances cannot be shared by {processes} processes: make it a multiple of them")
    if rows < processes:
        raise ValueError(f"{rows} utterances to train on are too few for {processes} processes: use fewer")
    arguments.per_device_train_batch_size = batch // processes


def precision() -> dict[str, bool]:
    """Mixed precision by hardware: bfloat16 where the GPU has it, else float16; none on CPU, where it is slower."""
    if not torch.cuda.is_available():
        return {}
    return {"bf16": True} if torch.cuda.is_bf16_supported() else {"fp16": True}


def optimizer(model: nn.Module, schedule: Schedule, body: Sequence[nn.Module] = ()) -> torch.optim.AdamW:
    """AdamW; biases and norms do not decay, and the body has its own learning rate."""
    slow = {id(parameter) for part in body for parameter in part.parameters()}
    groups: dict[tuple[bool, bool], list] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in slow, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": schedule.learning_rate * (schedule.body_rate if in_body else 1),
                "weight_decay": schedule.weight_decay if decays else 0.0,
            }
            for (in_body, decays), parameters in groups.items()
        ],
        fused=True,
    )
