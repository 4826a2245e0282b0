"""Rows of `python -m benchmarks` about training: SpecTran, an epoch, what is frozen, and heads of several seeds."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from benchmarks.made import CLASSES, SIZES, Corpus
from benchmarks.measuring import SIZE, Options, Result, compared, cpu_in_turn, product
from calm.models.configuration import CalmConfig
from calm.models.heads import FrozenHeads
from calm.models.spectran import SpecTran
from calm.training.forward import encode_blocks, step_flops
from calm.training.loop import train
from calm.training.schedule import Schedule

TEXT, CPU = SIZES["tiny"], torch.device("cpu")
EPOCHS = 20  # of masked pretraining and of frozen heads


class Unfolded(nn.Module):
    """SpecTran as it is written with PyTorch's own layers: unfolded patches, and nn.TransformerEncoder."""

    def __init__(self, config: CalmConfig, dropout: float = 0.1):
        super().__init__()
        width, (frames, bands) = config.hidden_size, config.patches
        self.unfold = nn.Unfold(config.patch, stride=config.stride)
        self.patches = nn.Linear(config.patch[0] * config.patch[1], width)
        self.cls, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1 + frames * bands, width))
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, config.spectran_layers, enable_nested_tensor=False)

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        x = self.patches(self.unfold(blocks.unsqueeze(1)).transpose(1, 2))
        return self.layers(torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions)[:, 0]


def spectran(options: Options) -> list[Result]:
    """A training step of SpecTran, forward and backward."""
    config, blocks = CalmConfig(TEXT), torch.randn(16 if options.quick else 64, 50, 64)

    def step(model: nn.Module):
        def call() -> None:
            model(blocks).square().mean().backward()
            model.zero_grad()

        return call

    calls = {"calm": step(SpecTran(config))}
    calls["nn.TransformerEncoderLayer, unfolded, no dropout"] = step(Unfolded(config, 0.0))
    calls["nn.TransformerEncoderLayer, unfolded, as it comes"] = step(Unfolded(config))
    return compared("SpecTran, training step", calls, replace(options, turns=5 * options.turns), 1.4, f"{len(blocks)} blocks")


def epoch(options: Options) -> list[Result]:
    """An epoch of the training loop, batches included, against the matrix product."""
    corpus, results = Corpus.made(24 if options.quick else 128, CPU), []
    for objective, batch in (("CALP", 64), ("pretraining", 32), ("head", 16)):
        corpus = corpus.first(64) if objective == "head" else corpus
        model, collator = corpus.built(objective, TEXT)
        rows = np.arange(len(corpus.lengths))
        sample = rows[:: max(1, len(rows) // 16)][:16]
        flops = step_flops(model, collator(sample)) / len(sample) * len(rows)
        folder, schedule = options.work / f"epoch-{objective}", Schedule(1, batch, 1e-4)
        lengths = sum(collator.lengths(rows)) if objective == "head" else None

        def run(model=model, rows=rows, collator=collator, schedule=schedule, folder=folder, lengths=lengths) -> None:
            train(model, rows, collator, schedule, folder, 0, lengths=lengths)

        seconds = cpu_in_turn({"product": product(), "epoch": run}, options.turns)
        peak, rate = 2 * SIZE**3 / seconds["product"], flops / seconds["epoch"]
        ours, limit = f"{rate / 1e9:.1f} GFLOP/s, {seconds['epoch']:.2f} s", f"matrix product: {peak / 1e9:.1f} GFLOP/s"
        results.append(Result(f"epoch of {objective}, BERT-tiny", ours, limit, 100 * rate / peak, 70, "%", note=f"{len(rows)} utterances"))
    return results


def encoded(options: Options) -> list[Result]:
    """Masked pretraining on blocks that are encoded once, against SpecTran in every step."""
    corpus = Corpus.made(8 if options.quick else 64, CPU)
    model, collator = corpus.built("pretraining", TEXT)
    every = replace(collator, sequences=replace(collator.sequences, encoded=None))
    rows, schedule = np.arange(len(corpus.lengths)), Schedule(1, 16, 1e-4)
    calls = {
        "once": lambda: encode_blocks(model.calm.spectran, corpus.frames),
        "on encoded": lambda: train(model, rows, collator, schedule, options.work / "encoded", 0),
        "every step": lambda: train(model, rows, every, schedule, options.work / "every", 0),
    }
    seconds = cpu_in_turn(calls, options.turns)
    return [_frozen("masked pretraining, SpecTran frozen", seconds)]


def _frozen(what: str, seconds: dict[str, float]) -> Result:
    """So many epochs: what is frozen once and they on it, against all in every step."""
    ours, other = seconds["once"] + EPOCHS * seconds["on encoded"], EPOCHS * seconds["every step"]
    note = f"{EPOCHS} epochs, from one of each"
    return Result(what, f"computed once: {ours:.2f} s", f"every step: {other:.2f} s", other / ours, 5.0, note=note)


def frozen(options: Options) -> list[Result]:
    """Heads on a frozen network: its vectors once, against the network in every step."""
    corpus = Corpus.made(8 if options.quick else 64, CPU)
    model, collator = corpus.built("head", TEXT)
    model.calm.requires_grad_(False)
    rows, schedule, heads = np.arange(len(corpus.lengths)), Schedule(1, 16, 1e-3), _heads(model.config, [1])
    vectors = torch.empty(len(rows), 1, heads.heads[0].width)

    @torch.inference_mode()
    def once() -> None:
        for first in range(0, len(rows), 16):
            chosen = rows[first : first + 16]
            batch = collator(chosen)
            batch.pop("labels")
            vectors[chosen, 0] = model.eval().pooled(**batch)

    calls = {
        "once": once,
        "on encoded": lambda: train(heads, rows, _on(vectors, collator.targets), schedule, options.work / "heads", 0),
        "every step": lambda: train(model, rows, collator, schedule, options.work / "network", 0),
    }
    seconds = cpu_in_turn(calls, options.turns)
    return [_frozen("heads on a frozen network", seconds)]


def _heads(config: CalmConfig, seeds: list[int]) -> FrozenHeads:
    return FrozenHeads(config, CLASSES, seeds, config.hidden_size)


def _on(vectors: torch.Tensor, targets: np.ndarray):
    labels = torch.from_numpy(targets)
    return lambda rows, generator=None: {"vectors": vectors[rows], "labels": labels[rows]}


def seeds(options: Options) -> list[Result]:
    """Heads of three seeds on the same vectors: together, and one after another."""
    count, draw = 64 if options.quick else 400, np.random.default_rng(0)
    vectors, targets = torch.randn(count, 1, TEXT.hidden_size), (draw.random((count, CLASSES)) < 0.2).astype(np.float32)
    rows, schedule, config = np.arange(count), Schedule(5, 16, 1e-3), CalmConfig(TEXT)

    def fit(own: list[int]) -> None:
        train(_heads(config, own), rows, _on(vectors, targets), schedule, options.work / "seeds", 0)

    calls = {"together": lambda: fit([1, 2, 3]), "one after another": lambda: [fit([seed]) for seed in (1, 2, 3)]}
    return compared("heads of 3 seeds", calls, options, 2.0, f"{count} utterances, 5 epochs")
