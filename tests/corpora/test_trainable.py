"""What no head can be trained on."""

from pathlib import Path

import pytest

from calm.corpora import CorpusError, read_corpus
from calm.corpora.trainable import refuse_untrainable, unfit, untrainable
from calm.corpora.utterances import Corpus, Utterance


def made(*rows: tuple[str, str, str | None]) -> Corpus:
    """Of speaker, split and label."""
    corpus = Corpus(one_hot=True)
    for number, (speaker, split, label) in enumerate(rows):
        corpus.add(Utterance(str(number), Path(f"{number}.wav"), speaker=speaker, split=split, labels=None if label is None else [label]))
    corpus.classes = tuple(sorted({label for *_, label in rows if label}))
    return corpus


SOUND = [(speaker, split, label) for speaker, split in zip("abc", ("train", "validation", "test"), strict=True) for label in ("x", "y")]


@pytest.mark.parametrize("folds", [5, None])
def test_three_speakers_of_each_class_will_do(folds):
    assert untrainable(made(*SOUND, ("d", "train", None)), folds) == []


@pytest.mark.parametrize(
    ("rows", "folds", "says"),
    [
        ([("a", "train", "x"), ("a", "validation", "y"), ("a", "test", "x")], 5, "speakers with labels: 1 (a), and 3 are needed"),
        ([row for row in SOUND if row[2] == "x"], 5, "there is one class, x: add rows of another one"),
        ([*SOUND, ("a", "train", "X")], 5, "'X' and 'x' are two classes by their spelling alone"),
        (SOUND[:-1], None, "test has no row of y: move rows of it there"),
        (SOUND[:-1], 5, "fewer than 3 speakers have rows of y (2)"),
        ([("a", "train", None)], 5, "no row has a label"),
    ],
)
def test_what_cannot_be_learned_says_what_to_do(rows, folds, says):
    with pytest.raises(CorpusError) as error:
        refuse_untrainable(made(*rows), folds)
    assert says in str(error.value)


@pytest.mark.parametrize(("column", "name"), [("class", "labels"), ("Emotion", "labels"), ("spk", "speaker")])
def test_a_column_with_another_name(tmp_path, column, name):
    other = ",labels" if name == "speaker" else ""
    (tmp_path / "table.csv").write_text(f"audio,{column}{other}\na.wav,x{',y' if other else ''}\n")
    corpus = read_corpus("manifest", tmp_path / "table.csv")
    assert f"the table has a column '{column.lower()}' and none called '{name}': rename it" in unfit(corpus)


def test_a_corpus_without_labels_is_for_pretraining():
    assert unfit(made(("a", "train", None))) == []
