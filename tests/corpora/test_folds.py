"""Folds: who is tested where, who validates, and which corpora are refused."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from calm.corpora import CorpusError, read_corpus
from calm.corpora.folds import counts, folds_of, set_folds, split_in
from calm.corpora.utterances import Corpus, Utterance, read_table, write_table


def corpus(labels: dict[str, str], folds: dict[str, int] | None = None) -> Corpus:
    """A speaker of each name, with an utterance of each letter as class."""
    made = Corpus(("a", "b"), one_hot=True)
    for speaker, of_speaker in labels.items():
        for number, name in enumerate(of_speaker):
            label = None if name == "-" else [name]
            one = Utterance(f"{speaker}{number}", Path(f"{speaker}{number}.wav"), 0.0, 1.0, speaker, labels=label)
            one.fold = (folds or {}).get(speaker)
            made.add(one)
    return made


def parts(made: Corpus, fold: int, path: Path) -> dict[str, str]:
    """Split of every speaker in a fold, by the table that was written."""
    write_table(made, path / "table.parquet")
    table = read_table(path / "table.parquet")
    by_speaker = pd.DataFrame({"speaker": table["speaker"], "split": split_in(table, fold)}).drop_duplicates()
    assert by_speaker["speaker"].is_unique
    return dict(zip(by_speaker["speaker"], by_speaker["split"], strict=True))


def test_made_folds_hold_no_speaker_twice_and_balance_classes(tmp_path):
    """Speakers of a alone and of b alone: each of the three folds needs one of either."""
    made = corpus({f"a{n}": "aaaa" for n in range(3)} | {f"b{n}": "bbbb" for n in range(3)})
    set_folds(made, 3)
    tested = {fold: {one.speaker for one in made.utterances if one.fold == fold} for fold in (1, 2, 3)}
    assert all(sorted(name[0] for name in names) == ["a", "b"] for names in tested.values())
    for fold, names in tested.items():
        splits = parts(made, fold, tmp_path)
        assert {name for name, split in splits.items() if split == "test"} == names
        assert Counter(splits.values()) == {"test": 2, "validation": 1, "train": 3}
    whole = parts(made, 0, tmp_path)
    assert Counter(whole.values()) == {"validation": 1, "train": 5}


def test_one_of_four_training_speakers_validates():
    made = corpus(dict.fromkeys("vwxyz", "ab"))
    set_folds(made, 5)
    assert sorted(one.fold for one in made.utterances if one.id.endswith("0")) == [1, 2, 3, 4, 5]
    for fold in range(1, 6):
        assert len({one.speaker for one in made.utterances if fold in one.validates}) == 1
        assert not any(fold in one.validates for one in made.utterances if one.fold == fold)


def test_validation_has_the_shares_of_the_training_speakers():
    """Of 20 speakers three validate, and of the training speakers half say a alone, half b and twice as much: no three of one kind."""
    made = corpus({f"a{n:02d}": "aa" for n in range(10)} | {f"b{n:02d}": "bbbb" for n in range(10)} | {"t": "ab"})
    for one in made.utterances:
        one.fold = 1 if one.speaker == "t" else None
    set_folds(made, "given")
    chosen = {one.speaker for one in made.utterances if one.validates == [1]}
    assert len(chosen) == 3 and {name[0] for name in chosen} == {"a", "b"}


def test_a_seed_gives_the_same_folds_in_any_order():
    labels = {f"s{n}": "ab" * (1 + n % 3) for n in range(12)}
    first, second = corpus(labels), corpus(dict(reversed(labels.items())))
    for made in (first, second):
        set_folds(made, 4)
    ours, theirs = ({one.id: (one.fold, one.validates) for one in made.utterances} for made in (first, second))
    assert ours == theirs
    other = corpus(labels)
    set_folds(other, 4, seed=2)
    assert [one.fold for one in other.utterances] != [one.fold for one in first.utterances]


def test_given_folds_stay_and_rows_without_one_are_trained_on(tmp_path):
    made = corpus(dict.fromkeys("vwxyz", "ab"), {"v": 3, "w": 7})
    set_folds(made, "given")
    frame = write_table(made, tmp_path / "table.parquet")
    assert folds_of(frame) == folds_of(read_table(tmp_path / "table.parquet")) == [3, 7]
    assert counts(frame)["7"]["test"] == {"rows": 2, "speakers": ["w"]}
    splits = parts(made, 7, tmp_path)
    assert splits["w"] == "test" and "test" not in {splits[name] for name in "vxyz"} and Counter(splits.values())["train"] == 3


def test_unlabelled_speakers_do_not_validate():
    made = corpus({"t": "ab", "u": "ab", "v": "ab", "x": "----", "y": "----"}, {"t": 1})
    set_folds(made, "given")
    assert {one.speaker for one in made.utterances if one.validates == [1]} <= {"u", "v"}


def test_a_speaker_of_several_given_folds_is_named():
    made = corpus(dict.fromkeys("vwxyz", "ab"))
    for number, one in enumerate(made.utterances):
        one.fold = 1 + number % 2
    set_folds(made, "given")
    assert made.checks["speakers tested in several folds, who are heard in training too"] == list("vwxyz")
    assert all(one.fold not in one.validates for one in made.utterances)


def test_fewer_speakers_than_folds_get_one_each():
    made = corpus({"v": "ab", "w": "ab", "x": "ab"})
    set_folds(made, 5)
    assert sorted({one.fold for one in made.utterances}) == [1, 2, 3] and len({(one.speaker, one.fold) for one in made.utterances}) == 3


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(CorpusError, match="gives no folds"):
        set_folds(corpus({"v": "ab"}), "given")
    with pytest.raises(CorpusError, match="folds need 3 speakers or more, one to train on, to validate and to test; it has 2"):
        set_folds(corpus({"v": "ab", "w": "ab"}), 3)
    with pytest.raises(CorpusError, match="1 labelled speakers to train on"):
        set_folds(corpus({"v": "ab", "w": "ab"}, {"v": 1, "w": 2}), "given")
    with pytest.raises(CorpusError, match="2 folds and no test split: set its folds: given"):
        set_folds(corpus({"v": "ab", "w": "ab"}, {"v": 1, "w": 2}), None)


def test_a_corpus_without_folds_has_empty_columns(tmp_path):
    made = corpus({"v": "ab"})
    made.utterances[0].split, made.utterances[0].fold = "test", 1
    set_folds(made, None)
    table = write_table(made, tmp_path / "table.parquet")
    assert folds_of(table) == [] and counts(table) == {} and list(split_in(table, 0)) == ["test", "train"]
    assert read_table(tmp_path / "table.parquet")["validates"].isna().all()


def test_a_table_may_give_folds(tmp_path):
    (tmp_path / "t.csv").write_text("audio,fold,split\na.wav,2,train\nb.wav,,test\nc.wav,1.5,train\nd.wav,0,train\ne.wav,1.0,train\n")
    made = read_corpus("manifest", tmp_path / "t.csv")
    assert {one.id: one.fold for one in made.utterances} == {"a": 2, "b": None, "e": 1}
    assert [(one.id, one.reason) for one in made.dropped] == [(name, "fold is not a number from 1") for name in ("c.wav", "d.wav")]
