"""Statistics of all folds but one, by hand."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calm.corpora.folds import set_folds
from calm.corpora.utterances import Corpus, Utterance, write_table
from calm.data.examples import load_examples
from calm.data.normalisation import mean_and_deviation, outside


def sums(*frames: list[float]) -> dict:
    values = np.array(frames, float)
    return {"frames": len(values), "total": values.sum(0).tolist(), "squares": (values**2).sum(0).tolist()}


def test_by_hand():
    """Outside of fold 1: frames (1, 4), (3, 4), (5, 4), of which the last are in no fold."""
    by_fold = {"1": sums([100, 100]), "12": sums([1, 4], [3, 4]), "": sums([5, 4])}
    mean, deviation = outside(by_fold, 1)
    assert mean.tolist() == [3, 4] and deviation == pytest.approx([np.sqrt(8 / 3), 1e-3])
    with pytest.raises(ValueError, match="fold 1 holds all"):
        outside({"1": by_fold["1"]}, 1)
    assert mean_and_deviation(2, np.array([4.0]), np.array([10.0]))[1].tolist() == [1.0]


def test_examples_have_splits_and_statistics_of_their_fold(tmp_path):
    """Four speakers, one a fold, whose frames are 0, 1, 2, 3 throughout."""
    corpus = Corpus(("a",), one_hot=True)
    for number in range(4):
        corpus.add(Utterance(f"u{number}", Path(f"{number}.wav"), 0, 1, f"s{number}", labels=["a"], fold=number + 1))
    set_folds(corpus, "given")
    write_table(corpus, tmp_path / "utterances.parquet")
    pq.write_table(pa.table({"id": [f"u{number}" for number in range(4)], "text": ["x"] * 4}), tmp_path / "texts.parquet")
    frames = [np.full(60 * 2, number, np.float16) for number in range(4)]
    rows = {"id": [f"u{number}" for number in range(4)], "frames": [60] * 4, "features": pa.array(frames, pa.list_(pa.float16()))}
    pq.write_table(pa.table(rows), tmp_path / "part-00000.parquet")
    folds = {str(number + 1): sums(*[[number, number]] * 60) for number in range(4)}
    (tmp_path / "stats.json").write_text(json.dumps({"mean": [9, 9], "std": [1, 1], "folds": folds}))
    files = {"made": (tmp_path / "utterances.parquet", tmp_path, tmp_path)}
    examples = load_examples(files, fold=3)
    assert examples.table["split"].tolist()[2] == "test" and sorted(examples.table["split"]) == ["test", "train", "train", "validation"]
    others = np.array([0, 1, 3])
    expected = (np.arange(4) - others.mean()) / others.std()
    found = [float(examples.frames.utterances.values[start, 0]) for start in examples.frames.utterances.offsets[:4]]
    assert found == pytest.approx(expected, abs=2e-3)
    assert float(load_examples(files).frames.utterances.values[0, 0]) == -9
