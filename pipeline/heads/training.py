"""Training of heads: on representations that stay as they are, or with the network below."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from calm.models.modeling import CalmForSequenceClassification, FrozenHeads
from calm.storage import replacing
from calm.training.forward import predict
from calm.training.trainer import mix, train
from pipeline import factory
from pipeline.heads.conditions import Condition
from pipeline.heads.networks import TASK, Networks, digest
from pipeline.tracking.tracker import TrackedRun

HELD_OUT = ("validation", "test")


@dataclass
class Trained:
    """What training of a condition gave, for one seed or several."""

    logits: pd.DataFrame  # id, split, logits, variant, modality, seed
    curves: list[dict]  # variant, modality, seed, curve
    measured: list[dict]  # variant, modality, seed, seconds, mlflow_run


def train_heads(
    networks: Networks, condition: Condition, seeds: list[int], folder: Path, tracked: TrackedRun, keep: Path | None
) -> Trained:
    """Train the heads of a condition: those of all seeds at once if they are frozen, else one seed's with the network below.

    Args:
        folder: for checkpoints.
        keep: folder for the network of the first seed; None: it is not kept.
    """
    begin = time.monotonic()
    train_them = _unfrozen if condition.tuning == "unfrozen" else _frozen
    with tracked.child(condition.title(*seeds), tags=condition.tags(*seeds)) as run:
        logits, curve = train_them(networks, condition, seeds, folder, run, keep)
    about = [{"variant": condition.name, "modality": condition.modality, "seed": seed} for seed in seeds]
    tables = [_table(networks, names, {split: values[:, index] for split, values in logits.items()}) for index, names in enumerate(about)]
    seconds = {"seconds": time.monotonic() - begin, "mlflow_run": run.id}
    return Trained(
        pd.concat(tables, ignore_index=True), [{**names, "curve": curve} for names in about], [{**names, **seconds} for names in about]
    )


def _unfrozen(
    networks: Networks, condition: Condition, seeds: list[int], folder: Path, run: TrackedRun, keep: Path | None
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Train a head and the network below it; logits by split (utterances, 1, classes), and the training curve."""
    (seed,), section = seeds, networks.settings.head
    network, rows, body = networks.network(condition, seed), networks.train_rows(condition), []
    if condition.row.network != "joint_transformer":
        network.calm.spectran.requires_grad_(networks.trains_front_end(condition))
        network.calm.get_input_embeddings().requires_grad_(section.train_words)
        body = [pretrained_part(condition, network)]
    collator = networks.collator(condition, network)
    start(networks, condition, seed, network, folder / "first")
    curve = train(
        network,
        rows,
        collator,
        factory.schedule(section),
        folder,
        seed,
        held_out=networks.splits["validation"],
        lengths=sum(collator.lengths(rows)),
        body=body,
        callbacks=[run.callback()],
    )
    if keep:
        network.save_pretrained(keep)
    return {split: predict(network, networks.splits[split], collator, section.batch)[:, None] for split in HELD_OUT}, curve


def pretrained_part(condition: Condition, network: CalmForSequenceClassification) -> torch.nn.Module:
    """What learns at the body's rate. A front end that is drawn anew learns at the head's rate."""
    return network.calm.language_model if condition.random else network.calm


def _frozen(
    networks: Networks, condition: Condition, seeds: list[int], folder: Path, run: TrackedRun, keep: Path | None
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Train the heads of all seeds on representations that are computed once; logits (utterances, seeds, classes), and their mean curve."""
    representations = represented(networks, condition, seeds)
    heads, collator, curve = on_vectors(networks, condition, *representations, seeds, folder, [run.callback()])
    if keep:
        network = networks.network(condition, seeds[0])
        network.heads[TASK].load_state_dict(heads.heads[0].state_dict())
        network.save_pretrained(keep)
    # The heads' losses were summed: an entry of the curve is their mean.
    curve = [{key: value / (1 if key == "epoch" else len(seeds)) for key, value in entry.items()} for entry in curve]
    return {split: predict(heads, networks.splits[split], collator, 512) for split in HELD_OUT}, curve


def on_vectors(
    networks: Networks,
    condition: Condition,
    vectors: torch.Tensor,
    sources: np.ndarray,
    seeds: list[int],
    folder: Path,
    callbacks: Sequence = (),
) -> tuple[FrozenHeads, Callable, list[dict]]:
    """Heads trained on vectors that do not change (see `represented`), with the collator of these and the training curve."""
    section, targets = networks.settings.head, torch.from_numpy(networks.targets[sources])
    config = networks.network(condition, seeds[0]).config
    heads = FrozenHeads(config, len(networks.examples.classes), seeds, vectors.shape[-1]).to(factory.device())
    rows = np.concatenate([networks.train_rows(condition), np.arange(len(networks.targets), len(sources))])
    heads.fit(vectors[rows].to(factory.device()))

    def collator(rows, generator=None) -> dict[str, torch.Tensor]:
        return {"vectors": vectors[rows], "labels": targets[rows]}

    # Clipping would scale one head's gradients by another's.
    changes = {"epochs": section.frozen_epochs, "learning_rate": section.frozen_learning_rate, "average": 0.0, "clip": 0.0}
    schedule, held_out = factory.schedule(section, **changes), networks.splits["validation"]
    curve = train(heads, rows, collator, schedule, folder, seeds[0], held_out, callbacks=callbacks)
    return heads, collator, curve


def start(networks: Networks, condition: Condition, seed: int, network: CalmForSequenceClassification, folder: Path) -> None:
    """Prepare a fresh head on the network that it starts from: the statistics of its inputs, and its weights (`head.first`)."""
    section, head, still = networks.settings.head, network.heads[TASK], replace(condition, tuning="frozen")
    if section.standardise or section.first == "head":
        vectors, sources = represented(networks, still, [seed])
        head.fit(vectors[networks.train_rows(condition), 0].to(network.device))
    if section.first == "head":
        trained, *_ = on_vectors(networks, still, vectors, sources, [seed], folder)
        head.load_state_dict(trained.heads[0].state_dict())


def represented(networks: Networks, condition: Condition, seeds: list[int]) -> tuple[torch.Tensor, np.ndarray]:
    """What frozen heads see: a vector of every row, and after these those of copies of each training row.

    Copies are those that `features.speeds` asks for, and `head.frozen_copies` that `head.augment` changes.

    Returns vectors (rows and copies, 1, width), or (..., seeds, width) if SpecTran is random by seed, and the row that each belongs to.
    """
    everything, train, rows = np.arange(len(networks.targets)), networks.splits["train"], networks.train_rows(condition)
    vectors, sources = [pooled(networks, condition, seeds, everything)], [everything]
    for speed in () if condition.modality == "text" else networks.examples.copies:
        there = networks.examples.copies[speed].utterances.lengths[rows] > 0
        vectors.append(pooled(networks, condition, seeds, rows[there], speed=speed))
        sources.append(rows[there])
    for copy in range(0 if condition.modality == "text" else networks.settings.head.frozen_copies):
        vectors.append(pooled(networks, condition, seeds, train, mix(networks.settings.seeds[0], copy))[np.isin(train, rows)])
        sources.append(rows)
    return torch.cat(vectors), np.concatenate(sources)


def pooled(
    networks: Networks, condition: Condition, seeds: list[int], rows: np.ndarray, draw: int | None = None, speed: str | None = None
) -> torch.Tensor:
    """What heads see of rows: (rows, 1, width), or (rows, seeds, width) where SpecTran is random by seed.

    Args:
        draw: seed of what `head.augment` changes of the frames; None: nothing is changed.
        speed: of the copies that are taken in place of the utterances; None: the utterances.
    """
    different = condition.random and condition.modality != "text"
    return torch.stack([_pooled(networks, condition, seed, rows, draw, speed) for seed in (seeds if different else seeds[:1])], 1)


@torch.inference_mode()
def _pooled(networks: Networks, condition: Condition, seed: int, rows: np.ndarray, draw: int | None, speed: str | None) -> torch.Tensor:
    """(rows, width); computed once for all runs of one network, and kept in the stage's folder."""
    network = networks.network(condition, seed).eval()
    body = torch.nn.ModuleList(part for name, part in network.named_children() if name != "heads")
    file = networks.folder / f"vectors-{digest(body)}-{condition.modality}-{draw}-{speed}.npy"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            collator = replace(networks.collator(condition, network, draw is not None, speed), targets=None)
            changes = None if draw is None else torch.Generator().manual_seed(draw)
            order = np.argsort(sum(collator.lengths(rows)), kind="stable")
            vectors = np.empty((len(order), network.heads[TASK].width), np.float32)
            for first in range(0, len(order), 128):
                chosen = order[first : first + 128]
                batch = collator(rows[chosen], changes)
                vectors[chosen] = network.pooled(**{key: value.to(network.device) for key, value in batch.items()}).float().cpu()
            with replacing(file) as partial, partial.open("wb") as out:
                np.save(out, vectors)
    return torch.from_numpy(np.load(file))


def _table(networks: Networks, names: dict, logits: dict[str, np.ndarray]) -> pd.DataFrame:
    """Logits of one head: id, split, logits, and its names (variant, modality, seed)."""
    ids = networks.examples.table["id"].to_numpy()
    parts = [
        pd.DataFrame({"id": ids[networks.splits[split]], "split": split, "logits": list(values.astype(np.float32))})
        for split, values in logits.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(**names)
