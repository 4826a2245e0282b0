"""What the stages share: the command line, the settings that a stage sees, results written whole, checkpoints, and measurements."""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from calm import devices
from calm.storage import LEAST_BYTES, SUMS, check_sums, read_json, replacing, write_json, write_sums
from pipeline import paths, state
from pipeline.execution import alone, gpus, torchrun
from pipeline.settings import Settings, load_or_exit
from pipeline.tracking import provenance

PRETRAINING = {"calp": paths.calp, "embed": paths.encoded, "pretrain": paths.pretrained}  # stages, and where their results lie


def start(stage: str, arguments: Sequence[str]) -> None:
    """The command `python -m pipeline.stages STAGE [NAME]`: run the stage and print its summary.

    Several processes run the stage together where `compute.devices` gives it more than one.

    Args:
        stage: its name in `dvc.yaml`.
        arguments: of the command, after the stage's name.
    """
    settings, name = _asked(stage, arguments)
    _refuse_if_changed(settings, stage, name)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    address = state.address(stage, name)
    if not torchrun.inside():
        _look_for_gpus(settings, stage, address)
        if (processes := settings.compute.devices.get(stage, 1)) > 1 and stage != "head":
            torchrun.replace(processes, settings.compute.torchrun, settings.flows.stop_seconds)
    alone.end_with_starter()
    begin = time.monotonic()
    try:
        with alone.alone(paths.stage_lock(address), address) if not torchrun.rank() else contextlib.nullcontext():
            paths.measured(address).unlink(missing_ok=True)
            _refuse_damaged(address)
            summary = run(stage, settings, *([name] if name else []))
    except Exception as error:
        if os.environ.get("CALM_TRACEBACK") or not (isinstance(error, ValueError | OSError) or _disk_is_full(error)):
            raise
        message = _sentence(error)
        process = f", process {torchrun.rank()}" if torchrun.rank() else ""
        sys.exit(f"{address}{process}: {message}\n(CALM_TRACEBACK=1 shows where)")
    measure(address, seconds=time.monotonic() - begin, host=platform.node())
    if summary and not torchrun.rank():
        print(summary)


def _asked(stage: str, arguments: Sequence[str]) -> tuple[Settings, str]:
    """The settings, and the name that the command gives, "" where the stage is not repeated; ends if there is no such name."""
    over = state.STAGES[stage].over
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.stages {stage}", description=f"The stage {stage} of dvc.yaml.")
    if over:
        parser.add_argument("name", metavar="NAME", help=f"one of `{over}` in params.yaml")
    options = parser.parse_args(arguments)
    name = options.name if over else ""
    settings = load_or_exit()
    if name not in (known := state.names(settings, stage)):
        sys.exit(f"'{name}' is none of {over} in params.yaml, which has {', '.join(known) or 'none'}")
    return settings, name


def run(stage: str, settings: Settings, *name: str) -> str | None:
    """Run a stage, of a name where it is repeated; returns one line to print.

    Its module is imported only if there is something to do: torch takes longer than all else of a model that is not pretrained.
    """
    if stage in PRETRAINING and not settings.pretraining_corpora(*name):
        return _not_pretrained(PRETRAINING[stage](*name), *name)
    return import_module(f"pipeline.stages.{stage}").run(settings, *name)


def _sentence(error: Exception) -> str:
    """What is said of an error that a user can do something about."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename or error} is missing: `dvc repro` makes it"
    if _disk_is_full(error):
        return "the disk is full: make room, then start it again; what was finished is kept"
    return str(error)


def _disk_is_full(error: Exception) -> bool:
    """Whether a disk without room is behind an error, which libraries tell in many ways, of which some name no reason."""
    known = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return known or "No space left on device" in str(error) or shutil.disk_usage(paths.DATA).free < LEAST_BYTES


def _refuse_damaged(address: str) -> None:
    """Under DVC: raise Damaged if a folder that the stage depends on is not what was written."""
    if "DVC_STAGE" not in os.environ:
        return
    for path in map(Path, provenance.dependency_paths(provenance.root()).get(address, [])):
        for sums in [*path.rglob(SUMS)] if path.is_dir() else []:
            check_sums(sums.parent, within=0)


def _look_for_gpus(settings: Settings, stage: str, address: str) -> None:
    """Of a stage for a GPU: end if it must not start without the GPUs that it asks for, and warn of one that is left unused."""
    if not state.STAGES[stage].gpu:
        return
    if message := gpus.refusal(settings.compute, stage):
        sys.exit(f"{address}: {message}")
    if message := devices.fault():
        print(f"{address}: warning: {message}", file=sys.stderr)


def _refuse_if_changed(settings: Settings, stage: str, name: str) -> None:
    """Under DVC: end if the settings or the code differ from those that DVC knows, which would file the result under the wrong ones."""
    if "DVC_STAGE" not in os.environ:
        return
    address = state.address(stage, name)
    file = paths.state(address)
    if not file.exists() or read_json(file) != json.loads(json.dumps(state.state(settings, stage, name))):
        sys.exit(f"{address}: its settings or its code changed after the stage `check` had noted them: run `dvc repro` again")


def measure(address: str, **values: object) -> None:
    """Keep what was measured of a stage's run (seconds, host, device, MLflow run), outside its outputs, which thereby stay comparable."""
    if torchrun.rank():
        return
    file = paths.measured(address)
    write_json((read_json(file) if file.exists() else {}) | values, file)


@contextlib.contextmanager
def whole(folder: Path, sums: bool = True) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if the body succeeds, with the checksums of its files, and is removed if it fails.

    Of the processes of torchrun the first one writes. The folder of each other process is thrown away, and the process goes on when the
    result is in place.
    """
    if torchrun.rank():
        with tempfile.TemporaryDirectory(prefix="calm-") as elsewhere:
            yield Path(elsewhere)
        torchrun.wait()
        return
    with replacing(folder) as partial:
        partial.mkdir()
        yield partial
        if sums:
            write_sums(partial)
    torchrun.wait()


def _not_pretrained(folder: Path, model: str) -> str:
    """Write a note in place of the result of a stage of pretraining, for a model without corpora to pretrain on; returns the summary."""
    with whole(folder) as partial:
        (partial / "README.txt").write_text(f"models.{model}.pretrain_on is none: nothing is pretrained.\n", encoding="utf-8")
    return f"{model}: nothing to do, pretrain_on is none"


@contextlib.contextmanager
def checkpoints(settings: Settings, stage: str, name: str, *data: Path) -> Iterator[Path]:
    """Folder for a stage's checkpoints and finished parts, kept if the body fails and removed if it succeeds.

    The folder's name is a digest of all that the result depends on: the stage's settings and code, and its data (files or folders, by
    size and time). Checkpoints of another state are removed, so that a stage never goes on from the weights of other settings or code.
    """
    key = hashlib.sha256(json.dumps(state.state(settings, stage, name), sort_keys=True).encode())
    for path in data:
        key.update(_stamp(path).encode())
    stage_folder = paths.work(state.address(stage, name))
    folder = stage_folder / key.hexdigest()[:16]
    if torchrun.rank():  # the first process tidies up
        yield folder
        return
    for other in stage_folder.glob("*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(stage_folder, ignore_errors=True)


def _stamp(path: Path) -> str:
    """Names, sizes and times of a file, or of a folder's files."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file())
