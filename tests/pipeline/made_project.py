"""A copy of the project with a very small corpus of synthetic speech: what tests rebuild."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import preloaded
import yaml

ROOT = Path(__file__).parents[2]


def small() -> dict:
    """The embedded default with one corpus, few utterances and few epochs."""
    given = yaml.safe_load((ROOT / "params.yaml").read_text())
    given["seeds"] = [1, 2]
    given["targets"] = ["msp"]
    given["heads"] = {"msp-small": {"corpus": "msp", "model": "small"}}
    for section in ("synthetic", "corpora"):
        given[section] = {"msp": given[section]["msp"]}
    given["synthetic"]["msp"] |= {"utterances": 60, "speakers": 20}
    given["calp"] |= {"epochs": 2}
    given["pretrain"] |= {"epochs": 1}
    given["spectran"] |= {"pooling": "bands"}
    given["head"] |= {"epochs": 1, "frozen_epochs": 3, "modalities": ["audio", "both"]}
    given["head"] |= {"pooling": "cls_blocks", "standardise": True, "first": "head"}
    given["head"] |= {"frozen_copies": 1, "augment": {"gain_db": 3}, "learning_rate": 3e-4, "frozen_learning_rate": 3e-4}
    given["evaluate"] |= {"baselines": ["chance", "logmel_functionals"], "bootstrap": 50}
    for section in ("transcribe", "features"):
        given[section]["workers"] = 1  # a second process would be longer in starting than in working
    return given


class Project:
    """A copy of the project in a folder of its own."""

    lent = True

    def __init__(self, folder: Path, **environment: str):
        self.folder, self.environment = folder, environment
        for name in ("calm", "pipeline", "dvc.yaml", ".dvc/config", ".dvcignore", ".gitignore"):
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__")) if source.is_dir() else shutil.copy(
                source, target
            )
        self.write(small())
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)

    def write(self, given: dict) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(given))

    @classmethod
    def of(cls, folder: Path, **environment: str) -> "Project":
        """One that is there already."""
        made = cls.__new__(cls)
        made.folder, made.environment = folder, environment
        return made

    def copy(self, folder: Path, **environment: str) -> "Project":
        """Another one as far as this one is."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return self.of(folder, **environment)

    def start(self, *command: str, output=subprocess.PIPE, first: Path | None = None) -> subprocess.Popen:
        """Start a command in the project.

        Args:
            command: and its arguments.
            output: a file that takes all that it says.
            first: a folder whose commands go before others.
        """
        path = os.pathsep.join(map(str, filter(None, (first, Path(sys.executable).parent, os.environ["PATH"]))))
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "PREFECT_", "CALM_REBUILD"))
        }
        if first:  # its processes have no `dvc repro` above them, by which the stages of a rebuild find each other
            environment["CALM_REBUILD"] = f"{time.time()} {command[0]}"
        environment |= {"PATH": path, "PYTHONPATH": str(self.folder), **self.environment}
        errors = subprocess.PIPE if output == subprocess.PIPE else subprocess.STDOUT
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=errors, text=True)

    def changed(self) -> set[str]:
        """Stages that DVC would run, after `check`, because something changed that they themselves depend on."""
        check = self.run(sys.executable, "-m", "pipeline.stages.check")
        assert check.returncode == 0, check.stderr
        status = self.run("dvc", "status", "--json")
        assert status.returncode == 0, status.stderr
        return set(json.loads(status.stdout)) - {"check"}

    def edit(self, file: str, *replacements: tuple[str, str]) -> None:
        """Change a text file of the project."""
        path = self.folder / file
        text = path.read_text()
        for old, new in replacements:
            assert old in text, (file, old)
            text = text.replace(old, new, 1)
        path.write_text(text)

    def repro(self) -> subprocess.CompletedProcess:
        return self.run("dvc", "repro")

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Do a command; it and the stages below it need not load the libraries where the project is `lent` processes that have."""
        lent = preloaded.commands() if self.lent else None
        if lent:
            command = tuple("python" if word == sys.executable else word for word in command)
        process = self.start(*command, first=lent)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
