"""The networks that heads stand on, and the batches and encoded blocks of each condition."""

import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from transformers import PreTrainedModel

from calm.audio.encoder_states import load_encoder
from calm.audio.features import ENCODER
from calm.audio.speech_encoders import SpeechEncoder, load_speech_encoder
from calm.corpora.splits import nested
from calm.data.batching import SequenceCollator, tokenise
from calm.data.examples import Examples, statistics
from calm.data.ragged import Ragged
from calm.models.configuration import CalmConfig
from calm.models.joint_transformer import JointTransformerForSequenceClassification
from calm.models.language_model import load_language_model, load_tokenizer, special_ids
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining, CalmForSequenceClassification, CalmModel
from calm.models.text_encoders import places
from calm.storage import read_json
from calm.training.forward import encode_blocks
from pipeline import factory, paths
from pipeline.heads.conditions import Condition
from pipeline.state import Visible

TASK = "emotion"  # name of the head in the saved model


class Networks:
    """What all conditions of a stage share: the examples, the language model, and the blocks encoded by each SpecTran.

    Args:
        settings: what the stage sees of them.
        corpus, model: of the entry of `heads`.
        folder: for what is computed once for all runs.
        fold: of a corpus with folds, 0 for a training on everybody; None: the corpus has none.
    """

    def __init__(self, settings: Visible, corpus: str, model: str, folder: Path, fold: int | None = None):
        self.settings, self.corpus, self.model, self.folder, self.fold = settings, corpus, model, folder, fold
        self.examples = factory.examples(settings, [corpus], fold or 0, copies=True, work=folder)
        self._heard: dict[tuple[str, bool], Examples] = {}  # by what `heard` tells examples apart
        self._digests: dict[tuple[str, str, int], str] = {}  # by row, modality and seed
        self._still: tuple[tuple[str, str, int], CalmForSequenceClassification] | None = None  # the last one, by the same
        model_settings = settings.models[model]
        self.language_model = load_language_model(model_settings.language_model, model_settings.layers)
        self.tokenizer = load_tokenizer(model_settings.language_model)
        self.tokens = tokenise(self.tokenizer, self.examples.table["text"])
        self.targets = self.examples.targets()
        self.splits = {split: self.examples.rows(split, labelled=True) for split in ("train", "validation", "test")}
        self.held_out = ("validation",) if fold == 0 else ("validation", "test")
        empty = [split for split in ("train", *self.held_out) if not len(self.splits[split])]
        if empty:
            where = f"fold {fold} of corpus {corpus}" if fold else f"corpus {corpus}"
            raise ValueError(f"{where} has no labelled utterance in {', '.join(empty)}: heads need all three splits")

        if settings.head.loss == "softmax" and not self.examples.one_hot:
            raise ValueError(f"head.loss is softmax, but utterances of {corpus} may have several classes or none: set head.loss: bce")

    def network(self, condition: Condition, seed: int) -> CalmForSequenceClassification:
        """A model with fresh heads, and the weights that its condition starts from."""
        torch.manual_seed(seed)
        config = self.config(condition)
        if condition.row.network == "joint_transformer":
            words = self.language_model.get_input_embeddings().weight
            return JointTransformerForSequenceClassification(config, words).to(factory.device())
        network = CalmForSequenceClassification(config)
        self.load(network.calm, condition)
        if network.encoder is not None:
            _, encoder, mean, deviation = self.encoder
            network.encoder.load(self.trained_encoder if self.hears_trained_encoder(condition) else encoder, mean, deviation)
        return network.to(factory.device())

    def config(self, condition: Condition) -> CalmConfig:
        """Configuration of a condition's network."""
        return factory.config(
            self.settings,
            self.language_model,
            [self.corpus, *self.settings.pretraining],
            self.examples.frames.channels,
            heads={TASK: list(self.examples.classes)},
            one_hot=[TASK] if self.examples.one_hot else [],
            encoder=self.encoder[0] if self.trains_encoder(condition) else None,
            **condition.config(self.settings.head),
            **special_ids(self.tokenizer),
        )

    def still(self, condition: Condition, seed: int) -> CalmForSequenceClassification:
        """`network` of a frozen condition, to be read alone; the last one is kept until `let_go`."""
        key = _key(condition, seed)
        if self._still is None or self._still[0] != key:
            self.let_go()  # before there is another one
            self._still = key, self.network(condition, seed).eval()
        return self._still[1]

    def let_go(self) -> None:
        """Free the network that `still` keeps: a training needs the memory."""
        self._still = None

    def digest_below_heads(self, condition: Condition, seed: int) -> str:
        """What tells the weights below the heads of a frozen condition from others."""
        key = _key(condition, seed)
        if key not in self._digests:
            below = [part for name, part in self.still(condition, seed).named_children() if name != "heads"]
            self._digests[key] = digest(torch.nn.ModuleList(below))
        return self._digests[key]

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
    def trained_encoder(self) -> SpeechEncoder | None:
        """The speech encoder as CALP trained it along; None if it did not."""
        return load_encoder(paths.calp(self.model))

    def hears_trained_encoder(self, condition: Condition) -> bool:
        """Whether the frames of a condition come from the encoder that CALP trained: where its weights are those after CALP."""
        return not condition.random and self.trained_encoder is not None

    def normalise(self, condition: Condition) -> str:
        """Whose statistics the frames of a condition are normalised by."""
        return condition.row.normalise or self.settings.spectran.normalise

    def heard(self, condition: Condition) -> Examples:
        """The examples with the frames of a condition."""
        how = self.normalise(condition), self.hears_trained_encoder(condition)
        if condition.modality == "text" or how == (self.settings.spectran.normalise, False):
            return self.examples
        if how not in self._heard:
            encoder = self.trained_encoder if how[1] else None
            options = {"copies": True, "encoder": encoder, "work": self.folder, "normalise": how[0]}
            self._heard[how] = factory.examples(self.settings, [self.corpus], self.fold or 0, **options)
        return self._heard[how]

    @cached_property
    def pretrained(self) -> dict[str, torch.Tensor]:
        """Weights of `CalmModel` after all pretraining."""
        return CalmForMaskedPretraining.from_pretrained(paths.pretrained(self.model)).calm.state_dict()

    @cached_property
    def aligned_language_model(self) -> PreTrainedModel:
        """The language model after CALP, which may have trained it too."""
        trained = paths.calp(self.model) / "language_model"
        return load_language_model(str(trained)) if trained.exists() else self.language_model

    def train_rows(self, condition: Condition) -> np.ndarray:
        """Rows of the training split whose labels the condition may see."""
        rows = self.splits["train"]
        return rows[nested(self.targets[rows], condition.row.labels, self.settings.seeds[0])]

    @cached_property
    def encoder(self) -> tuple[dict, SpeechEncoder, np.ndarray, np.ndarray]:
        """The speech encoder of the frames: what `CalmConfig.encoder` says of it, its network, and the frames' mean and deviation."""
        folder = paths.frames(self.corpus, ENCODER)
        about = read_json(folder / "stats.json")
        layers = about["layers"]
        network = load_speech_encoder(about["encoder"], layers)
        return {"layers": layers, "config": network.model.config.to_dict()}, network, *statistics(folder, self.fold or 0)

    def trains_encoder(self, condition: Condition) -> bool:
        """Whether the upper blocks of the speech encoder are trained with the head."""
        if not self.settings.head.train_encoder or self.settings.spectran.frames != ENCODER or condition.row.network != "calm":
            return False
        return condition.tuning == "unfrozen" and condition.modality != "text"

    def trains_front_end(self, condition: Condition) -> bool:
        """Whether the front end is trained with the head."""
        if condition.row.network != "calm":
            return True
        return condition.tuning == "unfrozen" and condition.modality != "text" and self.settings.head.train_spectran

    def collator(
        self, condition: Condition, network: CalmForSequenceClassification, changed: bool = False, speed: str | None = None
    ) -> SequenceCollator:
        """Batches of the condition's modality; blocks are encoded before, unless the front end is trained.

        Args:
            speed: of the copies that are taken in place of the utterances.
            changed: the frames are changed by a generator as `head.augment` says, for a front end that is not trained.
        """
        section = self.settings.head
        most = min(section.max_tokens, places(self.language_model))
        beside = condition.functionals(section)
        heard = self.heard(condition)
        whole = SequenceCollator(heard.frames, self.tokens, None, condition.modality, self.targets, most, functionals=beside)
        if speed is not None:
            return replace(whole, frames=heard.copies[speed])
        if changed:
            return replace(whole, augment=factory.augmentation(section.augment))
        if self.trains_front_end(condition) or self.trains_encoder(condition) or condition.pooling(section) == "frames":
            return replace(whole, augment=factory.augmentation(section.augment), copies=tuple(heard.copies.values()))
        return (
            whole
            if condition.modality == "text" or network.config.head_pooling == "none"
            else replace(whole, encoded=self.encoded(condition, network))
        )

    def encoded(self, condition: Condition, network: CalmForSequenceClassification) -> Ragged:
        """Blocks encoded by the network's SpecTran: those of `embed` where it is the same one, else computed once for all runs."""
        embedded = paths.encoded(self.model) / f"{self.corpus}.parquet"
        if not condition.random and embedded.exists():
            return factory.encoded(self.model, self.examples, [self.corpus], self.folder)
        about, ids = f"{digest(network.calm.spectran)}-{self.normalise(condition)}", list(self.examples.table["id"])
        file = self.folder / f"encoded-{about}.parquet"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                encode_blocks(network.calm.spectran, self.heard(condition).frames).write(file, ids)
        return Ragged.read([(file, ids)], self.folder)


def _key(condition: Condition, seed: int) -> tuple[str, str, int]:
    """What tells the networks of frozen conditions apart."""
    return condition.row.model_dump_json(), condition.modality, seed


def digest(module: torch.nn.Module) -> str:
    """What tells one set of weights from another."""
    content = hashlib.sha256()
    for tensor in module.state_dict().values():
        content.update(tensor.cpu().numpy().tobytes())
    return content.hexdigest()[:16]
