"""Tables of utterances: all file formats, odd cells, and generated splits."""

import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calm.corpora import CorpusError, read_corpus


def read(folder: Path, text: str, name: str = "corpus.csv", **options):
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_corpus("manifest", folder / name, **options)


def test_csv_with_mark_line_ends_and_quoted_commas(tmp_path):
    head = "\ufeffAudio,Start,End,Text,Speaker,Split,Labels,Gender,mood\r\n"
    text = head + 'a/b.wav,1.5,3,"Well, ""YES""",ann,dev,happy|sad,F,x\r\nc.wav,,,,,train,;,,\r\n'
    corpus = read(tmp_path, text)
    first, second = corpus.utterances
    assert (first.id, first.audio, first.start, first.end) == ("a/b[1.5-3]", tmp_path / "a/b.wav", 1.5, 3)
    assert (first.text, first.speaker, first.split, first.labels, first.gender) == (
        'Well, "YES"',
        "ann",
        "validation",
        ["happy", "sad"],
        "female",
    )
    assert (second.id, second.start, second.end, second.text, second.labels) == ("c", 0, None, None, [])
    assert corpus.classes == ("happy", "sad") and not corpus.one_hot and corpus.checks["columns not read"] == ["mood"]


def test_all_file_formats_agree(tmp_path):
    rows = [
        {"audio": f"{n}.wav", "text": "So", "speaker": f"s{n}", "split": "train", "labels": ["b"] if n % 2 else ["a"]} for n in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus.parquet")
    from_parquet = read_corpus("manifest", tmp_path / "corpus.parquet")
    from_json = read(tmp_path, "\n".join(map(json.dumps, rows)), "corpus.jsonl")
    lines = [",".join(rows[0])] + [",".join([*list(row.values())[:4], row["labels"][0]]) for row in rows]
    from_csv = read(tmp_path, "\n".join(lines))
    from_tsv = read(tmp_path, "\n".join(lines).replace(",", "\t"), "corpus.tsv")
    assert from_parquet == from_json == from_csv == from_tsv
    assert from_csv.one_hot and from_csv.classes == ("a", "b")


def test_bad_rows_are_dropped_and_named(tmp_path):
    rows = [
        "audio,start,end,split,labels",
        ",0,1,train,a",
        "b.wav,x,1,train,a",
        "c.wav,0,nan,train,a",
        "d.wav,0,1,holdout,a",
        "e.wav,0,1,train,z",
    ]
    rows += ["f.wav,0,1,train,a,more,cells", "g.wav", "h.wav,-1,2,test,b"]
    corpus = read(tmp_path, "\n".join(rows), classes=["b", "a"])
    assert Counter(row.reason for row in corpus.dropped) == {
        "no audio named": 1,
        "time is not a number": 2,
        "unknown split": 1,
        "label outside its range": 1,
        "row does not parse": 1,
    }
    assert [(row.id, row.start) for row in corpus.utterances] == [("g", 0), ("h[-1-2]", 0)]
    assert corpus.classes == ("b", "a") and corpus.corrections["negative start set to 0"] == 1


def test_json_lines_that_do_not_parse(tmp_path):
    corpus = read(tmp_path, '{"audio": "a.wav"}\n{"audio": \n[1]\n\n{"audio": "b.wav", "labels": null, "start": null}', "corpus.jsonl")
    assert [row.id for row in corpus.utterances] == ["a", "b"] and len(corpus.dropped) == 2


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("corpus.csv", "file,text\na,b\n", "no column 'audio'"),
        ("corpus.csv", "", "has no rows"),
        ("corpus.csv", "audio,text\n", "has no rows"),
        ("corpus.csv", 'audio,text\na.wav,"so\nb.wav,no\n', "does not parse"),
        ("corpus.xlsx", "x", "is not a manifest"),
        ("corpus.parquet", "x", "does not parse"),
        ("corpus.csv", 'audio\n"' + "x" * 200_000, "does not parse"),
    ],
)
def test_another_file_is_one_clear_sentence(tmp_path, name, text, says):
    with pytest.raises(CorpusError, match=says):
        read(tmp_path, text, name)


def test_odd_values_in_json(tmp_path):
    """Names that are not files, numbers too large for a float, text that is not valid Unicode, endless brackets."""
    rows = [
        {"audio": "."},
        {"audio": "/"},
        {"audio": "a.wav", "start": 10**400},
        {"audio": "b\ud800.wav"},
        {"audio": "c.wav", "text": "\udc80"},
    ]
    rows += [{"audio": ["d.wav"], "labels": {"x": 1}}, {"audio": "e.wav", "start": "1_0"}, {"audio": 5, "labels": [1, [2]]}]
    corpus = read(tmp_path, "\n".join([*map(json.dumps, rows), "[" * 100_000]), "corpus.jsonl")
    assert Counter(row.reason for row in corpus.dropped) == {
        "time is not a number": 2,
        "name or text is not UTF-8": 2,
        "row does not parse": 1,
        "audio is not a path": 1,
        "labels are no list": 1,
    }
    assert [row.id for row in corpus.utterances] == [".", "/"]
    assert "b\\ud800" in {row.id for row in corpus.dropped}


def test_intervals_late_in_a_recording_have_ids_of_their_own(tmp_path):
    corpus = read(tmp_path, "audio,start,end\na.wav,123456.71,123457.21\na.wav,123456.72,123457.22\n")
    assert [row.id for row in corpus.utterances] == ["a[123456.71-123457.21]", "a[123456.72-123457.22]"]


def test_missing_splits_are_disjoint_by_speaker_balanced_and_repeatable(tmp_path):
    rows = ["audio,speaker,labels"] + [f"{s}_{n}.wav,s{s},{'ab'[n % 2] if s % 4 else 'c'}" for s in range(60) for n in range(1 + s % 7)]
    corpus = read(tmp_path, "\n".join(rows))
    splits = {}
    for row in corpus.utterances:
        assert splits.setdefault(row.speaker, row.split) == row.split
    count = Counter((row.labels[0], row.split) for row in corpus.utterances)
    for name in "abc":
        total = sum(count[name, split] for split in ("train", "validation", "test"))
        assert abs(count[name, "train"] / total - 0.7) < 0.06 and abs(count[name, "test"] / total - 0.2) < 0.06
    again = read(tmp_path, "\n".join([rows[0], *reversed(rows[1:])]))
    assert {row.speaker: row.split for row in again.utterances} == splits
    assert {row.speaker: row.split for row in read(tmp_path, "\n".join(rows), seed=2).utterances} != splits


def test_a_speaker_with_a_split_keeps_it(tmp_path):
    rows = ["audio,speaker,split", "1.wav,ann,test", "2.wav,ann,", "3.wav,bob,", "4.wav,bob,"]
    corpus = read(tmp_path, "\n".join(rows))
    assert [row.split for row in corpus.utterances] == ["test", "test", "train", "train"]
    assert corpus.checks["rows whose split was made here"] == 3


cells = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "nan", "-1", "1e400", "0.5", "3", ";", "a|b", '"', ",", "train", "x.wav", "\x00", "caf\xe9"])
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(cells, min_size=1, max_size=7), max_size=6),
    st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_row_is_kept_or_named_once(rows, encoding, ending):
    """Whatever the cells hold: no crash, no row lost, every kept row with a split and times that are numbers."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=ending)
    writer.writerow(["audio", "start", "end", "text", "split", "labels"])
    writer.writerows(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.csv"
        path.write_bytes(out.getvalue().encode(encoding, "replace"))
        written = len(list(csv.DictReader(io.StringIO(out.getvalue().encode(encoding, "replace").decode(encoding), newline=""))))
        if not written:
            return
        corpus = read_corpus("manifest", path)
    assert len(corpus.utterances) + len(corpus.dropped) == written
    for row in corpus.utterances:
        assert row.split in ("train", "validation", "test") and row.start >= 0 and row.id
        assert row.labels is None or set(row.labels) <= set(corpus.classes)
