"""Files that are there whole or not at all."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_json(content: object, path: Path) -> None:
    """Write under a temporary name, then rename. NaN and infinities are written as null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def read_json(path: Path):
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_parquet(table: pa.Table, path: Path, **options) -> None:
    """Write a table under a temporary name and rename it, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, **options)
    partial.replace(path)
