"""MELD and IEMOCAP in the layouts of their releases; a folder of classes; databases of audformat and `datasets`."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import soundfile

from calm.corpora import CorpusError, read_corpus
from calm.corpora.folds import set_folds
from calm.corpora.layout import format_of

MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


def write(path, text: str, encoding: str = "utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def meld(tmp_path):
    write(
        tmp_path / "train/train_sent_emo.csv",
        f'{MELD}1,"It’s, well,\nfine",Ross,joy,positive,0,3,1,1,"00:00:01,000","00:00:02,000"\n',
        "cp1252",
    )
    write(tmp_path / "dev_sent_emo.csv", f"{MELD}1,NO!,Monica,anger,negative,110,7,1,1,x,y\n2,Hm,Joey,bored,neutral,1,1,1,1,x,y\n")
    write(tmp_path / "test_sent_emo.csv", f"{MELD}1,Hi,All,neutral,neutral,2,0,1,1,x,y\n")
    for name in ("train/train_splits/dia0_utt3.mp4", "test/output_repeated_splits_test/dia2_utt0.mp4"):
        write(tmp_path / name, "")
    write(tmp_path / "test/output_repeated_splits_test/dia2_utt0.wav", "")
    return tmp_path


def test_meld(meld):
    corpus = read_corpus("meld", meld)
    train, dev, test = corpus.utterances
    assert (train.id, train.labels, train.speaker, train.text) == ("train/dia0_utt3", ["joy"], "Ross", "It's, well, fine")
    assert train.audio == meld / "train/train_splits/dia0_utt3.mp4" and train.extra == {"sentiment": "positive", "dialogue": "train/0"}
    assert (dev.split, dev.text, dev.audio.exists()) == ("validation", "no!", False)
    assert (test.split, test.audio.name) == ("test", "dia2_utt0.wav")
    assert [(row.id, row.reason) for row in corpus.dropped] == [("dev/dia1_utt1", "label outside its range")]
    assert format_of(meld) == "meld"
    (meld / "dev_sent_emo.csv").unlink()
    with pytest.raises(CorpusError, match=r"no dev_sent_emo.csv: put MELD's three tables"):
        read_corpus("meld", meld)


@pytest.fixture
def iemocap(tmp_path):
    for session, code in ((1, "exc"), (2, "fru"), (3, "ang"), (4, "sad"), (5, "xxx")):
        scene = f"Ses0{session}F_impro01"
        head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        rows = [f"[6.2901 - 8.2357]\t{scene}_F000\t{code}\t[2.5000, 3.0000, 1.5000]", "C-E2:\tNeutral;\t()"]
        rows += [f"[9.0000 - 9.5000]\t{scene}_M001\tneu\t[2.0000, 2.0000, 2.0000]", "[broken"] if session == 1 else []
        rows += [f"[9.0000 - 9.5000]\t{scene}_M002\tneu\t[2.5000.5, 2.0000, 2.0000]"] if session == 2 else []
        write(tmp_path / f"Session{session}/dialog/EmoEvaluation/{scene}.txt", head + "\n".join(rows))
        write(tmp_path / f"Session{session}/dialog/transcriptions/{scene}.txt", f"{scene}_F000 [006.2901-008.2357]: Excuse me.\n")
    write(tmp_path / "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt", "x")
    return tmp_path


def test_iemocap(iemocap):
    corpus = read_corpus("iemocap", iemocap)
    first = corpus.utterances[0]
    assert (first.labels, first.speaker, first.gender, first.text) == (["happy"], "1F", "female", "Excuse me.")
    assert first.audio == iemocap / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert first.extra == {"valence": 2.5, "activation": 3.0, "dominance": 1.5}
    assert [(row.fold, row.split, row.labels) for row in corpus.utterances] == [
        (1, "train", ["happy"]),
        (1, "train", ["neutral"]),
        (2, "train", None),
        (3, "train", ["angry"]),
        (4, "validation", ["sad"]),
        (5, "test", None),
    ]
    assert [row.reason for row in corpus.dropped] == ["evaluation does not parse"] * 2
    every = read_corpus("iemocap", iemocap, classes="all")
    assert [row.labels for row in every.utterances[:3]] == [["excited"], ["neutral"], ["frustrated"]] and format_of(iemocap) == "iemocap"
    set_folds(every, "given")
    assert {row.fold for row in every.utterances} == {1, 2, 3, 4, 5}
    with pytest.raises(CorpusError, match="both session 5"):
        read_corpus("iemocap", iemocap, validation=5)


def test_folders_are_classes(tmp_path):
    for name in ("angry/a_1.wav", "angry/deep/b_1.wav", "happy/a_2.wav", "happy/notes.txt", "happy/.a.wav", "loose_c.wav"):
        write(tmp_path / name, "")
    corpus = read_corpus("class_folders", tmp_path, speaker=r"([a-z])_")
    assert [(row.id, row.labels, row.speaker) for row in corpus.utterances] == [
        ("loose_c.wav", None, "e"),
        ("angry/a_1.wav", ["angry"], "a"),
        ("angry/deep/b_1.wav", ["angry"], "b"),
        ("happy/a_2.wav", ["happy"], "a"),
    ]
    assert corpus.one_hot and corpus.utterances[1].split == corpus.utterances[3].split
    assert all(row.labels is None for row in read_corpus("class_folders", tmp_path, labels=False).utterances)
    assert [row.id for row in read_corpus("class_folders", tmp_path, speaker="b_").dropped] == [
        "loose_c.wav",
        "angry/a_1.wav",
        "happy/a_2.wav",
    ]
    with pytest.raises(CorpusError, match="no regular expression"):
        read_corpus("class_folders", tmp_path, speaker="(")
    with pytest.raises(CorpusError, match="no folder with audio"):
        read_corpus("class_folders", write(tmp_path / "empty/x.txt", "").parent)


def test_first_folders_may_be_splits(tmp_path):
    for name in ("train/angry/a.wav", "dev/angry/b.wav", "test/happy/c.wav"):
        write(tmp_path / name, "")
    rows = read_corpus("class_folders", tmp_path).utterances
    assert {row.split: row.labels for row in rows} == {"train": ["angry"], "validation": ["angry"], "test": ["happy"]}


def test_audformat(tmp_path):
    audformat = pytest.importorskip("audformat")
    database = audformat.Database("made")
    database.splits["train"], database.splits["test"] = audformat.Split("train"), audformat.Split("test")
    database.schemes["emotion"] = audformat.Scheme(labels=["anger", "joy"])
    database.schemes["speaker"] = audformat.Scheme(labels={"s1": {"gender": "female"}, "s2": {"gender": "male"}})
    database.schemes["transcription"] = audformat.Scheme("str")
    whole = audformat.filewise_index(["a.wav", "b.wav"])
    database["emotion.train"] = audformat.Table(whole, split_id="train")
    database["emotion.train"]["emotion"] = audformat.Column(scheme_id="emotion")
    database["emotion.train"]["emotion"].set(["anger", None])
    parts = audformat.segmented_index(["c.wav", "c.wav"], ["0s", "1.5s"], ["1s", "2s"])
    database["emotion.test"] = audformat.Table(parts, split_id="test")
    database["emotion.test"]["emotion"] = audformat.Column(scheme_id="emotion")
    database["emotion.test"]["emotion"].set(["joy", "anger"])
    database["files"] = audformat.Table(audformat.filewise_index(["a.wav", "b.wav", "c.wav"]))
    for name, values in (("speaker", ["s1", "s1", "s2"]), ("transcription", ["hello", None, None])):
        database["files"][name] = audformat.Column(scheme_id=name)
        database["files"][name].set(values)
    database.save(str(tmp_path))
    corpus = read_corpus("audformat", tmp_path)
    assert [
        (row.id, row.start, row.end, row.labels, row.speaker, row.gender, row.split, row.text)
        for row in sorted(corpus.utterances, key=lambda row: row.id)
    ] == [
        ("a.wav", 0.0, None, ["anger"], "s1", "female", "train", "hello"),
        ("b.wav", 0.0, None, None, "s1", "female", "train", None),
        ("c.wav[0-1]", 0.0, 1.0, ["joy"], "s2", "male", "test", None),
        ("c.wav[1.5-2]", 1.5, 2.0, ["anger"], "s2", "male", "test", None),
    ]
    assert corpus.classes == ("anger", "joy") and corpus.one_hot and format_of(tmp_path) == "audformat"
    with pytest.raises(CorpusError, match="no table 'x': it has emotion.test, emotion.train, files"):
        read_corpus("audformat", tmp_path, tables=["emotion.test", "x"])
    assert len(read_corpus("audformat", tmp_path, tables=["emotion.test"]).utterances) == 2
    with pytest.raises(CorpusError, match="no scheme 'mood': set the option label to one of emotion, speaker"):
        read_corpus("audformat", tmp_path, label="mood")
    with pytest.raises(CorpusError, match="does not load by audformat"):
        read_corpus("audformat", write(tmp_path / "x/db.yaml", "- 1").parent)


def test_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(1600), 16000, format="WAV")
    soundfile.write(tmp_path / "b.flac", np.zeros(3200), 16000)
    sounds = [{"bytes": buffer.getvalue(), "path": "a.wav"}, {"bytes": None, "path": str(tmp_path / "b.flac")}, None]
    table = pd.DataFrame({"audio": sounds, "emotion": [1, 0, -1], "said": ["Hi", None, "no"], "who": ["x", "y", "y"]})
    part = datasets.Dataset.from_pandas(table, preserve_index=False).cast_column("audio", datasets.Audio())
    part = part.cast_column("emotion", datasets.ClassLabel(names=["angry", "happy"]))
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / "set"))
    corpus = read_corpus("datasets", tmp_path / "set", label="emotion", text="said", speaker="who")
    assert [(row.id, row.labels, row.text, row.speaker, row.split) for row in corpus.utterances] == [
        ("train/0", ["happy"], "Hi", "x", "train"),
        ("train/1", ["angry"], None, "y", "train"),
        ("validation/0", ["happy"], "Hi", "x", "validation"),
        ("validation/1", ["angry"], None, "y", "validation"),
    ]
    assert [row.id for row in corpus.dropped] == ["train/2", "validation/2"]
    assert corpus.classes == ("angry", "happy") and corpus.one_hot
    written = corpus.utterances[0].audio
    assert written.parent == tmp_path / "set.audio" and soundfile.info(written).frames == 1600
    assert soundfile.info(corpus.utterances[1].audio).frames == 3200 and corpus.corrections["audio written to a file"] == 2
    assert not read_corpus("datasets", tmp_path / "set").corrections and format_of(tmp_path / "set") == "datasets"
    with pytest.raises(CorpusError, match="no column 'sound': set the option audio to one of audio, emotion, said, who"):
        read_corpus("datasets", tmp_path / "set", audio="sound")
    part = part.rename_columns({"emotion": "label", "said": "text", "who": "speaker"}).add_column("gender", ["F", "male", "?"])
    part.select([2, 0, 1]).map(lambda row: {"label": [row["label"]]}).save_to_disk(str(tmp_path / "one"))  # no splits, lists of labels
    corpus = read_corpus("datasets", tmp_path / "one", validation_share=0, test_share=0.5, seed=2)
    assert [(row.id, row.labels, row.text, row.gender) for row in corpus.utterances] == [
        ("row/1", ["1"], "Hi", "female"),
        ("row/2", ["0"], None, "male"),
    ]
    assert sorted(row.split for row in corpus.utterances) == ["test", "train"] and corpus.checks["columns not read"] == []
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["gone"]}))
    with pytest.raises(CorpusError, match="no data set on disk"):
        read_corpus("datasets", tmp_path / "set")
