"""EmoBox's metadata: folds, labels, speakers, audio elsewhere than `wav` says, and what is missing."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from calm.corpora import CorpusError, read_corpus
from calm.corpora.fingerprint import fingerprint
from calm.corpora.folds import set_folds

CORPORA = Path(os.environ.get("CALM_CORPORA", "/nowhere"))
METADATA = CORPORA / "labels/emobox"
real = pytest.mark.skipif(not METADATA.is_dir(), reason="CALM_CORPORA names no folder with EmoBox's metadata")


def row(key: str, emotion: str | None = "joy", wav: str = "", **more) -> dict:
    return {"key": key, "dataset": "made", "wav": wav or f"downloads/made/{key}.wav", "emo": emotion, **more}


def made(folder: Path, rows: list[dict], tests: dict[int, list[str]], audio: list[str], name: str = "made", **lists: list[str]) -> Path:
    """Metadata in `metadata` and empty audio files; training lists hold what is not tested. `lists`: further ones, as valid_1=[...]."""
    metadata = folder / "metadata"
    metadata.mkdir()
    (metadata / "label_map.json").write_text('{"joy": "Happy", "Rage": "Angry", "boredem": "Boredom"}')
    (metadata / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for fold, tested in tests.items():
        valid = lists.get(f"valid_{fold}", [])
        parts = {"test": tested, "valid": valid, "train": [row["key"] for row in rows if row["key"] not in {*tested, *valid}]}
        (metadata / f"fold_{fold}").mkdir()
        for part, keys in parts.items():
            if keys:
                text = "".join(json.dumps(row) + "\n" for row in rows if row["key"] in keys)
                (metadata / f"fold_{fold}/{name}_{part}_fold_{fold}.jsonl").write_text(text)
    for file in audio:
        (folder / "audio" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "audio" / file).touch()
    return folder / "audio"


def read(audio: Path):
    return read_corpus("emobox", audio, metadata="../metadata")


def test_rows_are_tested_in_their_folds(tmp_path):
    rows = [row("a", "joy", speaker="ann"), row("b", "rage", spk=7), row("c", None), row("d", "rage")]
    corpus = read(made(tmp_path, rows, {1: ["a"], 2: ["b", "c"]}, [f"downloads/made/{key}.wav" for key in "abcd"]))
    by_id = {one.id: one for one in corpus.utterances}
    assert {key: one.fold for key, one in by_id.items()} == {"a": 1, "b": 2, "c": 2, "d": None}
    assert {key: one.labels for key, one in by_id.items()} == {"a": ["Happy"], "b": ["Angry"], "c": None, "d": ["Angry"]}
    assert {key: one.speaker for key, one in by_id.items()} == {"a": "ann", "b": "7", "c": "", "d": ""}
    assert corpus.classes == ("Happy", "Angry") and corpus.one_hot and {one.split for one in corpus.utterances} == {"train"}
    assert corpus.checks == {"data set": "made", "tested, by fold": {"1": 1, "2": 2}} and not corpus.dropped


def test_rows_without_a_key_are_dropped(tmp_path):
    audio = made(tmp_path, [row("a"), row(" ", wav="x.wav")], {1: ["a"]}, ["downloads/made/a.wav", "x.wav"])
    corpus = read(audio)
    assert [one.id for one in corpus.utterances] == ["a"]
    assert {(one.id, one.reason) for one in corpus.dropped} == {
        ("made.jsonl:2", "row does not parse"),
        ("made_train_fold_1.jsonl:1", "row does not parse"),
    }


def test_a_single_fold_is_a_split_too(tmp_path):
    audio = made(tmp_path, [row(key) for key in "abc"], {1: ["a"]}, [f"downloads/made/{key}.wav" for key in "abc"], valid_1=["b"])
    (tmp_path / "metadata/made.jsonl").unlink()  # the folds name all rows
    assert {one.id: (one.split, one.fold) for one in read(audio).utterances} == {
        "a": ("test", 1),
        "b": ("validation", None),
        "c": ("train", None),
    }


def test_audio_of_another_kind_and_place_is_found_by_its_name(tmp_path):
    rows = [row(key, wav=f"downloads/x/{folder}/same.wav") for key, folder in (("a", "A1"), ("b", "A2"))]
    rows += [row("c", wav="downloads/x/A1/there.wav"), row("d", wav="downloads/x/A9/twice.wav")]
    files = ["A1/same.flac", "deep/A2/same.mp3", "downloads/x/A1/there.wav", "A1/there.flac", "B1/twice.flac", "B2/twice.flac"]
    audio = made(tmp_path, rows, {1: ["a"], 2: ["b"]}, files)
    corpus = read(audio)
    assert {one.id: str(one.audio.relative_to(audio)) for one in corpus.utterances} == {
        "a": "A1/same.flac",
        "b": "deep/A2/same.mp3",
        "c": "downloads/x/A1/there.wav",
    }
    assert [(one.id, one.reason, one.fault) for one in corpus.dropped] == [("d", "several audio files of this name", True)]


def test_absent_speakers_are_named_and_single_files_are_faults(tmp_path):
    rows = [row("a", speaker="ann"), row("b", speaker="ann"), row("c", speaker="ben"), row("d", speaker="ben"), row("e", "bored")]
    corpus = read(made(tmp_path, rows, {1: ["a"], 2: ["c", "d"]}, ["downloads/made/a.wav", "downloads/made/e.wav"]))
    assert Counter((one.id, one.reason, one.fault) for one in corpus.dropped) == Counter(
        [
            ("b", "no audio file", True),
            ("c", "speaker or folder without audio", False),
            ("d", "speaker or folder without audio", False),
            ("e", "label outside its range", True),
        ]
    )
    assert corpus.checks["rows without audio, of speakers or folders that have none"] == {"ben": 2}


def test_odd_lists_are_said(tmp_path):
    audio = made(tmp_path, [row(key) for key in "abc"], {1: ["a"], 2: ["a", "b"]}, [f"downloads/made/{key}.wav" for key in "abc"])
    (tmp_path / "metadata/fold_1/made_train_fold_1.jsonl").write_text('{"key": "b", "wav": "x.wav"}\n{"key": 3}\nnothing\n')
    corpus = read(audio)
    assert {one.id: one.fold for one in corpus.utterances} == {"a": 1, "b": 2, "c": None}
    assert corpus.checks["in the test list of several folds, tested in the first"] == ["a"]
    assert corpus.checks["in no list of fold 1, and trained on"] == 1
    assert [one.id for one in corpus.dropped] == ["made_train_fold_1.jsonl:2", "made_train_fold_1.jsonl:3"]


def test_missing_metadata_says_what_to_do(tmp_path):
    (tmp_path / "audio").mkdir()
    with pytest.raises(CorpusError, match="set metadata to EmoBox's folder of one data set"):
        read(tmp_path / "audio")
    audio = made(tmp_path, [row("a")], {1: ["a"]}, [])
    for text in ("[1", "[" * 100_000):
        (tmp_path / "metadata/label_map.json").write_text(text)
        with pytest.raises(CorpusError, match="label_map.json does not parse"):
            read(audio)
    (tmp_path / "metadata/label_map.json").unlink()
    with pytest.raises(CorpusError, match="label_map.json is missing"):
        read(audio)


def test_an_edited_list_changes_the_fingerprint_behind_a_link(tmp_path):
    made(tmp_path, [row("a")], {1: ["a"]}, ["a.wav"])
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/made").symlink_to(tmp_path / "audio")
    (tmp_path / "raw/lists").symlink_to(tmp_path / "metadata")
    before = fingerprint("emobox", tmp_path / "raw/made", {"metadata": "../lists"})
    assert before["audio"]["files"] == 1 and before["other"]["files"] == 3
    (tmp_path / "metadata/label_map.json").write_text('{"joy": "Joy"}')
    after = fingerprint("emobox", tmp_path / "raw/made", {"metadata": "../lists"})
    assert after["audio"] == before["audio"] and after["other"] != before["other"]
    assert read_corpus("emobox", tmp_path / "raw/made", metadata="../lists").classes == ("Joy",)


@real
def test_ravdess_as_published():
    corpus = read_corpus("emobox", CORPORA / "ravdess", metadata=METADATA / "ravdess")
    there = {f"{actor:02d}" for actor in range(1, 21)}
    assert Counter(one.speaker for one in corpus.utterances) == dict.fromkeys(there, 60)
    assert {one.reason for one in corpus.dropped} == {"speaker or folder without audio"} and len(corpus.dropped) == 240
    tested = {fold: {int(one.speaker) for one in corpus.utterances if one.fold == fold} for fold in range(1, 7)}
    published = [{1, 11, 20, 21}, {4, 10, 12, 14}, {8, 9, 19, 23}, {3, 5, 7, 24}, {2, 15, 16, 18}, {6, 13, 17, 22}]
    assert list(tested.values()) == [actors - {21, 22, 23, 24} for actors in published]
    assert set(corpus.classes) == {"Angry", "Surprise", "Sad", "Disgust", "Happy", "Calm", "Neutral", "Fear"}
    one = next(one for one in corpus.utterances if one.id == "ravdess-03-01-05-01-02-01-18")
    assert (one.speaker, one.gender, one.text, one.labels) == ("18", "female", "Dogs are sitting by the door", ["Angry"])
    set_folds(corpus, "given")
    assert "speakers tested in several folds, who are heard in training too" not in corpus.checks


@real
def test_emodb_and_iemocap_as_published(tmp_path):
    """Without audio all rows are named by speaker. EmoDB's published folds share their speakers, which a corpus with audio is told."""
    speakers = {"emodb": 10, "iemocap": 10}
    rows = {"emodb": 535, "iemocap": 5531}
    for name, count in rows.items():
        corpus = read_corpus("emobox", tmp_path, metadata=METADATA / name)
        absent = corpus.checks["rows without audio, of speakers or folders that have none"]
        assert (len(absent), sum(absent.values()), len(corpus.dropped)) == (speakers[name], count, count)
    for line in (METADATA / "emodb/emodb.jsonl").read_text().splitlines():
        file = tmp_path / json.loads(line)["wav"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    corpus = read_corpus("emobox", tmp_path, metadata=METADATA / "emodb")
    assert len(corpus.utterances) == 535 and Counter(one.labels[0] for one in corpus.utterances)["Neutral"] == 79
    set_folds(corpus, "given")
    assert len(corpus.checks["speakers tested in several folds, who are heard in training too"]) == 10
