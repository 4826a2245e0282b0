"""The public names of the package."""

import subprocess
import sys

import pytest

import calm


@pytest.mark.parametrize("name", calm.__all__)
def test_public_names(name):
    value = getattr(calm, name)
    assert value.__name__ == name and value.__module__ == calm._MODULES[name] and name in dir(calm)


def test_unknown_names():
    with pytest.raises(ImportError, match="cannot import name 'CalmForEverything'"):
        from calm import CalmForEverything  # noqa: F401
    assert not hasattr(calm, "CalmForEverything")


def test_the_package_loads_no_library():
    code = "import sys, calm; before = set(sys.modules); dir(calm); calm.__version__; print(*before)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "calm" in loaded and not {"torch", "numpy", "transformers", "pandas", "calm.models"} & loaded
