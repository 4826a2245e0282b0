"""The fingerprint of a corpus changes when one of its files does, also behind links, and only the part that the file belongs to."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calm.corpora import CorpusError
from calm.corpora.fingerprint import fingerprint


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A corpus whose audio is behind a linked folder and whose transcripts are behind a linked file."""
    for name in ("store/19/a.flac", "store/19/b.flac", "texts.txt", "raw/SPEAKERS.TXT"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x" * 10)
    (tmp_path / "raw/dev").symlink_to(tmp_path / "store")
    (tmp_path / "raw/19.trans.txt").symlink_to(tmp_path / "texts.txt")
    return tmp_path / "raw"


def parts(path: Path, format: str = "librispeech", **options) -> dict[str, dict]:
    return fingerprint(format, path, options)


def changed(before: dict, after: dict) -> set[str]:
    """Parts whose digests differ."""
    return {kind for kind in before if before[kind]["digest"] != after[kind]["digest"]}


def test_counts_and_the_same_digest_twice(corpus):
    first = parts(corpus)
    assert {kind: (part["files"], part["bytes"], part["missing"]) for kind, part in first.items()} == {
        "audio": (2, 20, 0),
        "other": (2, 20, 0),
    }
    assert first == parts(corpus) and first["audio"]["digest"] != first["other"]["digest"]


def touch(path: Path) -> None:
    """A later time of change, and nothing else."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda root: (root / "store/19/a.flac").write_text("longer than it was"), {"audio"}),
        (lambda root: (root / "texts.txt").write_text("longer than it was"), {"other"}),
        (lambda root: touch(root / "store/19/a.flac"), {"audio"}),
        (lambda root: touch(root / "texts.txt"), {"other"}),
        (lambda root: (root / "store/19/a.flac").rename(root / "store/19/c.flac"), {"audio"}),
        (lambda root: (root / "store/19/a.flac").rename(root / "store/19/a.txt"), {"audio", "other"}),
        (lambda root: (root / "store/20").mkdir() or (root / "store/20/c.WAV").touch(), {"audio"}),
        (lambda root: (root / "raw/notes.md").touch(), {"other"}),
        (lambda root: (root / "store/19/a.flac").unlink(), {"audio"}),
        (lambda root: (root / "texts.txt").unlink(), {"other"}),  # leaves a broken link
        (lambda root: (root / "store/.DS_Store").touch(), set()),  # hidden, no reader sees it
        (lambda root: (root / "outside.wav").touch(), set()),
    ],
)
def test_edits_change_their_own_part(corpus, edit, expected):
    before = parts(corpus)
    edit(corpus.parent)
    assert changed(before, parts(corpus)) == expected


def test_links_that_lead_nowhere_are_missing(corpus):
    (corpus / "gone.wav").symlink_to(corpus / "nowhere.wav")
    (corpus / "self.txt").symlink_to(corpus / "self.txt")
    result = parts(corpus)
    assert [(result[kind]["files"], result[kind]["missing"]) for kind in ("audio", "other")] == [(2, 1), (2, 1)]


def test_loops_of_links_end_and_each_folder_counts_once(corpus):
    before = parts(corpus)
    (corpus / "zzz").symlink_to(corpus.parent / "store/19")  # visited before under the name dev/19
    (corpus.parent / "store/up").symlink_to(corpus)
    (corpus.parent / "store/19/up").symlink_to(corpus.parent / "store")
    assert parts(corpus) == before


def test_the_digest_depends_on_relative_names_only(corpus, monkeypatch):
    expected = parts(corpus)
    monkeypatch.chdir(corpus)
    assert parts(Path()) == parts(Path("../raw")) == expected
    (corpus.parent / "link").symlink_to(corpus)
    assert parts(corpus.parent / "link") == expected


def test_nothing_there_is_no_error(tmp_path):
    assert {kind: part["files"] for kind, part in parts(tmp_path / "nowhere").items()} == {"audio": 0, "other": 0}
    with pytest.raises(CorpusError, match="no corpus format 'tapes'"):
        parts(tmp_path, "tapes")


def test_folders_that_options_name_count_where_they_are(tmp_path):
    for name in ("raw/folds/train_videos.txt", "lists/train_videos.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("v")
    inside = parts(tmp_path / "raw", "mosei")
    assert inside["other"]["files"] == 1 == parts(tmp_path / "raw", "mosei", folds="folds")["other"]["files"]
    for folds in ("../lists", str(tmp_path / "lists")):
        before = parts(tmp_path / "raw", "mosei", folds=folds)
        assert before["other"]["files"] == 2
        touch(tmp_path / "lists/train_videos.txt")
        assert changed(before, parts(tmp_path / "raw", "mosei", folds=folds)) == {"other"}
    assert parts(tmp_path / "raw", "mosei") == inside


# A table of utterances

ROWS = [{"audio": "clips/a.wav", "text": "so"}, {"audio": "clips/a.wav", "text": "it goes"}, {"audio": "b.wav", "text": ""}]


def write_table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{" Audio": row["audio"], "text": row["text"]} for row in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join(separator.join(cells) for cells in [["AUDIO", "text"], *(row.values() for row in rows)]))
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.jsonl"])
def test_a_table_names_its_audio(tmp_path, name):
    (tmp_path / "clips").symlink_to(tmp_path / "store")
    for file in ("store/a.wav", "unused.wav", "b.wav"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("x" * 5)
    table = write_table(tmp_path / name, ROWS)
    first = parts(table, "manifest")
    assert (first["audio"]["files"], first["audio"]["bytes"], first["other"]["files"]) == (2, 10, 1)
    touch(tmp_path / "unused.wav")
    assert parts(table, "manifest") == first
    touch(tmp_path / "store/a.wav")
    second = parts(table, "manifest")
    assert changed(first, second) == {"audio"}
    (tmp_path / "b.wav").unlink()
    third = parts(table, "manifest")
    assert changed(second, third) == {"audio"} and (third["audio"]["files"], third["audio"]["missing"]) == (1, 1)
    write_table(table, [*ROWS, {"audio": "b.wav", "text": "once more"}])
    assert changed(third, parts(table, "manifest")) == {"other"}


def test_absolute_names_and_names_that_no_file_can_have(tmp_path):
    (tmp_path / "a.wav").write_text("x")
    (tmp_path / "in").mkdir()
    table = tmp_path / "in/t.jsonl"
    table.write_text("\n".join(json.dumps({"audio": name}) for name in (str(tmp_path / "a.wav"), "b\ud800.wav", "\0", None, "", 5)))
    result = parts(table, "manifest")["audio"]
    assert (result["files"], result["missing"]) == (1, 3)


@pytest.mark.parametrize(
    ("name", "text"), [("t.parquet", "no table"), ("t.csv", 'audio\n"never closed'), ("t.xlsx", "x"), ("t.csv", "a,b\n1,2\n")]
)
def test_a_table_that_does_not_parse_names_no_audio(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    result = parts(tmp_path / name, "manifest")
    assert (result["audio"]["files"], result["audio"]["missing"], result["other"]["files"]) == (0, 0, 1)
