"""Flipped bits."""

import random
from collections.abc import Callable
from pathlib import Path

from tests.faults.processes import Wrong

SEALED = ("features/msp", "encoded/small", "texts/msp", "utterances/msp", "calp/small", "models/msp/small")


def flips(base: Path, fresh: Callable[[str], Path], length: int, chance: random.Random) -> str:
    """A flipped bit of features, encoded blocks, texts, tables and models is named, or changes nothing."""
    named = flipped([base / "data" / name for name in SEALED], 5 * length, chance)
    return f"{named} of {5 * length} flipped bits were named, the rest harmless"


def flipped(folders: list[Path], count: int, chance: random.Random) -> int:
    """Flip bits of the folders' files, one at a time, and put them back; returns how many were named. Raises Wrong at a wrong value."""
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    named, before = 0, {file: file.read_bytes() for file in files}
    read = {file: values(file) for file in files}
    for _ in range(count):
        file = chance.choice(files)
        content, at = bytearray(before[file]), chance.randrange(len(before[file]) or 1)
        content[at] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
        try:
            if values(file) != read[file]:
                raise Wrong(f"byte {at} of {file} gave another value")
        except (ValueError, OSError) as error:
            if file.name not in str(error):
                raise Wrong(f"byte {at} of {file}: {error}") from None
            named += 1
        finally:
            file.write_bytes(before[file])
    return named


def values(file: Path) -> object:
    """What the project's own readers give of a file; of a file that they read as a whole, its bytes after the check of its folder."""
    from calm.storage import SUMS, check_sums, read_json, read_parquet

    check_sums(file.parent)
    if file.suffix == ".parquet":
        return read_parquet(file).to_pydict()
    if file.suffix == ".json":
        return read_json(file)
    return file.read_bytes() if file.name != SUMS else None
