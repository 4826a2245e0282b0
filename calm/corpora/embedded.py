"""Audio that lies as bytes in a Parquet table, as `datasets` writes it (`{bytes, path}`): unpacked once into a folder beside the table."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from calm.corpora.errors import CorpusError
from calm.storage import replacing

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = "source.json"  # in the folder: size and time of the table, and the names of its audio
SIGNS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"\x1aE\xdf\xa3": ".webm"}
BATCH = 64  # rows in memory at once


def is_bytes(type: "pa.DataType") -> bool:
    """Whether a column's type is plain bytes."""
    import pyarrow as pa

    return bool(pa.types.is_binary(type) or pa.types.is_large_binary(type))


def paths(table: Path, field: "pa.Field") -> list[str]:
    """The files that a column names instead of holding their bytes; none if it holds bytes, since they change with the table itself."""
    import pyarrow.parquet as pq

    if is_bytes(field.type) or "path" not in {own.name for own in field.type}:
        return []
    meta = pq.read_metadata(table)
    for group in range(meta.num_row_groups):
        columns = [meta.row_group(group).column(index) for index in range(meta.num_columns)]
        held = next((own for own in columns if own.path_in_schema == f"{field.name}.bytes"), None)
        if held is not None and not (held.statistics and held.statistics.null_count == held.num_values):
            return []
    return [row[field.name]["path"] for row in pq.read_table(table, columns=[f"{field.name}.path"]).to_pylist() if row[field.name]]


def _is_audio(type: "pa.DataType") -> bool:
    """Whether a struct is one of `datasets`: bytes, or the path of a file as text, or both."""
    import pyarrow as pa

    kinds = {own.name: own.type for own in type}
    has_bytes = "bytes" not in kinds or is_bytes(kinds["bytes"]) or pa.types.is_null(kinds["bytes"])
    path = kinds.get("path", pa.string())
    has_path = pa.types.is_string(path) or pa.types.is_large_string(path) or pa.types.is_null(path)
    return bool({"bytes", "path"} & kinds.keys()) and has_bytes and has_path


def unpack(table: Path, field: "pa.Field") -> list[str | None]:
    """The audio of each row, as a path relative to the table's folder; None where there is none.

    Bytes are written to the folder `<table>.audio` unless they lie there from this very table. Raises CorpusError if the column holds
    neither bytes nor paths, or the folder cannot be written.
    """
    if not is_bytes(field.type) and not _is_audio(field.type):
        raise CorpusError(f"{table}: its audio is {field.type}: give a path, or the bytes of a file as `datasets` does")
    folder, status = table.with_name(f"{table.name}.audio"), table.stat()
    source = {"bytes": status.st_size, "changed": status.st_mtime_ns}
    try:
        known = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        if known["source"] == source:
            return list(known["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    try:
        with replacing(folder) as partial:
            partial.mkdir()
            files = _write(table, field, folder.name, partial)
            (partial / SOURCE).write_text(json.dumps({"source": source, "files": files}), encoding="utf-8")
    except OSError as error:
        raise CorpusError(f"the audio in {table} cannot be unpacked to {folder} ({error.strerror or error})") from None
    return files


def _write(table: Path, field: "pa.Field", name: str, folder: Path) -> list[str | None]:
    import pyarrow.parquet as pq

    files: list[str | None] = []
    taken: Counter[str] = Counter()
    for batch in pq.ParquetFile(table).iter_batches(BATCH, columns=[field.name]):
        for value in batch.column(0).to_pylist():
            content, path = (value, None) if isinstance(value, bytes) else ((value or {}).get("bytes"), (value or {}).get("path"))
            if content is None:
                files.append(path)
                continue
            file = _name(path, content, len(files))
            taken[file.lower()] += 1
            if taken[file.lower()] > 1:
                file = f"{Path(file).stem}-{len(files):06d}{Path(file).suffix}"
            (folder / file).write_bytes(content)
            files.append(f"{name}/{file}")
    return files


def _name(path: str | None, content: bytes, row: int) -> str:
    """Name of the file of a row: that of its path without folders, or the row's number."""
    name = re.sub(r"[^\w .+@=-]|^[. ]+", "_", re.split(r"[/\\]", path or "")[-1])[-100:]
    suffix = next((suffix for sign, suffix in SIGNS.items() if content.startswith(sign)), ".audio")
    return name if Path(name).suffix and name != SOURCE else f"{name or f'{row:06d}'}{suffix}"
