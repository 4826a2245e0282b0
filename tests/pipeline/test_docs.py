"""The pages are true: commands and examples are run, settings are valid, what is named exists.

A command in a block of the kind `sh` is run here in a small rebuilt project, in the order of its page, unless NOT_HERE says why not. So a
command that is added is run, and fails if it does not work. Blocks of other kinds are not commands that everybody types.
"""

import ast
import os
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from made_project import ROOT, small
from typer.testing import CliRunner

from benchmarks import side_by_side
from calm.cli import app
from calm.corpora.utterances import read_table
from calm.tools import needs
from pipeline import settings

PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
INSTALLS = "installs the project, from the network"
CORPORA = "needs corpora with licences of their own"
SERVERS = "starts servers of this machine; tests/pipeline/test_flows.py does, on free ports"
NOT_HERE = {
    "make demo": INSTALLS,
    "make study": INSTALLS,
    "make test": INSTALLS,
    "make up": SERVERS,
    "make down": SERVERS,
    "cp recipes/ravdess.yaml params.yaml && dvc repro": CORPORA,
    "cp recipes/calp.yaml params.yaml && dvc repro": CORPORA,
    "python benchmarks/calp_on_states.py --model mended --hours 1.29 --seed 1 --work states": CORPORA,
    "python benchmarks/calp_on_states.py --model mended --normalise speaker --hours 1.29 --seed 1 --work states": CORPORA,
    "calm train data/raw/mine/table.csv -o my-project": "trains for minutes; test_project.py makes projects, and DVC begins one",
    "python benchmarks/side_by_side.py --model data/models/msp/small --clip clip.wav": "test_side_by_side does, with fewer turns",
    "dvc repro": "tests/pipeline/conftest.py does, for the project that the commands here are run in",
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, kind: str) -> list[str]:
    """Fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Commands of a page's blocks of the kind `sh`, without comments."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s+)#.*", "", line).strip())]


@pytest.fixture(scope="module")
def project(rebuilt, tmp_path_factory):
    """A copy of the rebuilt project, with the files that the pages speak of."""
    made = rebuilt.copy(tmp_path_factory.mktemp("docs") / "project")
    for folder in ("recipes", "docs", "benchmarks"):
        shutil.copytree(ROOT / folder, made.folder / folder)
    table = read_table(made.folder / "data/utterances/msp/utterances.parquet")
    clips = [soundfile.read(made.folder / audio) for audio in table["audio"].head(4)]
    talk, rate = np.concatenate([samples for samples, _ in clips]), clips[0][1]
    (page,) = blocks(ROOT / "docs/own-data.md", "csv")
    mine = made.folder / "data/raw/mine"
    files = [mine / line.partition(",")[0] for line in page.splitlines()[1:]]
    for file in [made.folder / "clip.wav", made.folder / "talk.flac", mine / "new.wav", *files]:
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, talk, rate)
    (mine / "table.csv").write_text(page)
    (made.folder / "data/models/mine").symlink_to("msp")  # what `dvc repro` would make of them
    return made


@pytest.fixture
def inside(project, monkeypatch):
    """Work in the project, as it was set up."""
    project.write(small())
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(needs, "SECONDS", 0.05)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)  # the page would be served until somebody ends it
    for variable in [name for name in os.environ if name.startswith(("MLFLOW_", "PREFECT_"))]:
        monkeypatch.delenv(variable)
    return project


@pytest.mark.parametrize("page", [page for page in PAGES if set(commands(page)) - set(NOT_HERE)], ids=name)
def test_commands_run(page, inside):
    for command in commands(page):
        if command in NOT_HERE:
            continue
        if command.startswith("calm "):  # in this process, which has loaded the libraries
            words = shlex.split(command)[1:]
            done = CliRunner().invoke(app, [*words, "--port", "0"] if words[0] == "app" else words)
            assert done.exit_code == 0, f"{command}: {done.output}"
        else:
            done = inside.run("bash", "-ec", command)
            assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


def test_side_by_side(inside, capsys, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    side_by_side.main(Path("data/models/msp/small"), Path("clip.wav"), loops=1, starts=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" x")]
    names = ["openSMILE eGeMAPSv02", "openSMILE ComParE_2016", *(f"calm {of}" for of in ("predict, audio", "predict, audio + text"))]
    assert [re.split(r"\s{2,}", line.strip())[0] for line in lines] == [*names, "calm embed, audio + text"] and lines[0].endswith(" 1.00 x")


def test_what_is_not_run_is_still_said_somewhere():
    assert set(NOT_HERE) <= {command for page in PAGES for command in commands(page)}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_runs(page, inside):
    given: dict = {}
    for code in blocks(page, "python"):
        exec(code, given)
    if name(page) == "docs/own-data.md":
        assert len({row["label"] for row in given["scores"]}) == 8
    if name(page) == "docs/adding-a-corpus.md":
        for file in ("anna_happy.wav", "ben_sad.wav", "carl_bored.wav"):
            Path("example").mkdir(exist_ok=True)
            Path("example", file).touch()
        corpus = given["read"](Path("example"))
        assert [row.labels for row in corpus.utterances] == [["happy"], ["sad"]] and [row.id for row in corpus.dropped] == ["carl_bored"]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=name)
def test_settings_are_valid(page):
    """Each example, laid over the embedded default."""
    demo = yaml.safe_load((ROOT / "params.yaml").read_text())
    for text in blocks(page, "yaml"):
        changed = {key: demo.get(key, {}) | value if isinstance(value, dict) else value for key, value in yaml.safe_load(text).items()}
        settings.Settings.model_validate(demo | {"synthetic": {}} | changed)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "settings.md"], ids=name)  # that one is made of the code
def test_named_code_exists(page):
    """`file.py::Name.attribute`, and paths of files of this project."""
    text = page.read_text()
    for file, names in re.findall(r"`([\w/]+\.py)::([\w.]+)`", text):
        body = ast.parse((ROOT / file).read_text()).body
        for part in names.split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{file} has no {names}"
            body = found[0].body
    for file in re.findall(r"`((?:calm|pipeline|tests|benchmarks|recipes)/[\w/.]+\.(?:py|yaml|j2))`", text):
        assert (ROOT / file).is_file(), file


def test_no_path_of_one_machine():
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work)/", page.read_text()), page


def test_a_new_command_would_be_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\n# about it\ncalm new \\\n  --thing  # what\n```\n```text\nserve\n```\n```sh\nls && pwd\n```\n")
    assert commands(page) == ["calm new    --thing", "ls && pwd"] and not set(commands(page)) & set(NOT_HERE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_that_are_run_have_a_start(page):
    for module in set(re.findall(r"(?:python|torchrun) -m ((?:calm|pipeline|benchmarks|tests)[\w.]*)", page.read_text())):
        path = ROOT / module.replace(".", "/")
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert "__main__" in file.name or "__main__" in file.read_text(), module
