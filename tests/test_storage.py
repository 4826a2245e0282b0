"""Files and folders are written whole or not at all."""

import math
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calm import storage
from calm.storage import Damaged, check_sums, csv_cell, read_json, read_parquet, replacing, write_json, write_parquet, write_sums
from tests.faults.damage import flipped


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


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    """A folder as a stage writes it, and an empty cache of what was checked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_known", set())
    folder = tmp_path / "made"
    table = pa.table({"id": [f"u{number}" for number in range(50)], "values": [[0.5 * number] * 9 for number in range(50)]})
    write_parquet(table, folder / "part-00000.parquet", compression="zstd")
    write_parquet(table.select(["id"]), folder / "below/texts.parquet")
    write_json({"mean": [0.25, 1.5]}, folder / "stats.json")
    write_sums(folder)
    return folder


def test_flipped_bits_are_named_or_harmless(sealed):
    """In every file of a sealed folder; and, in a table alone, wherever a page lies."""
    assert flipped([sealed], 200, random.Random(0)) == 200
    (sealed / storage.SUMS).unlink()
    column = pq.read_metadata(sealed / "part-00000.parquet").row_group(0).column(1)
    content = bytearray((sealed / "part-00000.parquet").read_bytes())
    content[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 2] ^= 8
    (sealed / "part-00000.parquet").write_bytes(content)
    with pytest.raises(Damaged, match="part-00000.parquet is damaged"):
        read_parquet(sealed / "part-00000.parquet")


def test_a_checked_folder_is_known_until_a_file_changes(sealed, monkeypatch):
    check_sums(sealed)
    storage._known.clear()  # as in another process
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_sha256", lambda path: pytest.fail(f"{path} is read again"))
        check_sums(sealed)
        check_sums(sealed / "below")
    before = (sealed / "stats.json").stat()
    (sealed / "stats.json").write_text((sealed / "stats.json").read_text().replace("1.5", "2.5"))
    os.utime(sealed / "stats.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Damaged, match="stats.json is damaged"):
        check_sums(sealed)
    (sealed / "stats.json").unlink()
    with pytest.raises(Damaged, match="stats.json is missing"):
        check_sums(sealed)


def test_no_cell_of_a_csv_table_is_a_formula():
    for text in ("=1+1", "+1+1", "-2+3", "@SUM(1)", " =1", "\t=1", "\r=1", '=HYPERLINK("http://x")', "＝1"):
        assert csv_cell(text) == f"'{text}"
    for value in ("-0.5", "+1", "1e-3", -2, 0.5, None, "happy", "a=b", "–", ""):
        assert csv_cell(value) == value
