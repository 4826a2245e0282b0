"""The `study` flow: the rebuild of another recipe, by default the paper's study, in a working copy of its own."""

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
    """The working copy cannot be made; one sentence that says what to do."""


@flow(name="study")
def study(recipe: Path | None = None, targets: list[str] | None = None) -> str:
    """Rebuild the results of a recipe beside those of `params.yaml`; returns the folder, whose `reports` are the study's.

    The code is that of the last commit. What earlier runs computed, there or here, is taken from the cache that both share.

    Args:
        recipe: settings in the form of `params.yaml`; None: `flows.study_recipe`.
        targets: stages to bring up to date, with all that they need; None: all.
    """
    root, given = Path.cwd(), settings.load()
    folder = working_copy(root, recipe or given.flows.study_recipe)
    os.environ.setdefault("MLFLOW_TRACKING_URI", store.absolute(given.tracking.uri, root))
    os.chdir(folder)  # of this process, which runs nothing else
    try:
        rebuild(targets)
    finally:
        os.chdir(root)
    return str(folder)


def working_copy(root: Path, recipe: Path) -> Path:
    """A clone of the project at its last commit, with the recipe as its settings; its lock file and its data are those of its last run."""
    settings.load(root / recipe)  # its faults are told before any work
    folder = (root / paths.studies() / recipe.stem).resolve()
    lock = folder / "dvc.lock"
    kept = lock.read_bytes() if lock.exists() else None
    commit = _git(root, "rev-parse", "HEAD")
    if not (folder / ".git").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _git(root, "clone", "--quiet", "--no-checkout", str(root), str(folder))
    _git(folder, "fetch", "--quiet", str(root), commit)
    _git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    if kept is not None:
        lock.write_bytes(kept)
    shutil.copyfile(root / recipe, folder / "params.yaml")
    cache = f"[cache]\n    dir = {root / '.dvc' / 'cache'}\n"
    (folder / ".dvc" / "config.local").write_text(cache, encoding="utf-8")
    for shared in (paths.servers(), *_raw(root / recipe)):
        _link(root / shared, folder / shared)
    return folder


def _raw(recipe: Path) -> list[Path]:
    """Folders of corpora that no stage makes, as far as they lie in the project."""
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    made = {corpus["path"] for corpus in given["synthetic"].values()}
    return [
        Path(corpus["path"])
        for corpus in given["corpora"].values()
        if corpus["path"] not in made and not Path(corpus["path"]).is_absolute()
    ]


def _link(source: Path, link: Path) -> None:
    if not link.is_symlink() and not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise StudyError(f"the study needs the project's git repository, and git {command[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()
