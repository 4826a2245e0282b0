"""Stages that train by several processes: `python -m pipeline.torchrun` is torchrun whose end is a stage's, without tracebacks."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

HOSTS = ("--nnodes", "--node-rank", "--rdzv-", "--master-")  # options by which several hosts find each other


def inside() -> bool:
    """Whether torchrun has started this process."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """Number of this process among those of torchrun; 0 where it is the first or the only one, which writes."""
    return int(os.environ["RANK"]) if inside() else 0


def wait() -> None:
    """Go on when all processes are here."""
    if inside():
        from calm.models import distributed

        distributed.wait()


def arguments(processes: int, options: Sequence[str], stop_seconds: float) -> list[str]:
    """Options of torchrun for so many processes of this host: alone, unless the given options name the other hosts."""
    alone = not any(option.replace("_", "-").startswith(HOSTS) for option in options)
    shutdown = str(max(1, round(stop_seconds)))
    return [*["--standalone"] * alone, "--nproc-per-node", str(processes), "--shutdown-timeout", shutdown, *options]


def replace(processes: int, options: Sequence[str], stop_seconds: float) -> NoReturn:
    """Go on as torchrun, as the same process of the system, which starts the module that is running now so many times.

    Args:
        options: further options of torchrun.
        stop_seconds: that the processes have to write a checkpoint when torchrun gets SIGTERM.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process warns that it looks for parameters without gradient
    module = sys.modules["__main__"].__spec__.name
    run_options = [*arguments(processes, options, stop_seconds), "--module", module, *sys.argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(sys.executable, [sys.executable, "-m", "pipeline.execution.torchrun", *run_options])


def main() -> None:
    """torchrun; exit code 143 where it was stopped by SIGTERM, else that of the process that failed first."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main()
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        if code < 0:
            print(f"a process of the training was killed by {signal.Signals(-code).name}", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    main()
