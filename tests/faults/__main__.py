"""Faults: a small project is rebuilt while it is killed, torn and short of disk, and its result is that of an undisturbed one.

    python -m tests.faults --length 100            # kills, five flips a kill, and each of the other faults
    python -m tests.faults --kinds flips,scoring   # some kinds alone

Ends with exit code 1 at the first result that differs, and prints what was done.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.damage import flips
from tests.faults.kills import kills, scoring
from tests.faults.processes import Wrong, finished, started, wait_for_end
from tests.faults.project import REBUILD, compare, made
from tests.faults.servers import servers, slots
from tests.pipeline.made_project import Project


def torn(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """Files cut short, as a power loss leaves them, end as the undisturbed rebuild."""
    folder = fresh("torn")
    process = started(folder, *REBUILD)
    while not list(folder.glob("data/work/*/*/checkpoint-*/state.pt")):
        if process.poll() is not None:
            raise Wrong("the rebuild ended before it had a checkpoint")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_end(folder)
    cut = [folder / ".dvc/tmp/rwlock", *folder.glob("data/work/*/*/checkpoint-*/state.pt")]
    for file in cut:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.truncate(file, chance.randrange(100)) if file.exists() and file.suffix else file.write_bytes(b"")
    finished(folder, *REBUILD)
    compare(base, folder)
    return f"{len(cut)} torn files"


def disk(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """On a full disk a rebuild ends with one sentence, and goes on when there is room. Needs the right to mount a file system."""
    folder = fresh("disk")
    (folder / "data").mkdir(exist_ok=True)
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder / "data")], capture_output=True).returncode
    ):
        return "left out: no right to mount"
    try:
        said, full = "", 0
        for size in (6, 12, 18, 24, 40, 80):
            subprocess.run(["mount", "-o", f"remount,size={size}m", str(folder / "data")], check=True)
            (folder / "faults.log").write_bytes(b"")
            if started(folder, *REBUILD).wait() == 0:
                break
            said, full = (folder / "faults.log").read_text(errors="replace"), full + 1
            if "Traceback" in said or "disk is full" not in said:
                raise Wrong(f"at {size} MB: {said[-2000:]}")
        subprocess.run(["mount", "-o", "remount,size=2g", str(folder / "data")], check=True)
        finished(folder, *REBUILD)
        compare(base, folder)
    finally:
        subprocess.run(["umount", str(folder / "data")], check=False)
    return f"{full} times full"


KINDS = {"flips": flips, "scoring": scoring, "torn": torn, "disk": disk, "slots": slots, "servers": servers, "kills": kills}


@contextlib.contextmanager
def workplace(project: Path | None) -> Iterator[Path]:
    """A folder for copies of the project, with `base`, an undisturbed rebuild."""
    with tempfile.TemporaryDirectory(prefix="calm-faults-") as top:
        base = Path(top).resolve() / "base"
        if project:
            shutil.copytree(project, base, symlinks=True)
        else:
            base.mkdir()
            Project(base)
            finished(base, *REBUILD)
        yield base


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=100, help="number of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--project", type=Path, help="a small project that is rebuilt already, by this code")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with workplace(options.project) as base:

        def fresh(name: str) -> Path:
            return made(base.with_name(name))

        for kind in options.kinds.split(","):
            begin = time.monotonic()
            try:
                said = KINDS[kind](base, fresh, options.length, chance)
            except (Wrong, subprocess.TimeoutExpired) as wrong:
                sys.exit(f"{kind}: {wrong}")
            print(json.dumps({"kind": kind, "seconds": round(time.monotonic() - begin), "result": said}), flush=True)


if __name__ == "__main__":
    main()
