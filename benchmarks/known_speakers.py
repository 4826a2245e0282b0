"""How much a model answers better for a speaker of whom it heard some recordings, without labels (docs/own-data.md).

    python benchmarks/known_speakers.py --corpus mine

Run `dvc repro features` of a corpus with folds first; frames are those of a speech encoder. In every fold a linear head learns from
functionals of the frames, normalised by the other folds. The tested speaker is new, or known by so many of the other recordings, drawn at
random, or by all recordings.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.metrics import balanced_accuracy_score
from tqdm import tqdm

from calm.audio.features import ENCODER
from calm.audio.functionals import functionals
from calm.corpora.folds import folds_of, split_in
from calm.corpora.utterances import multi_hot, read_table
from calm.data.examples import shards, statistics
from calm.data.normalisation import Statistics, Sums, of_speaker
from calm.evaluation.regression import fit_logistic
from calm.storage import read_parquet
from pipeline import paths

RECORDINGS = (1, 2, 3, 5, 10, 20, 40)
STRENGTH = 0.002


def main(
    corpus: Annotated[str, typer.Option(help="Name of a corpus with folds.")] = "mine",
    seed: Annotated[int, typer.Option(help="Of the recordings that are drawn.")] = 1,
) -> None:
    """Print the unweighted accuracy for new speakers, for known ones by the number of recordings, and for those all of whose are known."""
    folder, table = paths.frames(corpus, ENCODER), read_table(paths.utterances(corpus))
    table = table[table["labels"].notna() & table["fold"].notna()].reset_index(drop=True)
    targets, speakers = multi_hot(table["labels"], table.attrs["classes"], True), table["speaker"].to_numpy()
    frames = read_frames(folder, list(table["id"]))
    sums, answers = [Sums() for _ in frames], {}
    for own, recording in zip(sums, frames, strict=True):
        own.add(recording)
    for fold in tqdm(folds_of(table), unit="fold"):
        tested, corpus_statistics = (split_in(table, fold) == "test").to_numpy(), statistics(folder, fold)
        train = np.stack([heard(frames[row], corpus_statistics) for row in np.flatnonzero(~tested)])
        mean, deviation = train.mean(0), np.maximum(train.std(0), 1e-6)
        linear = fit_logistic((train - mean) / deviation, targets[~tested], True, STRENGTH)
        for row in np.flatnonzero(tested):
            draw = np.random.default_rng((seed, row))
            own = np.flatnonzero(speakers == speakers[row])
            others = draw.permutation(own[own != row])
            known = {count: of_speaker(sum((sums[other] for other in others[:count]), Sums()), corpus_statistics) for count in RECORDINGS}
            everything = of_speaker(sum((sums[each] for each in own), Sums()), corpus_statistics)
            for name, chosen in {"none": corpus_statistics, **known, "all": everything}.items():
                vector = (heard(frames[row], chosen) - mean) / deviation
                answers.setdefault(name, {})[row] = int((vector @ linear.weights.T + linear.bias).argmax())
    truth = targets.argmax(1)
    print(f"{corpus}: {len(answers['all'])} utterances, seed {seed}; unweighted accuracy by the number of known recordings of the speaker")
    for name, found in answers.items():
        rows = np.array(list(found))
        print(f"{name!s:>5} {100 * balanced_accuracy_score(truth[rows], np.array(list(found.values()))):.1f}")


def read_frames(folder: Path, ids: list[str]) -> list[np.ndarray]:
    """States (frames, channels) float32 of every id, as they are stored."""
    by_id, channels = {}, len(statistics(folder)[0])
    for shard in shards(folder):
        part = read_parquet(shard, ["id", "features"])
        for id, values in zip(part["id"].to_pylist(), part["features"], strict=True):
            by_id[id] = values.values.to_numpy(zero_copy_only=False).reshape(-1, channels).astype(np.float32)
    return [by_id[id] for id in ids]


def heard(frames: np.ndarray, normalised_by: Statistics) -> np.ndarray:
    """Functionals of normalised frames."""
    return functionals((frames - normalised_by[0]) / normalised_by[1], "whole")


if __name__ == "__main__":
    typer.run(main)
