"""Statistics of all folds but one, by hand."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calm.corpora.folds import set_folds
from calm.corpora.utterances import Corpus, Utterance, write_table
from calm.data.examples import each_frames, load_examples, stored_normaliser
from calm.data.normalisation import PRIOR, Sums, of_speaker, outside
from calm.data.ragged import AcousticFrames


def sums(*utterances: np.ndarray) -> Sums:
    own = Sums()
    for frames in utterances:
        own.add(frames)
    return own


def test_by_hand():
    """Outside of fold 1: frames (1, 4), (3, 4), (5, 4), of which the last are in no fold."""
    by_fold = {"1": sums([[100, 100]]), "12": sums([[1, 4]], [[3, 4]]), "": sums([[5, 4]])}
    mean, deviation = outside(by_fold, 1)
    assert mean.tolist() == [3, 4] and deviation == pytest.approx([np.sqrt(8 / 3), 1e-3])
    with pytest.raises(ValueError, match="fold 1 holds all"):
        outside({"1": by_fold["1"]}, 1)
    assert Sums(2, 1, np.array([4.0]), np.array([10.0])).mean_and_deviation()[1].tolist() == [1.0]


def four_speakers(folder: Path, named: bool = True) -> dict:
    """Files of four speakers, one a fold, whose frames are 0, 1, 2, 3 throughout; copies at another speed are 10 above them."""
    corpus = Corpus(("a",), one_hot=True)
    for number in range(4):
        corpus.add(Utterance(f"u{number}", Path(f"{number}.wav"), 0, 1, f"s{number}", labels=["a"], fold=number + 1))
    set_folds(corpus, "given")
    for utterance in corpus.utterances if not named else ():
        utterance.speaker = ""
    write_table(corpus, folder / "utterances.parquet")
    pq.write_table(pa.table({"id": [f"u{number}" for number in range(4)], "text": ["x"] * 4}), folder / "texts.parquet")
    for above, shards in ((0, folder), (10, folder / "speed-1.1")):
        shards.mkdir(exist_ok=True)
        frames = [np.full(60 * 2, number + above, np.float16) for number in range(4)]
        rows = {"id": [f"u{number}" for number in range(4)], "frames": [60] * 4, "features": pa.array(frames, pa.list_(pa.float16()))}
        pq.write_table(pa.table(rows), shards / "part-00000.parquet")
    folds = {str(number + 1): sums(np.full((60, 2), number)).plain() for number in range(4)}
    (folder / "stats.json").write_text(json.dumps({"mean": [9, 9], "std": [1, 1], "folds": folds}))
    return {"made": (folder / "utterances.parquet", folder, folder)}


def first_values(frames: AcousticFrames) -> list[float]:
    return [float(frames.utterances.values[start, 0]) for start in frames.utterances.offsets]


def test_examples_have_splits_and_statistics_of_their_fold(tmp_path):
    """Four speakers, one a fold, whose frames are 0, 1, 2, 3 throughout."""
    files = four_speakers(tmp_path)
    examples = load_examples(files, fold=3)
    assert examples.table["split"].tolist()[2] == "test" and sorted(examples.table["split"]) == ["test", "train", "train", "validation"]
    others = np.array([0, 1, 3])
    expected = (np.arange(4) - others.mean()) / others.std()
    assert first_values(examples.frames) == pytest.approx(expected, abs=2e-3)
    assert first_values(load_examples(files).frames)[0] == -9


def test_statistics_of_a_speaker_by_hand():
    """250 frames of 4 and 250 of 8 beside 500 of the corpus, mean 2 and deviation 3: mean 4, and 26.5 - 16 is the variance."""
    heard = sums(np.full((250, 1), 4.0), np.full((250, 1), 8.0))
    mean, deviation = of_speaker(heard, (np.array([2.0]), np.array([3.0])))
    assert PRIOR == 500 and mean.tolist() == [4.0] and deviation.tolist() == pytest.approx([np.sqrt((6500 + 20000) / 1000 - 16)])
    assert mean.dtype == deviation.dtype == np.float32


def test_frames_are_normalised_by_their_speaker(tmp_path):
    """Fold 3 tests s2, whose frames are 2, and is known by them; the others are normalised by their own statistics, or by the corpus's."""
    files, others = four_speakers(tmp_path), np.array([0, 1, 3])
    corpus = np.array([others.mean()]), np.array([others.std()])
    own = [of_speaker(sums(np.full((60, 1), number)), corpus) for number in range(4)]
    by_own = np.array([(number - mean[0]) / deviation[0] for number, (mean, deviation) in enumerate(own)])
    known = load_examples(files, normalise="speaker", fold=3, copies=True)
    assert first_values(known.frames) == pytest.approx(by_own, abs=2e-3)
    alone = load_examples(files, normalise="tested_speaker", fold=3)
    assert alone.table["split"].tolist()[2] == "test"
    by_corpus = (np.arange(4) - corpus[0]) / corpus[1]
    assert first_values(alone.frames) == pytest.approx(np.where(np.arange(4) == 2, by_own, by_corpus), abs=2e-3)
    copies = [(number + 10 - mean[0]) / deviation[0] for number, (mean, deviation) in enumerate(own)]
    assert first_values(known.copies["speed-1.1"]) == pytest.approx(copies, rel=2e-3), "by the speaker as recorded"
    ((ids, piece),) = each_frames(tmp_path, 9, stored_normaliser(tmp_path, tmp_path / "utterances.parquet", "speaker"))
    at_once = first_values(load_examples(files, normalise="speaker").frames)
    assert ids == ["u0", "u1", "u2", "u3"] and first_values(piece) == at_once


def test_speakers_must_be_named_to_normalise_by_them(tmp_path):
    files = four_speakers(tmp_path, named=False)
    with pytest.raises(ValueError, match="normalise is speaker, but no utterance names its speaker"):
        load_examples(files, normalise="speaker")
    assert load_examples(files).table["speaker"].tolist() == [""] * 4
