"""The stage `ingest`: every row is kept or reported with its reason, ends are corrected, and a bad corpus stops with one sentence."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from calm.audio import pauses
from calm.audio.decoding import read_audio
from calm.audio.pauses import Pauses
from calm.corpora import CorpusError, checking
from calm.corpora.utterances import read_table
from calm.storage import read_json
from pipeline import paths, settings
from pipeline.stages import ingest

LIMITS = settings.Ingest(min_seconds=0.25, max_seconds=5, max_dropped=1)
HERE = Path(__file__).parents[2]
DEMO = settings.load(HERE / "params.yaml")
CORPORA = os.environ.get("CALM_CORPORA")


def corpus(folder: Path, rows: list[str], head="audio,start,end,speaker,split,labels", **audio: float) -> settings.CorpusSettings:
    """A manifest of these rows and WAV files of so many seconds."""
    for name, seconds in audio.items():
        soundfile.write(folder / f"{name}.wav", np.full(round(seconds * 16000), 0.1), 16000)
    (folder / "corpus.csv").write_text("\n".join([head, *rows]), encoding="utf-8")
    return settings.CorpusSettings(format="manifest", path=folder / "corpus.csv")


def run(folder: Path, source: settings.CorpusSettings, limits: settings.Ingest = LIMITS):
    """Table and report of the stage, run in the folder."""
    changed = DEMO.model_copy(update={"corpora": {"mine": source}, "ingest": limits})
    with contextlib.chdir(folder):
        report = ingest.ingest(changed, "mine")
        written, table = read_json(paths.ingest_report("mine")), read_table(paths.utterances("mine"))
        segments = pd.read_parquet(paths.segments("mine"))
    parts = report["read"] + report["cut"]["pieces"] - report["cut"]["recordings"]
    assert report["kept"] + sum(report["dropped"].values()) == parts == report["kept"] + len(report["dropped_rows"])
    assert written == json.loads(json.dumps(report))
    pd.testing.assert_frame_equal(segments, pd.DataFrame(table)[ingest.SEGMENT])
    assert len(table) == report["kept"] == sum(part["rows"] for part in report["splits"].values())
    return table, report


def test_every_fault_has_its_reason(tmp_path):
    rows = ["a.wav,,,s1,train,x", "a.wav,0,1,s1,train,y", "a.wav,0,1,s1,train,y", "a.wav,1.5,1.6,s1,train,x", "a.wav,2,1,s1,train,x"]
    rows += ["a.wav,7,8,s1,train,x", "a.wav,1,99,s1,train,", "a.wav,-0.4,1,s1,train,;", "gone.wav,0,1,s2,test,x", "cut.wav,0,1,s2,test,x"]
    rows += [
        "empty.wav,0,1,s2,test,x",
        "junk.wav,,,s2,test,x",
        "long.wav,,,s2,test,x",
        "a.wav,zero,1,s1,train,x",
        "b.wav,,,s2,validation,x",
    ]
    source = corpus(tmp_path, rows, a=2, b=0.5, long=6, cut=2)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:30000])
    (tmp_path / "empty.wav").touch()
    (tmp_path / "junk.wav").write_text("junk " * 1000)
    table, report = run(tmp_path, source)
    assert report["dropped"] == {
        "time is not a number": 1,
        "duplicate id": 1,
        "inverted interval": 1,
        "start beyond the end of the audio": 1,
        "too short": 1,
        "missing audio": 1,
        "truncated audio": 1,
        "empty audio": 1,
        "unreadable audio": 1,
        "too long": 1,
    }
    assert report["corrections"] == {"negative start set to 0": 1, "end beyond the audio set to its end": 1}
    kept = table.set_index("id")
    assert kept.loc["a", "duration"] == 2 and kept.loc["a[1-99]", "end"] == 2 and kept.loc["a[-0.4-1]", "start"] == 0
    assert (table["duration"] == table["end"] - table["start"]).all()
    assert report["splits"]["train"] == {
        "rows": 4,
        "hours": round(5 / 3600, 3),
        "speakers": 1,
        "with_text": 0,
        "labels": {"x": 1, "y": 1, "none of them": 1, "unlabelled": 1},
    }
    assert report["splits"]["validation"]["rows"] == 1 and report["speakers_in_two_splits"] == []
    assert {"id": "gone[0-1]", "reason": "missing audio", "detail": f"{tmp_path / 'gone.wav'} does not exist", "fault": True} in report[
        "dropped_rows"
    ]
    assert table.attrs == {"classes": ("x", "y"), "one_hot": False}


def test_of_several_rows_with_one_id_the_first_good_one_is_kept(tmp_path):
    rows = ["one,gone.wav,,", "one,a.wav,0,1", "one,a.wav,1,2"]
    table, report = run(tmp_path, corpus(tmp_path, rows, head="id,audio,start,end", a=2))
    assert table["start"].tolist() == [0] and report["dropped"] == {"missing audio": 1, "duplicate id": 1}


def test_each_file_is_read_once(tmp_path, monkeypatch):
    seen = Counter()
    original = checking.read_header
    monkeypatch.setattr(checking, "read_header", lambda path, **options: seen.update([path]) or original(path, **options))
    run(tmp_path, corpus(tmp_path, [f"a.wav,{n / 10},{n / 10 + 1},s,train," for n in range(9)], a=2))
    assert seen == {tmp_path / "a.wav": 1}


def test_too_many_lost_rows_stop_the_run_and_leave_a_report(tmp_path):
    source = corpus(tmp_path, ["a.wav,,,s,train,", "gone.wav,,,s,train,", "b.wav,,,s,train,"], a=1, b=1)
    with pytest.raises(
        CorpusError, match=r"^1 of 3 rows \(33.3%\) .* ingest.max_dropped = 30.0% \(1 missing audio, the first gone\)"
    ) as error:
        run(tmp_path, source, LIMITS.model_copy(update={"max_dropped": 0.3}))
    assert "\n" not in str(error.value)
    left = read_json(tmp_path / paths.ingest_report("mine"))
    assert left["refused"] == str(error.value) and [row["id"] for row in left["dropped_rows"]] == ["gone"] and left["read"] == 3
    assert not (tmp_path / paths.utterances("mine")).exists()
    assert len(run(tmp_path, source, LIMITS.model_copy(update={"max_dropped": 0.34}))[0]) == 2


def test_no_row_left(tmp_path):
    with pytest.raises(CorpusError, match="none of 1 rows can be used"):
        run(tmp_path, corpus(tmp_path, ["gone.wav,,,s,train,"]))


def test_rows_that_options_exclude_do_not_count_as_lost(tmp_path):
    for name in ("03-01-05-01-01-01-01", "03-02-05-01-01-01-01", "03-01-05-01-01-01-24"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(16000, 0.1), 16000)
    table, report = run(tmp_path, settings.CorpusSettings(format="ravdess", path=tmp_path), LIMITS.model_copy(update={"max_dropped": 0}))
    assert len(table) == 1 and report["dropped"] == {"song": 1, "actor in no split": 1} and report["dropped_by_choice"] == 2


times = st.one_of(st.just(""), st.sampled_from(["nan", "-1", "x", "inf", "9e99"]), st.floats(-1, 3).map(lambda value: f"{value:.3f}"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    corpus(folder, [], a=2, b=0.3)
    (folder / "c.wav").write_bytes((folder / "a.wav").read_bytes()[:20000])
    return folder


@hypothesis(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a.wav", "b.wav", "c.wav", "d.wav", ""]), times, times, st.sampled_from(["", "x", "x|y"])), max_size=8
    )
)
def test_kept_and_dropped_add_to_what_was_read(sounds, rows):
    """For any intervals, the counts add up, and kept rows are within their file and the limits."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{sounds / audio if audio else ''},{start},{end},s,train,{labels}" for audio, start, end, labels in rows]
        source = corpus(Path(folder), lines)
        try:
            table, report = run(Path(folder), source)
        except CorpusError:
            assert not (Path(folder) / paths.utterances("mine")).exists()
            return
    assert report["read"] == len(rows)
    assert table["id"].is_unique and (table["start"] >= 0).all()
    assert table["duration"].between(LIMITS.min_seconds, LIMITS.max_seconds).all()
    assert (table["end"] <= 2).all()


def test_the_command(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    places = [(split, label) for split in ("train", "validation", "test") for label in "xy"]
    rows = [f"a.wav,{place / 2},{place / 2 + 0.4},s-{split},{split},{label}" for place, (split, label) in enumerate(places)]
    corpus(folder, [*rows, "gone.wav,,,s,train,x"], a=3)
    params = yaml.safe_load((HERE / "recipes/demo.yaml").read_text())
    params |= {"synthetic": {}, "targets": ["mine"], "ingest": {"max_dropped": 0.5}}
    params["heads"] = {"mine-small": {"corpus": "mine", "model": "small"}}
    params["corpora"] = {"mine": {"format": "manifest", "path": "raw/corpus.csv"}, "gone": {"format": "ravdess", "path": "raw/gone"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def command(name):
        arguments = [sys.executable, "-m", "pipeline.stages", "ingest", name]
        return subprocess.run(arguments, cwd=tmp_path, env={"PYTHONPATH": str(HERE), "PATH": ""}, capture_output=True, text=True)

    done = command("mine")
    assert done.returncode == 0 and done.stdout.startswith("mine: 6 of 7 rows kept") and len(done.stdout.splitlines()) == 1
    assert read_table(tmp_path / paths.utterances("mine"))["audio"].tolist() == 6 * ["raw/a.wav"]  # relative, as the path was given
    corpus(folder, rows[:-1], a=3)
    refused = command("mine")
    assert refused.returncode == 1 and refused.stderr.startswith("ingest@mine: test has no row of y: move rows of it there")
    missing = command("gone")
    assert missing.returncode == 1 and missing.stderr.startswith("ingest@gone: raw/gone is missing") and "Traceback" not in missing.stderr
    assert not (tmp_path / paths.utterances("gone")).exists()
    assert "'other' is none of corpora in params.yaml, which has mine, gone" in command("other").stderr


@pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")
def test_long_recordings_are_cut_at_their_pauses(tmp_path):
    """Sentences of a reader with a second of silence between them: the pieces are the sentences, in each of which somebody speaks."""
    clips = [read_audio(path) for path in sorted(Path(CORPORA).glob("librispeech/untranscribed/*.flac"))[:4]]
    silence = np.zeros(16000, np.float32)
    parts = [part for clip in clips for part in (silence, clip[: 8 * 16000])]
    soundfile.write(tmp_path / "talk.wav", np.concatenate([*parts, silence]), 16000)
    soundfile.write(tmp_path / "hum.wav", np.zeros(40 * 16000), 16000)
    source = corpus(tmp_path, ["talk.wav,,,s1,train,x", "hum.wav,,,s2,train,x", "a.wav,,,s3,test,y"], a=2)
    table, report = run(tmp_path, source, settings.Ingest(max_dropped=1))
    assert report["corrections"] == {"recordings cut at pauses": 1} and report["dropped"] == {"no speech found": 1}
    assert report["read"] == 3 and report["cut"] == {"recordings": 1, "pieces": len(table) - 1}
    pieces = table[table["speaker"] == "s1"].sort_values("start")
    assert (pieces["duration"] <= 20).all() and (pieces["start"].to_numpy()[1:] >= pieces["end"].to_numpy()[:-1]).all()
    assert pieces["labels"].map(list).tolist() == [["x"]] * len(pieces) and (pieces["split"] == "train").all()
    spoken = np.cumsum([0] + [1 + len(clip[: 8 * 16000]) / 16000 for clip in clips])
    for start in spoken:  # no piece holds much of the silence between two sentences
        assert not any(piece.start < start + 0.2 and piece.end > start + 0.8 for piece in pieces.itertuples())
    assert pieces["duration"].sum() > 0.7 * (spoken[-1] - 4)
    assert run(tmp_path, source, settings.Ingest(max_dropped=1, cut=None, max_seconds=1000))[1]["kept"] == 3


@given(
    st.lists(st.tuples(st.floats(0.05, 3), st.floats(0.05, 11.9)), max_size=30),  # an end minus a start is rounded
    st.floats(0.1, 3),
    st.floats(12, 30),
)
def test_pieces_are_joined_without_loss_or_overlap(gaps, shortest, longest):
    pieces, at = [], 0.0
    for silence, length in gaps:
        pieces.append((at + silence, at + silence + length))
        at = pieces[-1][1]
    joined = pauses.join(pieces, Pauses(shortest=shortest, longest=longest))
    assert all(end - start <= longest for start, end in joined)
    assert all(first[1] <= second[0] for first, second in zip(joined, joined[1:], strict=False))
    assert all(any(a <= start and end <= b for a, b in joined) for start, end in pieces)


def test_a_recording_is_read_window_by_window(tmp_path, monkeypatch):
    """Speech of 3 s every 4 s: windows that end within speech give the same pieces as a single window."""

    def loud(samples, _):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], np.abs(samples) > 0.05, [0]])))
        return [(a / 16000, b / 16000) for a, b in edges.reshape(-1, 2)]

    monkeypatch.setattr(pauses, "speech", loud)
    soundfile.write(tmp_path / "a.wav", np.tile(np.repeat([0.0, 0.1], [16000, 48000]), 10) * np.tile([1, -1], 320000), 16000)
    every = [(4.0 * k + 1, 4.0 * k + 4) for k in range(10)]
    for window in (600, 9.5, 11, 6):
        np.testing.assert_allclose(pauses.cut(tmp_path / "a.wav", 40.0, Pauses(), window), every, atol=1e-4)
