"""A project of one's own: a folder of settings and stages that `dvc repro` runs without a copy of this code's repository.

`dvc.yaml.in` and `params.yaml.in` are links to files of the repository, and copies where the package is installed. A file that is called
`dvc.yaml` would count as stages of the repository.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from calm.corpora import CorpusError, read_corpus
from calm.corpora.layout import format_of
from calm.corpora.trainable import refuse_untrainable
from calm.corpora.utterances import Corpus
from calm.storage import replacing
from pipeline import settings

TARGET, MORE = "mine", "more"  # names of the corpora: whose labels are learned, and without labels
TEMPLATES = {"dvc.yaml": "dvc.yaml.in", ".gitignore": "gitignore.in"}  # copied as they are


@dataclass(frozen=True)
class Source:
    """Recordings for a project: where they lie, in which format, its options, and what they are."""

    path: Path
    format: str
    options: dict
    corpus: Corpus

    @property
    def labelled(self) -> bool:
        """Whether they teach classes; otherwise they are for pretraining."""
        return bool(self.corpus.classes)

    def described(self) -> str:
        """One line: what was found."""
        rows = self.corpus.utterances
        classes = f"classes {', '.join(self.corpus.classes)}" if self.labelled else "no labels: for pretraining"
        speakers = len({row.speaker for row in rows} - {""})
        return f"{self.path} ({self.format}): {len(rows)} rows, {speakers or 'no'} speakers named, {classes}"


def source(path: Path, format: str | None = None, options: dict | None = None) -> Source:
    """Recordings of a table or a folder. Raises CorpusError if they cannot be used.

    Args:
        format: of `calm.corpora.FORMATS`; None: the one that the files have.
        options: of the format.
    """
    format = format or format_of(path)
    return Source(path, format, options or {}, read_corpus(format, path, **(options or {})))


def create(folder: Path, sources: Sequence[Source]) -> None:
    """Write a project: settings, stages, and a page that says what to type.

    Args:
        folder: new or empty, or an earlier project of the same recordings, which keeps its settings.
        sources: one with labels; beside it, at most one without, for pretraining.

    Raises:
        CorpusError: none has labels, several have, or they cannot be learned from.
        ValueError: the folder holds something else.
    """
    labelled, unlabelled = ([one for one in sources if one.labelled == kind] for kind in (True, False))
    if len(labelled) != 1 or len(unlabelled) > 1:
        raise CorpusError(
            f"{len(labelled)} of {len(sources)} have labels: give one with labels (a table with a column 'labels', or a folder of "
            "each class), and beside it at most one without, for pretraining"
        )
    refuse_untrainable(labelled[0].corpus, folds=5)
    text = written_settings(folder, labelled[0], unlabelled[0] if unlabelled else None)
    if (folder / "params.yaml").exists():
        _check_same(folder, text)
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and is no project: name a new folder")
    own = files("pipeline.project")
    contents = {name: own.joinpath(file).read_text(encoding="utf-8") for name, file in TEMPLATES.items()}
    title, audio = yaml.safe_load(text)["title"], labelled[0].path
    contents["README.md"] = own.joinpath("README.md.in").read_text(encoding="utf-8").format(title=title, audio=audio)
    contents[".dvc/config"] = "[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n"
    with replacing(folder) as partial:
        for name, content in (contents | {"params.yaml": text}).items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(content, encoding="utf-8")
        settings.load(partial / "params.yaml")


def written_settings(folder: Path, labelled: Source, unlabelled: Source | None) -> str:
    """The text of `params.yaml`: the recipe for one's own data with the comments that it has, and what these recordings need."""
    text = files("pipeline.project").joinpath("params.yaml.in").read_text(encoding="utf-8")
    text = text.partition("title:")[1] + text.partition("title:")[2]  # without what the recipe says of itself
    corpora = {TARGET: _corpus(folder, labelled) | _folds(labelled.corpus)}
    changes = {"title: My own data": f"title: {json.dumps(_title(labelled.path))}"}
    if unlabelled:
        corpora[MORE] = _corpus(folder, unlabelled)
        changes |= {
            "pretrain_on: none": f"pretrain_on: {MORE}",
            "calm: {start: language_model, by_speaker_too: true}": "calm: {}",
            "pooling: none": "pooling: cls_blocks",
        }
    if not any(row.speaker for row in labelled.corpus.utterances):
        known = "      calm_known: {start: language_model, by_speaker_too: true, normalise: tested_speaker}\n"
        changes |= {known: "", ", encoder_functionals_known": ""}
    if not labelled.corpus.one_hot:
        changes |= {"loss: softmax": "loss: bce", "decision: argmax": "decision: thresholds"}
    entry = next(line for line in text.splitlines() if line.startswith(f"  {TARGET}: "))
    changes[entry] = "\n".join(f"  {name}: {json.dumps(values, ensure_ascii=False)}" for name, values in corpora.items())
    for old, new in changes.items():
        if old not in text:
            raise AssertionError(f"the recipe has no '{old}'")
        text = text.replace(old, new, 1)
    return "# Every setting and its default: docs/settings.md of the package's repository\n" + text


def _title(path: Path) -> str:
    """Of a folder its name, of a table its name with that of its folder."""
    path = path.resolve()
    return (f"{path.parent.name}/{path.name}" if path.is_file() else path.name) or "My own data"


def _corpus(folder: Path, one: Source) -> dict:
    """The entry of a corpus. Its path is relative where it lies in the project."""
    path, root = Path(os.path.abspath(one.path)), Path(os.path.abspath(folder))  # noqa: PTH100, resolve would follow links
    path = path.relative_to(root) if path.is_relative_to(root) else path
    return {"format": one.format, "path": path.as_posix()} | ({"options": one.options} if one.options else {})


def _folds(corpus: Corpus) -> dict:
    """Folds of speakers, unless the corpus comes with folds, or with labelled rows of its own in every split."""
    if any(row.fold is not None for row in corpus.utterances):
        return {"folds": "given", "refit": True}
    made_here = corpus.checks.get("rows whose split was made here", 0)
    own = {row.split for row in corpus.utterances if row.labels} if not made_here else set()
    return {} if own == {"train", "validation", "test"} else {"folds": 5, "refit": True}


def _check_same(folder: Path, text: str) -> None:
    """Raises ValueError if a project that is there is one of other recordings."""
    before, now = ({name: corpus["path"] for name, corpus in yaml.safe_load(part)["corpora"].items()} for part in (_read(folder), text))
    if before != now:
        raise ValueError(f"{folder} is a project of {', '.join(before.values())}: name a new folder, or change its params.yaml")


def _read(folder: Path) -> str:
    return (folder / "params.yaml").read_text(encoding="utf-8")


def run(folder: Path) -> int:
    """Bring a project up to date with progress on the terminal, then print its tables; returns DVC's exit code."""
    scripts = Path(sys.executable).parent  # of this environment, whether or not it is active
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    for module in ("pipeline.repro", "pipeline.stages.report"):
        process = subprocess.run([sys.executable, "-m", module], cwd=folder, env=environment, check=False)
        if process.returncode:
            return process.returncode
    return 0
