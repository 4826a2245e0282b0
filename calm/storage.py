"""Files and folders that are written whole or not at all, and that say when they are damaged."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa  # otherwise imported by the functions, because a model in use does not need it
    import pyarrow.parquet as pq

SUMS = "SHA256SUMS"  # of a folder's files, in the form of `sha256sum`, which can check them too
LEAST_BYTES = 1_000_000  # with less on the disk, nothing can be written
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # what begins one, also in full width
NUMBERS = re.compile(r"[+-]([\d.,]+(e[+-]?\d+)?|inf)( to [+−-]?[\d.,]+)?")


class Damaged(OSError, ValueError):
    """A file is not what was written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, `.NAME.partial` beside `path`, to which the body writes a file or a folder.

    The result is renamed to `path` when the body ends, and removed when the body raises, so that a reader never sees half of it. An
    existing file is replaced atomically. An existing folder is deleted just before the new one is renamed. Parent folders are created.

    Raises OSError (ENOSPC) in place of what the body raises where the disk is full, which libraries tell in many ways.
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
    except BaseException as error:
        full = isinstance(error, Exception) and shutil.disk_usage(path.parent).free < LEAST_BYTES  # before it is removed
        with contextlib.suppress(OSError):  # what went wrong before is what counts
            _remove(partial)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
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


def read_json(path: Path) -> Any:
    """Read a JSON file, such as `write_json` writes."""
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_cell(value: object) -> object:
    """A cell of a CSV table. A text that a spreadsheet would run as a formula has an apostrophe before it; numbers and ranges are left."""
    if not isinstance(value, str) or not value.lstrip().startswith(FORMULA) or NUMBERS.fullmatch(value):
        return value
    return f"'{value}"


# Parquet, with a checksum in every page


def write_parquet(table: "pa.Table", path: Path, **options: Any) -> None:
    """Write a table, whole or not at all; options are those of `pyarrow.parquet.write_table`."""
    import pyarrow.parquet as pq

    with replacing(path) as partial:
        pq.write_table(table, partial, write_page_checksum=True, **options)


@contextmanager
def parquet_writer(path: Path, schema: "pa.Schema", **options: Any) -> Iterator["pq.ParquetWriter"]:
    """A writer of many tables to one file, which is written whole or not at all; options are those of `pyarrow.parquet.ParquetWriter`."""
    import pyarrow.parquet as pq

    with replacing(path) as partial, pq.ParquetWriter(partial, schema, write_page_checksum=True, **options) as writer:
        yield writer


def read_parquet(path: Path, columns: Sequence[str] | None = None, **options: Any) -> "pa.Table":
    """A table; options are those of `pyarrow.parquet.read_table`. Raises Damaged if its folder's checksums or its pages' say so."""
    import pyarrow.parquet as pq

    check_sums(Path(path).parent)
    with _naming(path):
        return pq.read_table(path, columns=columns and list(columns), page_checksum_verification=True, **options)


def parquet_batches(path: Path, rows: int, columns: Sequence[str], groups: Sequence[int] | None = None) -> Iterator["pa.RecordBatch"]:
    """A table, so many rows at a time, of all row groups or of some. Raises Damaged as `read_parquet` does."""
    import pyarrow.parquet as pq

    check_sums(Path(path).parent)
    with _naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(rows, row_groups=groups, columns=list(columns))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:  # a wrong checksum, or a header that cannot be read
        raise Damaged(f"{path} is damaged ({' '.join(str(error).split())[:120]}): remove it, and make it again") from None


# Checksums of a folder's files


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS: the checksum of every file in the folder and below it."""
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in sorted(folder.rglob("*")) if path.is_file()]
    (folder / SUMS).write_text("".join(line for line in lines if not line.endswith(f"  {SUMS}\n")), encoding="utf-8")


def check_sums(folder: Path, within: int = 2) -> None:
    """Raise Damaged if a file of the folder is not what SHA256SUMS says; nothing is checked where there is no such file.

    What was checked once is known by size and time: in this process, and in later ones by a small file in the user's cache.

    Args:
        within: how many folders above may have the SHA256SUMS of this one.
    """
    for top in [folder, *folder.absolute().parents[:within]]:
        if (top / SUMS).is_file():
            _check(top)
            return


_known: set[str] = set()  # digests of `_stamp` of the folders that were checked


def _check(folder: Path) -> None:
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    stamp = _stamp(folder, [SUMS, *sums])
    note = _cache() / stamp
    if stamp in _known or note.exists():
        return
    for name, digest in sums.items():
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing, which {folder / SUMS} names: {_AGAIN}")
        if _sha256(folder / name) != digest:
            raise Damaged(f"{folder / name} is damaged (its SHA-256 is not the one in {SUMS}): {_AGAIN}")
    _known.add(stamp)
    with contextlib.suppress(OSError):  # a home that cannot be written: it is checked again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


_AGAIN = "copy the folder again, or have its stage make it again"


def _stamp(folder: Path, names: Sequence[str]) -> str:
    """A digest of what a folder's files look like from outside: names, sizes, times and places on the disk."""
    digest = hashlib.sha256(os.fsencode(folder.absolute()))
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            stat = (folder / name).stat()
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n".encode(errors="replace"))
    return digest.hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calm" / "checked"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
