"""The features stage: the same bytes whatever the workers, statistics of the training split by hand, faults named, stops survived."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from calm.audio.decoding import read_audio
from calm.audio.logmel import LogMel
from calm.corpora.utterances import Corpus, Utterance, write_table
from pipeline import paths
from pipeline.stages import features
from tests.pipeline import made_corpus


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Four whole videos of six utterances each, at several rates and channel counts, in no order of file or time."""
    folder, noise, corpus = tmp_path_factory.mktemp("raw"), np.random.default_rng(0), Corpus()
    for number, (rate, channels) in enumerate([(16000, 1), (44100, 2), (8000, 1), (48000, 6)]):
        envelope = np.abs(np.sin(np.arange(8 * rate) / rate)) + 0.05
        soundfile.write(folder / f"v{number}.flac", noise.normal(0, 0.05, (8 * rate, channels)) * envelope[:, None], rate)
        for part in range(6):
            id = f"v{number}_{part}"
            split = ("train", "train", "validation", "test")[number]
            corpus.utterances.append(Utterance(id, folder / f"v{number}.flac", part * 1.3, part * 1.3 + 1.1 + number / 10, split=split))
    corpus.utterances = [corpus.utterances[row] for row in np.random.default_rng(1).permutation(24)]
    write_table(corpus, folder / "table.parquet")
    return folder / "table.parquet"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def extract(table: Path, folder: Path, max_dropped: float = 1.0, **changes) -> dict:
    """Features of a table, moved to a folder; returns the report."""
    loaded = made_corpus.project(["x"], features={"shard": 10, "workers": 1} | changes, ingest={"max_dropped": max_dropped})
    paths.segments("x").parent.mkdir(parents=True, exist_ok=True)
    if not paths.segments("x").exists():  # equal times: a stopped run goes on only where its data are the same
        shutil.copy2(table, paths.segments("x"))
        paths.fingerprint("x").mkdir(parents=True, exist_ok=True)
    report = features.compute(loaded, "x")
    shutil.move(paths.features("x"), folder)
    return report


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    """Log-mel (frames, mels) by id, in order."""
    tables = [pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]
    whole = pa.concat_tables(tables).to_pylist()
    for row in whole:
        assert len(row["features"]) == row["frames"] * 64
    return {row["id"]: np.array(row["features"], np.float16).reshape(-1, 64) for row in whole}


def test_every_utterance_in_the_tables_order_as_logmel_gives_it(table, tmp_path):
    report = extract(table, tmp_path / "out")
    assert (report["read"], report["kept"], report["dropped"], report["dropped_rows"]) == (24, 24, {}, [])
    shards = sorted(tmp_path.glob("out/part-*.parquet"))
    assert [path.name for path in shards] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert [pq.read_metadata(path).num_rows for path in shards] == [10, 10, 4]
    assert [str(field.type) for field in pq.read_schema(shards[0])] == ["string", "int32", "list<element: halffloat>"]
    frame, rows = pd.read_parquet(table), rows_of(tmp_path / "out")
    assert list(rows) == list(frame["id"])
    for row in frame.itertuples():
        expected = LogMel()(read_audio(row.audio, row.start, row.end))
        assert len(expected) == LogMel().frames(round(row.duration * 16000))
        np.testing.assert_allclose(rows[row.id], expected, atol=0.01)
    assert report["frames"] == sum(map(len, rows.values()))
    assert report["seconds_audio"] == pytest.approx(frame["duration"].sum(), abs=1e-3)
    assert not list(Path("data/work").glob("*"))


def test_statistics_are_of_the_training_split_alone(table, tmp_path):
    extract(table, tmp_path / "out")
    stats = json.loads((tmp_path / "out/stats.json").read_text())
    frame, rows = pd.read_parquet(table), rows_of(tmp_path / "out")
    training = np.concatenate([rows[id].astype(np.float64) for id in frame.loc[frame["split"] == "train", "id"]])
    np.testing.assert_allclose(stats["mean"], training.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stats["std"], training.std(axis=0), rtol=1e-6)
    assert (stats["frames"], stats["utterances"], stats["split"]) == (len(training), 12, "train")
    assert (stats["kind"], stats["sample_rate"], stats["channels"], stats["hop_ms"], stats["trim_db"]) == ("log-mel", 16000, 64, 10, None)


def test_the_same_bytes_whatever_the_number_of_workers(table, tmp_path):
    extract(table, tmp_path / "one", workers=1)
    extract(table, tmp_path / "two", workers=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_stopped_run_goes_on_where_it_was(table, tmp_path, monkeypatch):
    extract(table, tmp_path / "whole")
    write = features._write

    def stop(work, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        write(work, number, *rest)

    monkeypatch.setattr(features, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(table, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written = []
    monkeypatch.setattr(features, "_write", lambda work, number, *rest: (written.append(number), write(work, number, *rest)))
    extract(table, tmp_path / "out")
    assert written == [1, 2]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_what_cannot_be_used_is_dropped_and_named(tmp_path):
    tone = 0.1 * np.sin(np.arange(16000) / 5)
    broken = {
        "good": tone,
        "silent": np.zeros(16000),
        "nan": np.where(np.arange(16000) == 5000, np.nan, tone),
        "inf": np.where(np.arange(16000) == 5000, np.inf, tone),
        "huge": tone * 1e30,
        "short": tone[:399],
    }
    corpus = Corpus()
    for name, samples in broken.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
        corpus.utterances.append(Utterance(name, tmp_path / f"{name}.wav", 0, len(samples) / 16000))
    (tmp_path / "junk.wav").write_bytes(b"junk" * 1000)
    corpus.utterances.append(Utterance("junk", tmp_path / "junk.wav", 0, 1))
    corpus.utterances.append(Utterance("gone", tmp_path / "gone.wav", 0, 1))
    corpus.utterances.append(Utterance("behind", tmp_path / "good.wav", 3, 4))
    write_table(corpus, tmp_path / "table.parquet")
    report = extract(tmp_path / "table.parquet", tmp_path / "out", workers=2)
    assert (report["read"], report["kept"]) == (9, 1)
    assert report["dropped"] == {"unreadable audio": 4, "NaN or infinity": 2, "digital silence": 1, "shorter than a frame": 1}
    details = {row["id"]: row["detail"] for row in report["dropped_rows"]}
    assert set(details) == set(broken) - {"good"} | {"junk", "gone", "behind"}
    assert "does not exist" in details["gone"]
    assert "399 samples, a frame has 400" in details["short"]
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    assert list(rows_of(tmp_path / "out")) == ["good"]
    with pytest.raises(ValueError, match=r"8 of 9 utterances have no features \(4 unreadable audio, 2 NaN or infinity"):
        extract(tmp_path / "table.parquet", tmp_path / "new", max_dropped=0.5)
    assert not (tmp_path / "new").exists()


def test_trimmed_features_are_shorter(table, tmp_path):
    whole = extract(table, tmp_path / "whole")
    cut = extract(table, tmp_path / "cut", trim_db=6)
    assert cut["frames"] < whole["frames"]
    assert min(map(len, rows_of(tmp_path / "cut").values())) >= 50
    assert json.loads((tmp_path / "cut/stats.json").read_text())["trim_db"] == 6


def test_a_corpus_without_training_split_and_an_impossible_band(table, tmp_path):
    frame = pq.read_table(table)
    held_out = frame.filter(pa.compute.equal(frame["split"], "test"))
    pq.write_table(held_out, tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="training split"):
        extract(tmp_path / "test.parquet", tmp_path / "out")
    with pytest.raises(ValueError, match=r"features\.mels 200: \d+ bands would be narrower"):
        extract(table, tmp_path / "out", mels=200)
