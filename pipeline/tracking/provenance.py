"""Where a number comes from: the commit, the DVC stage, the hashes of what it depends on, and the rebuild it belongs to."""

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
    """The folder of `dvc.yaml`: what DVC names to its commands, else the working folder."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def stage_name() -> str:
    """DVC's name of the running stage, such as `head@mosei-small`; outside DVC the name of the module that was started."""
    if name := os.environ.get("DVC_STAGE"):
        return name
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec:
        return spec.name.removesuffix(".__main__").rsplit(".", 1)[-1]
    return Path(sys.argv[0]).stem if sys.argv[0].endswith(".py") else "python"


def git_state(folder: Path) -> tuple[str, bool] | None:
    """Commit and whether files differ from it; None where there is no repository."""
    command = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*command, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit, bool(changes.strip())


def rebuild() -> str:
    """What all stages of one rebuild share: `CALM_REBUILD` if set, else the `dvc repro` above this process, else this process alone."""
    if given := os.environ.get("CALM_REBUILD"):
        return given.replace("'", "")  # it is quoted in MLflow's filters
    import psutil

    me = psutil.Process()
    above = [process for process in me.parents() if _is_dvc(process)]
    process, what = (above[-1], "dvc repro") if above else (me, stage_name())  # the outermost: `dvc exp run` starts others
    return f"{datetime.fromtimestamp(process.create_time()):%Y-%m-%d %H:%M:%S} {what}, process {process.pid} on {platform.node()}"


def _is_dvc(process) -> bool:
    import psutil

    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return any(Path(part).name == "dvc" for part in command[:4]) and not {"repro", "exp"}.isdisjoint(command)


def dependencies(folder: Path, stage: str) -> dict[str, str]:
    """MD5 of each dependency of a stage, as DVC counts it (folders end in `.dir`); {} where no such stage is.

    Outputs of earlier stages are read from `dvc.lock`, which DVC has brought up to date before it starts this stage (a folder
    that holds several outputs counts as these); other files are hashed here; folders that no stage makes are left to DVC,
    which knows which of their files changed.
    """
    if not (folder / "dvc.yaml").exists():
        return {}
    made = _made(folder)
    hashes, folders = {}, []
    for path in map(os.path.normpath, _resolved(folder).get(stage, [])):
        below = {out: value for out, value in made.items() if out == path or out.startswith(f"{path}/")}
        if below:
            hashes |= below
        elif (folder / path).is_file():
            with (folder / path).open("rb") as file:
                hashes[path] = hashlib.file_digest(file, "md5").hexdigest()
        else:
            folders.append(path)
    return dict(sorted({**hashes, **(_hashed_by_dvc(folder, stage, folders) if folders else {})}.items()))


def _made(folder: Path) -> dict[str, str]:
    """Outputs of the stages that have run, with their hashes."""
    lock = folder / "dvc.lock"
    stages = yaml.load(lock.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"] if lock.exists() else {}
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}


def _resolved(folder: Path) -> dict[str, list[str]]:
    """Paths each stage depends on, after DVC has filled in its templates: worked out once a rebuild (about 1 s), then kept."""
    texts = [(folder / name).read_bytes() for name in ("dvc.yaml", "params.yaml") if (folder / name).exists()]
    key = hashlib.md5(b"\0".join(texts), usedforsecurity=False).hexdigest()
    kept = folder / ".dvc" / "tmp" / "calm-dependencies.json"
    if kept.exists() and (table := json.loads(kept.read_text())).get("key") == key:
        return table["stages"]
    from dvc.repo import Repo

    stages = {stage.addressing: [dep.def_path for dep in _hashable(stage)] for stage in Repo(str(folder)).index.stages}
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"key": key, "stages": stages}))
    partial.replace(kept)
    return stages


def _hashed_by_dvc(folder: Path, stage: str, paths: list[str]) -> dict[str, str]:
    from dvc.repo import Repo

    deps = _hashable(Repo(str(folder)).stage.load_one(name=stage))
    found = {os.path.normpath(dep.def_path): dep for dep in deps}
    return {path: found[path].get_hash().value for path in paths if found[path].exists}


def _hashable(stage) -> list:
    return [dep for dep in stage.deps if hasattr(dep, "get_hash")]  # settings are dependencies too, without a hash
