"""What heads stand on: the conditions of the tables' rows, and the networks, batches and encoded blocks of each."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from transformers import BertModel

from calm.corpora.splits import nested
from calm.data.batching import SequenceCollator, tokenise
from calm.data.ragged import Ragged
from calm.models.front_ends import FRONT_ENDS
from calm.models.joint_transformer import JointTransformerForSequenceClassification
from calm.models.language_model import load_language_model, load_tokenizer
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining, CalmForSequenceClassification, CalmModel
from calm.training.forward import encode_blocks
from pipeline import factory, paths
from pipeline.settings import Head, HeadRow, Settings

TASK = "emotion"  # name of the head in the saved model


@dataclass(frozen=True)
class Condition:
    """One row of the tables, what is trained, and what goes in."""

    name: str  # the variant's name in the tables
    row: HeadRow
    tuning: str  # "frozen" or "unfrozen"
    modality: str  # "audio", "text" or "both"

    @property
    def random(self) -> bool:
        """Whether the front end is drawn anew by every seed."""
        return self.row.network != "calm" or self.row.start == "language_model"


class Bench:
    """What all conditions of a stage share: the examples, the language model, and the blocks encoded by each SpecTran.

    `settings` are those of the stage's model and corpus.
    """

    def __init__(self, settings: Settings, corpus: str, model: str, folder: Path):
        self.settings, self.corpus, self.model, self.folder = settings, corpus, model, folder
        self.examples = factory.examples(settings, [corpus])
        given = settings.models[model]
        self.language_model = load_language_model(given.language_model, given.layers)
        self.tokenizer = load_tokenizer(given.language_model)
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
        changes = {"one_hot": one_hot, "modality": condition.modality, "front_end": front_end(condition.row)}
        config = factory.config(self.settings, self.language_model, corpora, heads, **changes)
        if condition.row.network == "joint_transformer":
            words = self.language_model.get_input_embeddings().weight
            return JointTransformerForSequenceClassification(config, words).to(factory.device())
        network = CalmForSequenceClassification(config)
        self.load(network.calm, condition)
        return network.to(factory.device())

    def load(self, calm: CalmModel, condition: Condition) -> None:
        """Put the weights in place that the condition starts from; the rest stays as it was drawn."""
        start = condition.row.start if condition.row.network == "calm" else "language_model"
        if start == "pretrained":
            calm.load_state_dict(self.pretrained)
            return
        calm.language_model.load_state_dict((self.aligned_language_model if start == "calp" else self.language_model).state_dict())
        if start == "calp":
            calm.spectran.load_state_dict(CalmForContrastivePretraining.from_pretrained(paths.calp(self.model)).spectran.state_dict())

    @cached_property
    def pretrained(self) -> dict[str, torch.Tensor]:
        """Weights of `CalmModel` after all pretraining."""
        return CalmForMaskedPretraining.from_pretrained(paths.pretrained(self.model)).calm.state_dict()

    @cached_property
    def aligned_language_model(self) -> BertModel:
        """The language model after CALP, which may have trained it along."""
        along = paths.calp(self.model) / "language_model"
        return load_language_model(str(along)) if along.exists() else self.language_model

    def train_rows(self, condition: Condition) -> np.ndarray:
        """Rows of the training split whose labels the condition may see."""
        rows = self.splits["train"]
        return rows[nested(self.targets[rows], condition.row.labels, self.settings.seeds[0])]

    def along(self, condition: Condition) -> bool:
        """Whether the front end is trained with the head."""
        if condition.row.network != "calm":
            return True
        return condition.tuning == "unfrozen" and condition.modality != "text" and self.settings.head.train_spectran

    def collator(self, condition: Condition, network: CalmForSequenceClassification, changed: bool = False) -> SequenceCollator:
        """Batches of the condition's modality; blocks are encoded before, unless the front end is trained along.

        Args:
            changed: log-mel that a generator changes as `head.augment` says, for a front end that stays as it is.
        """
        section = self.settings.head
        whole = SequenceCollator(self.examples.logmels, self.tokens, None, condition.modality, self.targets, section.max_tokens)
        if changed or self.along(condition):
            return replace(whole, augment=factory.augmentation(section.augment))
        return whole if condition.modality == "text" else replace(whole, encoded=self.encoded(condition, network))

    def encoded(self, condition: Condition, network: CalmForSequenceClassification) -> Ragged:
        """Blocks encoded by the network's SpecTran: those of `embed` where it is the same one, else computed once for all runs."""
        embedded = paths.encoded(self.model) / f"{self.corpus}.parquet"
        if not condition.random and embedded.exists():
            return factory.encoded(self.model, self.examples, [self.corpus])
        file, ids = self.folder / f"encoded-{digest(network.calm.spectran)}.parquet", list(self.examples.table["id"])
        with FileLock(f"{file}.lock"):
            if not file.exists():
                encode_blocks(network.calm.spectran, self.examples.logmels).write(file, ids)
        return Ragged.read(file, ids)


def front_end(row: HeadRow) -> str:
    """What makes the acoustic tokens of a row's network."""
    return row.network if row.network in FRONT_ENDS else "spectran"


def digest(module: torch.nn.Module) -> str:
    """What tells one set of weights from another."""
    found = hashlib.sha256()
    for tensor in module.state_dict().values():
        found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def conditions(rows: dict[str, HeadRow], head: Head) -> list[Condition]:
    """Every combination that the settings ask for, those of frozen heads first."""
    found = [
        Condition(name if tuning == "unfrozen" else f"{name}_frozen", row, tuning, modality)
        for name, row in rows.items()
        for tuning, modality in row.conditions(head)
    ]
    return sorted(found, key=lambda condition: condition.tuning != "frozen")
