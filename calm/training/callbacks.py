"""Callbacks of the training loop: checkpoints, progress bar, held-out losses and weight averaging."""

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm
from transformers import Trainer, TrainerCallback

from calm.models import distributed
from calm.training.forward import Collator, losses

COMPLETE = "complete"  # marker file of a checkpoint that was written completely


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in a folder; None if there is none."""
    complete = [path.parent for path in Path(folder).glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def _checkpoint_file(args, state, name: str) -> Path:
    """A file in the checkpoint of the current step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / name


class ProgressBar(TrainerCallback):
    """A progress bar with the epoch and the loss."""

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
    """Saves a checkpoint every few minutes, because an epoch may take seconds or hours, and on SIGTERM, which then ends the training.

    Processes that train together agree at every step, so that all of them save, and stop, at the same one.
    """

    def __init__(self, minutes: float):
        self.interval, self.last_save = 60 * minutes, time.monotonic()
        self.stop_requested, self.stopped, self.previous_handler = False, False, None

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self.previous_handler = signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, number, frame):
        self.stop_requested = True

    def on_step_end(self, args, state, control, **kwargs):
        if not self._is_last_step_of_epoch(args, state):
            self._save_if_due(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        # The last step of an epoch is saved here, so that the checkpoint includes what is logged at the end of the epoch.
        # An epoch that was stopped half-way ends here too, and has been saved already.
        if self._is_last_step_of_epoch(args, state):
            self._save_if_due(control)

    def _is_last_step_of_epoch(self, args, state) -> bool:
        return state.global_step % (state.max_steps // args.num_train_epochs) == 0

    def _save_if_due(self, control) -> None:
        due, self.stopped = distributed.anywhere(time.monotonic() - self.last_save > self.interval, self.stop_requested)
        if self.stopped or due:
            self.last_save = time.monotonic()
            control.should_save = True
            control.should_training_stop = self.stopped or control.should_training_stop

    def on_save(self, args, state, control, **kwargs):
        distributed.wait()  # until all processes have written their parts
        if state.is_world_process_zero:
            _checkpoint_file(args, state, COMPLETE).touch()

    def on_train_end(self, args, state, control, **kwargs):
        if self.previous_handler is not None:
            signal.signal(signal.SIGTERM, self.previous_handler)
        (self.stopped,) = distributed.anywhere(self.stop_requested)
        if self.previous_handler is not None and self.stopped and distributed.processes() > 1:
            # torchrun repeats the signal as soon as one process has ended, but each process must finish on its own.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


class HeldOutLosses(TrainerCallback):
    """After every epoch, adds the losses on held-out rows to the log, beside the training loss."""

    def __init__(self, rows: Sequence[int], collator: Collator, batch: int):
        self.rows, self.collator, self.batch, self.validation = rows, collator, batch, {}

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.validation = {f"validation_{key}": value for key, value in losses(model, self.rows, self.collator, self.batch).items()}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            logs.update(self.validation)
            state.log_history[-1].update(self.validation)


class RunningLoss(TrainerCallback):
    """Saves the sum of the losses since the start of the epoch in each checkpoint; Trainer itself counts only since it was started."""

    FILE = "loss.pt"

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_save(self, args, state, control, **kwargs):
        total = distributed.mean(self.trainer._tr_loss).cpu()
        if state.is_world_process_zero:
            torch.save((total, self.trainer._globalstep_last_logged), _checkpoint_file(args, state, self.FILE))

    def on_train_begin(self, args, state, control, **kwargs):
        file = _checkpoint_file(args, state, self.FILE)
        if state.global_step and file.exists():
            total, self.trainer._globalstep_last_logged = torch.load(file, weights_only=True)
            self.trainer._tr_loss += total.to(args.device)


class WeightAveraging(TrainerCallback):
    """Averages the weights at the ends of the last epochs, and gives the model these averages when training ends."""

    FILE = "average.pt"

    def __init__(self, share: float):
        self.share, self.average = share, None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        file = _checkpoint_file(args, state, self.FILE)
        if state.global_step and file.exists():
            self.average = AveragedModel(model)
            self.average.load_state_dict(torch.load(file, weights_only=True))

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        if state.epoch > args.num_train_epochs * (1 - self.share) + 1e-6:
            if self.average is None:
                self.average = AveragedModel(model)
            self.average.update_parameters(model)

    def on_save(self, args, state, control, **kwargs):
        if self.average is not None and state.is_world_process_zero:
            torch.save(self.average.state_dict(), _checkpoint_file(args, state, self.FILE))

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self.average is not None:
            model.load_state_dict(self.average.module.state_dict())
