"""Training by several processes (torchrun): what they exchange. A single process sends nothing."""

from typing import Any, TypeVar, TypeVarTuple, cast

import torch
import torch.distributed as dist

Value = TypeVar("Value")
Rows = TypeVarTuple("Rows")  # of tensors, and None


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; process 0 writes the results."""
    return dist.get_rank() if processes() > 1 else 0


def gather(*tensors: *Rows) -> tuple[*Rows]:
    """The rows of all processes in the order of their ranks, with gradient: (own rows, ...) -> (all rows, ...); None stays None.

    The tensors of one call have the same number of rows; another process may have another number. If every process computes the same
    loss from the result, and gradients are averaged over the processes (as DistributedDataParallel does), they equal the gradients of
    one process with all rows.
    """
    if processes() == 1:
        return tensors
    each = cast(tuple[torch.Tensor | None, ...], tensors)
    first = next(tensor for tensor in each if tensor is not None)
    counts = [torch.empty(1, dtype=torch.long, device=first.device) for _ in range(processes())]
    dist.all_gather(counts, torch.tensor([len(first)], device=first.device))
    gathered = tuple(None if tensor is None else _Gather.apply(tensor, torch.cat(counts).tolist()) for tensor in each)
    return cast(tuple[*Rows], gathered)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.counts = counts
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every process has the gradient of the same loss, so nothing is sent back. The rows of this process count once in the average
        # over the processes: hence the factor.
        first = sum(ctx.counts[: rank()])
        return gradient[first : first + ctx.counts[rank()]] * processes(), None


def weights(*counts: int, device: torch.device) -> torch.Tensor:
    """Factors (counts,) for means over the items of this process: times these, their average over processes is the mean of all items."""
    if processes() == 1:
        return torch.ones(len(counts), device=device)
    own = torch.stack([torch.full((), count, dtype=torch.float32, device=device) for count in counts])
    total = own.clone()
    dist.all_reduce(total)
    return own * processes() / total.clamp(min=1)


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over the processes."""
    if processes() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / processes()


def anywhere(*flags: bool) -> list[bool]:
    """Which of the flags are True in any process; all processes must call this together."""
    if processes() == 1:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.int32, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [bool(flag) for flag in values.tolist()]


def of_first(value: Value) -> Value:
    """The value of process 0, in every process."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def of_all(value: Value) -> list[Value]:
    """The values of all processes, in the order of their ranks."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Wait until all processes call this."""
    if processes() > 1:
        dist.barrier()
