"""Training by several processes at once (torchrun): what they tell each other. For one process alone nothing is sent."""

import torch
import torch.distributed as dist


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 writes what all made."""
    return dist.get_rank() if processes() > 1 else 0


def gather(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The rows of all processes, process by process, with gradient: (rows here, ...) -> (rows of all, ...); None stays None.

    The processes may have different numbers of rows; all tensors of one call have the same. What is made of the result must end in
    one loss that every process computes alike, and the gradients of the parameters must then be averaged over the processes (as
    DistributedDataParallel does): so they are those of one process with all rows.
    """
    if processes() == 1:
        return tensors
    here = next(tensor for tensor in tensors if tensor is not None)
    counts = [torch.empty(1, dtype=torch.long, device=here.device) for _ in range(processes())]
    dist.all_gather(counts, torch.tensor([len(here)], device=here.device))
    return tuple(None if tensor is None else _Gather.apply(tensor, torch.cat(counts).tolist()) for tensor in tensors)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.counts = counts
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every process has the gradient of the same loss, so nothing is sent back. It is that of the rows here, whose part in
        # the average over the processes is one share of many: hence the factor.
        first = sum(ctx.counts[: rank()])
        return gradient[first : first + ctx.counts[rank()]] * processes(), None


def weights(*counts: int, device: torch.device) -> torch.Tensor:
    """Factors by which means over so many items here become, averaged over the processes, means over the items of all; (counts,)."""
    if processes() == 1:
        return torch.ones(len(counts), device=device)
    here = torch.tensor(counts, dtype=torch.float32, device=device)
    total = here.clone()
    dist.all_reduce(total)
    return here * processes() / total.clamp(min=1)


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over the processes."""
    if processes() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / processes()


def anywhere(*flags: bool) -> list[bool]:
    """Which of the flags are True in any process; all processes must ask together."""
    if processes() == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.int32, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [bool(flag) for flag in found.tolist()]


def of_first(value):
    """The first process's value, in all of them."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def wait() -> None:
    """Go on when all processes are here."""
    if processes() > 1:
        dist.barrier()
