"""The public names of the package, and the order of its parts."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import calm

ROOT = Path(calm.__file__).parent
LAYERS = (
    {"storage"},
    {"audio", "asr", "corpora"},
    {"data"},
    {"models"},
    {"training", "evaluation"},
    {"inference"},
    {"tools", "synthesis"},
    {"cli"},
)


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


def imports(file: Path) -> Iterator[str]:
    """Modules of this package that a file imports, at its top or in its functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("calm."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "calm":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                path = ROOT.parent / name.replace(".", "/")
                yield name if path.is_dir() or path.with_suffix(".py").is_file() else node.module


MODULES = {
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): set(imports(file))
    for file in ROOT.rglob("*.py")
}


def test_no_module_imports_itself_through_others():
    order = list(TopologicalSorter(MODULES).static_order())  # raises CycleError
    assert order.index("calm.audio.decoding") < order.index("calm.inference.recordings") < order.index("calm.cli")


def test_imports_go_one_way():
    rank = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    upwards = [
        f"{module} imports {other}"
        for module, others in MODULES.items()
        for other in others - {"calm"}
        if module != "calm" and rank[other.split(".")[1]] > rank[module.split(".")[1]]
    ]
    assert not upwards
