"""The code keeps to its types, by `mypy` with the settings of pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_types():
    """The first run takes half a minute: it reads torch and transformers. Those after it find them in .mypy_cache."""
    ended = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
