"""What `calm forget` removes, and what it leaves."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calm.corpora.utterances import Corpus, Utterance
from calm.storage import check_sums, read_parquet, write_json, write_parquet, write_sums
from pipeline import forgetting, paths
from pipeline.stages.ingest import leave_out_forgotten

IDS = {"ann": ["a1", "a2"], "bob": ["b1"]}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two corpora that share ids, and of which one has a speaker of the same name."""
    monkeypatch.chdir(tmp_path)
    for corpus, split in (("one", "train"), ("two", "test")):
        ids, speakers = ["a1", "a2", "b1"], ["ann", "ann", "bob"] if corpus == "one" else ["cid", "cid", "bob"]
        audio = [f"raw/{corpus}/{id}.wav" for id in ids]
        write_parquet(pa.table({"id": ids, "speaker": speakers, "split": [split] * 3, "audio": audio}), paths.utterances(corpus))
        metadata = {"width": "1"}
        write_parquet(pa.table({"id": ids, "features": [[1.0]] * 3}, metadata=metadata), paths.features(corpus) / "part-00000.parquet")
        write_json({"WER": dict.fromkeys(speakers, 0.1)}, paths.texts(corpus) / "metrics.json")
        for folder in (paths.utterances(corpus).parent, paths.features(corpus)):
            write_sums(folder)
    write_parquet(pa.table({"id": ["a1", "a1", "b1"], "corpus": ["one", "two", "one"]}), paths.calp("small") / "space.parquet")
    write_json({"corpora": ["one"]}, paths.calp("small") / "metrics.json")
    (paths.model("one", "small")).mkdir(parents=True)
    return tmp_path


def test_a_speaker_is_gone_from_every_table_of_their_corpus(project):
    done = forgetting.forget("ann")
    assert done.utterances == {"one": ["a1", "a2"]} and done.recordings == ["raw/one/a1.wav", "raw/one/a2.wav"]
    assert done.heard_by == {"data/calp/small": ["train"], "data/models/one/small": ["train"]}
    assert done.named_in == ["data/texts/one/metrics.json"]
    assert read_parquet(paths.utterances("one"))["speaker"].to_pylist() == ["bob"]
    features = read_parquet(paths.features("one") / "part-00000.parquet")
    assert features["id"].to_pylist() == ["b1"] and features.schema.metadata == {b"width": b"1"}
    assert read_parquet(paths.calp("small") / "space.parquet").to_pylist() == [{"id": "a1", "corpus": "two"}, {"id": "b1", "corpus": "one"}]
    for table in (paths.utterances("two"), paths.features("two") / "part-00000.parquet"):
        assert pq.read_metadata(table).num_rows == 3
    check_sums(paths.features("one"))
    said = forgetting.described(done)
    assert "data/calp/small: train" in said and "2 recordings" in said
    with pytest.raises(ValueError, match="no utterance of one, two is of a speaker 'ann'"):
        forgetting.forget("ann")


def test_no_rebuild_reads_a_forgotten_speaker(project):
    forgetting.forget("ann")
    forgetting.forget("bob", "one")
    assert "ann" not in json.dumps(forgetting.forgotten("one")) and not forgetting.forgotten("two")
    rows = [Utterance(id, project / "a.wav", speaker=speaker, split="train") for speaker, ids in IDS.items() for id in ids]
    for name, kept in (("one", []), ("two", ["a1", "a2", "b1"])):
        corpus = Corpus(utterances=list(rows))
        leave_out_forgotten(corpus, name)
        assert [row.id for row in corpus.utterances] == kept and not corpus.dropped
        assert corpus.corrections["utterances of forgotten speakers left out"] == 3 - len(kept)
