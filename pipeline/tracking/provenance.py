"""Where a number comes from: the commit, the DVC stage, the hashes of its dependencies, and the rebuild that it belongs to."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import yaml


def root() -> Path:
    """The folder of `dvc.yaml`: the one that DVC names to its commands, else the working folder."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def stage_name() -> str:
    """DVC's name of the running stage, such as `head@mosei-small`; outside DVC, the name of the module that was started."""
    if name := os.environ.get("DVC_STAGE"):
        return name
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec:
        return spec.name.removesuffix(".__main__").rsplit(".", 1)[-1]
    return Path(sys.argv[0]).stem if sys.argv[0].endswith(".py") else "python"


def git_state(folder: Path) -> tuple[str, bool] | None:
    """The commit, and whether files differ from it; None outside a git repository."""
    command = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*command, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit, bool(changes.strip())


def rebuild() -> str:
    """A name that all stages of one rebuild share: `CALM_REBUILD`, else that of the `dvc repro` above this process, else of the process."""
    if name := os.environ.get("CALM_REBUILD"):
        return name.replace("'", "")  # MLflow's filters quote it
    import psutil

    this = psutil.Process()
    dvc = [process for process in this.parents() if is_dvc(process)]
    process, what = (dvc[-1], "dvc repro") if dvc else (this, stage_name())  # the outermost, as `dvc exp run` starts others
    return f"{datetime.fromtimestamp(process.create_time()):%Y-%m-%d %H:%M:%S} {what}, process {process.pid} on {platform.node()}"


def is_dvc(process) -> bool:
    """Whether a process is a `dvc repro` or `dvc exp`."""
    import psutil

    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return any(Path(part).name == "dvc" for part in command[:4]) and not {"repro", "exp"}.isdisjoint(command)


def dependencies(folder: Path, stage: str) -> dict[str, str]:
    """MD5 of each dependency of a stage, as DVC computes it (those of folders end in `.dir`); {} if there is no such stage.

    Outputs of earlier stages are read from `dvc.lock`, which DVC updates before it starts this stage; a folder with several outputs
    counts as these. Other files, such as the state of the stage, are hashed here. Other folders are left to DVC, which knows which of
    their files changed.
    """
    if not (folder / "dvc.yaml").exists():
        return {}
    outputs = _outputs(folder)
    hashes, folders = {}, []
    for path in map(os.path.normpath, dependency_paths(folder).get(stage, [])):
        below = {output: md5 for output, md5 in outputs.items() if output == path or output.startswith(f"{path}/")}
        if below:
            hashes |= below
        elif (folder / path).is_file():
            with (folder / path).open("rb") as file:
                hashes[path] = hashlib.file_digest(file, "md5").hexdigest()
        else:
            folders.append(path)
    return dict(sorted({**hashes, **(_hashed_by_dvc(folder, stage, folders) if folders else {})}.items()))


def _outputs(folder: Path) -> dict[str, str]:
    """Outputs of the stages that have run, with their hashes."""
    lock = folder / "dvc.lock"
    stages = yaml.load(lock.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"] if lock.exists() else {}
    return {output["path"]: output["md5"] for stage in stages.values() for output in stage.get("outs", []) if "md5" in output}


def dependency_paths(folder: Path) -> dict[str, list[str]]:
    """Dependencies of each stage after DVC has filled in its templates, which takes 1 s; cached until a file that they are in changes."""
    texts = [(folder / name).read_bytes() for name in ("dvc.yaml", "params.yaml") if (folder / name).exists()]
    key = hashlib.md5(b"\0".join(texts), usedforsecurity=False).hexdigest()
    cache = folder / ".dvc" / "tmp" / "calm-dependencies.json"
    if cache.exists() and (table := json.loads(cache.read_text())).get("key") == key:
        return table["stages"]
    from dvc.repo import Repo

    stages = {stage.addressing: [dep.def_path for dep in _hashable(stage)] for stage in Repo(str(folder)).index.stages}
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"key": key, "stages": stages}))
    partial.replace(cache)
    return stages


def _hashed_by_dvc(folder: Path, stage: str, paths: list[str]) -> dict[str, str]:
    from dvc.repo import Repo

    by_path = {os.path.normpath(dep.def_path): dep for dep in _hashable(Repo(str(folder)).stage.load_one(name=stage))}
    return {path: by_path[path].get_hash().value for path in paths if by_path[path].exists}


def _hashable(stage) -> list:
    return [dep for dep in stage.deps if hasattr(dep, "get_hash")]  # DVC counts parameters as dependencies too, without a hash
