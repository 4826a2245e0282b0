"""A project of one's own, outside of this repository."""

import os
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from calm.cli import app
from calm.corpora import CorpusError
from calm.corpora.utterances import read_table
from pipeline import paths, project, settings

ROOT = Path(__file__).parents[2]


def calm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.full(8000, 0.1), 16000)
    return root


@pytest.fixture
def recordings(tmp_path):
    """Folders of two classes, by three speakers."""
    return folders(tmp_path / "mine", *(f"{name}/{speaker}1.wav" for name in ("glad", "sad") for speaker in "abc"))


def test_dvc_runs_a_new_project(recordings, tmp_path):
    done = calm("new", tmp_path / "made", "--audio", recordings, "--option", "speaker=([a-z])1")
    assert done.exit_code == 0 and "6 rows, 3 speakers named, classes glad, sad" in done.output, done.output
    made = tmp_path / "made"
    assert not [line for line in (made / "params.yaml").read_text().splitlines() if "own-data" in line]
    loaded = settings.load(made / "params.yaml")
    assert loaded.corpora["mine"].folds == 5 and loaded.head.decision == "argmax" and loaded.title == "mine"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC")}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(["dvc", "repro", "ingest@mine"], cwd=made, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(read_table(made / paths.utterances("mine"))) == 6
    assert {path.name for path in made.iterdir()} == {".dvc", ".gitignore", "README.md", "data", "dvc.lock", "dvc.yaml", "params.yaml"}
    again = calm("new", made, "--audio", recordings)
    assert again.exit_code == 0 and "speaker" in (made / "params.yaml").read_text()  # which keeps its settings


def test_settings_fit_the_recordings(tmp_path):
    """Splits and folds of a table are kept; several labels are questions of their own; audio without labels is for pretraining."""
    for number in range(9):
        soundfile.write(tmp_path / f"{number}.wav", np.full(8000, 0.1), 16000)
    splits = 3 * ["train"] + 3 * ["validation"] + 3 * ["test"]
    rows = [f"{number}.wav,s{number},{split},{number % 3 + 1},{'x' if number % 3 else 'x;y'}" for number, split in enumerate(splits)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["audio,speaker,split,number,labels", *rows]))

    def written(*sources: Path) -> settings.Settings:
        folder = tmp_path / f"made-{len(list(tmp_path.glob('made-*')))}"
        project.create(folder, [project.source(path) for path in sources])
        return settings.load(folder / "params.yaml")

    own = written(table)
    assert own.corpora["mine"].folds is None and (own.head.loss, own.head.decision) == ("bce", "thresholds")
    assert own.title == f"{tmp_path.name}/table.csv"
    table.write_text(table.read_text().replace("number,", "fold,", 1))
    assert written(table).corpora["mine"].folds == "given"
    more = folders(tmp_path / "more", "a.wav")
    unnamed = written(folders(tmp_path / "unnamed", *(f"{name}/{number}.wav" for name in ("glad", "sad") for number in range(3))))
    assert [row.normalise for row in unnamed.heads["mine-small"].rows.values()] == [None]  # no speaker is named
    assert [row.normalise for row in own.heads["mine-small"].rows.values()] == [None, "tested_speaker"]
    both = written(table, more)
    assert both.heads["mine-small"].rows["calm"].start == "pretrained"
    assert both.models["small"].pretrain_on == "more" and both.corpora["more"].path == more and both.head.pooling == "cls_blocks"


def test_what_no_project_is_made_of(recordings, tmp_path):
    unlabelled = folders(tmp_path / "unlabelled", "a.wav")
    with pytest.raises(CorpusError, match="0 of 1 have labels: give one with labels"):
        project.create(tmp_path / "made", [project.source(unlabelled)])
    one = folders(tmp_path / "one", "glad/a.wav")
    done = calm("train", one, "-o", tmp_path / "made")
    assert done.exit_code == 2 and "there is one class, glad" in done.stderr and not (tmp_path / "made").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    assert "is there already and is no project" in calm("new", tmp_path / "full", "--audio", recordings).stderr
    calm("new", tmp_path / "made", "--audio", recordings)
    other = folders(tmp_path / "other", *(f"{name}/{speaker}.wav" for name in ("x", "y") for speaker in "abc"))
    refused = calm("new", tmp_path / "made", "--audio", other)
    assert refused.exit_code == 2 and f"is a project of {recordings}: name a new folder" in refused.stderr
    assert "nowhere is missing" in calm("train", "nowhere", "-o", tmp_path / "made").stderr


def test_training_runs_dvc_in_this_environment_and_prints(recordings, tmp_path, monkeypatch):
    started = []

    def run(command, cwd, env, check):
        started.append((command[1:], cwd, env["PATH"].split(os.pathsep)[0]))
        return subprocess.CompletedProcess(command, 3 * (len(started) == 3))

    monkeypatch.setattr(project.subprocess, "run", run)
    done = calm("train", recordings, "-o", tmp_path / "made")
    assert done.exit_code == 0 and str(tmp_path / "made/reports/index.html") in done.stdout and "counts as a speaker" in done.stderr
    here = str(Path(sys.executable).parent)
    assert started == [(["-m", module], tmp_path / "made", here) for module in ("pipeline.repro", "pipeline.stages.report")]
    assert calm("train", recordings, "-o", tmp_path / "made").exit_code == 3 and len(started) == 3


def test_an_installed_package_has_the_files_of_a_project():
    """Those beside the code are in the wheel, links by what they lead to."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline.project"]
    beside = [file for file in (ROOT / "pipeline/project").iterdir() if file.is_file() and file.suffix != ".py"]
    assert {"params.yaml.in", *project.TEMPLATES.values()} <= {file.name for file in beside}
    assert all(any(fnmatch(file.name, pattern) for pattern in patterns) for file in beside)
    assert not list((ROOT / "pipeline").rglob("dvc.yaml"))  # which DVC would take for stages of this repository
    assert yaml.safe_load((ROOT / "pipeline/project/dvc.yaml.in").read_text()) == yaml.safe_load((ROOT / "dvc.yaml").read_text())
