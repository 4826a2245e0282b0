"""RAVDESS and CREMA-D, whose annotation is in the file names."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calm.corpora import CorpusError, read_corpus
from calm.corpora.crema_d import EMOTIONS, SENTENCES
from calm.corpora.ravdess import CLASSES, NAME


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_ravdess_reads_the_fields(tmp_path):
    touch(tmp_path, "Actor_01/03-01-05-02-01-02-01.wav", "Actor_16/03-01-08-01-02-01-16.flac", "speech/Actor_20/03-01-02-01-01-01-20.WAV")
    corpus = read_corpus("ravdess", tmp_path)
    angry, surprised, calm = corpus.utterances
    assert corpus.one_hot and corpus.classes == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    assert (angry.labels, angry.gender, angry.speaker, angry.split, angry.extra) == (
        ["angry"],
        "male",
        "01",
        "train",
        {"intensity": 2, "repetition": 2},
    )
    assert (surprised.labels, surprised.gender, surprised.split, surprised.text) == (
        ["surprised"],
        "female",
        "validation",
        "Dogs are sitting by the door",
    )
    assert (calm.labels, calm.split, calm.text) == (["calm"], "test", "Kids are talking by the door")


def test_ravdess_names_what_it_leaves_out(tmp_path):
    touch(tmp_path, "03-01-01-01-01-01-01.wav", "03-02-01-01-01-01-01.wav", "01-01-01-01-01-01-01.mp4", "03-01-01-01-01-01-24.wav")
    touch(tmp_path, "03-01-09-01-01-01-01.wav", "notes.wav", "readme.txt", "._03-01-01-01-01-01-02.wav")
    corpus = read_corpus("ravdess", tmp_path)
    assert [row.id for row in corpus.utterances] == ["03-01-01-01-01-01-01"]
    assert {(row.reason, row.fault) for row in corpus.dropped} == {
        ("song", False),
        ("not audio-only speech", False),
        ("actor in no split", False),
        ("label outside its range", True),
        ("file name does not parse", True),
    }


def test_ravdess_splits_are_options(tmp_path):
    touch(tmp_path, "03-01-01-01-01-01-01.wav", "03-01-01-01-01-01-24.wav")
    corpus = read_corpus("ravdess", tmp_path, train=[24], validation=[], test=[1])
    assert {row.speaker: row.split for row in corpus.utterances} == {"24": "train", "01": "test"}
    with pytest.raises(CorpusError, match="actor 1 is in train and in test"):
        read_corpus("ravdess", tmp_path, test=[1])


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path / "store", "03-01-01-01-01-01-01.wav")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/Actor_01").symlink_to(tmp_path / "store")
    (tmp_path / "store/up").symlink_to(tmp_path / "raw")
    assert len(read_corpus("ravdess", tmp_path / "raw").utterances) == 1


@given(st.lists(st.integers(0, 25), min_size=7, max_size=7))
def test_ravdess_every_file_is_kept_or_named(tmp_path_factory, fields):
    name = "-".join(f"{field:02d}" for field in fields)
    assert NAME.fullmatch(name)
    corpus = read_corpus("ravdess", touch(tmp_path_factory.mktemp("ravdess"), f"{name}.wav"))
    assert len(corpus.utterances) + len(corpus.dropped) == 1
    for row in corpus.utterances:
        assert row.labels == [CLASSES[fields[2] - 1]] and fields[:2] == [3, 1]


def test_ravdess_for_real():
    if not os.environ.get("CALM_CORPORA"):
        pytest.skip("CALM_CORPORA is not set: no real speech")
    corpus = read_corpus("ravdess", Path(os.environ["CALM_CORPORA"]) / "ravdess")
    assert Counter(row.split for row in corpus.utterances) == {"train": 840, "validation": 120, "test": 240} and not corpus.dropped
    assert Counter(row.labels[0] for row in corpus.utterances) == {name: 80 if name == "neutral" else 160 for name in CLASSES}


def test_crema_d(tmp_path):
    actors = range(1001, 1021)
    touch(tmp_path, *(f"AudioWAV/{actor}_{sentence}_{code}_XX.wav" for actor in actors for sentence in ("IEO", "DFA") for code in EMOTIONS))
    touch(tmp_path, "AudioWAV/1001_ITH_SAD_X.wav", "AudioWAV/1001_ITH_ODD_XX.wav", "AudioWAV/1001_ITH.wav")
    (tmp_path / "VideoDemographics.csv").write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,x,y\n"
    )
    corpus = read_corpus("crema_d", tmp_path)
    first = corpus.utterances[0]
    assert corpus.one_hot and corpus.classes == tuple(EMOTIONS.values())
    assert (first.speaker, first.gender, first.labels, first.text) == ("1001", "male", ["angry"], "Don't forget a jacket")
    assert {row.gender for row in corpus.utterances} == {"male", "female", None}
    assert Counter(row.reason for row in corpus.dropped) == {"label outside its range": 1, "file name does not parse": 1}
    splits = {split: {row.speaker for row in corpus.utterances if row.split == split} for split in ("train", "validation", "test")}
    assert [len(splits[split]) for split in splits] == [13, 3, 4] and len(set().union(*splits.values())) == 20
    touch(tmp_path, "AudioMP3/1001_IEO_ANG_XX.mp3", "VideoFlash/1001_IEO_ANG_XX.mp4", "processedResults/notes.wav")  # a whole clone
    assert read_corpus("crema_d", tmp_path) == corpus
    assert len(SENTENCES) == 12
    with pytest.raises(CorpusError, match="add to less than 1"):
        read_corpus("crema_d", tmp_path, validation_share=0.5, test_share=0.5)


@pytest.mark.parametrize("format", ["ravdess", "crema_d", "librispeech"])
def test_a_folder_of_something_else(tmp_path, format):
    with pytest.raises(CorpusError, match="has no file named like"):
        read_corpus(format, touch(tmp_path, "song.wav", "empty/readme.txt"))
