"""An index of a search: the vectors of all utterances in a Parquet file, so that a second search computes no audio again."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from calm.inference.recordings import Listener
from calm.storage import parquet_batches, parquet_writer
from calm.tools.search import ROWS, CalpEncoder, Sources

KEY = "calm-search"  # entry of the file's metadata that says which model and sources the index belongs to
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the corpus's own id; null for audio files
        ("file", pa.string()),
        ("start", pa.float64()),  # seconds in the file
        ("end", pa.float64()),
        ("text", pa.string()),
        ("fault", pa.string()),  # why there are no vectors
        ("blocks", pa.list_(pa.float16())),  # vectors of the blocks one after another, each of length 1
    ]
)


def indexed(sources: Sources, encoder: CalpEncoder, listener: Listener, path: Path) -> tuple[Iterator[dict[str, Any]], str | None]:
    """Rows from an index if it is up to date, else computed and written to it; and a message if an index is renewed.

    Raises ValueError if the file is not an index, or belongs to another model or other sources: such a file is never overwritten.
    """
    key = {"model": encoder.digest(), "sources": sources.names, "state": sources.state()}
    if not path.exists():
        return write(sources.rows(encoder, listener), path, key), None
    try:
        old = json.loads(pq.read_schema(path).metadata[KEY.encode()])
    except (pa.ArrowException, OSError, KeyError, TypeError):
        raise ValueError(f"{path} is not an index of `calm search`: name another file") from None
    for part, other in (("model", "another model"), ("sources", "other recordings")):
        if old[part] != key[part]:
            raise ValueError(f"{path} is an index of {other}: name another file, or remove this one")
    if old["state"] != key["state"]:
        return write(sources.rows(encoder, listener), path, key), f"{path} is computed again: files have changed since"
    return read(path, encoder.width), None


def write(rows: Iterable[dict[str, Any]], path: Path, key: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pass rows on while writing them to Parquet. The file appears when the last row has been taken."""
    schema = SCHEMA.with_metadata({KEY: json.dumps(key)})
    group: list[dict[str, Any]] = []
    with parquet_writer(path, schema) as file:
        for row in rows:
            group.append(row)
            if len(group) == ROWS:
                file.write_table(_table(group, schema))
                group.clear()
            yield row
        if group:
            file.write_table(_table(group, schema))


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    vectors = [None if row["blocks"] is None else row["blocks"].ravel() for row in rows]
    return pa.table(
        {field.name: pa.array(vectors if field.name == "blocks" else [row[field.name] for row in rows], field.type) for field in schema},
        schema,
    )


def read(path: Path, width: int) -> Iterator[dict[str, Any]]:
    """Rows of an index, with `blocks` (blocks, width)."""
    for batch in parquet_batches(path, ROWS, SCHEMA.names):
        vectors = batch.column("blocks")
        for index, row in enumerate(batch.drop_columns(["blocks"]).to_pylist()):
            blocks = vectors[index].values
            yield row | {"blocks": None if blocks is None else blocks.to_numpy(zero_copy_only=False).reshape(-1, width)}
