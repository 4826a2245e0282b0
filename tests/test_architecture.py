"""Who may import whom: the contracts of pyproject.toml, and that a breach of them is seen."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def contracts(folder: Path) -> subprocess.CompletedProcess:
    """Check the contracts on the packages in a folder."""
    code = "import sys; from importlinter.cli import lint_imports_command; sys.path.insert(0, '.'); lint_imports_command()"
    return subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    for package in ("calm", "pipeline"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_are_kept():
    ended = contracts(ROOT)
    assert ended.returncode == 0, ended.stdout
    assert "0 broken" in ended.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("calm/audio/decoding.py", "import pipeline.state", "pipeline uses calm, never the other way round BROKEN"),
        ("calm/models/modeling.py", "from calm.training import loop", "the packages of calm BROKEN"),
        ("pipeline/state.py", "from pipeline.stages import evaluate", "the packages of pipeline BROKEN"),
        ("calm/models/spectran.py", "def late():\n    import calm.models.modeling", "no import cycles BROKEN"),
    ],
)
def test_breaches_are_seen(copy, file, line, broken):
    with (copy / file).open("a") as out:
        out.write(f"\n{line}\n")
    ended = contracts(copy)
    assert ended.returncode == 1 and broken in ended.stdout


def test_stages_that_do_not_compute_with_torch_do_not_load_it():
    """It takes seconds. Those that let other processes compute are among them."""
    names = ("baselines", "check", "embed", "evaluate", "features", "head", "ingest", "report", "synthesise", "transcribe")
    modules = ", ".join(("pipeline.flows.scoring", *(f"pipeline.stages.{name}" for name in names)))
    code = f"import sys, {modules}; print(*{{'torch', 'transformers', 'mlflow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
