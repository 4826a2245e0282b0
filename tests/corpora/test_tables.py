"""Tables as other programs write them: separators, encodings, lists, numbers and times as text, names of columns, bytes of audio."""

import gzip
import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from made_model import speech

from calm.audio.decoding import read_audio
from calm.corpora import CorpusError, read_corpus
from calm.corpora.checking import check, read_headers
from calm.corpora.fingerprint import fingerprint
from calm.corpora.limits import Limits
from calm.corpora.manifest import _labels, _seconds
from calm.corpora.tables import MAY_BE_MEANT

LINES = ["audio,speaker,labels,text", "a.wav,ann,happy,so", "b.wav,ben,sad,caf\xe9"]
PLAIN = [("a", "ann", ["happy"], "so"), ("b", "ben", ["sad"], "caf\xe9")]


def read(folder: Path, content: bytes | str, name: str = "t.csv", **options):
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_corpus("manifest", folder / name, **options)


def rows(corpus) -> list[tuple]:
    return [(row.id, row.speaker, row.labels, row.text) for row in corpus.utterances]


def separated(mark: str, first: str = "") -> str:
    return first + "\r\n".join(line.replace(",", mark) for line in LINES)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", separated(";")),
        ("t.csv", separated("\t")),
        ("t.tsv", separated(",")),
        ("t.csv", separated("|")),
        ("t.csv", separated(",", "sep=,\r\n")),
        ("t.csv", separated(";", "sep=;\r\n")),
        ("t.tsv", separated("\t").encode("utf-16")),
        ("t.csv", b"\xfe\xff" + separated(",").encode("utf-16-be")),
        ("t.csv", separated(",").encode("cp1252")),
        ("t.csv", "\n\n" + separated(",")),
        ("t.json", json.dumps([dict(zip(LINES[0].split(","), line.split(","), strict=True)) for line in LINES[1:]], indent=1)),
        ("t.jsonl", json.dumps([dict(zip(LINES[0].split(","), line.split(","), strict=True)) for line in LINES[1:]])),
    ],
)
def test_forms_of_one_table(tmp_path, name, content):
    assert rows(read(tmp_path, content, name)) == PLAIN


def test_numbers_are_names_also_0(tmp_path):
    frame = pd.DataFrame({"audio": ["a.wav", "b.wav"], "speaker": [0, 1], "id": [0, 1], "text": [0, 7], "labels": [0, 1]})
    expected = [("0", "0", ["0"], "0"), ("1", "1", ["1"], "7")]
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.astype(dict.fromkeys(frame.columns[1:], float)).to_parquet(tmp_path / "floats.parquet")
    for name in ("t.csv", "t.jsonl", "t.parquet", "floats.parquet"):
        assert rows(read_corpus("manifest", tmp_path / name)) == expected, name


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("['happy', 'sad']", ["happy", "sad"]),
        ('["happy"]', ["happy"]),
        ("['happy' 'sad']", ["happy", "sad"]),
        ("array(['happy', 'sad'], dtype=object)", ["happy", "sad"]),
        ("('happy',)", ["happy"]),
        ("{'sad'}", ["sad"]),
        ("[happy, sad]", ["happy", "sad"]),
        ("[0, 2]", ["0", "2"]),
        ("[]", []),
        ("set()", []),
        ("[nan]", None),
        ("happy, sad", ["happy", "sad"]),
        ("happy|sad", ["happy", "sad"]),
        (";", []),
        ("happy (strong)", ["happy (strong)"]),
        (["happy", None, 0.0], ["happy", "0"]),
        (0, ["0"]),
        (None, None),
        ("nan", None),
        ("['nan']", None),
        ("<NA>", None),
        ("none", ["none"]),
    ],
)
def test_labels(cell, names):
    assert _labels(cell) == names


def test_a_class_may_be_called_nan():
    assert _labels("nan", ("nan", "x")) == ["nan"]


@pytest.mark.parametrize("cell", ["{'happy': 1, 'sad': 0}", '{"happy": 0.4}', "['happy'", "happy']"])
def test_labels_that_are_no_list(tmp_path, cell):
    content = "\n".join(json.dumps({"audio": name, "labels": own}) for name, own in (("a.wav", cell), ("b.wav", ["sad"])))
    corpus = read(tmp_path, content, "t.jsonl")
    assert corpus.classes == ("sad",) and [(row.id, row.reason) for row in corpus.dropped] == [("a.wav", "labels are no list")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"labels": [["happy"], "sad"]}, "labels are no list"),
        ({"labels": [{"name": "happy"}]}, "labels are no list"),
        ({"text": ["so"]}, "cell is not text"),
        ({"speaker": {"id": 1}}, "cell is not text"),
        ({"speaker": "\x1b[2Jann"}, "a name has control characters"),
        ({"id": "a\nb"}, "a name has control characters"),
        ({"labels": ["ha\x00ppy"]}, "a name has control characters"),
        ({"fold": 2**31}, "fold is not a number from 1"),
    ],
)
def test_cells_of_another_shape(tmp_path, row, reason):
    corpus = read(tmp_path, json.dumps({"audio": "a.wav"} | row) + '\n{"audio": "b.wav"}', "t.jsonl")
    assert [own.reason for own in corpus.dropped] == [reason] and len(corpus.utterances) == 1


def test_what_r_and_pandas_write_for_nothing_is_nothing(tmp_path):
    corpus = read(tmp_path, "audio,speaker,labels,text\na.wav,NA,x,nan\nb.wav,ann,y,so\x0b it\x1b is\n")
    assert [(row.speaker, row.text) for row in corpus.utterances] == [("", None), ("ann", "so it is")]
    assert corpus.corrections["cells with NA or nan read as empty"] == 2


def test_names_that_are_alike_are_told(tmp_path):
    corpus = read(tmp_path, "audio,speaker,labels\na.wav,Ann,sad\nb.wav,ann,\u200bsad\nc.wav,ben,happy\n")
    assert corpus.checks["classes with names that are alike"] == [r"'sad' = '\u200bsad'"]
    assert corpus.checks["speakers with names that are alike"] == ["'Ann' = 'ann'"]


def test_bytes_and_durations_of_parquet(tmp_path):
    times = {name: pa.array([milliseconds], pa.duration("ms")) for name, milliseconds in (("start", 500), ("end", 1500))}
    pq.write_table(pa.table({"audio": ["a.wav"], "labels": [b"happy"], "speaker": [b"ann"], **times}), tmp_path / "t.parquet")
    (row,) = read_corpus("manifest", tmp_path / "t.parquet").utterances
    assert (row.labels, row.speaker, row.start, row.end) == (["happy"], "ann", 0.5, 1.5)
    pq.write_table(pa.table({"audio": [{"bytes": "text", "path": "a.wav"}]}), tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match="give a path, or the bytes of a file"):
        read_corpus("manifest", tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"PK\x03\x04" + bytes(99), "a workbook of Excel or an archive"),
        ("t.csv", gzip.compress(b"audio\na.wav\n", mtime=0), "unpack it with gunzip"),
        ("t.csv", b"PAR1" + bytes(99), "let its name end in .parquet"),
        ("t.json", b'[{"audio": "a.wav"},]', "does not parse as JSON .*line 1 column"),
        ("t.json", b'["a.wav"]', "no sound object of JSON"),
    ],
)
def test_what_is_no_text_or_no_json_is_named(tmp_path, name, content, says):
    with pytest.raises(CorpusError, match=says):
        read(tmp_path, content, name)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_that_cannot_be_told(tmp_path, encoding):
    with pytest.raises(CorpusError, match="save it as UTF-8"):
        read(tmp_path, "\n".join(LINES).encode(encoding))


def test_a_class_may_hold_a_comma(tmp_path):
    corpus = read(tmp_path, 'audio,labels\na.wav,"calm, neutral"\n', classes=["calm, neutral", "sad"])
    assert corpus.utterances[0].labels == ["calm, neutral"]


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("1.5", 1.5),
        ("1,5", 1.5),
        ("0:01.5", 1.5),
        ("1:02:03,5", 3723.5),
        ("1500 ms", 1.5),
        ("1500ms", 1.5),
        ("1.5 s", 1.5),
        ("2 sec", 2),
        (3, 3),
        ("-1", -1),
    ],
)
def test_times(cell, seconds):
    assert _seconds(cell) == seconds


def test_times_that_are_none_are_shown(tmp_path):
    corpus = read(tmp_path, "audio,start,end\na.wav,0,one\nb.wav,1.2.3,4\n")
    assert [(row.reason, row.detail) for row in corpus.dropped] == [
        ("time is not a number", "end is 'one'"),
        ("time is not a number", "start is '1.2.3'"),
    ]


def test_columns_in_milliseconds(tmp_path):
    corpus = read(tmp_path, "audio,start_ms,end_ms\na.wav,500,1250\n")
    assert (corpus.utterances[0].start, corpus.utterances[0].end) == (0.5, 1.25) and corpus.checks["columns not read"] == []


def test_milliseconds_without_the_name_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(3), 16000)
    corpus = read(tmp_path, "audio,start,end\na.wav,0,900\na.wav,1000,1900\na.wav,2000,2950\n")
    with pytest.raises(CorpusError, match="seem to be milliseconds .* start_ms and end_ms"):
        check(corpus, read_headers({row.audio for row in corpus.utterances}, "t"), Limits())


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("audio,label,start_time,end_time", "rename 'label' to 'labels', 'start_time' to 'start', 'end_time' to 'end'"),
        ("audio,speaker_id,lables", "rename 'speaker_id' to 'speaker', 'lables' to 'labels'"),
        ("file,labels", "has no column 'audio', its columns are 'file', 'labels': rename 'file'"),
        ("audio_path,x,y", "rename 'audio_path'"),
        ("x;y", "no column 'audio', its columns are 'x;y': add one"),
        ("audio,Labels,labels", "two columns 'labels'"),
        ("audio,speaker,audio", "two columns 'audio'"),
    ],
)
def test_names_of_columns(tmp_path, head, says):
    with pytest.raises(CorpusError) as error:
        read(tmp_path, f"{head}\n" + ",".join("abcd"[: head.count(",") + 1]) + "\n")
    assert says in str(error.value)


def test_other_columns_are_named(tmp_path):
    corpus = read(tmp_path, "audio,emotion,mood,note,,\na.wav,1,2,3,,\n")
    assert corpus.checks["columns not read"] == ["emotion", "mood", "note"] and corpus.checks[MAY_BE_MEANT] == {"emotion": "labels"}
    assert read(tmp_path, "audio,labels,emotion\na.wav,x,y\n").checks["columns not read"] == ["emotion"]


def test_two_keys_of_one_name_and_columns_as_rows(tmp_path):
    corpus = read(tmp_path, '{"audio": "a.wav"}\n{"audio": "b.wav", "Audio": "c.wav"}\n', "t.jsonl")
    assert [row.id for row in corpus.utterances] == ["a"] and corpus.dropped[0].reason == "row does not parse"
    whole = '[{"audio": "a.wav"}, {"audio": "b.wav", "Audio": "c.wav"}, {"audio": "d.wav", "labels": {"x": 1, "x": 2}}, "e.wav"]'
    corpus = read(tmp_path, whole, "t.json")
    assert [row.id for row in corpus.utterances] == ["a"] and [row.reason for row in corpus.dropped] == ["row does not parse"] * 3
    with pytest.raises(CorpusError, match="no sound object of JSON"):
        read(tmp_path, '{"audio": ["b.wav"], "Audio": []}', "t.json")
    with pytest.raises(CorpusError, match="orient='records'"):
        read(tmp_path, '{"audio": {"0": "a.wav"}, "labels": {"0": "x"}}', "t.json")
    pq.write_table(pa.table([pa.array(["a.wav"]), pa.array(["b.wav"])], names=["audio", "Audio"]), tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match="two columns 'audio'"):
        read_corpus("manifest", tmp_path / "t.parquet")


def wav(seconds: float, seed: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, speech(seconds, seed), 16000, format="WAV")
    return out.getvalue()


def test_audio_in_parquet_is_unpacked_once(tmp_path):
    soundfile.write(tmp_path / "own.wav", speech(3), 16000)
    audio = [
        {"bytes": wav(1, 1), "path": "x/a.wav"},
        {"bytes": wav(2, 2), "path": "../../a.wav"},
        {"bytes": wav(1.5, 3), "path": None},
        {"bytes": None, "path": "own.wav"},
        {"bytes": None, "path": None},
        None,
    ]
    pq.write_table(pa.table({"audio": audio, "labels": list("abcdef")}), tmp_path / "t.parquet")
    corpus = read_corpus("manifest", tmp_path / "t.parquet")
    assert [len(read_audio(row.audio)) for row in corpus.utterances] == [16000, 32000, 24000, 48000]
    assert [row.labels for row in corpus.utterances] == [["a"], ["b"], ["c"], ["d"]]
    assert all(row.audio.is_relative_to(tmp_path) and ".." not in row.audio.parts for row in corpus.utterances)
    assert [row.reason for row in corpus.dropped] == ["no audio named"] * 2
    first = corpus.utterances[0].audio
    made = first.stat().st_mtime_ns
    before = fingerprint("manifest", tmp_path / "t.parquet", {})
    assert read_corpus("manifest", tmp_path / "t.parquet") == corpus and first.stat().st_mtime_ns == made
    assert before["audio"]["files"] == 0  # the table itself tells when its bytes change
    pq.write_table(pa.table({"audio": [wav(0.5, 4)]}), tmp_path / "t.parquet")
    assert [len(read_audio(row.audio)) for row in read_corpus("manifest", tmp_path / "t.parquet").utterances] == [8000]


def test_audio_as_samples_is_refused_in_a_sentence(tmp_path):
    pq.write_table(pa.table({"audio": [{"array": [0.0, 0.1], "sampling_rate": 16000}]}), tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match="give a path, or the bytes of a file"):
        read_corpus("manifest", tmp_path / "t.parquet")
    corpus = read(tmp_path, json.dumps({"audio": {"path": "a.wav", "bytes": None}}) + '\n{"audio": {"array": [0]}}\n', "t.jsonl")
    assert [row.id for row in corpus.utterances] == ["a"] and corpus.dropped[0].reason == "audio is not a path"


def test_accents_are_one_name_however_they_are_written(tmp_path):
    apart = unicodedata.normalize("NFD", "caf\xe9")
    (tmp_path / apart).mkdir()
    soundfile.write(tmp_path / apart / f"{apart}.wav", speech(1), 16000)
    corpus = read(tmp_path, f"audio,speaker,labels\ncaf\xe9/caf\xe9.wav,Ren\xe9,{apart}\nb.wav,Rene\u0301,caf\xe9\n")
    assert len(read_audio(corpus.utterances[0].audio)) == 16000
    assert {row.speaker for row in corpus.utterances} == {"Ren\xe9"} and corpus.classes == ("caf\xe9",)


def test_what_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(CorpusError, match="a pipe or a device"):
        read_corpus("manifest", tmp_path / "pipe.csv")
    with pytest.raises(CorpusError, match="git lfs pull"):
        read(tmp_path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    long = read(tmp_path, f"audio\n{'x' * 300}.wav\n")
    assert [row.reason for row in long.dropped] == ["audio is not a path"]


def test_audio_outside_the_folder_is_counted(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("out.wav", "in/own.wav"):
        soundfile.write(tmp_path / name, speech(1), 16000)
    (tmp_path / "in/link.wav").symlink_to(tmp_path / "out.wav")
    corpus = read(tmp_path / "in", "audio\nown.wav\nlink.wav\n../out.wav\n")
    assert corpus.checks["audio files outside the corpus's folder"] == 2


def test_what_is_mended_and_where_spectra_end_is_counted(tmp_path):
    two = np.stack([speech(1), -speech(1)], axis=1)
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write(tmp_path / "a.wav", two, 16000)
    soundfile.write(tmp_path / "b.wav", noise, 8000)
    corpus = read(tmp_path, "audio\na.wav\nb.wav\n")
    check(corpus, read_headers({row.audio for row in corpus.utterances}, "t"), Limits())
    assert corpus.corrections["channels cancel, the loudest is used"] == 1
    assert corpus.checks["rows without sound above (see features.high_hz)"]["4000 Hz"] == 1
