"""Time and memory of a corpus's keys at 100,000 hours: a made table of utterances, and made shards with ids and lengths alone.

    python benchmarks/many_shards.py FOLDER --rows 45000000 --shards 88000

Prints a JSON line a measurement. FOLDER needs 3 GB; what is written there is removed.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calm.data.examples import shards

ROWS = 512  # utterances of a shard


def write(folder: Path, rows: int, count: int) -> None:
    """`table.parquet` with so many rows, and so many shards."""
    schema = pa.schema([("id", pa.string()), ("duration", pa.float32()), ("split", pa.string())])
    with pq.ParquetWriter(folder / "table.parquet", schema) as writer:
        for first in range(0, rows, 1 << 20):
            size = min(1 << 20, rows - first)
            ids = pa.array([f"recording{number // 100:08d}_{number:09d}" for number in range(first, first + size)])
            split = pa.array(np.where(np.arange(size) % 10 < 8, "train", "test"))
            writer.write_table(pa.table([ids, pa.array(np.full(size, 8, np.float32)), split], schema=schema))
    (folder / "shards").mkdir()
    for number in range(count):
        ids = [f"recording{row // 100:08d}_{row:09d}" for row in range(number * ROWS, (number + 1) * ROWS)]
        table = pa.table({"id": ids, "frames": np.full(ROWS, 800, np.int32)})
        pq.write_table(table, folder / f"shards/part-{number:07d}.parquet")


def measured(name: str, call: Callable[[], object]) -> None:
    """Print what a call takes in this process: seconds, and by how much the most memory grew."""
    before, begin = _peak(), time.perf_counter()
    result = call()
    seconds, grown = time.perf_counter() - begin, _peak() - before
    print(json.dumps({"what": name, "seconds": round(seconds, 2), "gigabytes": round(grown / 1e9, 2), "result": result}), flush=True)


def _peak() -> int:
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def keys_of_shards(folder: Path) -> int:
    """Rows of all shards, by reading ids and lengths of each, as `load_examples` does."""
    return sum(pq.read_table(shard, columns=["id", "frames"]).num_rows for shard in shards(folder))


WORK = {
    "list shards": lambda folder: len(shards(folder / "shards")),
    "list shards with sizes and times": lambda folder: sum(shard.stat().st_size for shard in shards(folder / "shards")),
    "read the keys of all shards": lambda folder: keys_of_shards(folder / "shards"),
    "read the table into Arrow": lambda folder: pq.read_table(folder / "table.parquet").nbytes,
    "read the table into pandas": lambda folder: len(pq.read_table(folder / "table.parquet").to_pandas()),
    "row numbers of a tenth of the ids, in a dict": lambda folder: len(_numbered(folder)),
    "shuffle the row numbers": lambda folder: len(
        np.random.default_rng(0).permutation(pq.read_metadata(folder / "table.parquet").num_rows)
    ),
}


def _numbered(folder: Path) -> dict[str, int]:
    file = pq.ParquetFile(folder / "table.parquet")
    groups = range(max(1, file.num_row_groups // 10))
    return {id: row for row, id in enumerate(file.read_row_groups(list(groups), columns=["id"])["id"].to_pylist())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=45_000_000)
    parser.add_argument("--shards", type=int, default=88_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder / "many-shards"
    if options.only:
        measured(options.only, lambda: WORK[options.only](folder))
        sys.exit()
    try:
        folder.mkdir(parents=True)
        measured("write both", lambda: write(folder, options.rows, options.shards))
        for name in WORK:  # each in a process of its own, whose memory is its own
            subprocess.run([sys.executable, __file__, str(options.folder), "--only", name], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
