"""Supervised heads (4.6, 5.2, 5.3) on one corpus and one model: frozen and unfrozen, audio, text and both, every seed."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from filelock import FileLock
from tqdm import tqdm

from calm import storage
from calm.models.modeling import CalmForSequenceClassification, FrozenHeads
from calm.storage import write_parquet
from calm.training.forward import predict
from calm.training.trainer import Interrupted, mix, train
from pipeline import factory, paths, stage
from pipeline.execution import workers
from pipeline.heads.networks import TASK, Bench, Condition, conditions, digest
from pipeline.release import release, released
from pipeline.settings import Heads, Settings
from pipeline.tracking import tracker

MOST_WORKERS = 8  # without a GPU, where the settings say nothing: each holds the tokens and log-mel of its corpus


def run(settings: Settings, name: str) -> str:
    """Train the heads; writes logits of validation and test, training curves, and the model to use."""
    begin, of, seeds = time.monotonic(), settings.heads[name], settings.seeds
    corpus, model = of.corpus, of.model
    settings = settings.for_model(model).for_target(corpus)
    work = [paths.calp(model), paths.pretrained(model), paths.encoded(model)]
    work += [paths.features(corpus), paths.texts(corpus), paths.utterances(corpus)]
    parts = [seeds, of, settings.models[model], settings.spectran, settings.head.model_copy(update={"workers": None})]
    params = {"head": settings.head, "heads": of, "model": settings.models[model], "seeds": seeds}
    with (
        stage.checkpoints(f"head@{name}", *parts, *work) as checkpoints,
        tracker.stage_run(settings, corpus, params, factory.synthetic(settings, [corpus]), seeds[0]) as tracked,
        stage.whole(paths.heads(corpus, model)) as folder,
    ):
        folders = train_all(settings, of, checkpoints, tracked)
        tables = [pd.read_parquet(job / "logits.parquet") for job in folders]
        curves = [entry for job in folders for entry in storage.read_json(job / "curves.json")]
        write_parquet(pa.Table.from_pandas(pd.concat(tables, ignore_index=True), preserve_index=False), folder / "logits.parquet")
        storage.write_json(curves, folder / "curves.json")
        if of.release:
            release(settings, of, checkpoints, curves, folder / "logits.parquet", folder / "model")
        tracked.artifact(folder / "curves.json")
    return f"{corpus} with {model}: {len(curves)} heads in {time.monotonic() - begin:.0f} s"


def train_all(settings: Settings, of: Heads, checkpoints: Path, tracked: tracker.Run) -> list[Path]:
    """Train every condition and seed, several at once; returns the folders of the results."""
    jobs = []
    for condition in conditions(of.rows, settings.head):
        jobs += [(condition, settings.seeds)] if condition.tuning == "frozen" else [(condition, [seed]) for seed in settings.seeds]
    count = min(settings.head.workers or torch.cuda.device_count() or min(workers.cores(), MOST_WORKERS), len(jobs))
    threads = max(1, workers.cores() // count)
    preparation = (settings, of, checkpoints, tracked, threads)
    folders = []
    with (
        tqdm(total=len(jobs), desc=f"Heads {of.corpus} {of.model}", unit="run") as bar,
        workers.processes(count, _prepare, *preparation, threads=threads) as pool,
    ):
        for folder, name in workers.in_order(pool, _train, jobs, ahead=len(jobs) + 1):
            folders.append(folder)
            bar.set_postfix_str(name, refresh=False)
            bar.update()
    return folders


# In the workers


def _prepare(settings: Settings, of: Heads, folder: Path, tracked: tracker.Run, threads: int) -> None:
    global _loader, _bench, _tracked, _stopped, _released
    if gpus := torch.cuda.device_count():
        os.environ["CUDA_VISIBLE_DEVICES"] = str(workers.turn() % gpus)  # heeded, as CUDA has not been used yet
    torch.set_num_threads(threads)
    _loader, _bench, _tracked, _stopped = partial(Bench, settings, of.corpus, of.model, folder), None, tracked, False
    _released = (*released(of, settings.head), settings.seeds[0]) if of.release else None


def _train(job: tuple[Condition, list[int]]) -> tuple[Path, str]:
    """One run: its folder, with `logits.parquet` and `curves.json`, and its name. What ended before the stage was stopped is kept."""
    global _bench, _stopped
    if _stopped:  # this run waited in the queue when the stage was stopped
        raise Interrupted(143)
    condition, seeds = job
    _bench = _bench or _loader()  # here and not before, so that what fails is told
    folder, name = _bench.folder / f"{condition.name}-{condition.modality}-{seeds[0]}", title(condition, *seeds)
    if not (folder / "curves.json").exists():
        try:
            table, curves = (unfrozen if condition.tuning == "unfrozen" else frozen)(_bench, condition, seeds, folder, _tracked)
        except Interrupted:
            _stopped = True
            raise
        write_parquet(pa.Table.from_pandas(table, preserve_index=False), folder / "logits.parquet")
        storage.write_json(curves, folder / "curves.json")
    return folder, name


def unfrozen(bench: Bench, condition: Condition, seeds: list[int], folder: Path, tracked) -> tuple[pd.DataFrame, list[dict]]:
    """Train a head and the network below it, for one seed."""
    begin, (seed,), section = time.monotonic(), seeds, bench.settings.head
    network, rows, body = bench.network(condition, seed), bench.train_rows(condition), []
    if condition.row.network != "joint_transformer":
        network.calm.spectran.requires_grad_(bench.along(condition))
        network.calm.get_input_embeddings().requires_grad_(section.train_words)
        body = pretrained(condition, network)
    collator = bench.collator(condition, network)
    start(bench, condition, seed, network, folder / "first")
    with tracked.child(title(condition, seed), tags=tags(condition, seed)) as run:
        curve = train(
            network,
            rows,
            collator,
            factory.schedule(section),
            folder,
            seed,
            held_out=bench.splits["validation"],
            lengths=sum(collator.lengths(rows)),
            body=body,
            callbacks=[run.callback()],
        )
        logits = {split: predict(network, bench.splits[split], collator, section.batch) for split in ("validation", "test")}
    if (condition.name, condition.modality, seed) == _released:
        network.save_pretrained(folder / "model")
    entry = {"variant": condition.name, "modality": condition.modality, "seed": seed, "seconds": time.monotonic() - begin, "curve": curve}
    return results(bench, condition, seed, logits), [{**entry, "mlflow_run": run.id}]


def pretrained(condition: Condition, network: CalmForSequenceClassification) -> list[torch.nn.Module]:
    """Parts that learn at the body's rate: what knows something already. A front end that is drawn anew learns at the head's."""
    return [network.calm.language_model if condition.random else network.calm]


def frozen(bench: Bench, condition: Condition, seeds: list[int], folder: Path, tracked) -> tuple[pd.DataFrame, list[dict]]:
    """Train the heads of all seeds at once on representations that are computed once."""
    begin = time.monotonic()
    with tracked.child(title(condition, *seeds), tags=tags(condition, *seeds)) as run:
        network, collator, curve = on_vectors(bench, condition, *represented(bench, condition, seeds), seeds, folder, [run.callback()])
        logits = {split: predict(network, bench.splits[split], collator, 512) for split in ("validation", "test")}
    if (condition.name, condition.modality, seeds[0]) == _released:
        whole = bench.network(condition, seeds[0])
        whole.heads[TASK].load_state_dict(network.heads[0].state_dict())
        whole.save_pretrained(folder / "model")
    # The heads' losses were summed: an entry of the curve is their mean.
    curve = [{key: value / (1 if key == "epoch" else len(seeds)) for key, value in entry.items()} for entry in curve]
    shared = {"variant": condition.name, "modality": condition.modality, "seconds": time.monotonic() - begin, "mlflow_run": run.id}
    tables = [results(bench, condition, seed, {k: v[:, index] for k, v in logits.items()}) for index, seed in enumerate(seeds)]
    return pd.concat(tables, ignore_index=True), [{**shared, "seed": seed, "curve": curve} for seed in seeds]


def on_vectors(
    bench: Bench, condition: Condition, vectors: torch.Tensor, of: np.ndarray, seeds: list[int], folder: Path, callbacks: Sequence = ()
) -> tuple[FrozenHeads, Callable, list[dict]]:
    """Heads trained on vectors that do not change (see `represented`), with the collator of these and the training curve."""
    section, targets = bench.settings.head, torch.from_numpy(bench.targets[of])
    config = bench.network(condition, seeds[0]).config
    network = FrozenHeads(config, len(bench.examples.classes), seeds, vectors.shape[-1]).to(factory.device())
    rows = np.concatenate([bench.train_rows(condition), np.arange(len(bench.targets), len(of))])
    network.fit(vectors[rows].to(factory.device()))

    def collator(rows, generator=None) -> dict[str, torch.Tensor]:
        return {"vectors": vectors[rows], "labels": targets[rows]}

    # Clipping would scale one head's gradients by another's.
    changes = {"epochs": section.frozen_epochs, "learning_rate": section.frozen_learning_rate, "average": 0.0, "clip": 0.0}
    schedule, held_out = factory.schedule(section, **changes), bench.splits["validation"]
    curve = train(network, rows, collator, schedule, folder, seeds[0], held_out, callbacks=callbacks)
    return network, collator, curve


def start(bench: Bench, condition: Condition, seed: int, network: CalmForSequenceClassification, folder: Path) -> None:
    """Prepare a fresh head on the network that it starts from: the statistics of its inputs, and its weights (`head.first`)."""
    section, head, still = bench.settings.head, network.heads[TASK], replace(condition, tuning="frozen")
    if section.standardise or section.first == "head":
        vectors, of = represented(bench, still, [seed])
        head.fit(vectors[bench.train_rows(condition), 0].to(network.device))
    if section.first == "head":
        trained, *_ = on_vectors(bench, still, vectors, of, [seed], folder)
        head.load_state_dict(trained.heads[0].state_dict())


def represented(bench: Bench, condition: Condition, seeds: list[int]) -> tuple[torch.Tensor, np.ndarray]:
    """What frozen heads see: of every row, and after these of `head.frozen_copies` changed copies of each training row.

    Returns vectors (rows and copies, 1, width), or (..., seeds, width) where SpecTran is random by seed, and the row that each is of.
    """
    everything, train, rows = np.arange(len(bench.targets)), bench.splits["train"], bench.train_rows(condition)
    vectors, of = [pooled(bench, condition, seeds, everything)], [everything]
    for copy in range(0 if condition.modality == "text" else bench.settings.head.frozen_copies):
        vectors.append(pooled(bench, condition, seeds, train, mix(bench.settings.seeds[0], copy))[np.isin(train, rows)])
        of.append(rows)
    return torch.cat(vectors), np.concatenate(of)


def pooled(bench: Bench, condition: Condition, seeds: list[int], rows: np.ndarray, draw: int | None = None) -> torch.Tensor:
    """What heads see of rows: (rows, 1, width), or (rows, seeds, width) where SpecTran is random by seed.

    Args:
        draw: seed of what `head.augment` changes of the log-mel; None: nothing is changed.
    """
    different = condition.random and condition.modality != "text"
    return torch.stack([_pooled(bench, condition, seed, rows, draw) for seed in (seeds if different else seeds[:1])], 1)


@torch.inference_mode()
def _pooled(bench: Bench, condition: Condition, seed: int, rows: np.ndarray, draw: int | None) -> torch.Tensor:
    """(rows, width); computed once for all runs of one network, and kept in the stage's folder."""
    network = bench.network(condition, seed).eval()
    body = torch.nn.ModuleList(part for name, part in network.named_children() if name != "heads")
    file = bench.folder / f"vectors-{digest(body)}-{condition.modality}-{draw}.npy"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            collator = replace(bench.collator(condition, network, changed=draw is not None), targets=None)
            changes = None if draw is None else torch.Generator().manual_seed(draw)
            order = np.argsort(sum(collator.lengths(rows)), kind="stable")
            vectors = np.empty((len(order), network.heads[TASK].width), np.float32)
            for first in range(0, len(order), 128):
                chosen = order[first : first + 128]
                batch = collator(rows[chosen], changes)
                vectors[chosen] = network.pooled(**{key: value.to(network.device) for key, value in batch.items()}).float().cpu()
            np.save(partial := file.with_suffix(".partial.npy"), vectors)
            partial.replace(file)
    return torch.from_numpy(np.load(file))


def results(bench: Bench, condition: Condition, seed: int, logits: dict[str, np.ndarray]) -> pd.DataFrame:
    """Logits of one head: id, split, variant, modality, seed, logits."""
    ids = bench.examples.table["id"].to_numpy()
    parts = [
        pd.DataFrame({"id": ids[bench.splits[split]], "split": split, "logits": list(values.astype(np.float32))})
        for split, values in logits.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(variant=condition.name, modality=condition.modality, seed=seed)


def title(condition: Condition, *seeds: int) -> str:
    """Name of a run."""
    return f"{condition.name}, {condition.modality}, seed {' '.join(map(str, seeds))}"


def tags(condition: Condition, *seeds: int) -> dict[str, str]:
    """What tells a run from others in MLflow."""
    return {"variant": condition.name, "modality": condition.modality, "seed": " ".join(map(str, seeds))}


if __name__ == "__main__":
    stage.start(run, heads=lambda settings: settings.heads)
