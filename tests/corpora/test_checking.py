"""What is dropped and counted before any work, and how rows are chosen, in small corpora worked out by hand."""

import contextlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calm.audio.headers import Header
from calm.corpora import CorpusError
from calm.corpora.checking import by_split, check, interval_fault, refuse, speakers_in_two_splits
from calm.corpora.limits import Limits
from calm.corpora.splits import check_shares, nested
from calm.corpora.utterances import Corpus, Utterance, frame_of, read_table, write_table

LONG, BAD = Path("long.wav"), Path("bad.wav")
HEADERS = {LONG: Header(10.0, notes=("mended",), top_hz=4000.0), BAD: Header(0.0, "no audio", "empty file")}
LIMITS = Limits(min_seconds=0.5, max_seconds=6, max_dropped=0.5)


def made(*intervals: tuple[float, float | None], audio: Path = LONG) -> Corpus:
    """Rows a, b, c ... of one file."""
    return Corpus(utterances=[Utterance("abcdefgh"[number], audio, *interval) for number, interval in enumerate(intervals)])


def test_rows_are_dropped_with_a_reason_and_ends_are_set():
    corpus = made((5, None), (6, 11), (7, 10.5), (0, 2), (3, 3))
    corpus.utterances += [Utterance("x", BAD), Utterance("a", LONG, 1, 4), Utterance("d", LONG, 0, 7)]
    check(corpus, HEADERS, LIMITS)
    assert [(row.id, row.start, row.end, row.seconds) for row in corpus.utterances] == [
        ("a", 5, 10, 5),
        ("b", 6, 10, 4),
        ("c", 7, 10, 3),
        ("d", 0, 2, 2),
    ]
    assert [(row.id, row.reason, row.detail) for row in corpus.dropped] == [
        ("e", "inverted interval", "3.000 to 3.000 s of 10.000 s, long.wav"),
        ("x", "no audio", "empty file"),
        ("a", "duplicate id", "1.000 to 4.000 s of 10.000 s, long.wav"),
        ("d", "too long", "0.000 to 7.000 s of 10.000 s, long.wav"),
    ]
    assert corpus.corrections == Counter({"end beyond the audio set to its end": 2, "mended": 4})
    assert corpus.checks == {"rows without sound above (see features.high_hz)": {"4000 Hz": 4}}


@pytest.mark.parametrize(
    ("start", "end", "fault"),
    [
        (0, 6, None),  # as long as allowed
        (9.5, None, None),  # as short as allowed
        (9.5, 99, None),
        (9.51, 99, "too short"),
        (3.9, None, "too long"),
        (4, 4, "inverted interval"),
        (5, 4, "inverted interval"),
        (10, None, "start beyond the end of the audio"),
        (10, 12, "start beyond the end of the audio"),
    ],
)
def test_intervals(start, end, fault):
    assert interval_fault(Utterance("a", LONG, start, end), 10.0, LIMITS) == fault


def test_a_row_without_an_id_is_named_by_its_audio():
    corpus = Corpus()
    corpus.add(Utterance(" ", LONG))
    assert not corpus.utterances and [(row.id, row.reason) for row in corpus.dropped] == [("long.wav", "no id")]


def test_an_unknown_end_has_no_length():
    with pytest.raises(ValueError, match="the end of a is not known before its audio is checked"):
        _ = made((0, None)).utterances[0].seconds


@pytest.mark.parametrize(
    ("intervals", "refused"),
    [
        ([(0, 11), (0, 2000), (2000, 4000)], r"\(b: 0 to 2000 of 10 s\)"),  # 11 s is not far beyond 10 s
        ([(0, 2000), (0, 5)], None),  # half of them, no more
        ([(0, 2000.5), (0, 4000)], None),  # no whole number
        ([(0.5, 2000), (0, 4000)], None),
        ([(0, 11000), (0, 4000)], None),  # 11 s do not fit either
        ([(0, 10999), (0, 4000)], r"\(a: 0 to 10999 of 10 s\)"),
        ([(0, 100), (0, 90)], None),  # ends at 0.1 s would be too short to be meant
    ],
)
def test_times_in_milliseconds(intervals, refused):
    with pytest.raises(CorpusError, match=refused) if refused else contextlib.nullcontext():
        check(made(*intervals), HEADERS, LIMITS)


def test_too_many_lost_rows_are_refused():
    corpus = made((0, 1), (1, 2))
    corpus.drop("c", "too short", "")
    corpus.drop("d", "too short", "")
    corpus.leave_out("e", "a song")
    refuse(corpus, LIMITS)  # half of four
    corpus.drop("f", "no audio", "")
    with pytest.raises(CorpusError, match=r"3 of 5 rows \(60.0%\).* 50.0% \(2 too short, the first c; 1 no audio, the first f\)"):
        refuse(corpus, LIMITS)
    corpus.utterances = []
    with pytest.raises(CorpusError, match="none of 4 rows can be used"):
        refuse(corpus, LIMITS)


def test_a_summary_of_each_split():
    frame = pd.DataFrame(
        {
            "split": ["train", "train", "train", "train", "test"],
            "duration": [1800.0, 900.0, 450.0, 450.0, 36.0],
            "speaker": ["anna", "ben", "anna", "", "ben"],
            "text": ["hi", None, None, "yes", None],
            "labels": [["sad"], ["sad", "happy"], [], None, None],
        }
    )
    splits = by_split(frame, ("happy", "sad", "calm"))
    labels = {"happy": 1, "sad": 2, "calm": 0, "none of them": 1, "unlabelled": 1}
    assert splits["train"] == {"rows": 4, "hours": 1.0, "speakers": 2, "with_text": 2, "labels": labels}
    assert splits["test"]["hours"] == 0.01 and splits["test"]["labels"]["unlabelled"] == 1 and splits["validation"]["rows"] == 0
    assert speakers_in_two_splits(frame) == ["ben"]


def test_tables_keep_further_columns(tmp_path):
    corpus = Corpus(utterances=[Utterance("a", LONG, 1, 3.5, extra={"valence": 2.5, "votes": 3}), Utterance("b", LONG, 0, 1)])
    frame = frame_of(corpus)
    assert frame["duration"].tolist() == [2.5, 1]
    write_table(corpus, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert (
        read.columns[-2:].tolist() == ["valence", "votes"] and read["valence"][0] == 2.5 and read["votes"].isna().tolist() == [False, True]
    )


def test_a_share_of_the_rows_has_every_combination_of_labels():
    """Of 12, 6 and 2 rows a half is 6, 3 and 1; a tenth is a part of it."""
    targets = np.array([[1, 0]] * 12 + [[1, 1]] * 6 + [[0, 0]] * 2, bool)
    half, tenth = nested(targets, 0.5, 3), nested(targets, 0.1, 3)
    assert [int((half < 12).sum()), int(((half >= 12) & (half < 18)).sum()), int((half >= 18).sum())] == [6, 3, 1]
    assert len(tenth) == 2 and set(tenth) < set(half) and (np.diff(half) > 0).all()
    assert nested(targets, 1.0, 3).tolist() == list(range(20)) and len(nested(targets, 0.001, 3)) == 1
    assert {tuple(nested(targets, 0.5, seed)) for seed in range(4)} != {tuple(half)}


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5)])
def test_shares_that_leave_nothing_to_train_on(validation, test):
    with pytest.raises(CorpusError):
        check_shares(validation, test)
