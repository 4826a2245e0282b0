"""A moved project: MLflow keeps absolute paths of artifacts in its database, which lie beside it in `mlruns`."""

import sqlite3
from contextlib import closing
from pathlib import Path

FOLDER = "mlruns"  # of artifacts, beside a SQLite store
COLUMNS = {  # of the store's tables, that hold paths of artifacts
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "model_versions": ["source", "storage_location"],
    "logged_models": ["artifact_location"],
}


def follow(database: Path) -> int:
    """Let the store's paths point to the artifacts beside it; returns the number of experiments whose folder had moved.

    An experiment is left as it is where its artifacts do not lie in `mlruns` beside the database.
    """
    here = database.resolve().parent / FOLDER
    with closing(sqlite3.connect(database, timeout=60)) as store, store:
        moved = [(old, here / name) for name, old in _locations(store) if old != str(here / name) and (here / name).is_dir()]
        for old, new in moved:
            for table, columns in COLUMNS.items():
                for column in columns:
                    _replace(store, table, column, old, str(new))
    return len(moved)


def _locations(store: sqlite3.Connection) -> list[tuple[str, str]]:
    """Name and location of every experiment with a folder of its name in some `mlruns`."""
    if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return []
    rows = store.execute("SELECT name, artifact_location FROM experiments WHERE artifact_location IS NOT NULL").fetchall()
    return [(name, place) for name, place in rows if place.endswith(f"/{FOLDER}/{name}")]


def _replace(store: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    """Replace the start of the paths that are `old` or below it."""
    if column in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}:  # a version of MLflow may not have it
        values = {"old": old, "below": f"{old}/", "new": new}
        below = f"substr({column}, 1, length(:below)) = :below"
        store.execute(f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) WHERE {column} = :old OR {below}", values)
