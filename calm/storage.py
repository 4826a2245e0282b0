"""Files and folders that are written whole or not at all."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa  # which a model in use does not need


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, `.NAME.partial` beside `path`, to which the body writes a file or a folder.

    The result is renamed to `path` when the body ends, and removed when the body raises, so that a reader never sees half of it. An
    existing file is replaced atomically. An existing folder is deleted just before the new one is renamed. Parent folders are created.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)  # left by a process that was killed
    try:
        yield partial
        if partial.is_dir():
            _remove(path)
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(content: object, path: Path) -> None:
    """Write a value as indented JSON, whole or not at all. NaN and infinities become null, tuples lists, and keys strings."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path):
    """Read a JSON file, such as `write_json` writes."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_parquet(table: "pa.Table", path: Path, **options) -> None:
    """Write a table, whole or not at all; options are those of `pyarrow.parquet.write_table`."""
    import pyarrow.parquet as pq

    with replacing(path) as partial:
        pq.write_table(table, partial, **options)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
