"""`dvc repro` with progress: `python -m pipeline.repro [TARGETS...]`. Further options of DVC go after `--`."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from pipeline.execution import alone
from pipeline.tracking import provenance

BEGIN = re.compile(r"Running stage '([^']+)':")
SKIP = re.compile(r"Stage '([^']+)' didn't change, skipping")
CACHED = re.compile(r"Stage '([^']+)' is cached - skipping run")


class Progress:
    """Counts stages, and estimates the time left from what stages of the same kind took in this run.

    Args:
        names: of all stages; "head@mosei-small" is of the kind "head".
        clock: seconds, for tests.
    """

    def __init__(self, names: list[str], clock=time.monotonic):
        self.left, self.total, self.clock = dict.fromkeys(names), len(names), clock
        self.begin, self.running, self.since = clock(), None, clock()
        self.took: dict[str, list[float]] = defaultdict(list)

    def read(self, line: str) -> str | None:
        """What to print before a line of DVC's output; None if no stage begins."""
        if match := SKIP.search(line) or CACHED.search(line):
            self._end()
            self.left.pop(match[1], None)
        elif match := BEGIN.search(line):
            self._end()
            self.running, self.since = match[1], self.clock()
            progress = f"[{self.total - len(self.left) + 1}/{self.total}] {match[1]}: {minutes(self.clock() - self.begin)} so far"
            return progress + (f", about {minutes(self.remaining())} left" if self.took else "")
        return None

    def remaining(self) -> float:
        """Seconds that the remaining stages would take; those of a kind that has not run yet count as the mean of all."""
        mean = fmean(seconds for kind in self.took.values() for seconds in kind)
        return sum(fmean(self.took[_kind(name)]) if _kind(name) in self.took else mean for name in self.left)

    def _end(self) -> None:
        if self.running is not None:
            self.took[_kind(self.running)].append(self.clock() - self.since)
            self.left.pop(self.running, None)
            self.running = None


def _kind(name: str) -> str:
    return name.partition("@")[0]


def minutes(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def stages(targets: list[str]) -> list[str]:
    """Names of the stages that `dvc repro` goes through."""
    from dvc.repo import Repo

    with Repo() as repo:
        chosen = {stage for target in targets for stage in repo.stage.collect(target)} or set(repo.index.stages)
        waiting = list(chosen)
        while waiting:
            more = set(repo.index.graph.successors(waiting.pop())) - chosen
            chosen |= more
            waiting += more
        return [stage.addressing for stage in chosen]


def mend_lock(folder: Path = Path()) -> bool:
    """Remove DVC's list of running stages if it cannot be read, or names a `dvc` that is gone; returns whether it did.

    A `dvc` that is killed while it writes the list leaves an empty one, with which no later `dvc` starts. Its number in the list stops
    others as long as any process has it. Those that run write the list anew.
    """
    from dvc.lock import LockError, make_lock

    lists = folder / ".dvc" / "tmp" / "rwlock"
    if not (fault := _fault(lists)):
        return False
    with contextlib.suppress(LockError), make_lock(str(lists) + ".lock", tmp_dir=str(lists.parent), wait=True):
        if fault := _fault(lists):  # as seen under the lock under which it is written
            lists.unlink()
            print(f"removed {lists}, which {fault}", file=sys.stderr)
            return True
    return False


def _fault(lists: Path) -> str | None:
    """What is wrong with DVC's list of running stages; None if nothing is."""
    try:
        content = json.loads(lists.read_bytes())
        entries = [*content.get("write", {}).values(), *(entry for several in content.get("read", {}).values() for entry in several)]
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        return "a killed dvc had left half written"
    return "named only processes that are gone" if entries and all(map(_is_gone, entries)) else None


def _is_gone(entry: dict) -> bool:
    """Whether a `dvc` of the list has ended: nobody has its number, or a process that is no `dvc`, or one that only waits to be reaped."""
    import psutil

    try:
        process = psutil.Process(entry["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
    except psutil.NoSuchProcess:
        return True
    return Path(entry["cmd"].partition(" ")[0]).name == "dvc" and not provenance.is_dvc(process)


def main(arguments: list[str]) -> int:
    """Run DVC and pass on its output and its exit code."""
    mend_lock()
    split = arguments.index("--") if "--" in arguments else len(arguments)
    targets, options = arguments[:split], arguments[split + 1 :]
    progress = Progress(stages(targets))
    dvc = subprocess.Popen(
        ["dvc", "repro", *options, *targets], env={**os.environ, **alone.starter()}, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    signal.signal(signal.SIGTERM, lambda *_: dvc.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to DVC too, which ends its stage
    for line in dvc.stdout:
        if message := progress.read(line):
            print(message, flush=True)
        sys.stdout.write(line)
        sys.stdout.flush()
    return dvc.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
