"""Files and folders are written whole or not at all."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calm.storage import read_json, replacing, write_json, write_parquet


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_when_the_body_ends(tmp_path):
    with replacing(tmp_path / "new/deep/a.txt") as partial:
        assert partial == tmp_path / "new/deep/.a.txt.partial"
        partial.write_text("one")
        assert not (tmp_path / "new/deep/a.txt").exists()
    with replacing(tmp_path / "new/deep/a.txt") as partial:
        partial.write_text("two")
        assert (tmp_path / "new/deep/a.txt").read_text() == "one"
    assert contents(tmp_path) == {"new/deep/a.txt": "two"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_there_was(tmp_path, error, folder):
    (tmp_path / "a").write_text("old")
    with pytest.raises(error), replacing(tmp_path / "a") as partial:
        if folder:
            partial.mkdir()
        (partial / "b" if folder else partial).write_text("half")
        raise error
    assert contents(tmp_path) == {"a": "old"}


def test_a_folder_replaces_a_folder_and_leftovers_are_removed(tmp_path):
    for name in ("a/old.txt", ".a.partial/left.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
    with replacing(tmp_path / "a") as partial:
        partial.mkdir()
        (partial / "new.txt").write_text("y")
        assert contents(tmp_path / "a") == {"old.txt": "x"}
    assert contents(tmp_path) == {"a/new.txt": "y"}


def test_nothing_written_is_an_error(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        pass
    assert contents(tmp_path) == {"a": "old"}


def test_json(tmp_path):
    write_json({1: (math.nan, math.inf, 0.5), "é": [{"a": None}]}, tmp_path / "new/a.json")
    assert read_json(tmp_path / "new/a.json") == {"1": [None, None, 0.5], "é": [{"a": None}]}
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "new/a.json")
    assert read_json(tmp_path / "new/a.json")["1"][2] == 0.5 and len(list((tmp_path / "new").iterdir())) == 1


def test_parquet(tmp_path):
    table = pa.table({"a": [1, 2]})
    write_parquet(table, tmp_path / "new/a.parquet", compression="zstd")
    assert pq.read_table(tmp_path / "new/a.parquet").equals(table)
    assert pq.ParquetFile(tmp_path / "new/a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.parquet"]
