"""What `test_distributed.py` runs by torchrun in two processes, and in one for comparison: `ranks.py FOLDER`."""

import contextlib
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig

from calm.data.batching import PairCollator
from calm.data.ragged import AcousticFrames, Ragged
from calm.models import distributed
from calm.models.configuration import CalmConfig
from calm.models.losses import ContrastiveSettings
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining
from calm.training.finite import NotFiniteError
from calm.training.loop import Interrupted, Training, train
from calm.training.schedule import Schedule

SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64, "max_position_embeddings": 40}
TEXT = BertConfig(vocab_size=60, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **SIZES)
NO_PROJECTION = "no projection"
CONTRASTIVE = {
    "plain": {},
    "InfoNCE": {"keep_positive": True},
    "without text": {"alpha": 0.0},
    "symmetric": {"symmetric": True, "alpha": 1.0},
    "ignore_same_text": {"ignore_same_text": True, "symmetric": True},
    "learned temperature": {"learn_temperature": True},
    "the own speaker's blocks": {"audio_negatives": "same_speaker"},
    NO_PROJECTION: {},
    "in chunks": {"chunk": 2, "symmetric": True, "learn_temperature": True},
}
ROWS = 7  # of a batch: the two processes take four and three


def share(batch: dict, rank: int, processes: int) -> dict:
    """The rows of a batch that this process gets, as Shares deals them out."""
    return {key: value[rank::processes] for key, value in batch.items()}


def pairs() -> dict[str, torch.Tensor]:
    """A batch of equation 2; some utterances have the same text, one has none."""
    draw = torch.Generator().manual_seed(0)
    blocks = torch.randn(2, ROWS, 50, 64, generator=draw)
    return {
        "anchor": blocks[0],
        "neighbour": blocks[1],
        "text_vectors": torch.randn(ROWS, 64, generator=draw),
        "text_index": torch.tensor([0, 1, 0, 2, 1, 3, 4]),
        "has_text": torch.tensor([True, True, True, False, True, True, True]),
        "speaker_index": torch.tensor([0, 1, 0, 1, 2, 0, 2]),
    }


def masked(words: torch.Tensor, audio: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch of equation 3 with these masks, (rows, 6) and (rows, 4)."""
    draw = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(5, 60, (ROWS, 6), generator=draw),
        "attention_mask": torch.ones(ROWS, 6, dtype=torch.long),
        "word_mask": words,
        "acoustic_mask": torch.ones(ROWS, 4, dtype=torch.bool),
        "audio_mask": audio,
        "input_features": torch.randn(ROWS, 4, 50, 64, generator=draw),
    }


def with_labels(batch: dict) -> dict:
    """Labels of what is masked, in row order."""
    return batch | {
        "word_labels": batch["input_ids"][batch["word_mask"]],
        "audio_labels": batch["input_features"][batch["audio_mask"]],
    }


def masks() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Few and many masked items, and none at all in the first process's rows."""
    draw = torch.Generator().manual_seed(2)
    words, audio = torch.rand(ROWS, 6, generator=draw) < 0.4, torch.rand(ROWS, 4, generator=draw) < 0.4
    odd = torch.arange(ROWS) % 2 == 1
    return {"masked": (words, audio), "masked in one process only": (words & odd[:, None], audio & odd[:, None])}


def step(model, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, averaged over the processes, and the gradients of one batch of all of them."""
    trained = DistributedDataParallel(model, find_unused_parameters=True) if distributed.processes() > 1 else model
    loss = trained.train()(**batch).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return distributed.mean(loss.detach()), gradients


def steps() -> dict[str, tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Loss and gradients of every case by name."""
    rank, processes, outcomes = distributed.rank(), distributed.processes(), {}
    for name, options in CONTRASTIVE.items():
        torch.manual_seed(3)
        config = CalmConfig(TEXT, projection=None if name == NO_PROJECTION else 16, spectran_layers=1)
        model = CalmForContrastivePretraining(config, settings=ContrastiveSettings(**options))
        outcomes[name] = step(model, share(pairs(), rank, processes))
    for name, (words, audio) in masks().items():
        torch.manual_seed(3)
        model = CalmForMaskedPretraining(CalmConfig(TEXT, spectran_layers=1))
        outcomes[name] = step(model, with_labels(share(masked(words, audio), rank, processes)))
    return outcomes


def stop_second(training: Training) -> None:
    """Send the last process alone SIGTERM in the fifth step, in the middle of an epoch."""
    if training.step == 4 and distributed.rank() == distributed.processes() - 1:
        signal.raise_signal(signal.SIGTERM)


def calp(folder: Path, blocks: int = 5, on_step=None, dropout: float = 0.2) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """CALP on 19 random utterances of so many blocks, in batches of 8, 8 and 3; returns the weights and the curve."""
    frames = 50 + 30 * (blocks - 1)
    values = np.random.default_rng(0).normal(size=(22 * frames, 64)).astype(np.float16)
    acoustic = AcousticFrames(Ragged(values, np.full(22, frames)), np.ones(22, np.float32))
    vectors = torch.randn(22, 64, generator=torch.Generator().manual_seed(1))
    collator = PairCollator(acoustic, [f"text {row % 9}" for row in range(22)], vectors)
    torch.manual_seed(3)
    model = CalmForContrastivePretraining(CalmConfig(TEXT, projection=16, spectran_layers=1, spectran_dropout=dropout))
    schedule = Schedule(epochs=3, batch=8, learning_rate=0.003)
    curve = train(model, range(19), collator, schedule, folder, seed=5, held_out=range(19, 22), on_step=on_step)
    return {name: value.clone() for name, value in model.state_dict().items()}, curve


def not_finite(folder: Path) -> tuple[str, list[str]]:
    """What the error says where one utterance has a value that is not finite, and the files that are left."""
    values = torch.ones(8, 2)
    values[5, 1] = torch.inf
    model, ids = Squared(), [f"utterance {row}" for row in range(8)]
    try:
        train(model, range(8), lambda rows, generator=None: {"x": values[rows]}, Schedule(2, 8, 0.1), folder, seed=5, ids=ids)
    except NotFiniteError as error:
        return str(error), sorted(path.name for path in folder.iterdir())


class Squared(torch.nn.Module):
    """A model whose loss is infinite where its inputs are."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (x * self.weight).square().mean()}


def main(folder: Path) -> None:
    """All cases in both processes; each writes its outcomes."""
    undisturbed = calp(folder / "whole")  # by which the processes find each other
    outcomes = {"steps": steps(), "undisturbed": undisturbed}
    try:
        calp(folder / "stopped", on_step=stop_second)
    except Interrupted as stop:
        outcomes["code"] = stop.code
    distributed.wait()
    outcomes["checkpoints"] = sorted(path.name for path in (folder / "stopped").iterdir())
    outcomes["resumed"] = calp(folder / "stopped")
    outcomes["two blocks"] = calp(folder / "two", blocks=2, dropout=0.0)
    with contextlib.suppress(Interrupted):
        calp(folder / "left", blocks=2, dropout=0.0, on_step=stop_second)
    outcomes["not finite"] = not_finite(folder / "not finite")
    torch.save(outcomes | {"left": str(folder / "left")}, folder / f"outcomes-{distributed.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
