"""What all readers of corpora share: texts and numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calm.corpora import CorpusError
from calm.corpora.files import number, read_text, tidy
from calm.corpora.utterances import Corpus, Utterance


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  So  I\tSAID\n", "So I SAID"),
        ("NORTHANGER ABBEY", "northanger abbey"),  # no casing to keep
        ("I'M 20.", "i'm 20."),
        ("20 times", "20 times"),
        ("ÉTÉ", "été"),
        ("22", "22"),
        (" \n", None),
        ("", None),
        (None, None),
    ],
)
def test_tidy(text, expected):
    assert tidy(text) == expected


@given(st.text())
def test_tidy_changes_nothing_but_space_and_upper_case(text):
    tidied = tidy(text)
    assert tidy(tidied) == tidied
    assert (tidied or "").lower() == " ".join(text.split()).lower()


@pytest.mark.parametrize(("value", "expected"), [("1.5", 1.5), (3, 3), ("-1", -1), ("1e3", 1000)])
def test_numbers(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize("value", ["1_0", "x", "", None, [1], 10**400])
def test_other_values_are_nan(value):
    assert math.isnan(number(value))


def test_what_is_no_utf_8_is_read_and_counted(tmp_path):
    corpus, path = Corpus(), tmp_path / "a.txt"
    for content in ("né".encode("utf-16"), "né".encode("utf-16"), "né".encode()):
        path.write_bytes(content)
        assert read_text(path, corpus) == "né"
    assert corpus.corrections == {"file read as UTF-16": 2}
    with pytest.raises(CorpusError, match="it is a folder, not a file"):
        read_text(tmp_path, corpus)


def test_audio_elsewhere_than_in_a_folder_is_counted(tmp_path):
    for folder in ("set", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").touch()
    (tmp_path / "set/link.wav").symlink_to("../other/a.wav")
    (tmp_path / "set/own.wav").symlink_to("a.wav")
    corpus = Corpus(utterances=[Utterance(name, tmp_path / "set" / name) for name in ("a.wav", "own.wav")])
    corpus.note_outside(tmp_path / "set")
    assert not corpus.checks
    corpus.utterances += [Utterance(name, tmp_path / "set" / name) for name in ("link.wav", "../other/a.wav")]
    corpus.note_outside(tmp_path / "set")
    assert corpus.checks == {"audio files outside the corpus's folder": 2}
