"""What the mains of the stages share: arguments, settings, errors as one sentence, results written whole or not at all."""

import argparse
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline import paths, settings
from pipeline.execution import torchrun


def start(run: Callable[..., str | None], devices: str | None = None, **allowed: Callable[[settings.Settings], Iterable[str]]) -> None:
    """Run a stage for the names given on the command line, and print its summary.

    Args:
        run: the stage, from all settings and the names; returns one line to print.
        devices: the stage's key in `compute.devices`; where that is more than 1, torchrun starts so many processes of the stage.
        allowed: the names that each argument may have, from the settings: `corpus=lambda settings: settings.corpora`.
    """
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    for argument in allowed:
        parser.add_argument(f"--{argument}", required=True, metavar="NAME")
    names = vars(parser.parse_args())
    given = settings.load_or_exit()
    for argument, name in names.items():
        if name not in (known := list(allowed[argument](given))):
            sys.exit(f"--{argument} is '{name}': params.yaml has {', '.join(known)}")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if devices and not torchrun.inside() and (processes := given.compute.devices.get(devices, 1)) > 1:
        torchrun.replace(processes, given.compute.torchrun, given.flows.stop_seconds)
    try:
        summary = run(given, *names.values())
    except (ValueError, OSError) as error:
        if os.environ.get("CALM_TRACEBACK"):
            raise
        told = f"{error.filename or error} is missing: `dvc repro` makes it" if isinstance(error, FileNotFoundError) else error
        where = f", process {torchrun.rank()}" if torchrun.rank() else ""
        sys.exit(f"{os.environ.get('DVC_STAGE', ' '.join(names.values()))}{where}: {told}\n(CALM_TRACEBACK=1 shows where)")
    if summary and not torchrun.rank():
        print(summary)


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the body ends well, and is removed when it does not.

    Of the processes of torchrun the first one writes; the folder of the others is thrown away, and they go on when its is in place.
    """
    if torchrun.rank():
        with tempfile.TemporaryDirectory(prefix="calm-") as elsewhere:
            yield Path(elsewhere)
        torchrun.wait()
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    torchrun.wait()


@contextlib.contextmanager
def checkpoints(stage: str, *parts: object) -> Iterator[Path]:
    """Folder for the checkpoints of a stage, kept when the body fails and removed when it ends well.

    Args:
        parts: everything that the result depends on (settings, and files or folders of data): checkpoints of other ones are
            removed, so that a run never goes on from another run's weights.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_state(part).encode())
    top = paths.work(stage)
    folder = top / digest.hexdigest()[:16]
    if torchrun.rank():  # the first process clears up
        yield folder
        return
    for other in top.glob("*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(top, ignore_errors=True)


def _state(part: object) -> str:
    """What identifies a part: a file's path, size and time of change; a folder's files; else its text."""
    if isinstance(part, Path):
        files = sorted(part.rglob("*")) if part.is_dir() else [part]
        return "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file())
    return part.model_dump_json() if hasattr(part, "model_dump_json") else repr(part)
