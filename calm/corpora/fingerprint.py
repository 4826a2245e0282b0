"""A cheap fingerprint of the files of a corpus, which changes when a file does, also behind links."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from calm.corpora import check_options, module, option_values
from calm.corpora.files import AUDIO, walk


def fingerprint(format: str, path: Path, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Fingerprint of a corpus's audio files and of its other files, without reading their contents.

    Below a folder, all files but hidden ones count; links are followed, and each real folder is visited once. Folders outside `path` that
    an option names count too. Of a table (`manifest`), "other" is the table itself and "audio" are the files that it names.

    Args:
        format: a key of `calm.corpora.FORMATS`.
        path: folder of the corpus, or its table.
        options: options of the format.

    Returns:
        {"audio": part, "other": part}. Each part has "files" and "bytes", of the files that exist; "missing", the number of files that
        cannot be opened, such as broken links; and "digest", the SHA-256 of the sorted names, sizes and times of change (ns) of all files.
        Sizes and times are those of the real files behind links.

    Raises CorpusError for an unknown format.
    """
    path = Path(path)
    files: dict[str, list[tuple[str, str | Path]]] = {"audio": [], "other": []}  # pairs of name and location
    if path.is_file():
        files["other"].append((path.name, path))
        names: list[str] = getattr(module(format), "audio_files", lambda _: [])(path)
        files["audio"] += [(name, os.path.join(path.parent, name)) for name in names]  # noqa: PTH118
    for prefix, folder in _folders(format, path, options).items():
        for file in walk(folder, ""):
            kind = "audio" if file.name.lower().endswith(AUDIO) else "other"
            files[kind].append((f"{prefix}{file.relative_to(folder).as_posix()}", file))
    return {kind: _part(pairs) for kind, pairs in files.items()}


def _folders(format: str, path: Path, options: dict[str, Any]) -> dict[str, Path]:
    """Folders of a corpus by the prefix of their files' names: its own, and those outside it that options name."""
    values = option_values(format, check_options(format, options))
    named = {f"{name}:": Path(os.path.normpath(path / value)) for name, value in values.items() if isinstance(value, Path)}
    return {"": path} | {name: folder for name, folder in named.items() if not _absolute(folder).is_relative_to(_absolute(path))}


def _absolute(path: Path) -> Path:
    # Not Path.resolve: it follows links, and raises for a loop of links.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _part(files: Iterable[tuple[str, str | Path]]) -> dict[str, Any]:
    """Counts and digest of pairs of name and location."""
    lines, size, missing = [], 0, 0
    for name, location in files:
        try:
            status = os.stat(location)  # noqa: PTH116
        except (OSError, ValueError):  # vanished, a broken link, a loop of links, or a name that no file can have
            missing += 1
            lines.append(f"{name!r} missing")
        else:
            size += status.st_size
            lines.append(f"{name!r} {status.st_size} {status.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return {"files": len(lines) - missing, "bytes": size, "missing": missing, "digest": digest}
