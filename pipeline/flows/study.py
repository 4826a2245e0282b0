"""The `study` flow: a rebuild of another recipe, by default the paper's study, in a working copy of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import yaml
from prefect import flow

from pipeline import paths, settings
from pipeline.flows.rebuild import rebuild
from pipeline.tracking import store


class StudyError(RuntimeError):
    """The working copy cannot be created. The message says what to do."""


@flow(name="study")
def study(recipe: Path | None = None, targets: list[str] | None = None) -> str:
    """Rebuild the results of a recipe beside those of `params.yaml`; returns the folder, whose `reports` are the study's.

    The code is that of the last commit. Results of earlier runs, there or here, come from the cache that both share.

    Args:
        recipe: settings in the form of `params.yaml`; None: `flows.study_recipe`.
        targets: stages to bring up to date, with all that they need; None: all.
    """
    root, loaded = Path.cwd(), settings.load()
    folder = working_copy(root, recipe or loaded.flows.study_recipe)
    os.environ.setdefault("MLFLOW_TRACKING_URI", store.absolute(loaded.tracking.uri, root))
    os.chdir(folder)  # safe, as this process runs nothing else
    try:
        rebuild(targets)
    finally:
        os.chdir(root)
    return str(folder)


def working_copy(root: Path, recipe: Path) -> Path:
    """A clone of the project at its last commit, with the recipe as its settings, and the lock file and data of the clone's last run."""
    settings.load(root / recipe)  # raises before any work if the recipe has faults
    folder = (root / paths.studies() / recipe.stem).resolve()
    lock = folder / "dvc.lock"
    last_lock = lock.read_bytes() if lock.exists() else None
    commit = _git(root, "rev-parse", "HEAD")
    if not (folder / ".git").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _git(root, "clone", "--quiet", "--no-checkout", str(root), str(folder))
    _git(folder, "fetch", "--quiet", str(root), commit)
    _git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    if last_lock is not None:
        lock.write_bytes(last_lock)
    shutil.copyfile(root / recipe, folder / "params.yaml")
    cache = f"[cache]\n    dir = {root / '.dvc' / 'cache'}\n"
    (folder / ".dvc" / "config.local").write_text(cache, encoding="utf-8")
    for shared in (paths.servers(), *_raw_corpora(root / recipe)):
        _link(root / shared, folder / shared)
    return folder


def _raw_corpora(recipe: Path) -> list[Path]:
    """Folders in the project with corpora that no stage creates."""
    sections = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    synthetic = {corpus["path"] for corpus in sections["synthetic"].values()}
    return [
        Path(corpus["path"])
        for corpus in sections["corpora"].values()
        if corpus["path"] not in synthetic and not Path(corpus["path"]).is_absolute()
    ]


def _link(source: Path, link: Path) -> None:
    if not link.is_symlink() and not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)


def _git(folder: Path, *arguments: str) -> str:
    process = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if process.returncode:
        raise StudyError(f"the study needs the project's git repository, and git {arguments[0]} failed: {process.stderr.strip()}")
    return process.stdout.strip()
