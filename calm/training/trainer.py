"""Training of the three objectives by Transformers' Trainer, which brings resuming, mixed precision and devices."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from calm.models import distributed
from calm.training.callbacks import Checkpoints, HeldOutLosses, ProgressBar, RunningLoss, WeightAveraging, last_checkpoint
from calm.training.forward import Collator
from calm.training.sampling import DistributedBatchSampler, EpochLoader, EpochSampler, RowDataset, mix

STOPPED = 143  # exit code after SIGTERM


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    batch: int  # utterances, of all processes together
    learning_rate: float
    optimiser: str = "adamw"  # or "adam", which has no weight decay
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    schedule: str = "cosine"
    checkpoint_minutes: float = 10
    average: float = 0.0  # share of the last epochs whose weights are averaged
    clip: float = 1.0  # norm of all gradients together; 0: no clipping


class Interrupted(SystemExit):
    """Training was stopped by SIGTERM and has written a checkpoint. The same command continues from it."""


class RowTrainer(Trainer):
    """Trainer over row numbers. `batch` is the size for all processes together; `lengths` and `groups` are the rows', if they matter."""

    def __init__(self, *args, batch: int, lengths: Sequence[int] | None = None, groups: Sequence[int] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.batch, self.lengths, self.groups = batch, lengths, groups

    def get_train_dataloader(self) -> EpochLoader:
        """Loader of this process. Accelerate's would repeat rows to fill the last batch, which would be negatives of themselves."""
        sampler = EpochSampler(len(self.train_dataset), self.batch, self.args.seed, self.lengths, self.groups)
        batches = DistributedBatchSampler(sampler, self.batch, distributed.processes(), distributed.rank())
        pin = self.args.dataloader_pin_memory
        return EpochLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=pin)


def train(
    model: nn.Module,
    rows: Sequence[int],
    collator: Collator,
    schedule: Schedule,
    folder: Path,
    seed: int,
    held_out: Sequence[int] = (),
    lengths: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    shares: Sequence[tuple[nn.Module, float]] = (),
    callbacks: Sequence[TrainerCallback] = (),
    title: str | None = None,
) -> list[dict]:
    """Train a model in place, from the last checkpoint in `folder` if there is one.

    Under torchrun, the processes train one model together, each on its share of every batch: call this in all of them, with the same
    arguments. The mean over the processes of the loss that the model returns must then be the loss of the whole batch, as it is for
    CALP and for masked prediction.

    Args:
        rows: row numbers of the utterances.
        collator: makes a batch from row numbers, `collator(rows, generator)`; without a generator, nothing in it is random.
        folder: for checkpoints; the caller removes it once the result is saved.
        held_out: rows whose losses are logged after every epoch.
        lengths: length of every one of `rows`, to batch utterances of similar length.
        groups: number of the group of every one of `rows`, to batch many rows of few groups.
        shares: parts of the model, and the share of the learning rate that each is trained at; 1 for the rest.
        callbacks: more callbacks for Trainer.
        title: of the progress bar; None: no bar.

    Returns:
        One entry per epoch: epoch, loss, and validation_<loss> for each loss that the model returns.

    Raises:
        Interrupted: SIGTERM arrived; a checkpoint was written.
        ValueError: there are fewer rows than processes, or the batch cannot be divided among the processes.
    """
    arguments = _arguments(schedule, folder, seed)
    _divide_batch(arguments, schedule.batch, len(rows))
    checkpoints = Checkpoints(schedule.checkpoint_minutes)
    optional = [WeightAveraging(schedule.average)] if schedule.average else []
    optional += [ProgressBar(title)] if title else []
    trainer = RowTrainer(
        model,
        arguments,
        data_collator=lambda items: collator([row for row, _ in items], torch.Generator().manual_seed(mix(seed, *items[0]))),
        train_dataset=RowDataset(rows),
        callbacks=[HeldOutLosses(held_out, collator, schedule.batch), *optional, checkpoints, *callbacks],
        optimizers=(optimizer(model, schedule, shares), None),
        batch=schedule.batch,
        lengths=lengths,
        groups=groups,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.callback_handler.callbacks.insert(0, RunningLoss(trainer))  # before Checkpoints, which marks a checkpoint as complete
    if distributed.rank():
        torch.manual_seed(mix(seed, distributed.rank()))  # so that dropout differs between the processes
    trainer.train(resume_from_checkpoint=distributed.of_first(last_checkpoint(folder)))
    if checkpoints.stopped:
        raise Interrupted(STOPPED)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else `forward` stays under autocast
    model.eval()
    return [
        {"epoch": round(entry["epoch"]), **{k: v for k, v in entry.items() if k == "loss" or k.startswith("validation_")}}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def _arguments(schedule: Schedule, folder: Path, seed: int) -> TrainingArguments:
    return TrainingArguments(
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
        use_cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),  # else accelerate would see only one process
        dataloader_pin_memory=torch.cuda.is_available(),
        **precision(),
    )


def _divide_batch(arguments: TrainingArguments, batch: int, rows: int) -> None:
    """Give each process its part of the batch, on one device. Raises ValueError if the batch cannot be divided or rows are too few."""
    arguments._n_gpu = min(arguments.n_gpu, 1)  # more GPUs are for more processes: DataParallel would multiply the batch
    processes = distributed.processes()
    if batch % processes:
        raise ValueError(f"a batch of {batch} utterances cannot be divided among {processes} processes: use a multiple of {processes}")
    if rows < processes:
        raise ValueError(f"{rows} training utterances are too few for {processes} processes: use fewer processes")
    arguments.per_device_train_batch_size = batch // processes


def precision() -> dict[str, bool]:
    """Mixed precision by hardware: bfloat16 if the GPU supports it, else float16; none on the CPU, where it is slower."""
    if not torch.cuda.is_available():
        return {}
    return {"bf16": True} if torch.cuda.is_bf16_supported() else {"fp16": True}


def optimizer(model: nn.Module, schedule: Schedule, shares: Sequence[tuple[nn.Module, float]] = ()) -> torch.optim.Optimizer:
    """Adam, or AdamW without weight decay for biases and norms; with learning rates of their own for some parts, see `train`."""
    share_of = {id(parameter): share for part, share in shares for parameter in part.parameters()}
    groups: dict[tuple[float, bool], list] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((share_of.get(id(parameter), 1.0), parameter.ndim > 1), []).append(parameter)
    kind, decay = (torch.optim.Adam, 0.0) if schedule.optimiser == "adam" else (torch.optim.AdamW, schedule.weight_decay)
    return kind(
        [
            {
                "params": parameters,
                "lr": schedule.learning_rate * share,
                "weight_decay": decay if decays else 0.0,
            }
            for (share, decays), parameters in groups.items()
        ],
        fused=True,
    )
