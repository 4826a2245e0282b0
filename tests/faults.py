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
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import yaml

from tests.pipeline.made_project import Project, small

ENDS = 120  # seconds in which all that a killed process had started has to end
GOES_ON = 3600  # seconds in which a rebuild that goes on has to end
FIRST, LAST = 0.5, 25.0  # seconds after which a process is killed
RESULTS = ("reports/metrics.json", "data/calp/small/model.safetensors", "data/pretrained/small/model.safetensors")
SEALED = ("features/msp", "encoded/small", "texts/msp", "utterances/msp", "calp/small", "models/msp/small")


class Wrong(AssertionError):
    """A result differs, or something lives on."""


def results(folder: Path) -> dict[str, bytes]:
    """What a rebuild ends with; a released model is compared by its weights."""
    files = [folder / name for name in RESULTS] + sorted(folder.glob("data/models/*/*/model.safetensors"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def family(folder: Path) -> list[psutil.Process]:
    """Processes that run in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found


def wait_for_end(folder: Path) -> None:
    """Raises Wrong if a process of the project outlives the one that was killed."""
    limit = time.monotonic() + ENDS
    while living := family(folder):
        if time.monotonic() > limit:
            raise Wrong(f"{[' '.join(process.cmdline())[:90] for process in living]} live on")
        time.sleep(0.2)


def started(folder: Path, *command: str) -> subprocess.Popen:
    """A command in the project, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "PREFECT_", "CALM_"))}
    environment |= {"PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "faults.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def finished(folder: Path, *command: str) -> None:
    """Run a command to its end. Raises Wrong with the end of its output if it fails."""
    if started(folder, *command).wait():
        raise Wrong(f"{' '.join(command)} failed:\n{(folder / 'faults.log').read_text(errors='replace')[-3000:]}")


def kill(folder: Path, process: subprocess.Popen, chance: random.Random, last: float = LAST) -> str:
    """SIGKILL to the group of a process, or to one process of the project alone; returns what was killed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(FIRST, last))
        return "nothing"
    victims = family(folder)
    if not victims or chance.random() < 0.4:
        os.killpg(process.pid, signal.SIGKILL)
        what = "the group"
    else:
        victim = chance.choice(victims)
        with contextlib.suppress(psutil.Error):
            what = _kind(victim.cmdline())
            victim.kill()
    process.wait(GOES_ON)  # what was killed may be no loss: the rebuild goes on
    wait_for_end(folder)
    return what


def _kind(command: list[str]) -> str:
    line = " ".join(command)
    kinds = ("pipeline.repro", "dvc", "pipeline.stages", "forkserver", "resource_tracker", "pipeline.flows")
    return next((kind for kind in kinds if kind in line), "another process")


REBUILD = (sys.executable, "-m", "pipeline.repro")


def kills(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """Rebuilds that are killed so many times end as the undisturbed one."""
    killed, rebuilds = Counter(), 0
    while sum(killed.values()) < length:
        folder, rebuilds = fresh(f"kills-{rebuilds}"), rebuilds + 1
        while sum(killed.values()) < length:
            process = started(folder, *REBUILD)
            if (what := kill(folder, process, chance)) == "nothing":
                break
            killed[what] += 1
        finished(folder, *REBUILD)
        compare(base, folder)
        shutil.rmtree(folder)
    return f"{sum(killed.values())} kills in {rebuilds} rebuilds ({', '.join(f'{count} of {what}' for what, count in killed.items())})"


def compare(base: Path, folder: Path) -> None:
    """Raises Wrong where a result differs from that of the undisturbed rebuild."""
    expected, actual = results(base), results(folder)
    if differing := [name for name in expected if actual.get(name) != expected[name]]:
        raise Wrong(f"{', '.join(differing)} differ from the undisturbed rebuild")


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


def flips(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """A flipped bit of features, encoded blocks, texts, tables and models is named, or changes nothing."""
    named = flipped([base / "data" / name for name in SEALED], 5 * length, chance)
    return f"{named} of {5 * length} flipped bits were named, the rest harmless"


def flipped(folders: list[Path], count: int, chance: random.Random) -> int:
    """Flip bits of the folders' files, one at a time, and put them back; returns how many were named. Raises Wrong at a wrong value."""
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    named, before = 0, {file: file.read_bytes() for file in files}
    read = {file: values(file) for file in files}
    for _ in range(count):
        file = chance.choice(files)
        content, at = bytearray(before[file]), chance.randrange(len(before[file]) or 1)
        content[at] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
        try:
            if values(file) != read[file]:
                raise Wrong(f"byte {at} of {file} gave another value")
        except (ValueError, OSError) as error:
            if file.name not in str(error):
                raise Wrong(f"byte {at} of {file}: {error}") from None
            named += 1
        finally:
            file.write_bytes(before[file])
    return named


def values(file: Path) -> object:
    """What the project's own readers give of a file; of a file that they read as a whole, its bytes after the check of its folder."""
    from calm.storage import SUMS, check_sums, read_json, read_parquet

    check_sums(file.parent)
    if file.suffix == ".parquet":
        return read_parquet(file).to_pydict()
    if file.suffix == ".json":
        return read_json(file)
    return file.read_bytes() if file.name != SUMS else None


def scoring(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """However often the scoring of an inbox is killed, every file has its rows exactly once."""
    import pandas as pd

    shutil.copytree(base, folder := base.with_name("scoring"), symlinks=True)
    (folder / "inbox").mkdir()
    for file in sorted(folder.glob("data/raw/*/Audios/*.wav"))[:40]:
        shutil.copy(file, folder / "inbox")
        os.utime(folder / "inbox" / file.name, (time.time() - 60,) * 2)
    command, killed = (sys.executable, "-m", "pipeline.flows.scoring", "inbox", "scores", "data/models/msp/small"), 0
    for _ in range(max(2, length // 10)):
        killed += kill(folder, started(folder, *command), chance, LAST / 5) != "nothing"
    finished(folder, *command)
    table = pd.read_parquet(folder / "scores")
    if table.duplicated(["file", "start"]).any() or table["file"].nunique() != len(list((folder / "inbox").iterdir())):
        raise Wrong("a file was not scored exactly once")
    shutil.rmtree(folder)
    return f"{killed} kills of scoring"


def servers(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """A flow whose servers are killed and started again ends as an undisturbed rebuild; MLflow's and Prefect's in turn."""
    folder = fresh("servers")
    given = yaml.safe_load((folder / "params.yaml").read_text())
    with socket.socket() as one, socket.socket() as other:
        for held in (one, other):
            held.bind(("127.0.0.1", 0))
        ports = {"prefect_port": one.getsockname()[1], "mlflow_port": other.getsockname()[1]}
    (folder / "params.yaml").write_text(yaml.safe_dump(given | {"flows": {**ports, "rebuild": None, "study": None, "score_new": None}}))
    flows, lost = (sys.executable, "-m", "pipeline.flows"), 0
    finished(folder, *flows, "up")
    try:
        flow = started(folder, *flows, "rebuild")
        for name in ("prefect", "mlflow", "prefect"):
            time.sleep(chance.uniform(5, 30))
            if flow.poll() is None:
                psutil.Process(json.loads((folder / f"data/servers/{name}.json").read_text())["pid"]).kill()
                time.sleep(chance.uniform(1, 8))
                finished(folder, *flows, "up")
                lost += 1
        ended = flow.wait()
        if ended:  # a flow that could not report its end has kept what was finished
            finished(folder, *flows, "rebuild")
        compare(base, folder)
    finally:
        started(folder, *flows, "down").wait()
    wait_for_end(folder)
    shutil.rmtree(folder)
    return f"{lost} lost servers; the flow {'was started again' if ended else 'went on'}"


KINDS = {"flips": flips, "scoring": scoring, "torn": torn, "disk": disk, "servers": servers, "kills": kills}


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
            folder = base.with_name(name)
            folder.mkdir()
            given = small()
            for section in ("calp", "pretrain"):
                given[section] |= {"checkpoint_minutes": 0.001}  # a checkpoint after every step, which changes no result
            Project(folder).write(given)
            return folder

        for kind in options.kinds.split(","):
            begin = time.monotonic()
            try:
                said = KINDS[kind](base, fresh, options.length, chance)
            except (Wrong, subprocess.TimeoutExpired) as wrong:
                sys.exit(f"{kind}: {wrong}")
            print(json.dumps({"kind": kind, "seconds": round(time.monotonic() - begin), "result": said}), flush=True)


if __name__ == "__main__":
    main()
