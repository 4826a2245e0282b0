"""Which model is meant, archives and the hub, and what `calm predict` writes of it."""

import csv
import json
import subprocess
import sys
import tomllib
import warnings
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from made_model import CLASSES, release, speech
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

import calm as library
from calm.cli import app
from calm.inference import archives, finding, hub, voice
from calm.storage import write_json

ROOT = Path(__file__).parents[2]


def calm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without a project, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(finding.VARIABLE, raising=False)


def project(**models: list[str]) -> Path:
    """A project with released models, by corpus; only what tells that they are some."""
    for corpus, names in models.items():
        for name in names:
            folder = finding.MODELS / corpus / name
            folder.mkdir(parents=True)
            (folder / "model.safetensors").touch()
            write_json({}, folder / "release.json")
    return finding.MODELS


def test_the_model_that_is_meant(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no model is named, and this folder has none in data/models: make one by `calm train"):
        finding.find()
    models = project(msp=["small"])
    (models / "msp" / "kept-none").mkdir()  # of release: false
    assert finding.find() == finding.find("msp") == finding.find("data/models/msp/small") == models / "msp/small"
    project(mosei=["small", "large"])
    with pytest.raises(ValueError, match="models of several corpora: choose one by --model mosei or --model msp"):
        finding.find()
    monkeypatch.setattr(finding, "_registered", lambda name: Path(name))
    assert finding.find("mosei") == Path("models:/calm-mosei@champion") and finding.find("models:/x/1") == Path("models:/x/1")
    monkeypatch.setenv(finding.VARIABLE, "msp")
    assert finding.find() == models / "msp/small" and finding.find("mosei") == Path("models:/calm-mosei@champion")


def test_several_without_a_champion():
    project(mosei=["small", "large"])
    with pytest.raises(ValueError, match="has 2 models: choose one of data/models/mosei/large, data/models/mosei/small"):
        finding.find()


@pytest.mark.parametrize("name", ["nothing", "gone/x/y", "./gone", "data/gone"])
def test_what_is_no_model(name):
    Path("data").mkdir()
    with pytest.raises(ValueError, match=f"{name} is no released model: give --model a folder or an archive"):
        finding.find(name)


def test_a_name_on_the_hub(monkeypatch):
    monkeypatch.setattr(hub, "snapshot_download", lambda name: f"/cache/{name}")
    assert finding.find("somebody/model") == Path("/cache/somebody/model")

    def fails(name):
        raise hub.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(ValueError, match=r"somebody/model is neither here nor to be had from the hub \(no connection\): give --model"):
        finding.find("somebody/model")


def test_a_model_goes_to_the_hub_with_its_card(released, monkeypatch):
    asked = []

    class Api:
        def create_repo(self, name, private, exist_ok):
            asked.append((name, private, exist_ok))
            return f"https://hub/{name}"

        def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
            asked.append((repo_id, sorted(file.name for file in Path(folder_path).iterdir())))

    monkeypatch.setattr(hub, "HfApi", Api)
    done = calm("export", released, "--push", "somebody/model")
    assert done.exit_code == 0 and done.stdout == "https://hub/somebody/model\n"
    assert asked[0] == ("somebody/model", True, True) and {"model.safetensors", "config.json", "tokenizer.json"} <= set(asked[1][1])
    with pytest.raises(ValueError, match="is not a released model"):
        hub.push(Path(), "somebody/model")


def test_an_archive_is_the_model(released, tmp_path):
    done = calm("export", released, "-o", "model.zip")
    assert done.exit_code == 0 and done.stdout.startswith("model.zip: ")
    first = Path("model.zip").read_bytes()
    calm("export", released, "-o", "model.zip")
    assert Path("model.zip").read_bytes() == first
    classifier, other = library.load_classifier("model.zip"), library.load_classifier(released)
    np.testing.assert_array_equal(classifier(None, ["hello"]), other(None, ["hello"]))
    assert classifier.folder.parent == tmp_path / "cache/calm/models" and classifier.version == other.version
    assert archives.unpacked(Path("model.zip")) == classifier.folder
    assert calm("export", released).exit_code == calm("export", "nowhere", "-o", "x.zip").exit_code == 2


def test_archives_that_are_none(released):
    Path("text.zip").write_text("text")
    with zipfile.ZipFile("other.zip", "w") as other:
        other.writestr("a.txt", "x")
    with zipfile.ZipFile("outside.zip", "w") as outside:
        for name in ("model.safetensors", "config.json", "../../x"):
            outside.writestr(name, "x")
    for name, more in (
        ("twice", {"config.json": "{}"}),
        ("bomb", {"a": bytes(20_000_000)}),
        ("many", dict.fromkeys(map(str, range(1001)), "")),
    ):
        with warnings.catch_warnings(), zipfile.ZipFile(f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as other:
            warnings.simplefilter("ignore")  # zipfile warns of two files of one name, and writes them
            for file, content in [("model.safetensors", "x"), ("config.json", "x"), *more.items()]:
                other.writestr(file, content)
    archives.write(released, Path("model.zip"))
    Path("torn.zip").write_bytes(Path("model.zip").read_bytes()[:-1000])
    for name, says in (
        ("text", "damaged"),
        ("torn", "damaged"),
        ("other", "it has no model.safetensors"),
        ("outside", "outside its folder"),
        ("twice", "3 files, of 2 names"),
        ("bomb", "more than 10 times its size"),
        ("many", "1003 files"),
    ):
        with pytest.raises(ValueError, match=f"{name}.zip .*{says}"):
            archives.unpacked(Path(f"{name}.zip"))
    assert not list(Path().rglob("x")) and not list(Path("cache").rglob("*.partial"))


@pytest.fixture
def folder_of_audio(monkeypatch):
    """A folder with a clip, silence, and what is no audio."""
    monkeypatch.setattr(voice, "detects", lambda: False)  # which would not take the clip made here for speech
    Path("in/deep").mkdir(parents=True)
    soundfile.write("in/deep/=clip.wav", speech(1), 16000)
    soundfile.write("in/silence.wav", np.zeros(16000), 16000)
    Path("in/notes.txt").touch()


def test_a_folder_to_a_table(released, folder_of_audio):
    done = calm("predict", "in", "--model", released, "-o", "out.csv")
    assert done.exit_code == 0 and done.stdout.startswith("out.csv: 2 rows; model ") and "; decided by thresholds" in done.stdout
    rows = {row["file"]: row for row in csv.DictReader(Path("out.csv").read_text().splitlines())}
    clip, silence = rows["in/deep/=clip.wav"], rows["in/silence.wav"]
    model = library.load_classifier(released)
    (expected,) = model([speech(1)], [None])
    assert [float(clip[name]) for name in CLASSES] == pytest.approx(expected.tolist(), abs=0.01)
    assert clip["decided"] == ", ".join(model.decided(expected)) and clip["decision"] == model.decision and clip["version"] == model.version
    assert [float(clip[f"threshold_{name}"]) for name in CLASSES] == pytest.approx(model.thresholds.tolist())
    assert silence["fault"] == "no speech" and silence[CLASSES[0]] == silence["decided"] == ""
    assert calm("predict", "in", "--model", released, "-o", "out.parquet").exit_code == 0
    assert pd.read_parquet("out.parquet")["file"].tolist() == ["in/silence.wav", "in/deep/=clip.wav"]


def test_cells_that_a_spreadsheet_would_run(released):
    calm("predict", "--text", "=1+1", "--model", released, "-o", "out.csv")
    assert next(csv.DictReader(Path("out.csv").read_text().splitlines()))["text"] == "'=1+1"


def test_every_output_names_decision_and_version(released):
    result = json.loads(calm("predict", "--text", "hello", "--model", released, "--json").stdout)
    model = library.load_classifier(released)
    assert (result["version"], result["decision"]) == (model.version, model.decision) and len(model.version) == 12
    assert list(result["thresholds"]) == CLASSES and result["rows"][0]["decision"] == model.decision
    done = calm("predict", "--text", "hello", "--model", released)
    assert f"version {model.version}; decided by" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["in/gone", "-o", "out.txt"], "out.txt must end in .csv or .parquet"),
        (["in/deep/.."], "has no audio files"),
    ],
)
def test_what_is_not_written(released, arguments, says):
    Path("in/deep").mkdir(parents=True)
    done = calm("predict", *arguments, "--model", released)
    assert done.exit_code == 2 and says in done.stderr and not Path("out.txt").exists()


LIGHT = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *where):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, *where)
sys.meta_path = list(map(Without, sys.meta_path))
from calm.cli import app
app()
"""


@cache
def not_required() -> set[str]:
    """Modules that are installed here, and that a package which is installed alone does not bring."""
    waiting = [Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    kept: set[str] = set()
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        lines = [] if name in kept else map(Requirement, metadata.requires(name) or [])
        kept.add(name)
        waiting += [line for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    owners = metadata.packages_distributions()
    return {module for module in owners if not set(map(canonicalize_name, owners[module])) & kept} - {"calm", "pipeline"}


def only_light(*arguments: object) -> subprocess.CompletedProcess:
    """A command in a process that has nothing but what the package itself requires."""
    code = LIGHT.replace("BLOCKED", repr(not_required()))
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


def test_a_model_is_used_with_what_the_package_itself_requires(folder_of_audio, tmp_path):
    release(tmp_path / "model", with_graph=True)
    archives.write(tmp_path / "model", Path("model.zip"))
    done = only_light("predict", "in", "--model", "model.zip", "-o", "out.csv")
    assert done.returncode == 0 and done.stdout.startswith("out.csv: 2 rows"), done.stderr
    answers = {row["file"]: row for row in csv.DictReader(Path("out.csv").read_text().splitlines())}
    (expected,) = library.load_classifier("model.zip")([speech(1)], [None])
    assert [float(answers["in/deep/=clip.wav"][name]) for name in CLASSES] == pytest.approx(expected.tolist(), abs=0.01)
    assert answers["in/silence.wav"]["fault"] == "no speech"
    soundfile.write("long.wav", np.tile(speech(1), 31), 16000)
    for arguments, part in (
        (("predict", "long.wav", "--model", "model.zip"), "transcribe"),
        (("corpus", "check", "in"), "train"),
        (("train", "in", "-o", "made"), "pipeline"),
    ):
        done = only_light(*arguments)
        assert done.returncode in (1, 2) and f"pip install 'calm-speech[{part}]'" in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_the_version_of_the_program():
    assert calm("--version").stdout == f"calm {library.__version__}\n"
