"""Settings of the heads, of the rows of the tables that they fill, and of the evaluation."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from calm.data.normalisation import OF_SPEAKERS
from pipeline.settings.base import Name, Positive, Rate, RunTime, Section, Share
from pipeline.settings.models import Augment, Normalise, Optimiser

Modality = Literal["audio", "text", "both"]
Tuning = Literal["frozen", "unfrozen"]
Pooling = Literal["cls", "cls_mean_std", "cls_blocks", "frames", "none"]
Functionals = Literal["egemaps", "logmel_functionals", "encoder_functionals"]
OfKnownSpeakers = Literal["egemaps_known", "logmel_functionals_known", "encoder_functionals_known"]
RowName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class HeadRow(Section):
    """A row of the tables: the network that its heads are trained on. The default is CALM."""

    network: Literal["calm", "linear", "cnn", "joint_transformer"] = "calm"
    """Networks other than `calm` are for comparison and never pretrained (table 3)."""
    start: Literal["pretrained", "calp", "language_model"] = "pretrained"
    """Initial weights: after all pretraining, after CALP only, or of the language model alone."""
    labels: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the labels that the heads are trained on (A.3)."""
    pooling: Pooling | None = None
    """What the heads see. null: as in `head`."""
    normalise: Normalise | None = None
    """Whose statistics the acoustic frames are normalised by. null: as in `spectran`, by which models are pretrained. The
    heads of a row with `tested_speaker` are those of the row that is the same with `corpus`, and are trained once for both."""
    by_speaker_too: bool = False
    """Fit a second head on frames that are normalised by each speaker's own statistics, and average the weights of both: for corpora with
    several recordings of a speaker, frames normalised by the corpus, and `head.frozen_fit: logistic`."""
    modalities: list[Modality] | None = None
    """Inputs of the heads. null: those of `head`."""
    tuning: list[Tuning] | None = None
    """Whether the network is trained with the heads. null: as in `head`."""

    @model_validator(mode="after")
    def comparison_networks_are_trained_whole(self):
        """A network for comparison has no pretrained weights that could be frozen, and takes both modalities."""
        if self.network != "calm" and (keys := {"start", "modalities", "tuning"} & self.model_fields_set):
            raise ValueError(f"network '{self.network}' is trained whole and on both modalities: remove {', '.join(sorted(keys))}")
        return self

    @model_validator(mode="after")
    def pretrained_weights_hear_what_they_learned_from(self):
        """A network whose frames are normalised otherwise than in pretraining starts without it."""
        for name in ("normalise", "by_speaker_too"):
            if getattr(self, name) and self.start != "language_model":
                raise ValueError(f"{name}: pretraining hears frames by spectran.normalise; for others, set the row's start: language_model")
        return self

    @model_validator(mode="after")
    def frames_are_of_audio(self):
        """Attention over frames is learned with the head, on audio."""
        if self.pooling == "frames" and (self.modalities != ["audio"] or self.tuning != ["unfrozen"]):
            raise ValueError("pooling: frames is learned with the head, on audio: set the row's modalities: [audio] and tuning: [unfrozen]")
        return self

    def trained_with(self, head: "Head") -> list[tuple[Tuning, Modality]]:
        """What the heads of this row are trained with; its own values come before those of the section `head`."""
        if self.network != "calm":
            return [("unfrozen", "both")]
        return [(tuning, modality) for tuning in self.tuning or head.tuning for modality in self.modalities or head.modalities]


class Heads(Section):
    """The heads: a corpus, a model, and the rows of the tables to train."""

    corpus: Name
    """One of `targets`."""
    model: Name
    """One of `models`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Seeds of these heads. null: `seeds`. Entries with the same rows, other seeds, and models of one `lm` fill the rows together."""
    rows: Annotated[dict[RowName, HeadRow], Field(min_length=1)] = {"calm": HeadRow(), "no_pretraining": HeadRow(start="language_model")}
    """Rows of the tables, by the name of the variant. By default CALM, and the same without pretraining."""
    together: dict[RowName, Annotated[list[str], Field(min_length=2)]] = {}
    """More rows, by name: the answers of several variants of this entry, such as `[functionals_frozen, attention]`, averaged as logits, or
    as log-probabilities of a softmax. They are evaluated and not released."""
    release: bool = True
    """Keep a model for use, and register it."""

    @model_validator(mode="after")
    def has_a_model_to_release(self):
        """Networks for comparison are not released."""
        if self.release and all(row.network != "calm" for row in self.rows.values()):
            raise ValueError("release is true, but no row has network 'calm': set release: false")
        return self

    @model_validator(mode="after")
    def what_answers_together_is_there(self):
        """Variants are rows of this entry, and their common name is not one."""
        for name, variants in self.together.items():
            if name in self.rows:
                raise ValueError(f"together: '{name}' is a row already: choose another name")
            if unknown := [own for own in variants if own.removesuffix("_frozen") not in self.rows]:
                raise ValueError(f"together.{name}: '{unknown[0]}' is none of its rows ({', '.join(self.rows)}), with or without _frozen")
        return self

    @field_validator("rows")
    @classmethod
    def names_are_free(cls, rows: dict[str, HeadRow]) -> dict[str, HeadRow]:
        """Names in `_frozen` are made from the names here; those in `_known` say that tested speakers are known."""
        if reserved := [name for name in rows if name.endswith("_frozen")]:
            raise ValueError(f"'{reserved[0]}': names in _frozen are reserved for frozen heads, set the row's tuning: [frozen]")
        if wrong := [name for name, row in rows.items() if name.endswith("_known") != (row.normalise in OF_SPEAKERS)]:
            raise ValueError(f"'{wrong[0]}': names in _known are those of rows with normalise: speaker or tested_speaker")
        return rows


class Head(Optimiser):
    """Classification heads (4.6, 5.2, 5.3). "Unfrozen" settings apply where the network is trained with the head."""

    hidden: Positive | None = 64
    """Width of the hidden layer (5.2). null: none, the head is linear."""
    dropout: Share = 0.1
    """Dropout in training."""
    loss: Literal["bce", "softmax"] = "bce"
    """`bce`: each class is a question of its own (4.6). `softmax`: cross entropy over the classes, where each utterance has exactly one;
    one temperature, fitted on validation, calibrates its probabilities."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label that is spread evenly, in training."""
    decision: Literal["thresholds", "argmax"] = "thresholds"
    """How a released model decides, and which results the page leads with: thresholds tuned on validation, or the likeliest class, where
    each utterance has exactly one."""
    pooling: Pooling = "cls"
    """Input: [CLS] (5.2); with mean and deviation of the text outputs and of the acoustic outputs; or with those of SpecTran's blocks.
    `none`: the `functionals` alone, without the transformer, for few utterances of audio. `frames`: mean and deviation of the acoustic
    frames, weighted by attention that is learned with the head (arXiv 1803.10963), without the transformer and `functionals`; for
    modality audio, unfrozen."""
    frames_width: int = Field(256, ge=8, multiple_of=8)
    """`pooling: frames`: width of the layers."""
    members: Positive = 1
    """`pooling: frames`: networks that are trained side by side, from other initial weights, and whose logits are averaged."""
    functionals: Literal["whole", "thirds"] | None = None
    """What the heads also see of every channel of the acoustic frames. `whole`: mean, deviation and three quantiles over the utterance.
    `thirds`: and the mean of each third of it."""
    standardise: bool = False
    """Scale the inputs of a head to zero mean and unit deviation on the training split."""
    modalities: Annotated[list[Modality], Field(min_length=1)] = ["audio", "text", "both"]
    """Inputs to train heads on, where a row does not set its own."""
    tuning: Annotated[list[Tuning], Field(min_length=1)] = ["frozen", "unfrozen"]
    """Train heads on the frozen network, with the network, or both (4.6)."""
    first: Literal["all", "head"] = "all"
    """Unfrozen: train everything at once, or first the head alone on the frozen network (arXiv 2202.10054)."""
    train_spectran: bool = False
    """Unfrozen: whether SpecTran is trained too."""
    train_encoder: bool = False
    """Unfrozen: whether the blocks of the speech encoder above the first of `features.layers` are trained too, from that layer's states:
    all of them with [0, 4] of an encoder of four. Any family but w2v-BERT and Moonshine; with `spectran.normalise: corpus`."""
    encoder_rank: Positive | None = None
    """`train_encoder`: rank of low-rank adapters beside the linear layers of the blocks, which are trained in place of the blocks' own
    weights and added to these at the end (arXiv 2106.09685). null: the blocks' own weights."""
    encoder_rate: float | None = Field(None, gt=0, le=1)
    """`train_encoder`: learning rate of the encoder's blocks or adapters, as a share of that of heads. null: as `body_rate`."""
    train_words: bool = True
    """Unfrozen: whether the word embeddings are trained too, most of the parameters of a small model."""
    body_rate: float = Field(1.0, gt=0, le=1)
    """Learning rate of pretrained parts, as a share of that of heads and of newly initialised parts."""
    frozen_epochs: Positive = 60
    """Epochs on the frozen network, where they are cheap."""
    frozen_learning_rate: Rate = 1e-3
    """Highest learning rate on the frozen network."""
    frozen_fit: Literal["descent", "logistic"] = "descent"
    """How heads on the frozen network are trained: step by step as all others, or as a logistic regression, for few utterances. The
    latter needs `hidden: null` and `standardise: true`."""
    strengths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [0.0003, 0.001, 0.003, 0.01]
    """`frozen_fit: logistic`: inverse weights of the squared weights to try. The one that ranks validation best is taken."""
    mixup: float = Field(0, ge=0)
    """Unfrozen: what heads see of two utterances, and their labels, are mixed by shares of a Beta distribution with this parameter
    (arXiv 1710.09412). 0: not."""
    average_speeds: bool = False
    """Held-out utterances, and new audio, are also heard at the speeds of `features.speeds`, and the logits are averaged."""
    frozen_copies: int = Field(0, ge=0)
    """Augmented copies of each training utterance (see `augment`) that heads on the frozen network learn from too."""
    average: Share = 0.0
    """Share of the last epochs whose weights are averaged."""
    max_tokens: Positive = 512
    """Most tokens of text and audio together."""
    augment: Augment = Augment()
    workers: Annotated[Positive | None, RunTime()] = None
    """Heads trained at the same time; results do not depend on it. null: `compute.heads_per_gpu` on
    each GPU, or one per core but 8 at most."""

    @model_validator(mode="after")
    def regressions_are_linear(self):
        """A logistic regression has no hidden layer."""
        if self.frozen_fit == "logistic" and (self.hidden is not None or not self.standardise):
            raise ValueError("frozen_fit: logistic fits a linear head on standardised inputs: set hidden: null and standardise: true")
        return self

    @model_validator(mode="after")
    def heads_see_something(self):
        """Without the transformer, heads see functionals of audio."""
        if self.pooling == "none" and (not self.functionals or "text" in self.modalities):
            raise ValueError("pooling: none leaves functionals of audio alone: set functionals, and modalities: [audio]")
        return self

    @model_validator(mode="after")
    def frames_are_of_audio(self):
        """Attention over frames is learned with the head, on audio."""
        if self.pooling == "frames" and (self.modalities != ["audio"] or self.tuning != ["unfrozen"]):
            raise ValueError("pooling: frames is learned with the head, on audio: set modalities: [audio] and tuning: [unfrozen]")
        return self

    @model_validator(mode="after")
    def copies_differ(self):
        """Copies need an augmentation."""
        if self.frozen_copies and self.augment == Augment():
            raise ValueError("frozen_copies needs an augmentation, but augment changes nothing: set augment, or frozen_copies: 0")
        return self


class Transfer(Section):
    """Tests of a released model on the test split of another corpus, over the emotions that both have."""

    trained: Name
    """Entry of `heads` whose released model is tested."""
    tested: Name
    """Entry of `heads` on the other corpus, whose own model is shown beside it."""


class Evaluate(Section):
    """Baselines and metrics (B)."""

    baselines: list[Literal["chance"] | Functionals | OfKnownSpeakers] = ["chance", "egemaps", "logmel_functionals"]
    """Baselines to compare with. `encoder_functionals` are those of the states of `features.encoder`. With `_known`, the functionals of
    every speaker, tested ones too, are standardised by that speaker's own, as rows with `normalise: speaker` hear them."""
    bootstrap: int = Field(1000, ge=0)
    """Resamples of the test speakers for the confidence intervals."""
    threshold_resamples: int = Field(0, ge=0)
    """Tuned thresholds are the mean of the best ones of so many resamples of the validation split, which serves where it is small. 0: the
    best one of the split as it is."""
