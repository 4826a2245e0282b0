"""A released model as one file: a ZIP archive of its folder."""

import hashlib
import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from calm.inference.classifier import check_folder

MOST_FILES = 1000  # in an archive
MOST_PACKED, FREE = 10, 2**20  # times that it may unpack to, of its size and so many bytes: weights hardly shrink
ROOM = 1.1  # disk that must be free, as a multiple of what an archive says that it holds


def write(folder: Path, archive: Path) -> int:
    """Write a released model to a ZIP archive, whole or not at all; returns its size in bytes.

    The same folder gives the same bytes. Nothing is compressed, as weights hardly shrink. Raises ValueError if it is no released model.
    """
    from calm.storage import replacing

    check_folder(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    with replacing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as zipped:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())  # of 1980, so that it does not depend on the time
            entry.external_attr, entry.file_size = 0o644 << 16, file.stat().st_size
            with file.open("rb") as source, zipped.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return archive.stat().st_size


def unpacked(archive: Path, cache: Path | None = None) -> Path:
    """Folder with what an archive holds, unpacked once for each content.

    Args:
        cache: None: `calm/models` below XDG_CACHE_HOME, else below `~/.cache`.

    Raises ValueError if it is no archive of a released model, is damaged, or does not fit the disk.
    """
    from calm.storage import replacing

    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calm" / "models"
    with archive.open("rb") as file:
        folder = cache / hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if folder.is_dir():
        return folder
    try:
        with zipfile.ZipFile(archive) as zipped:
            _check(archive, zipped, cache)
            with replacing(folder) as partial:
                zipped.extractall(partial)
                check_folder(partial)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{archive} is no archive of a released model, or damaged ({error}): write it again by `calm export`") from None
    return folder


def _check(archive: Path, zipped: zipfile.ZipFile, cache: Path) -> None:
    """Raises ValueError if an archive holds other files than a model's, or more than there is room for."""
    entries = zipped.infolist()
    names = {entry.filename for entry in entries}
    if "model.safetensors" not in names or "config.json" not in names:
        raise ValueError(f"{archive} is no archive of a released model: it has no model.safetensors and config.json")
    if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise ValueError(f"{archive} has a file outside its folder ({sorted(outside)[0]}): it was not written by `calm export`")
    if len(names) < len(entries) or len(entries) > MOST_FILES:
        raise ValueError(f"{archive} has {len(entries)} files, of {len(names)} names: it was not written by `calm export`")
    if sum(entry.file_size for entry in entries) > MOST_PACKED * (archive.stat().st_size + FREE):
        raise ValueError(f"{archive} would unpack to more than {MOST_PACKED} times its size: it was not written by `calm export`")
    cache.mkdir(parents=True, exist_ok=True)
    size, free = sum(entry.file_size for entry in entries), shutil.disk_usage(cache).free
    if ROOM * size > free:
        raise ValueError(f"{archive} holds {size / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free in {cache}: set XDG_CACHE_HOME elsewhere")
