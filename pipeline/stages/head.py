"""Stage `head`: supervised heads (4.6, 5.2, 5.3) on one corpus and one model, in every condition of its rows and for every seed.

On a corpus with folds all of them are trained in every fold, and what is released in a last run on everybody, "fold 0".
"""

import shutil
from collections import Counter
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import log_softmax
from tqdm import tqdm

from calm import devices
from calm.corpora.folds import folds_of
from calm.corpora.utterances import read_table
from calm.data import arrays
from calm.storage import read_json, read_parquet, write_json, write_parquet
from pipeline import paths
from pipeline.execution import gpus
from pipeline.execution.pool import pool
from pipeline.execution.workers import cores
from pipeline.heads.conditions import by_training, conditions, released
from pipeline.heads.worker import HeadWorker
from pipeline.settings import Settings
from pipeline.stage import checkpoints, measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking.tracker import TrackedRun, stage_run

KEYS = ("id", "split", "modality", "seed", "fold")  # what tells the answers of a variant apart
MOST_WORKERS = 8  # without a GPU, if the settings say nothing: each holds the tokens and the log-mel of its corpus


def run(settings: Settings, name: str) -> str:
    """Train the heads of one entry of `heads`.

    Writes the logits of validation and test, the training curves, and the network that `release` will take.
    """
    seen = visible(settings, "head", name)
    heads = seen.heads[name]
    corpus, model = heads.corpus, heads.model
    data = [paths.calp(model), paths.pretrained(model), paths.encoded(model)]
    data += [paths.features(corpus), paths.texts(corpus), paths.utterances(corpus)]
    params = {"head": seen.head, "heads": heads, "model": seen.models[model], "seeds": seen.seeds}
    with (
        checkpoints(settings, "head", name, *data) as work,
        stage_run(seen, corpus, params, seen.is_synthetic([corpus]), seen.seeds[0]) as tracked,
        whole(paths.heads(corpus, model)) as folder,
    ):
        runs = train_all(seen, name, work, tracked)
        logits = pd.concat([read_parquet(run / "logits.parquet").to_pandas() for run in runs], ignore_index=True)
        added = [averaged(logits, name, variants, seen.head.loss) for name, variants in heads.together.items()]
        curves = [entry for run in runs for entry in read_json(run / "curves.json")]
        write_parquet(pa.Table.from_pandas(pd.concat([logits, *added], ignore_index=True), preserve_index=False), folder / "logits.parquet")
        write_json(curves, folder / "curves.json")
        for run in runs:
            if (run / "network").exists():
                shutil.copytree(run / "network", folder / "network")
        tracked.artifact(folder / "curves.json")
        measured = [entry for run in runs for entry in read_json(run / "measured.json")]
        measure(address("head", name), device=devices.first(), mlflow_run=tracked.id, heads=measured)
    return f"{corpus} with {model}: {len(curves)} heads"


def train_all(settings: Visible, name: str, work: Path, tracked: TrackedRun) -> list[Path]:
    """Train the heads of every condition and seed in every fold, several at once; returns the folders of the runs."""
    heads, items = settings.heads[name], []
    folds = folds_of(read_table(paths.utterances(heads.corpus), ["fold"]))
    for fold in folds or [None]:
        for alike in by_training(conditions(heads.rows, settings.head), settings.spectran.normalise):
            together = [settings.seeds] if alike[0].tuning == "frozen" else [[seed] for seed in settings.seeds]
            items += [(alike, seeds, fold) for seeds in together]
    kept = (released(heads, settings.head), settings.seeds[0], 0 if folds else None) if heads.release else None
    if kept and folds:
        items.append(([kept[0]], [kept[1]], 0))
    gpu_names = gpus.names()[: settings.compute.devices.get("head")]
    slots = len(gpu_names) * settings.compute.heads_per_gpu or min(cores(), MOST_WORKERS)
    processes = min(settings.head.workers or slots, len(items))
    threads = max(1, cores() // processes)
    worker = HeadWorker(settings, heads, work, tracked, threads, gpu_names, kept)
    folders, left = [], Counter(fold for *_, fold in items)
    with (
        tqdm(total=len(items), desc=f"Heads {heads.corpus} {heads.model}", unit="run") as bar,
        pool(worker, processes, threads) as results_of,
    ):
        for (*_, fold), (folder, title) in zip(items, results_of(items, ahead=len(items) + 1), strict=True):
            folders.append(folder)
            left[fold] -= 1
            if not left[fold]:
                arrays.remove(worker.folder_of(fold))
            bar.set_postfix_str(title, refresh=False)
            bar.update()
    return folders


def averaged(logits: pd.DataFrame, name: str, variants: list[str], loss: str) -> pd.DataFrame:
    """Rows like those of `logits`, of what all of the variants answered: the mean of their logits, or log-probabilities of a softmax.

    Args:
        logits: id, split, logits, variant, modality, seed, and fold where the corpus has folds.
        name: of the new variant.
    """
    keys = [key for key in KEYS if key in logits]
    parts = [logits.loc[logits["variant"] == variant].set_index(keys)["logits"] for variant in variants]
    index = reduce(pd.Index.intersection, (part.index for part in parts))
    answers = [np.stack(part.loc[index]) for part in parts] if len(index) else []
    means = np.mean([log_softmax(own, axis=1) if loss == "softmax" else own for own in answers], axis=0) if answers else []
    return index.to_frame(index=False).assign(variant=name, logits=[row.astype(np.float32) for row in means])
