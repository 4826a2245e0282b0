"""A digest of the code that a stage runs: its own module and all that it imports, without comments and docstrings."""

import ast
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]

# These say which settings a stage sees, where it reads and writes, and on which processes it runs, not what it computes. The settings
# are listed beside the digest; tests hold that results do not depend on the number of processes or on where they run.
LEFT_OUT = tuple(f"pipeline.{name}" for name in ("settings", "state", "code", "stage", "paths", "tracking", "execution"))


def modules(name: str, also: Sequence[str] = ()) -> dict[str, str]:
    """Digests by module of all that a module imports, itself included.

    Imports count wherever they stand, in functions too, but not those for type checkers alone. A package's `__init__`, which holds a
    docstring or a registry, counts where it is itself imported.

    Args:
        name: of the module.
        also: modules that it loads by name at run time, which no import statement shows.
    """
    graph, reached = _graph(), set()
    for root in (name, *also):
        reached |= {root} | graph.find_upstream_modules(root)
    return {module: _digest(module) for module in sorted(reached)}


def digest(source: str) -> str:
    """SHA-256 of a module's syntax tree without comments, docstrings and line breaks, its first 16 digits."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in body if not _is_text(part)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def of_file(name: str) -> str:
    """SHA-256 of a file below the folder of this package, its first 16 digits."""
    return hashlib.sha256((ROOT / "pipeline" / name).read_bytes()).hexdigest()[:16]


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is a text alone: a docstring, of a field too."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _graph() -> grimp.ImportGraph:
    graph = grimp.build_graph("calm", "pipeline", cache_dir=None, exclude_type_checking_imports=True)
    for module in LEFT_OUT:
        graph.remove_module(module)  # with what lies below it
    return graph


@cache
def _digest(module: str) -> str:
    return digest(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
