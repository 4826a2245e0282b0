"""The trainings of a recipe: their models, built with random weights, and batches of utterances of the corpora's mean length."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import SimpleNamespace

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, BertConfig, PreTrainedConfig

from calm.audio.encoder_states import EncoderStates
from calm.data.batching import MaskingCollator, PairCollator, SequenceCollator
from calm.data.ragged import AcousticFrames, Ragged
from calm.models.joint_transformer import JointTransformerForSequenceClassification
from calm.models.language_model import source
from calm.models.modeling import CalmForContrastivePretraining, CalmForMaskedPretraining, CalmForSequenceClassification, count
from calm.training.forward import step_flops
from pipeline import factory
from pipeline.heads.conditions import Condition, by_training, conditions
from pipeline.planning.sizes import CLASSES, TOKENS_A_SECOND, Size
from pipeline.settings import Head, Settings
from pipeline.state import Visible, visible

GOOGLE = re.compile(r"bert_uncased_L-(\d+)_H-(\d+)_A-(\d+)$")
IDS = {"cls_token_id": 1, "sep_token_id": 2}
MASK, WORD = 3, 5  # token ids; which ones is the same to the number of operations


_COUNTED: dict[tuple, tuple[float, int]] = {}  # operations of a row, and parameters, by kind
SMALL = 3e7  # parameters of a model whose step takes less time than one on tensors without values
FEW_LAYERS = 8  # of a model that is timed as it is


@dataclass
class Training:
    """One kind of training, and how often it runs.

    Args:
        stage: "calp", "pretrain" or "head"; name: of its entry, for people.
        shapes, make: what makes the model and its collator of so many rows.
        runs: trainings of this kind.
        rows, epochs, batch: of each of them.
        family: equal where the same operations take about the same time; kind: equal where they are the same ones.
        passes: further passes without gradients, in rows, of all trainings together.
        light_steps: steps of heads on vectors that are there already, of all trainings together.
    """

    stage: str
    name: str
    shapes: "Shapes"
    make: Callable[["Shapes", int], tuple[torch.nn.Module, Callable]]
    runs: int
    rows: int
    epochs: int
    batch: int
    family: tuple
    kind: tuple
    passes: int = 0
    light_steps: int = 0

    @property
    def row_flops(self) -> float:
        """Floating-point operations of one utterance in a training step, forward and backward."""
        return self._counted[0]

    @property
    def parameters(self) -> int:
        """Of the model that is trained, with its frozen parts."""
        return self._counted[1]

    @property
    def least_rows(self) -> int:
        """Rows of the smallest batch: a pair of CALP needs another one to differ from."""
        return 2 if self.stage == "calp" else 1

    def build(self, rows: int) -> tuple[torch.nn.Module, Callable]:
        """The model, and its collator of so many rows."""
        return self.make(self.shapes, rows)

    def shallow(self) -> "Training":
        """The same with one layer of each kind, where there are many: what an operation takes is seen from few of them."""
        return self._of_depth(1, 1) if self.shapes.is_deep else self

    def _of_depth(self, text: int, spectran: int) -> "Training":
        """The same with so many layers of the language model and of SpecTran."""
        return replace(self, shapes=replace(self.shapes, depth=(text, spectran)), kind=(*self.kind, text, spectran))

    @cached_property
    def _counted(self) -> tuple[float, int]:
        if self.kind not in _COUNTED:
            _COUNTED[self.kind] = self._count_by_layers() if self.shapes.is_deep else self._count()
        return _COUNTED[self.kind]

    def _count_by_layers(self) -> tuple[float, int]:
        """Counts of a deep model: each layer after the first of its kind adds the same to one with a layer of each."""
        text, spectran = self.shapes.depth
        one, more_text, more_spectran = (self._of_depth(*depth)._counted for depth in ((1, 1), (2, 1), (1, 2)))
        flops, parameters = (
            first + (text - 1) * (second - first) + (spectran - 1) * (third - first)
            for first, second, third in zip(one, more_text, more_spectran, strict=True)
        )
        return flops, int(parameters)

    def _count(self) -> tuple[float, int]:
        with torch.device("meta"):  # tensors have shapes and no values: nothing is drawn or computed
            model, collator = self.build(self.least_rows)
        parameters, batch = count(model), collator(np.arange(self.least_rows))
        if parameters < SMALL:
            return step_flops(self.build(self.least_rows)[0], batch) / self.least_rows, parameters
        with FakeTensorMode(allow_non_fake_inputs=True):
            return step_flops(model.to_empty(device="cpu"), batch) / self.least_rows, parameters

    @property
    def steps(self) -> int:
        """Steps of all trainings together."""
        return self.runs * self.epochs * -(-self.rows // self.batch)

    @property
    def trained_rows(self) -> float:
        """Rows of all trainings and epochs, and passes as the third of a training step that they cost."""
        return self.runs * self.rows * self.epochs + self.passes / 3

    @property
    def flops(self) -> float:
        """Floating-point operations of all trainings together."""
        return self.row_flops * self.trained_rows


def trainings(settings: Settings, sizes: dict[str, Size]) -> list[Training]:
    """Every training of a recipe."""
    found = []
    for name, model in settings.models.items():
        corpora = settings.pretraining_corpora(name)
        if corpora:
            shapes = Shapes(settings, name, [sizes[corpus] for corpus in corpora])
            rows = sum(sizes[corpus].train for corpus in corpora)
            if model.aligned:
                section = visible(settings, "calp", name).calp
                kind = ("calp", *shapes.kind, section.projection, section.text_blocks)
                found.append(Training("calp", name, shapes, Shapes.contrastive, 1, rows, section.epochs, section.batch, kind[:2], kind))
            section = visible(settings, "pretrain", name).pretrain
            kind = ("pretrain", *shapes.kind, section.train_spectran, section.modality)
            family = (*kind[:2], section.train_spectran)
            found.append(Training("pretrain", name, shapes, Shapes.masked, 1, rows, section.epochs, section.batch, family, kind))
    for name in settings.heads:
        found += _heads(settings, name, sizes)
    return found


def _heads(settings: Settings, name: str, sizes: dict[str, Size]) -> Iterator[Training]:
    seen = visible(settings, "head", name)
    entry, section, size = seen.heads[name], seen.head, sizes[seen.heads[name].corpus]
    shapes, folds, seeds = Shapes(settings, entry.model, [size]), size.folds or 1, len(seen.seeds)
    for condition, *_ in by_training(conditions(entry.rows, section), seen.spectran.normalise):
        rows, title = round(size.train * condition.row.labels), f"{name}: {condition.name}, {condition.modality}"
        make = partial(Shapes.head, seen=seen, condition=condition)
        trained = _trains_front_end(section, condition)
        family = ("head", shapes.kind[0], condition.row.network, trained)
        kind = ("head", *shapes.kind, condition.row.network, condition.row.pooling, condition.modality, trained, section.model_dump_json())
        light = -(-rows // section.batch) * section.frozen_epochs if section.frozen_fit == "descent" else 0
        if condition.tuning == "frozen":  # vectors of all utterances once, or once a seed, and heads on them
            networks = seeds if condition.random and condition.modality != "text" else 1
            passes = folds * networks * size.utterances
            yield Training("head", title, shapes, make, 0, rows, 0, section.batch, family, kind, passes, folds * light)
        else:
            runs = folds * seeds + (1 if size.folds and entry.release else 0)
            passes = runs * (size.utterances - size.train) * (1 + section.epochs) // 2  # validation every epoch, half of what is held out
            light = runs * light if section.first == "head" else 0
            yield Training("head", title, shapes, make, runs, rows, section.epochs, section.batch, family, kind, passes, light)


def _trains_front_end(section: Head, condition: Condition) -> bool:
    """Whether the front end is trained with the head, so that its blocks are encoded in every step."""
    frozen = condition.tuning == "frozen" or condition.modality == "text" or not section.train_spectran
    return condition.row.network != "calm" or not frozen


@dataclass
class Shapes:
    """Models of one entry of `models`, and batches of what they are trained on.

    Args:
        depth: layers of the language model and of SpecTran; None: those of the settings.
    """

    settings: Settings
    model: str
    sizes: list[Size]
    depth: tuple[int, int] | None = None

    def __post_init__(self):
        self.spectran, features = self.seen_of("embed").spectran, self.settings.features
        self.text = text_config(self.settings, self.model)
        self.channels, self.hop_seconds = features.mels, features.hop_ms / 1000
        if self.spectran.frames == "encoder":
            states = EncoderStates.describe(features.encoder, features.layers)
            self.channels, self.hop_seconds = states.channels, states.frame_seconds
        self.layers = len(features.layers) if self.spectran.encoder_layers == "learned_mean" else 1
        self.depth = self.depth or (self.text.num_hidden_layers, self.spectran.layers)

    @property
    def is_deep(self) -> bool:
        """Whether models have many layers, of which those of a kind are alike."""
        return self.text.model_type == "bert" and sum(self.depth) > FEW_LAYERS

    @property
    def kind(self) -> tuple:
        """What the operations of a row depend on, besides the objective."""
        return self.text.to_json_string(), self.spectran.model_dump_json(), self.channels, self.blocks, self.tokens

    @property
    def seconds(self) -> float:
        """Mean length of an utterance."""
        return sum(size.seconds for size in self.sizes) / max(1, sum(size.utterances for size in self.sizes))

    @property
    def blocks(self) -> int:
        """Blocks of an utterance of mean length: 1 + (frames - block) // hop."""
        return 1 + max(0, round(self.seconds / self.hop_seconds) - self.spectran.block) // self.spectran.hop

    @property
    def tokens(self) -> int:
        """Tokens of an utterance's text, the two special ones included."""
        return 2 + round(TOKENS_A_SECOND * self.seconds)

    def config(self, seen: Visible, corpora: list[str], **options):
        """Configuration of the model as a stage that sees so much of the settings makes it, for these corpora."""
        config = factory.config(seen, SimpleNamespace(config=self.text), corpora, self.channels, averaged_layers=self.layers, **options)
        config.text_config.num_hidden_layers, config.spectran_layers = self.depth
        return config

    def frames(self, rows: int) -> AcousticFrames:
        """So many utterances of mean length, in silence."""
        length = self.spectran.block + (self.blocks - 1) * self.spectran.hop
        values = np.zeros((rows * length, self.channels), np.float16)
        return AcousticFrames(Ragged(values, np.full(rows, length)), np.ones(rows, np.float32), self.spectran.block, self.spectran.hop)

    def sequences(self, rows: int, encoded_width: int | None, **options) -> SequenceCollator:
        """Batches of text and blocks; encoded before where a width is given."""
        ids = np.tile([IDS["cls_token_id"], *[WORD] * (self.tokens - 2), IDS["sep_token_id"]], rows)
        encoded = encoded_width and Ragged(np.zeros((rows * self.blocks, encoded_width), np.float16), np.full(rows, self.blocks))
        return SequenceCollator(self.frames(rows), Ragged(ids, np.full(rows, self.tokens)), encoded, **options)

    def contrastive(self, rows: int) -> tuple[torch.nn.Module, Callable]:
        """CALP's model with a frozen language model, and its pairs."""
        seen = self.seen_of("calp")
        section, options = seen.calp, {"projection": seen.calp.projection, "text_pooling": seen.calp.text_vector}
        config = self.config(seen, seen.pretraining, **options)
        model = CalmForContrastivePretraining(config, None, factory.contrastive(section))
        # From NumPy, so that a batch has values where models are built without
        texts, vectors = [str(row) for row in range(rows)], torch.from_numpy(np.zeros((rows, config.text_width), np.float32))
        return model, PairCollator(self.frames(rows), texts, vectors, speakers=["one"] * rows, text_blocks=section.text_blocks)

    def masked(self, rows: int) -> tuple[torch.nn.Module, Callable]:
        """Masked pretraining's model, and its batches."""
        seen = self.seen_of("pretrain")
        section, model = seen.pretrain, CalmForMaskedPretraining(self.config(seen, seen.pretraining, **IDS))
        model.calm.spectran.requires_grad_(section.train_spectran)
        width = None if section.train_spectran else model.calm.spectran.encoded_width
        sequences = self.sequences(rows, width, modality=section.modality, most=section.max_tokens)
        collator = MaskingCollator(sequences, MASK, tuple(IDS.values()), self.text.vocab_size, section.mask_words, section.mask_audio)
        return model, collator

    def head(self, rows: int, seen: Visible, condition: Condition) -> tuple[torch.nn.Module, Callable]:
        """The network of a condition and its batches."""
        section, network = seen.head, condition.row.network
        classes = [f"class {number}" for number in range(CLASSES)]
        config = self.config(
            seen,
            [next(iter(seen.heads.values())).corpus],
            heads={"emotion": classes},
            one_hot=["emotion"],
            **condition.config(section),
            **IDS,
        )
        targets = np.tile(np.eye(CLASSES, dtype=np.float32)[0], (rows, 1))
        options = {"modality": condition.modality, "targets": targets, "most": section.max_tokens, "functionals": config.head_functionals}
        if network == "joint_transformer":
            return JointTransformerForSequenceClassification(config), replace(self.sequences(rows, None, **options), functionals=None)
        model = CalmForSequenceClassification(config)
        trained = _trains_front_end(section, condition)
        model.calm.spectran.requires_grad_(trained)
        model.calm.get_input_embeddings().requires_grad_(section.train_words)
        whole = trained or config.head_pooling == "frames"
        return model, self.sequences(rows, None if whole else model.calm.spectran.encoded_width, **options)

    def seen_of(self, stage: str):
        """What a stage sees of the settings."""
        return visible(self.settings, stage, self.model)


def text_config(settings: Settings, name: str) -> PreTrainedConfig:
    """Sizes of a model's language model: from its files, else from its name.

    Raises ValueError if neither tells them.
    """
    model = settings.models[name]
    path, options = source(model.language_model)
    if known := GOOGLE.search(str(path)):
        layers, width, heads = map(int, known.groups())
        config = BertConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width)
    elif str(path) in ("bert-base-uncased", "google-bert/bert-base-uncased"):
        config = BertConfig()
    else:
        try:
            config = AutoConfig.from_pretrained(path, **options)
        except OSError as error:
            raise ValueError(
                f"models.{name}.language_model: the sizes of '{model.language_model}' cannot be read ({str(error).splitlines()[0]})"
            ) from None
    if model.layers:
        config.num_hidden_layers = model.layers
    return config
