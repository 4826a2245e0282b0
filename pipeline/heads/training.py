"""Training of heads: on representations that stay as they are, or with the network below."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from calm.models.heads import FrozenHeads
from calm.models.modeling import CalmForSequenceClassification
from calm.storage import replacing
from calm.training.forward import predict
from calm.training.loop import train
from calm.training.sampling import mix
from pipeline import factory
from pipeline.heads.conditions import Condition
from pipeline.heads.logistic import LogisticHead, fit
from pipeline.heads.networks import TASK, Networks
from pipeline.tracking import systems
from pipeline.tracking.tracker import TrackedRun

Logits = Callable[[Condition], dict[str, np.ndarray]]  # condition -> split -> logits (utterances, seeds, classes)


@dataclass
class Trained:
    """What training gave, for one seed or several."""

    logits: pd.DataFrame  # id, split, logits, variant, modality, seed, and fold where the corpus has folds
    curves: list[dict]  # variant, modality, seed, curve, and fold
    measured: list[dict]  # variant, modality, seed, seconds, mlflow_run, and fold


def train_heads(
    networks: Networks, conditions: list[Condition], seeds: list[int], folder: Path, tracked: TrackedRun, keep: Path | None
) -> Trained:
    """Train the heads of a condition: those of all seeds at once if they are frozen, else one seed's with the network below.

    Args:
        conditions: with the same training, of which the first is trained; see `by_training`.
        folder: for checkpoints.
        keep: folder for the network of the first seed; None: it is not kept.
    """
    begin = time.monotonic()
    train_them = _unfrozen if conditions[0].tuning == "unfrozen" else _frozen
    fold = {} if networks.fold is None else {"fold": networks.fold}
    about = [{"variant": own.name, "modality": own.modality, "seed": seed, **fold} for own in conditions for seed in seeds]
    with contextlib.ExitStack() as opened:
        runs = [opened.enter_context(run_of(networks, conditions[0], names, tracked)) for names in about]
        logits, curve = train_them(networks, conditions[0], seeds, folder, runs, keep)
        answers = [(own, index) for own in map(logits, conditions) for index in range(len(seeds))]
    tables = [
        _table(networks, names, {split: values[:, index] for split, values in own.items()})
        for names, (own, index) in zip(about, answers, strict=True)
    ]
    seconds = (time.monotonic() - begin) / len(about)
    measured = [{**names, "seconds": seconds, "mlflow_run": run.id} for names, run in zip(about, runs, strict=True)]
    return Trained(pd.concat(tables, ignore_index=True), [{**names, "curve": curve} for names in about], measured)


def run_of(networks: Networks, condition: Condition, names: dict, tracked: TrackedRun):
    """The run of one head, as a context. `names`: its variant, modality, seed and fold."""
    parameters = systems.parameters(networks.corpus, networks.model, **names)
    return systems.opened(tracked, parameters, condition.details(networks.settings.head))


def _unfrozen(
    networks: Networks, condition: Condition, seeds: list[int], folder: Path, runs: list[TrackedRun], keep: Path | None
) -> tuple[Logits, list[dict]]:
    """Train a head and the network below it; what gives its logits, and the training curve.

    Where the corpus asks for a refit, a second network learns from training and validation together. It answers test, and is kept.
    """
    rows, validation = networks.train_rows(condition), networks.splits["validation"]
    first, curve = _descended(networks, condition, seeds[0], rows, validation, folder, _to_all(runs, 1))
    last = first
    if networks.settings.corpora[networks.corpus].refit:
        last, _ = _descended(networks, condition, seeds[0], np.concatenate([rows, validation]), [], folder / "again", None)
    if keep:
        last.save_pretrained(keep)

    def logits(heard: Condition) -> dict[str, np.ndarray]:
        answering = {"validation": first, "test": last}
        return {split: _predicted(networks, heard, answering[split], networks.splits[split])[:, None] for split in networks.held_out}

    return logits, curve


def _descended(
    networks: Networks, condition: Condition, seed: int, rows: np.ndarray, held_out: Sequence[int], folder: Path, log: Callable | None
) -> tuple[CalmForSequenceClassification, list[dict]]:
    """A network that learned from these rows step by step, and its training curve."""
    section, network, shares = networks.settings.head, networks.network(condition, seed), []
    if condition.row.network != "joint_transformer":
        network.calm.spectran.requires_grad_(networks.trains_front_end(condition))
        network.calm.get_input_embeddings().requires_grad_(section.train_words)
        shares = [(pretrained_part(condition, network), section.body_rate)]
    collator = replace(networks.collator(condition, network), mixup=section.mixup)
    start(networks, condition, seed, network, folder / "first")
    if network.encoder is not None:
        if section.encoder_rank:
            torch.manual_seed(seed)
            network.encoder.adapt(section.encoder_rank)
        shares.append((network.encoder, section.encoder_rate or section.body_rate))
    schedule, lengths, ids = factory.schedule(section), sum(collator.lengths(rows)), networks.examples.table["id"].to_numpy()
    curve = train(network, rows, collator, schedule, folder, seed, held_out=held_out, lengths=lengths, shares=shares, ids=ids, log=log)
    if network.encoder is not None and section.encoder_rank:
        network.encoder.merge()
    return network, curve


def _predicted(networks: Networks, condition: Condition, network: CalmForSequenceClassification, rows: np.ndarray) -> np.ndarray:
    """Logits (rows, classes), averaged over the speeds where `head.average_speeds` says so."""
    section, collator = networks.settings.head, networks.collator(condition, network)
    logits = [predict(network, rows, collator, section.batch)]
    for frames in networks.heard(condition).copies.values() if section.average_speeds and collator.modality != "text" else ():
        there = frames.utterances.lengths[rows] > 0  # the others count as they are
        logits.append(logits[0].copy())
        logits[-1][there] = predict(network, rows[there], replace(collator, frames=frames, encoded=None), section.batch)
    return np.mean(logits, 0)


def pretrained_part(condition: Condition, network: CalmForSequenceClassification) -> torch.nn.Module:
    """What learns at the body's rate. A front end that is drawn anew learns at the head's rate."""
    return network.calm.language_model if condition.random else network.calm


def _frozen(
    networks: Networks, condition: Condition, seeds: list[int], folder: Path, runs: list[TrackedRun], keep: Path | None
) -> tuple[Logits, list[dict]]:
    """Train the heads of all seeds on representations that are computed once; what gives their logits, and their mean curve."""
    representations = represented(networks, condition, seeds)
    if networks.settings.head.frozen_fit == "logistic":
        return _logistic(networks, condition, seeds, *representations, runs, keep)

    heads, _, curve = on_vectors(networks, condition, *representations, seeds, folder, _to_all(runs, len(seeds)))
    if keep:
        network = networks.network(condition, seeds[0])
        network.heads[TASK].load_state_dict(heads.heads[0].state_dict())
        network.save_pretrained(keep)
    curve = [of_one(entry, len(seeds)) for entry in curve]

    def logits(split: str, vectors: torch.Tensor) -> np.ndarray:
        return predict(heads, np.arange(len(vectors)), lambda rows: {"vectors": vectors[rows]}, 512)

    return lambda heard: answers(networks, heard, seeds, logits), curve


def _to_all(runs: list[TrackedRun], heads: int) -> Callable[[dict[str, float], int], None]:
    """A function that logs the numbers of heads that are trained together into their runs."""

    def log(numbers: dict[str, float], step: int) -> None:
        for run in runs:
            run.training(of_one(numbers, heads), step)

    return log


def of_one(numbers: dict[str, float], heads: int) -> dict[str, float]:
    """Numbers of heads that were trained together: their losses were summed, and become the mean of a head."""
    return {key: value / heads if "loss" in key else value for key, value in numbers.items()}


def _logistic(
    networks: Networks,
    condition: Condition,
    seeds: list[int],
    vectors: torch.Tensor,
    sources: np.ndarray,
    runs: list[TrackedRun],
    keep: Path | None,
) -> tuple[Logits, list[dict]]:
    """Fit the heads of all seeds by logistic regression; as `_frozen`. The curve has an entry for each strength, of the first seed."""
    heads = _fitted(networks, condition, vectors, sources)
    if condition.row.by_speaker_too:
        by_speaker = replace(condition, row=condition.row.model_copy(update={"normalise": "speaker"}))
        others = _fitted(networks, by_speaker, *represented(networks, by_speaker, seeds))
        heads = [head.averaged(other) for head, other in zip(heads, others, strict=True)]
    for index, run in enumerate(runs):
        for entry in heads[index % len(heads)].curve:
            run.training(entry, entry["epoch"])
    if keep:
        network = networks.network(condition, seeds[0])
        heads[0].write_to(network.heads[TASK])
        network.save_pretrained(keep)

    def logits(split: str, vectors: torch.Tensor) -> np.ndarray:
        each = [head.logits(vectors[:, index].numpy(), head.last if split == "test" else head.first) for index, head in enumerate(heads)]
        return np.stack(each * (len(seeds) if len(each) == 1 else 1), 1)  # without a random network, all seeds are the same

    return lambda heard: answers(networks, heard, seeds, logits), heads[0].curve


def _fitted(networks: Networks, condition: Condition, vectors: torch.Tensor, sources: np.ndarray) -> list[LogisticHead]:
    """A logistic regression for each seed, on what `represented` gives."""
    section, targets = networks.settings.head, networks.targets[sources] >= 0.5
    rows, validation = networks.train_rows(condition), networks.splits["validation"]
    train = np.flatnonzero(np.isin(sources, rows))
    again = np.flatnonzero(np.isin(sources, np.concatenate([rows, validation])))
    both = again if networks.settings.corpora[networks.corpus].refit else None
    return [
        fit(own, targets, train, validation, both, section.strengths, section.loss == "softmax") for own in vectors.numpy().swapaxes(0, 1)
    ]


def answers(
    networks: Networks, condition: Condition, seeds: list[int], logits: Callable[[str, torch.Tensor], np.ndarray]
) -> dict[str, np.ndarray]:
    """Logits of the held-out splits, (utterances, seeds, classes), averaged over the speeds where `head.average_speeds` says so.

    `logits`: of a split, from vectors (rows, 1 or seeds, width) as `represented` gives them.
    """
    copies = networks.examples.copies if networks.settings.head.average_speeds and condition.modality != "text" else {}
    every = [by_seed(networks, condition, seeds)]
    for speed in copies:
        rows = at_speed(networks, speed)
        every.append(every[0].clone())  # a row without a copy counts as it is
        every[-1][rows] = by_seed(networks, condition, seeds, rows, speed=speed)
    networks.let_go()
    return {split: np.mean([logits(split, own[networks.splits[split]]) for own in every], 0) for split in networks.held_out}


def on_vectors(
    networks: Networks,
    condition: Condition,
    vectors: torch.Tensor,
    sources: np.ndarray,
    seeds: list[int],
    folder: Path,
    log: Callable[[dict[str, float], int], None] | None = None,
) -> tuple[FrozenHeads, Callable, list[dict]]:
    """Heads trained on vectors that do not change (see `represented`), with the collator of these and the training curve."""
    section, targets = networks.settings.head, torch.from_numpy(networks.targets[sources])
    heads = FrozenHeads(networks.config(condition), len(networks.examples.classes), seeds, vectors.shape[-1]).to(factory.device())
    rows = np.concatenate([networks.train_rows(condition), np.arange(len(networks.targets), len(sources))])
    heads.fit(vectors[rows].to(factory.device()))

    def collator(rows, generator=None) -> dict[str, torch.Tensor]:
        return {"vectors": vectors[rows], "labels": targets[rows]}

    # Clipping would scale one head's gradients by another's.
    changes = {"epochs": section.frozen_epochs, "learning_rate": section.frozen_learning_rate, "average": 0.0, "clip": 0.0}
    schedule, held_out = factory.schedule(section, **changes), networks.splits["validation"]
    ids = networks.examples.table["id"].to_numpy()[sources]
    curve = train(heads, rows, collator, schedule, folder, seeds[0], held_out=held_out, ids=ids, log=log)
    return heads, collator, curve


def start(networks: Networks, condition: Condition, seed: int, network: CalmForSequenceClassification, folder: Path) -> None:
    """Prepare a fresh head on the network that it starts from: the statistics of its inputs, and its weights (`head.first`)."""
    section, head, still = networks.settings.head, network.heads[TASK], replace(condition, tuning="frozen")
    if network.frames is not None:  # nothing to start from: what heads see is normalised, and is learned with them
        return
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
    each = [_represented(networks, condition, seed) for seed in _different(networks, condition, seeds)]
    networks.let_go()
    return torch.stack([vectors for vectors, _ in each], 1), each[0][1]


def _represented(networks: Networks, condition: Condition, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """As `represented`, of one seed: (rows and copies, width)."""
    train, rows = networks.splits["train"], networks.train_rows(condition)
    vectors, sources = [pooled(networks, condition, seed)], [np.arange(len(networks.targets))]
    for speed in () if condition.modality == "text" else networks.examples.copies:
        heard = at_speed(networks, speed)
        chosen = np.isin(heard, rows)
        vectors.append(pooled(networks, condition, seed, heard, speed=speed)[chosen])
        sources.append(heard[chosen])
    for copy in range(0 if condition.modality == "text" else networks.settings.head.frozen_copies):
        vectors.append(pooled(networks, condition, seed, train, mix(networks.settings.seeds[0], copy))[np.isin(train, rows)])
        sources.append(rows)
    return torch.cat(vectors), np.concatenate(sources)


def _different(networks: Networks, condition: Condition, seeds: list[int]) -> list[int]:
    """Seeds that each have a network of their own below frozen heads: all where SpecTran is random by seed, else the first."""
    return seeds if condition.random and condition.modality != "text" else seeds[:1]


def at_speed(networks: Networks, speed: str) -> np.ndarray:
    """Rows that have a copy at a speed."""
    return np.flatnonzero(networks.examples.copies[speed].utterances.lengths)


def by_seed(networks: Networks, condition: Condition, seeds: list[int], rows: np.ndarray | None = None, **options) -> torch.Tensor:
    """What `pooled` gives: (rows, 1, width), or (rows, seeds, width) if SpecTran is random by seed."""
    return torch.stack([pooled(networks, condition, seed, rows, **options) for seed in _different(networks, condition, seeds)], 1)


@torch.inference_mode()
def pooled(
    networks: Networks,
    condition: Condition,
    seed: int,
    rows: np.ndarray | None = None,
    draw: int | None = None,
    speed: str | None = None,
) -> torch.Tensor:
    """What heads see of rows (None: of all), (rows, width); computed once for all runs of one network, and kept in the stage's folder.

    Args:
        draw: seed of what `head.augment` changes of the frames; None: nothing is changed.
        speed: of the copies that are taken in place of the utterances; None: the utterances.
    """
    heard = networks.normalise(condition), networks.hears_trained_encoder(condition)
    below, seen = networks.digest_below_heads(condition, seed), condition.pooling(networks.settings.head)
    file = networks.folder / f"vectors-{'-'.join(map(str, (below, seen, condition.modality, *heard, draw, speed)))}.npy"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            network, rows = networks.still(condition, seed), np.arange(len(networks.targets)) if rows is None else rows
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
    """Logits of one head: id, split, logits, and its names (variant, modality, seed, fold)."""
    ids = networks.examples.table["id"].to_numpy()
    parts = [
        pd.DataFrame({"id": ids[networks.splits[split]], "split": split, "logits": list(values.astype(np.float32))})
        for split, values in logits.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(**names)
