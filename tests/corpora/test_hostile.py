"""Damaged corpora in both real layouts: no crash but a clear error, a reason for every lost row, and kept + dropped = all rows."""

import contextlib
import csv
import io
import json
import tempfile
from pathlib import Path

import hostile
import hostile_msp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calm.audio.decoding import AudioError, read_audio
from calm.audio.headers import read_header
from calm.corpora import CorpusError, read_corpus
from calm.corpora.checking import check, read_headers
from calm.corpora.limits import Limits
from calm.corpora.utterances import Corpus, read_table
from calm.storage import read_json
from pipeline import paths
from pipeline.settings import CorpusSettings, Ingest, load
from pipeline.stages import ingest

DEMO = load(Path(__file__).parents[2] / "params.yaml")
LIMITS = Limits(min_seconds=0.25, max_seconds=5, max_dropped=1)


def checked(format: str, path: Path, **options) -> Corpus:
    """A corpus read and checked against its audio, with properties that always hold: reasons, ids, times, audio that can be read."""
    corpus = read_corpus(format, path, **options)
    headers = read_headers({row.audio for row in corpus.utterances}, "hostile")
    check(corpus, headers, LIMITS)
    for row in corpus.dropped:
        assert row.id.strip() and row.reason.strip()
    assert len({row.id for row in corpus.utterances}) == len(corpus.utterances)
    for row in corpus.utterances:
        assert 0 <= row.start < row.end <= headers[row.audio].seconds and row.split in ("train", "validation", "test")
        samples = read_audio(row.audio, row.start, row.end)
        assert abs(len(samples) - (row.end - row.start) * 16000) < 40 and np.isfinite(samples).all() and np.ptp(samples) > 0.1
    return corpus


@settings(max_examples=150, deadline=None)
@given(hostile.mosei_trees())
def test_mosei(tree):
    videos, form = tree
    with tempfile.TemporaryDirectory() as folder:
        corpus = checked("mosei", hostile.write_mosei(Path(folder), videos, form))
    kept = {row.id: row for row in corpus.utterances}
    assert len(kept) + len(corpus.dropped) == sum(video.rows for video in videos)
    segments = {f"{video.id}_{clip}": (video, segment) for video in videos for clip, segment in enumerate(video.segments)}
    for id, row in kept.items():
        video, segment = segments[id]
        assert row.text == hostile.tidied(segment.text) and (video.fold, row.speaker) != ("none", "") and row.speaker == video.id
    for id, (video, segment) in segments.items():
        apart = all(
            abs(segment.start - other.start) + abs(segment.end - other.end) > 0.1 for other in video.segments if other is not segment
        )
        start, end = max(segment.start, 0.0), min(segment.end, video.sound.seconds)
        if (
            segment.sound
            and apart
            and video.fold != "none"
            and not video.shape
            and segment.end > start
            and end - start >= LIMITS.min_seconds
        ):
            assert (kept[id].start, kept[id].end) == pytest.approx((start, end), abs=1e-3)
            assert kept[id].labels == [name for name, score in zip(hostile.NAMES[1:], segment.scores[1:], strict=True) if score > 0]


@settings(max_examples=150, deadline=None)
@given(hostile_msp.msp_trees(), st.sampled_from(["primary", "votes", "all"]), st.booleans())
def test_msp_podcast(tree, labels, soft):
    turns, release = tree
    voted = {turn.file: turn.votes for turn in turns if turn.votes and release.detailed != "none" and not release.torn(turn)}
    with tempfile.TemporaryDirectory() as folder:
        root = hostile_msp.write_msp(Path(folder), turns, release)
        if (labels != "primary" or soft) and not voted:
            with pytest.raises(CorpusError, match="needs the workers' answers"):
                read_corpus("msp_podcast", root, labels=labels, soft=soft)
            return
        corpus = checked("msp_podcast", root, labels=labels, soft=soft)
    kept = {row.id: row for row in corpus.utterances}
    assert len(kept) + len(corpus.dropped) == hostile_msp.msp_rows(turns, release)
    for turn in turns:
        id, votes = Path(turn.file).stem, voted.get(turn.file)
        if id in kept and votes:
            extra = kept[id].extra
            assert {name: extra[f"votes_{name}"] for name in corpus.classes} == {name: votes[name] for name in corpus.classes}
            if soft and labels != "all":
                shares = {name: votes[name] / votes.total() for name in corpus.classes}
                assert {name: extra[f"target_{name}"] for name in corpus.classes} == shares
        if id in kept and labels == "votes":
            assert kept[id].labels == ([name for name in corpus.classes if votes[name]] if votes else None)
        if labels == "primary" and turn.fit and turn.sound.seconds >= LIMITS.min_seconds:
            assert kept[id].labels == ([hostile_msp.CODES[turn.code]] if turn.code in hostile_msp.CODES else None)
            assert kept[id].split == hostile_msp.SETS[turn.part]
            assert kept[id].extra["activation"] == float(turn.attributes[0])


damage = st.lists(st.tuples(st.integers(0, 43), st.integers(0, 255)), max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(hostile.GOOD + hostile.BAD_SOUNDS), st.one_of(st.none(), st.integers(0, 40_000)), damage)
def test_sound(sound, length, bytes_changed):
    """Whole, cut anywhere, or with bytes of its header changed: if the header check passes, the file has that length."""
    content = bytearray(hostile.content(sound)[:length])
    for offset, value in bytes_changed:
        content[offset : offset + 1] = [value] if offset < len(content) else []
    whole = sound.seconds and bytes(content) == hostile.content(sound)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        if sound.name in ("missing", "folder"):
            hostile.write_sound(sound, path)
        else:
            path.write_bytes(content)
        header = read_header(path)
        assert bool(header.fault) != bool(header.seconds) and bool(header.fault) == bool(header.detail)
        if whole:
            assert header.seconds == pytest.approx(sound.seconds, abs=1e-3)
        if header.fault == "wrong header":  # a rate of a few Hz would be made 16,000
            return
        try:
            samples = read_audio(path)
        except AudioError as error:
            assert header.fault and str(path) in str(error) and "\n" not in str(error)
            return
    if not header.fault:
        assert len(samples) == pytest.approx(header.seconds * 16000, abs=2) and samples.dtype == np.float32
    if whole and sound.form != "MP3":
        assert np.isfinite(samples).all()
        mono = hostile.signal(sound.seconds, sound.channels, sound.rate).mean(axis=1)
        assert np.std(samples) == pytest.approx(np.std(mono), rel=0.1)


def rows_of(table: list[dict], form: hostile.Form, kind: str, path: Path) -> None:
    """The same rows as CSV, TSV, JSON lines or Parquet."""
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif kind == "jsonl":
        torn = ['{"audio": "torn.wav", "text'] if form.blank else []
        form.write(path, [*(json.dumps(row, ensure_ascii=False) for row in table), *torn])
    else:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(table[0]), delimiter="\t" if kind == "tsv" else ",", lineterminator=form.ending)
        writer.writeheader()
        writer.writerows(table)
        path.write_bytes((out.getvalue() + form.ending * 2 * form.blank).encode(form.encoding))


numbers = st.one_of(
    st.floats(-0.5, 1.2).map(lambda value: round(value, 3)).map(str), st.sampled_from(["", "nan", "1e400", "1_0", "x", "-1"])
)
names = st.sampled_from([*(f"{index}.wav" for index in range(len(hostile.GOOD + hostile.BAD_SOUNDS))), "0.wav", "", ".", "caf\xe9, 1.wav"])
manifest_rows = st.fixed_dictionaries({"audio": names, "start": numbers, "end": numbers, "text": hostile.texts})


@settings(max_examples=120, deadline=None)
@given(st.lists(manifest_rows, min_size=1, max_size=6), st.booleans(), hostile.forms, st.sampled_from(["csv", "tsv", "jsonl", "parquet"]))
def test_manifest(rows, twice, form, kind):
    table = rows * 2 if twice else rows
    with tempfile.TemporaryDirectory() as folder:
        for index, sound in enumerate(hostile.GOOD + hostile.BAD_SOUNDS):
            hostile.write_sound(sound, Path(folder) / f"{index}.wav")
        rows_of(table, form, kind, Path(folder) / f"corpus.{kind}")
        corpus = checked("manifest", Path(folder) / f"corpus.{kind}")
    assert len(corpus.utterances) + len(corpus.dropped) == len(table) + (kind == "jsonl" and form.blank)
    spoken = {hostile.tidied(row["text"]) for row in rows}
    assert all(row.text in spoken for row in corpus.utterances)
    sound = [row for row in rows if row["audio"] == "0.wav" and row["start"] in ("", "-1") and row["end"] == ""]
    assert not sound or any(row.audio.name == "0.wav" and (row.start, row.end) == (0, 1) for row in corpus.utterances)


@settings(max_examples=60, deadline=None)
@given(st.one_of(hostile.mosei_trees(), hostile_msp.msp_trees()))
def test_the_stage(tree):
    """The whole stage: a report that adds up and can be read back, or one sentence and nothing written."""
    content, about = tree
    mosei = isinstance(about, hostile.Form)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "raw"
        (hostile.write_mosei if mosei else hostile_msp.write_msp)(root, content, about)
        source = CorpusSettings(format="mosei" if mosei else "msp_podcast", path=root)
        try:
            with contextlib.chdir(folder):
                report = ingest.ingest(DEMO.model_copy(update={"corpora": {"x": source}, "ingest": Ingest(max_dropped=1)}), "x")
                written, table = read_json(paths.ingest_report("x")), read_table(paths.utterances("x"))
        except CorpusError as error:
            assert "none of" in str(error) and "\n" not in str(error) and not (Path(folder) / paths.utterances("x")).exists()
            return
    assert written["kept"] == len(table)
    there = sum(video.rows for video in content) if mosei else hostile_msp.msp_rows(content, about)
    assert report["read"] == there == report["kept"] + len(report["dropped_rows"])
    assert sum(report["dropped"].values()) == len(report["dropped_rows"]) and all(row["reason"] for row in report["dropped_rows"])
