"""Supervised heads (4.6, 5.2, 5.3) on one corpus and one model: frozen and unfrozen, audio, text and both, every seed."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from filelock import FileLock
from tqdm import tqdm

from calm.batching import Ragged, SequenceCollator, tokenise
from calm.corpora.utterances import write_parquet
from calm.language_model import load_language_model, load_tokenizer
from calm.modeling import CalmForMaskedPretraining, CalmForSequenceClassification, FrozenHeads
from calm.processing import CalmFeatureExtractor, CalmProcessor
from calm.training import Interrupted, acoustic_tokens, predict, train
from pipeline import build, command, model_card, paths, tracking, workers
from pipeline.settings import Settings

TASK = "emotion"  # name of the head in the saved model
MOST_WORKERS = 8  # without a GPU, where the settings say nothing: each holds the tokens and log-mel of its corpus


@dataclass(frozen=True)
class Condition:
    """One row of the tables: what was pretrained, what is trained now, and what goes in."""

    variant: str  # "calm" or "no_pretraining"
    tuning: str  # "frozen" or "unfrozen"
    modality: str  # "audio", "text" or "both"

    @property
    def name(self) -> str:
        """The variant's name in the tables."""
        return self.variant if self.tuning == "unfrozen" else f"{self.variant}_frozen"


class Bench:
    """What all conditions of a stage share: the examples, the language model, and the tokens under each SpecTran."""

    def __init__(self, settings: Settings, corpus: str, model: str, folder: Path):
        self.settings, self.corpus, self.model, self.folder = settings, corpus, model, folder
        self.examples = build.examples(settings, [corpus])
        given = settings.models[model]
        self.language_model = load_language_model(given.language_model, given.layers)
        self.tokenizer = load_tokenizer(given.language_model)
        self.pretrained = CalmForMaskedPretraining.from_pretrained(paths.pretrained(model))
        self.tokens = tokenise(self.tokenizer, self.examples.table["text"])
        self.targets = self.examples.targets()
        self.splits = {split: self.examples.rows(split, labelled=True) for split in ("train", "validation", "test")}
        empty = [split for split, rows in self.splits.items() if not len(rows)]
        if empty:
            raise ValueError(f"corpus {corpus} has no labelled utterance in {', '.join(empty)}: heads need all three splits")

    def network(self, condition: Condition, seed: int) -> CalmForSequenceClassification:
        """A model with fresh heads, and the weights that its condition starts from."""
        torch.manual_seed(seed)
        heads = {TASK: list(self.examples.classes)}
        one_hot = [TASK] if self.examples.one_hot else []
        corpora = [self.corpus, *self.settings.pretraining_corpora(self.model)]
        network = CalmForSequenceClassification(
            build.config(self.settings, self.language_model, corpora, heads, one_hot=one_hot, modality=condition.modality)
        )
        if condition.variant == "calm":
            network.calm.load_state_dict(self.pretrained.calm.state_dict())
        else:
            network.calm.language_model.load_state_dict(self.language_model.state_dict())
        return network.to(build.device())

    def along(self, condition: Condition) -> bool:
        """Whether SpecTran is trained with the head."""
        return condition.tuning == "unfrozen" and condition.modality != "text" and self.settings.head.train_spectran

    def collator(self, condition: Condition, network: CalmForSequenceClassification) -> SequenceCollator:
        """Batches of the condition's modality; acoustic tokens are computed before, unless SpecTran is trained along."""
        section = self.settings.head
        whole = SequenceCollator(self.examples.logmels, self.tokens, None, condition.modality, self.targets, section.max_tokens)
        if self.along(condition):
            return replace(whole, augment=build.augmentation(section.augment))
        return whole if condition.modality == "text" else replace(whole, acoustic=self.acoustic(condition, network))

    def acoustic(self, condition: Condition, network: CalmForSequenceClassification) -> Ragged:
        """Acoustic tokens under the network's SpecTran: those of `embed` where it is the same one, else computed once for all runs."""
        if condition.variant == "calm" and not self.settings.pretrain.train_spectran:
            return build.acoustic(self.model, self.examples, [self.corpus])
        file, ids = self.folder / f"tokens-{digest(network.calm.spectran)}.parquet", list(self.examples.table["id"])
        with FileLock(f"{file}.lock"):
            if not file.exists():
                acoustic_tokens(network.calm.spectran, self.examples.logmels).write(file, ids)
        return Ragged.read(file, ids)


def digest(module: torch.nn.Module) -> str:
    """What tells one set of weights from another."""
    found = hashlib.sha256()
    for tensor in module.state_dict().values():
        found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every combination that the settings ask for."""
    for tuning in settings.head.tuning:
        for variant in settings.head.variants:
            for modality in settings.head.modalities:
                yield Condition(variant, tuning, modality)


def run(settings: Settings, corpus: str, model: str) -> str:
    """Train the heads; writes logits of validation and test, training curves, and the model to use."""
    begin, seeds, settings = time.monotonic(), settings.seeds, settings.for_target(corpus)
    work = [paths.pretrained(model), paths.tokens(model), paths.features(corpus), paths.texts(corpus), paths.utterances(corpus)]
    parts = [seeds, settings.models[model], settings.spectran, settings.head.model_copy(update={"workers": None})]
    params = {"head": settings.head, "model": settings.models[model], "seeds": seeds}
    with (
        command.checkpoints(f"head@{corpus}-{model}", *parts, *work) as checkpoints,
        tracking.stage_run(settings, corpus, params, build.synthetic(settings, [corpus]), seeds[0]) as tracked,
        command.whole(paths.heads(corpus, model)) as folder,
    ):
        folders = train_all(settings, corpus, model, checkpoints, tracked)
        tables = [pd.read_parquet(job / "logits.parquet") for job in folders]
        curves = [entry for job in folders for entry in command.read_json(job / "curves.json")]
        write_parquet(pa.Table.from_pandas(pd.concat(tables, ignore_index=True), preserve_index=False), folder / "logits.parquet")
        command.write_json(curves, folder / "curves.json")
        release(settings, corpus, model, checkpoints, curves, folder / "model")
        tracked.artifact(folder / "curves.json")
    return f"{corpus} with {model}: {len(curves)} heads in {time.monotonic() - begin:.0f} s"


def train_all(settings: Settings, corpus: str, model: str, checkpoints: Path, tracked: tracking.Run) -> list[Path]:
    """Train every condition and seed, several at once; returns the folders of the results."""
    jobs = [(condition, settings.seeds) for condition in conditions(settings) if condition.tuning == "frozen"]
    jobs += [(condition, [seed]) for condition in conditions(settings) if condition.tuning == "unfrozen" for seed in settings.seeds]
    count = min(settings.head.workers or torch.cuda.device_count() or min(workers.cores(), MOST_WORKERS), len(jobs))
    threads = max(1, workers.cores() // count)
    preparation = (settings, corpus, model, checkpoints, tracked, threads)
    folders = []
    with (
        tqdm(total=len(jobs), desc=f"Heads {corpus} {model}", unit="run") as bar,
        workers.processes(count, _prepare, *preparation, threads=threads) as pool,
    ):
        for folder, name in workers.in_order(pool, _train, jobs, ahead=len(jobs) + 1):
            folders.append(folder)
            bar.set_postfix_str(name, refresh=False)
            bar.update()
    return folders


# In the workers


def _prepare(settings: Settings, corpus: str, model: str, folder: Path, tracked: tracking.Run, threads: int) -> None:
    global _loader, _bench, _tracked, _stopped
    if gpus := torch.cuda.device_count():
        os.environ["CUDA_VISIBLE_DEVICES"] = str(workers.turn() % gpus)  # heeded, as CUDA has not been used yet
    torch.set_num_threads(threads)
    _loader, _bench, _tracked, _stopped = partial(Bench, settings, corpus, model, folder), None, tracked, False


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
        command.write_json(curves, folder / "curves.json")
    return folder, name


def unfrozen(bench: Bench, condition: Condition, seeds: list[int], folder: Path, tracked) -> tuple[pd.DataFrame, list[dict]]:
    """Train a head and the network below it, for one seed."""
    begin, (seed,), section = time.monotonic(), seeds, bench.settings.head
    network = bench.network(condition, seed)
    network.calm.spectran.requires_grad_(bench.along(condition))
    network.calm.get_input_embeddings().requires_grad_(section.train_words)
    collator = bench.collator(condition, network)
    start(bench, condition, seed, network, folder / "first")
    with tracked.child(title(condition, seed), tags={"variant": condition.name, "modality": condition.modality, "seed": seed}) as run:
        curve = train(
            network,
            bench.splits["train"],
            collator,
            build.schedule(section),
            folder,
            seed,
            held_out=bench.splits["validation"],
            lengths=sum(collator.lengths(bench.splits["train"])),
            body=[network.calm],
            callbacks=[run.callback()],
        )
        logits = {split: predict(network, bench.splits[split], collator, section.batch) for split in ("validation", "test")}
    if (condition, seed) == released(bench.settings):
        network.save_pretrained(folder / "model")
    entry = {"variant": condition.name, "modality": condition.modality, "seed": seed, "seconds": time.monotonic() - begin, "curve": curve}
    return results(bench, condition, seed, logits), [{**entry, "mlflow_run": run.id}]


def frozen(bench: Bench, condition: Condition, seeds: list[int], folder: Path, tracked) -> tuple[pd.DataFrame, list[dict]]:
    """Train the heads of all seeds at once on representations that are computed once."""
    begin = time.monotonic()
    tags = {"variant": condition.name, "modality": condition.modality, "seed": " ".join(map(str, seeds))}
    with tracked.child(title(condition, *seeds), tags=tags) as run:
        network, collator, curve = on_vectors(bench, condition, pooled(bench, condition, seeds), seeds, folder, [run.callback()])
        logits = {split: predict(network, bench.splits[split], collator, 512) for split in ("validation", "test")}
    if (condition, seeds[0]) == released(bench.settings):
        whole = bench.network(condition, seeds[0])
        whole.heads[TASK].load_state_dict(network.heads[0].state_dict())
        whole.save_pretrained(folder / "model")
    # The heads' losses were summed: an entry of the curve is their mean.
    curve = [{key: value / (1 if key == "epoch" else len(seeds)) for key, value in entry.items()} for entry in curve]
    shared = {"variant": condition.name, "modality": condition.modality, "seconds": time.monotonic() - begin, "mlflow_run": run.id}
    tables = [results(bench, condition, seed, {k: v[:, index] for k, v in logits.items()}) for index, seed in enumerate(seeds)]
    return pd.concat(tables, ignore_index=True), [{**shared, "seed": seed, "curve": curve} for seed in seeds]


def on_vectors(
    bench: Bench, condition: Condition, vectors: torch.Tensor, seeds: list[int], folder: Path, callbacks: Sequence = ()
) -> tuple[FrozenHeads, Callable, list[dict]]:
    """Heads trained on vectors that do not change (see `pooled`), with the collator of these and the training curve."""
    section, targets = bench.settings.head, torch.from_numpy(bench.targets)
    config = bench.network(condition, seeds[0]).config
    network = FrozenHeads(config, len(bench.examples.classes), seeds).to(build.device())
    network.fit(vectors[bench.splits["train"]].to(build.device()))

    def collator(rows, generator=None) -> dict[str, torch.Tensor]:
        return {"vectors": vectors[rows], "labels": targets[rows]}

    # Clipping would scale one head's gradients by another's.
    changes = {"epochs": section.frozen_epochs, "learning_rate": section.frozen_learning_rate, "average": 0.0, "clip": 0.0}
    schedule, (rows, held_out) = build.schedule(section, **changes), (bench.splits[split] for split in ("train", "validation"))
    return network, collator, train(network, rows, collator, schedule, folder, seeds[0], held_out, callbacks=callbacks)


def start(bench: Bench, condition: Condition, seed: int, network: CalmForSequenceClassification, folder: Path) -> None:
    """Prepare a fresh head on the network that it starts from: the statistics of its inputs, and its weights (`head.first`)."""
    section, head, still = bench.settings.head, network.heads[TASK], replace(condition, tuning="frozen")
    if section.standardise or section.first == "head":
        vectors = pooled(bench, still, [seed])
        head.fit(vectors[bench.splits["train"], 0].to(network.device))
    if section.first == "head":
        trained, *_ = on_vectors(bench, still, vectors, [seed], folder)
        head.load_state_dict(trained.heads[0].state_dict())


@torch.inference_mode()
def pooled(bench: Bench, condition: Condition, seeds: list[int]) -> torch.Tensor:
    """What frozen heads see of every row: (rows, 1, width), or (rows, seeds, width) where SpecTran is random by seed."""
    different = condition.variant == "no_pretraining" and condition.modality != "text"
    columns = []
    for seed in seeds if different else seeds[:1]:
        network = bench.network(condition, seed).eval()
        collator = replace(bench.collator(condition, network), targets=None)
        order = np.argsort(sum(collator.lengths(np.arange(len(bench.targets)))), kind="stable")
        vectors = torch.empty(len(order), network.heads[TASK].width)
        for first in range(0, len(order), 128):
            rows = order[first : first + 128]
            vectors[rows] = network.pooled(**{key: value.to(network.device) for key, value in collator(rows).items()}).float().cpu()
        columns.append(vectors)
    return torch.stack(columns, 1)


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


def released(settings: Settings) -> tuple[Condition, int]:
    """The condition and seed whose model is kept for use: CALM, unfrozen and of both modalities where there is such a one."""
    head = settings.head
    best = {"variant": ("calm", head.variants), "tuning": ("unfrozen", head.tuning), "modality": ("both", head.modalities)}
    return Condition(**{key: wanted if wanted in given else given[0] for key, (wanted, given) in best.items()}), settings.seeds[0]


def release(settings: Settings, corpus: str, model: str, checkpoints: Path, curves: list[dict], folder: Path) -> None:
    """The model to use, with the processor of its inputs, which of the heads it is, and its card."""
    condition, seed = released(settings)
    trained = checkpoints / f"{condition.name}-{condition.modality}-{seed}" / "model"
    network = CalmForSequenceClassification.from_pretrained(trained)
    network.save_pretrained(folder)
    CalmProcessor(extractor(settings, corpus), load_tokenizer(settings.models[model].language_model)).save_pretrained(folder)
    kept = {"variant": condition.name, "modality": condition.modality, "seed": seed}
    command.write_json(kept, folder / "release.json")
    model_card.write(settings, corpus, model, network.config, next(entry for entry in curves if kept.items() <= entry.items()), folder)


def extractor(settings: Settings, corpus: str) -> CalmFeatureExtractor:
    """What makes a model's inputs of samples, as the corpus's features were made."""
    given, spectran = command.read_json(paths.features(corpus) / "stats.json"), settings.spectran
    same = ("mels", "window_ms", "hop_ms", "low_hz", "high_hz", "trim_db")
    statistics = {name: given[name] for name in ("mean", "std")} if spectran.normalise == "corpus" else {}
    return CalmFeatureExtractor(
        given["sample_rate"],
        **{name: given[name] for name in same},
        normalise=spectran.normalise,
        **statistics,
        block_frames=spectran.block,
        block_hop=spectran.hop,
        max_tokens=settings.head.max_tokens,
    )


if __name__ == "__main__":
    command.start(run, corpus=lambda settings: settings.targets, model=lambda settings: settings.heads_on)
