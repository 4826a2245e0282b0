"""A watch over losses and gradients: training stops where one is NaN or infinite, and says on which utterances."""

from collections.abc import Sequence
from pathlib import Path

import torch

from calm.models import distributed
from calm.storage import write_json

FILE = "not-finite.json"  # in the folder of the checkpoints: the batch whose loss or gradients were not finite
LEAST_SCALE = 1.0  # of losses in float16; it halves at every step whose gradients are too large for float16
NAMED = 8  # utterances that the error names; the file names all


class NotFiniteError(ValueError):
    """A loss or a gradient was NaN or infinite. No checkpoint and no result has weights from after that step."""


class Watch:
    """Keeps loss and gradient norm of the steps on the device, so that no step waits for it, until `check` looks at them.

    Args:
        folder: of the checkpoints.
        epoch: steps of an epoch.
        scaler: of the losses.
        ids: of the utterances by row number; None: they are called by these numbers.
    """

    def __init__(self, folder: Path, epoch: int, scaler: torch.amp.GradScaler, ids: Sequence[str] | None = None):
        self.folder, self.epoch, self.scaler, self.ids = folder, epoch, scaler, ids
        self.steps: list[tuple[int, list[int]]] = []  # since the last look, with the rows of this process
        self.numbers: list[torch.Tensor] = []  # their losses and norms, (2,) each
        self.norm = 0.0  # of the last step that was looked at

    def note(self, step: int, rows: list[int], loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Keep the numbers of a step; the first step is 1."""
        self.steps.append((step, rows))
        self.numbers.append(torch.stack([loss.detach().float(), norm.float()]))

    def check(self) -> None:
        """Look at the steps since the last look; all processes must call this together.

        Raises:
            NotFiniteError: a number was not finite. In float16 the norm may be infinite, as the scaler then leaves out the step, unless
                no smaller scale is left to try.
        """
        if not self.steps:
            return
        numbers = torch.stack(self.numbers).cpu()
        finite = numbers.isfinite()
        if self.scaler.is_enabled():
            finite[:, 1] = self.scaler.get_scale() >= LEAST_SCALE
        if any(distributed.anywhere(not finite.all())):
            self._fail(numbers.tolist(), finite.all(1).tolist())
        self.norm = numbers[-1, 1].item()
        self.steps.clear()
        self.numbers.clear()

    def _fail(self, numbers: list[list[float]], finite: list[bool]) -> None:
        """Raise NotFiniteError about the first step that was not finite in some process, and write the file about it."""
        first = min(distributed.of_all(finite.index(False) if False in finite else len(finite)))
        step, rows = self.steps[first]
        rows = sum(distributed.of_all(rows), [])
        losses, norms = zip(*distributed.of_all([repr(number) for number in numbers[first]]), strict=True)
        names = [f"row {row}" if self.ids is None else str(self.ids[row]) for row in rows]
        epoch = 1 + (step - 1) // self.epoch
        about = {"step": step, "epoch": epoch, "loss": losses, "gradient_norm": norms, "rows": rows, "utterances": names}
        if not distributed.rank():
            write_json(about, self.folder / FILE)
        distributed.wait()  # the end of one process may end the others
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise NotFiniteError(
            f"step {step} (epoch {epoch}) is not finite: its loss is {', '.join(losses)}, its gradient norm {', '.join(norms)}. Look for "
            f"NaN in the features of its batch, or lower the learning rate. The batch, also in {self.folder / FILE}: "
            f"{', '.join(names[:NAMED])}{more}"
        )
