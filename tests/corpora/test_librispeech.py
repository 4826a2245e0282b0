"""LibriSpeech: transcribed subsets and files without a transcript, with whole readers held out."""

import os
from collections import Counter
from pathlib import Path

import pytest

from calm.corpora import read_corpus


def write(root: Path, speakers: int = 40) -> Path:
    for number in range(1, speakers + 1):
        chapter = root / f"train-clean-100/{number}/77"
        chapter.mkdir(parents=True)
        (chapter / f"{number}-77.trans.txt").write_text(f"{number}-77-0000 NORTHANGER ABBEY\n{number}-77-0001 IT'S SO\n")
        for clip in (0, 1):
            (chapter / f"{number}-77-{clip:04d}.flac").touch()
    (root / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET\n1    | F | train-clean-100 | 25 | A\n2    | M | train-clean-100 | 25 | B | C\n")
    return root


def test_texts_genders_and_held_out_readers(tmp_path):
    corpus = read_corpus("librispeech", write(tmp_path))
    rows = {row.id: row for row in corpus.utterances}
    assert (rows["1-77-0001"].text, rows["1-77-0001"].gender, rows["1-77-0001"].labels) == ("it's so", "female", None)
    assert (rows["2-77-0000"].gender, rows["3-77-0000"].gender) == ("male", None)
    held_out = {row.speaker for row in corpus.utterances if row.split == "validation"}
    assert len(held_out) == 2 and not held_out & {row.speaker for row in corpus.utterances if row.split == "train"}
    again = read_corpus("librispeech", tmp_path)
    assert [row.split for row in again.utterances] == [row.split for row in corpus.utterances]
    other = read_corpus("librispeech", tmp_path, seed=2)
    assert {row.speaker for row in other.utterances if row.split == "validation"} != held_out
    assert {row.split for row in read_corpus("librispeech", tmp_path, validation_share=0).utterances} == {"train"}


def test_untranscribed_missing_and_broken(tmp_path):
    root = write(tmp_path, 3)
    (root / "flat").mkdir()
    for name in ("9-1-0000.flac", "1-77-0000.flac", "noname.flac"):
        (root / "flat" / name).touch()
    (root / "train-clean-100/2/77/2-77-0001.flac").unlink()
    with (root / "train-clean-100/3/77/3-77.trans.txt").open("ab") as file:
        file.write(b"no id here\n3-77-0009 CAF\xe9\n")
    corpus = read_corpus("librispeech", root)
    assert Counter(row.reason for row in corpus.dropped) == {
        "file name does not parse": 1,
        "missing audio": 2,
        "transcript line does not parse": 1,
    }
    assert corpus.corrections["file read as Windows-1252"] == 1
    copies = [row.text for row in corpus.utterances if row.id == "1-77-0000"]
    assert copies == ["northanger abbey", None]  # ingest keeps the first
    assert corpus.checks["without a text, to be transcribed"] == 2


def test_for_real():
    if not os.environ.get("CALM_CORPORA"):
        pytest.skip("CALM_CORPORA is not set: no real speech")
    corpus = read_corpus("librispeech", Path(os.environ["CALM_CORPORA"]) / "librispeech")
    assert len(corpus.utterances) == 618 and not corpus.dropped
    assert sum(row.text is None for row in corpus.utterances) == 251
    assert {row.gender for row in corpus.utterances} == {"female", "male"}
