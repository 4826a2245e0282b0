"""`params.yaml`, typed and checked: the only place where settings are read. Each says what it governs and where the paper fixes it."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from calm.audio.pauses import Pauses
from calm.corpora import FORMATS, check_options
from calm.corpora.limits import Limits

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Section(BaseModel):
    """A part of `params.yaml`: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Synthetic(Section):
    """One corpus of synthetic speech, written in a real corpus's layout."""

    format: Literal["mosei", "msp_podcast"]
    path: Path
    utterances: Annotated[int, Field(ge=60, le=400)]
    speakers: Annotated[int, Field(ge=20)]
    label_noise: Share = 0.08  # share of utterances whose label is replaced by another one
    seed: int


class CorpusSettings(Section):
    """One corpus: where it lies, in which layout, and the options of its module in `calm.corpora`."""

    format: Annotated[str, Field(json_schema_extra={"enum": list(FORMATS)})]
    path: Path
    synthetic: bool = False  # speech made by a machine: every figure from it says so
    options: dict = {}  # keyword arguments of the module's `read`

    @field_validator("format")
    @classmethod
    def format_exists(cls, format: str) -> str:
        """The format is one of `calm.corpora.FORMATS`."""
        if format not in FORMATS:
            raise ValueError(f"choose one of {', '.join(FORMATS)}")
        return format

    @model_validator(mode="after")
    def options_exist(self):
        """Options are those of the format's reader."""
        check_options(self.format, self.options)
        return self


class Model(Section):
    """One CALM: its language model, what it is pretrained on, and how it differs from the sections `spectran`, `calp`, `pretrain`."""

    language_model: str  # hub name, folder, or "minilm" for the packaged all-MiniLM-L6-v2
    layers: Positive | None = None  # use only the first so many layers of the language model
    pretrain_on: str = "."  # one corpus, or "." for every corpus of this file (tables 1, 2: in-domain, out-of-domain)
    lm: Name | None = None  # its language model's name in the tables, the same for models that are compared; null: the model's own name
    stands_for: Literal["tiny", "base"] | None = None  # whose rows of the paper's tables it fills
    aligned: bool = True  # false: no CALP, SpecTran stays as it was drawn (table 2, "MM-BERT pretraining only")
    spectran: dict = {}  # what differs from `spectran`
    calp: dict = {}  # what differs from `calp`
    pretrain: dict = {}  # what differs from `pretrain`


Modality = Literal["audio", "text", "both"]
Tuning = Literal["frozen", "unfrozen"]


class Row(Section):
    """One row of the tables: what its heads stand on. The default is CALM."""

    network: Literal["calm", "linear", "cnn", "joint_transformer"] = (
        "calm"  # the others are peers, never pretrained: calm/models/joint_transformer.py
    )
    start: Literal["pretrained", "calp", "language_model"] = "pretrained"  # after all pretraining; CALP only; nothing but the words
    labels: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of the labels that heads are trained on (A.3)
    modalities: list[Modality] | None = None  # null: those of `head`
    tuning: list[Tuning] | None = None  # null: that of `head`

    @model_validator(mode="after")
    def peers_are_trained_whole(self):
        """A peer has no pretrained weights that could be frozen, and takes both modalities."""
        if self.network != "calm" and (given := {"start", "modalities", "tuning"} & self.model_fields_set):
            raise ValueError(f"network '{self.network}' is trained whole and on both modalities: it has no {', '.join(sorted(given))}")
        return self

    def conditions(self, head: "Head") -> list[tuple[Tuning, Modality]]:
        """How the row's heads are trained, and on what."""
        if self.network != "calm":
            return [("unfrozen", "both")]
        return [(tuning, modality) for tuning in self.tuning or head.tuning for modality in self.modalities or head.modalities]


class Heads(Section):
    """Heads on one corpus that stand on one model."""

    corpus: Name  # one of `targets`
    model: Name  # one of `models`
    # rows of the tables, by the names of their variants; where none are given: CALM, and the same without pretraining
    rows: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")], Row], Field(min_length=1)] = {
        "calm": Row(),
        "no_pretraining": Row(start="language_model"),
    }
    release: bool = True  # keep a model for use, and register it

    @model_validator(mode="after")
    def has_what_is_released(self):
        """Peers are for comparison only."""
        if self.release and all(row.network != "calm" for row in self.rows.values()):
            raise ValueError("release is true, and no row is of network 'calm': set release: false")
        return self

    @field_validator("rows")
    @classmethod
    def names_are_free(cls, rows: dict[str, Row]) -> dict[str, Row]:
        """Rows of frozen heads get their names from the rows here."""
        if taken := [name for name in rows if name.endswith("_frozen")]:
            raise ValueError(f"'{taken[0]}': names in _frozen are those of frozen heads, set the row's tuning: [frozen]")
        return rows


class Cut(Section):
    """Recordings without segments and without text are cut at their pauses (4.3). All in seconds."""

    longer_than: Annotated[float, Field(gt=0)] = Pauses.longer_than  # only such recordings
    shortest: Annotated[float, Field(gt=0)] = Pauses.shortest  # shorter pieces join their neighbour, where that is not too long then
    longest: Annotated[float, Field(gt=1)] = Pauses.longest
    pause: Annotated[float, Field(ge=0.1)] = Pauses.pause  # silences from here on part two pieces
    margin: Annotated[float, Field(ge=0)] = Pauses.margin  # silence that stays around the speech


class Ingest(Section):
    min_seconds: Annotated[float, Field(gt=0)] = Limits.min_seconds
    max_seconds: Annotated[float, Field(gt=0)] = Limits.max_seconds
    max_dropped: Share = Limits.max_dropped  # a corpus that loses a larger share of its rows stops the run
    cut: Cut | None = Cut()  # null: recordings are never cut


class Transcribe(Section):
    engine: Literal["faster-whisper", "openai-whisper"] = "faster-whisper"
    model: str = "tiny.en"  # "tiny.en" of faster-whisper comes with a package; others by hub name or folder
    compute_type: Literal["auto", "int8", "float16", "float32"] = "auto"  # auto: int8 on CPU, float16 on GPU
    beam: Positive = 1
    batch: Positive | None = None  # clips of about one length at once; null: 8 on CPU, 16 on GPU
    language: str | None = "en"
    window_seconds: Annotated[float, Field(ge=1, le=30)] = 30  # audio context of the encoder; 30 is what Whisper was trained with
    check: int = Field(20, ge=0)  # of the utterances with a text of their own, transcribe so many to measure the WER
    no_speech_threshold: Share = 0.6
    workers: Positive | None = None  # processes of one thread each; null: one a core on CPU, one a device on GPU


class Features(Section):
    sample_rate: Positive = 16000
    mels: Positive = 64  # 5.1
    window_ms: Positive = 25
    hop_ms: Positive = 10  # 5.1
    low_hz: float = Field(20, ge=0)
    high_hz: float = Field(7600, gt=0)
    trim_db: float | None = Field(None, gt=0)  # cut leading and trailing frames that lie so far below the loudest; null: keep all
    shard: Positive = 512  # utterances a Parquet shard
    workers: Positive | None = None  # null: one process a core

    @model_validator(mode="after")
    def bands_fit(self):
        """The bands lie below half of the sample rate."""
        if not self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(
                f"features.high_hz is {self.high_hz}: allowed is above low_hz, {self.low_hz}, up to {self.sample_rate / 2:.0f}"
            )
        return self


class SpecTranSettings(Section):
    block: Positive = 50  # frames an acoustic block (5.1)
    hop: Positive = 30  # frames from block to block (5.1)
    patch: tuple[Positive, Positive] = (10, 16)  # frames x mels (5.1; tables 11, 12)
    stride: tuple[Positive, Positive] = (5, 8)  # (5.1)
    layers: Positive = 2
    width: Positive | None = 128  # null: the language model's width, no projection
    pooling: Literal["cls", "mean", "bands"] = "cls"  # "the first output embedding" (4.2); bands: mean and spread over time, a band
    dropout: Share = 0.0
    normalise: Literal["corpus", "utterance"] = "corpus"  # log-mel by the training split's statistics, or by each utterance's

    @field_validator("width")
    @classmethod
    def heads_fit(cls, width: int | None) -> int | None:
        """Attention heads are 64 wide."""
        if width is not None and width > 64 and width % 64:
            raise ValueError("must be 64 or less, or a multiple of 64, the width of an attention head")
        return width

    @model_validator(mode="after")
    def patch_fits(self):
        """A patch lies in a block."""
        if self.patch[0] > self.block:
            raise ValueError(f"spectran.patch is {list(self.patch)}: its frames must be no more than spectran.block, {self.block}")
        return self


class Augment(Section):
    """Changes of the log-mel in training only; each is off at 0. Pairs of CALP may be augmented (4.3)."""

    time_masks: int = Field(0, ge=0)
    time_mask_frames: Positive = 10
    mel_masks: int = Field(0, ge=0)
    mel_mask_bands: Positive = 8
    speed: float = Field(0, ge=0, lt=0.5)  # tempo changed by up to this share
    warp: float = Field(0, ge=0, lt=0.5)  # mel axis stretched by up to this share (vocal tract length)
    gain_db: float = Field(0, ge=0)


class Optimiser(Section):
    epochs: Positive
    batch: Positive  # utterances a step
    learning_rate: Rate
    weight_decay: float = Field(0.01, ge=0)
    warmup: Share = 0.1  # share of the steps
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    checkpoint_minutes: float = Field(10, gt=0)  # a stopped stage goes on from its last checkpoint


class Calp(Optimiser):
    alpha: float = Field(0.25, ge=0)  # weight of the audio-language term (4.3); 0: "without CALP" (A.1)
    temperature: float = Field(0.07, gt=0)
    learn_temperature: bool = False
    keep_positive: bool = False  # false: the positive is left out of the denominator, as eq. 2 prints it; true: InfoNCE
    symmetric: bool = False  # false: anchors are the audio blocks only (eq. 2)
    text_vector: Literal["last_mean", "input_mean", "cls"] = "last_mean"  # T_i, from the frozen language model
    projection: Positive | None = 128  # one linear head a modality, for the loss only (3.1); null: none
    ignore_same_text: bool = False  # true: utterances that say the same are no negatives of each other in the text term
    short: Literal["shift", "drop"] = "shift"  # utterances with fewer than two blocks: pair a block with its own time-shifted copy
    train_language_model: bool = False  # "minimal training is performed for the lexical modality" (6.2)
    augment: Augment = Augment()


class Pretrain(Optimiser):
    mask_words: Share = 0.15  # 4.5
    mask_style: Literal["mask", "80/10/10"] = "mask"
    mask_audio: Share = 0.10  # 4.5
    mask_audio_of: Literal["starts", "all"] = "starts"  # 10 % are starts of spans (about 27 % masked), or 10 % are masked in all
    mask_audio_span: Positive = 3  # a block and the following 2 (4.5)
    train_spectran: bool = False
    modality: Literal["both", "audio"] = "both"  # audio: masked audio alone, no words (A.1)
    max_tokens: Positive = 512  # text and audio together; what is cut is reported


class Head(Optimiser):
    hidden: Positive = 64  # 5.2
    dropout: Share = 0.1
    # [CLS] (5.2); beside it mean and spread, of the acoustic and of the text outputs, or of the blocks that SpecTran encoded
    pooling: Literal["cls", "cls_mean_std", "cls_blocks"] = "cls"
    standardise: bool = False  # inputs of a head to zero mean and unit deviation on the training split
    modalities: Annotated[list[Modality], Field(min_length=1)] = ["audio", "text", "both"]
    tuning: Annotated[list[Tuning], Field(min_length=1)] = ["frozen", "unfrozen"]  # 4.6
    first: Literal["all", "head"] = "all"  # unfrozen: all is trained at once; or the head alone first, as a frozen one (arXiv 2202.10054)
    train_spectran: bool = False  # unfrozen only
    train_words: bool = True  # unfrozen only; false: the word embeddings stay as they are, most of a small model's parameters
    body_rate: float = Field(1.0, gt=0, le=1)  # learning rate of what was pretrained, as a share of that of heads and of fresh front ends
    frozen_epochs: Positive = 60  # heads alone cost little
    frozen_learning_rate: Rate = 1e-3
    frozen_copies: int = Field(0, ge=0)  # of every training utterance, changed as `augment` says: frozen heads learn from these too
    average: Share = 0.0  # share of the last epochs whose weights are averaged
    max_tokens: Positive = 512
    augment: Augment = Augment()
    workers: Positive | None = None  # heads trained at once; null: one a GPU, else one a core, 8 at most

    @model_validator(mode="after")
    def _copies_differ(self):
        if self.frozen_copies and self.augment == Augment():
            raise ValueError("frozen_copies are changed as augment says, which says nothing: set one, or frozen_copies: 0")
        return self


class Transfer(Section):
    """A released model on the test split of another corpus, over the emotions that both know."""

    trained: Name  # heads whose released model is tested
    tested: Name  # heads of the other corpus, whose own model is shown beside it


class Evaluate(Section):
    baselines: list[Literal["chance", "egemaps", "logmel_functionals"]] = ["chance", "egemaps", "logmel_functionals"]
    bootstrap: int = Field(1000, ge=0)


class Report(Section):
    examples: int = Field(0, ge=0, le=12)  # utterances of each corpus to hear in the page; its licence may forbid to pass such a page on


class Tracking(Section):
    uri: str = "sqlite:///mlflow.db"  # MLFLOW_TRACKING_URI, where it is set, goes before
    system_metrics_seconds: Positive = 5


class Compute(Section):
    """Where stages run. No setting of the method is among them, so a change reruns nothing: docs/scale.md."""

    dask: str | None = None  # scheduler that runs the shards of features, transcribe and embed, "tcp://host:8786"; null: processes here
    devices: dict[Literal["calp", "pretrain"], Positive] = {}  # processes of a host, one a GPU, that train a model by torchrun; else 1
    torchrun: list[str] = []  # further options of torchrun for several hosts: [--nnodes=2, --rdzv-backend=c10d, --rdzv-endpoint=host:29500]


class Flows(Section):
    """Prefect: when the flows run, and how many stages run at once (`pipeline/flows`)."""

    timezone: str = "UTC"  # of the schedules
    rebuild: str | None = "0 2 * * *"  # cron's five fields; null: only when asked
    study: str | None = "0 4 * * 0"  # cron
    study_recipe: Path = Path("recipes/study.yaml")  # settings of the flow `study`, in the form of this file
    score_new: str | None = "*/5 * * * *"
    cpu: Positive | None = None  # stages at once that need no GPU; null: one for every two cores, and at least 2
    gpu: Positive | None = None  # slots of the limit "gpu"; null: as many as there are GPUs, 1 where there is none
    retries: int = Field(2, ge=0)  # of a failed stage, which goes on from its last checkpoint
    retry_seconds: Annotated[float, Field(gt=0)] = 10  # before the first retry; twice as long before each further one
    stop_seconds: Annotated[float, Field(gt=0)] = 60  # that a stopped stage has to write its checkpoint
    inbox: Path = Path("data/inbox")  # audio that `score_new` scores
    scores: Path = Path("data/scores")  # its Parquet table
    model: str | None = None  # what it scores with: models:/name@alias or a folder; null: the champion of the first of targets
    work_pool: str = "calm"  # that `deploy` deploys to
    prefect_port: Positive = 4200
    mlflow_port: Positive = 5000
    prefect_database: str | None = None  # "postgresql+asyncpg://..."; null: SQLite under data/servers
    mlflow_database: str | None = None  # "postgresql://..."; null: the SQLite file of tracking.uri


class Settings(Section):
    """All of `params.yaml`."""

    title: str
    seeds: Annotated[list[int], Field(min_length=1)]
    synthetic: dict[Name, Synthetic] = {}
    corpora: Annotated[dict[Name, CorpusSettings], Field(min_length=1)]
    targets: Annotated[list[Name], Field(min_length=1)]  # corpora whose labels are learned
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    heads: Annotated[dict[Name, Heads], Field(min_length=1)]
    transfer: dict[Name, Transfer] = {}
    ingest: Ingest
    transcribe: Transcribe
    features: Features
    spectran: SpecTranSettings
    calp: Calp
    pretrain: Pretrain
    head: Head
    head_of: dict[Name, dict] = {}  # by target, what differs from `head` (5.2 and 5.3 train with other rates and batches)
    evaluate: Evaluate
    report: Report = Report()
    tracking: Tracking
    compute: Compute = Compute()
    flows: Flows = Flows()

    @field_validator("seeds")
    @classmethod
    def seeds_differ(cls, seeds: list[int]) -> list[int]:
        """A seed that stands twice would count one result twice."""
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        return seeds

    @model_validator(mode="after")
    def patch_fits_mels(self):
        """A patch lies in the bands that there are."""
        _patch_fits_mels(self.spectran, self.features.mels, "spectran")
        return self

    @model_validator(mode="after")
    def names_exist(self):
        """Every name that one section uses is defined in another."""
        for target in self.targets:
            if target not in self.corpora:
                raise ValueError(f"targets: '{target}' is none of corpora ({', '.join(self.corpora)})")
        if "baselines" in self.models:
            raise ValueError("models: 'baselines' is the name of the baselines' folder, give the model another")
        for name, model in self.models.items():
            if model.pretrain_on != "." and model.pretrain_on not in self.corpora:
                raise ValueError(
                    f"models.{name}.pretrain_on: '{model.pretrain_on}' is none of corpora ({', '.join(self.corpora)}) and not '.'"
                )
        return self

    @model_validator(mode="after")
    def heads_exist(self):
        """Heads stand on models and corpora that there are, each once, and every target has some."""
        rows, places = Counter(), Counter()
        for name, heads in self.heads.items():
            for key, known in (("corpus", self.targets), ("model", list(self.models))):
                if getattr(heads, key) not in known:
                    where = "targets" if key == "corpus" else "models"
                    raise ValueError(f"heads.{name}.{key}: '{getattr(heads, key)}' is none of {where} ({', '.join(known)})")
            rows.update((heads.corpus, self.lm(heads.model), row) for row in heads.rows)
            places.update([(heads.corpus, heads.model)])
        for (corpus, lm, row), times in rows.items():
            if times > 1:
                raise ValueError(f"heads: the row '{row}' of {lm} on {corpus} is there {times} times: give each its own name")
        for (corpus, model), times in places.items():
            if times > 1:
                raise ValueError(f"heads: {times} entries are of {corpus} and {model}: put their rows into one")
        if bare := [target for target in self.targets if not any(heads.corpus == target for heads in self.heads.values())]:
            raise ValueError(f"heads: none is of {', '.join(bare)}, which targets name")
        for name, transfer in self.transfer.items():
            for key, heads in transfer:
                if heads not in self.heads:
                    raise ValueError(f"transfer.{name}.{key}: '{heads}' is none of heads ({', '.join(self.heads)})")
                if not self.heads[heads].release:
                    raise ValueError(f"transfer.{name}.{key}: '{heads}' has release: false, so no model of it is kept")
            if self.heads[transfer.trained].corpus == self.heads[transfer.tested].corpus:
                raise ValueError(f"transfer.{name}: '{transfer.trained}' and '{transfer.tested}' are of one corpus")
        return self

    @model_validator(mode="after")
    def models_differ_validly(self):
        """What a model changes is checked as its section is."""
        for name in self.models:
            for section in ("spectran", "calp", "pretrain"):
                _checked(f"models.{name}.{section}", lambda name=name, section=section: self._of_model(name, section))
            _patch_fits_mels(self._of_model(name, "spectran"), self.features.mels, f"models.{name}.spectran")
        return self

    @model_validator(mode="after")
    def batches_can_be_shared(self):
        """Processes that train together take equal parts of a batch."""
        for stage, processes in self.compute.devices.items():
            for batch in {self._of_model(name, stage).batch for name in self.models}:
                if batch % processes:
                    raise ValueError(f"compute.devices.{stage} is {processes}: it must divide {stage}.batch, {batch}, which they share")
        return self

    @model_validator(mode="after")
    def heads_differ_validly(self):
        """What `head_of` changes is checked as `head` is."""
        for target in self.head_of:
            if target not in self.targets:
                raise ValueError(f"head_of: '{target}' is none of targets ({', '.join(self.targets)})")
            _checked(f"head_of.{target}", lambda target=target: self.for_target(target))
        return self

    def for_target(self, corpus: str) -> "Settings":
        """The settings with the head's own for one target."""
        head = Head.model_validate(self.head.model_dump() | self.head_of.get(corpus, {}))
        return self.model_copy(update={"head": head})

    def for_model(self, name: str) -> "Settings":
        """The settings with the sections of one model's own."""
        return self.model_copy(update={section: self._of_model(name, section) for section in ("spectran", "calp", "pretrain")})

    def _of_model(self, name: str, section: str) -> Section:
        given = getattr(self, section)
        return type(given).model_validate(given.model_dump() | getattr(self.models[name], section))

    def lm(self, model: str) -> str:
        """Name of a model's language model in the tables."""
        return self.models[model].lm or model

    def pretraining_corpora(self, model: str) -> list[str]:
        """Names of the corpora that a model is pretrained on."""
        on = self.models[model].pretrain_on
        return list(self.corpora) if on == "." else [on]


def _checked(where: str, made: Callable[[], object]) -> None:
    """Make a section that changes another; what is wrong in it is told by the key that is wrong."""
    try:
        made()
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(str(part) for part in item["loc"])
        raise ValueError(f"{where}{'.' if key else ''}{key} is {item['input']!r}: {item['msg'].removeprefix('Value error, ')}") from None


def _patch_fits_mels(section: SpecTranSettings, mels: int, where: str) -> None:
    if section.patch[1] > mels:
        raise ValueError(f"{where}.patch is {list(section.patch)}: its mels must be no more than features.mels, {mels}")


def results_only(section: BaseModel) -> dict:
    """A section's values as plain data, without those that never change a result."""
    return (
        {
            key: results_only(value) if isinstance(value, BaseModel) else value
            for key, value in ((key, getattr(section, key)) for key in type(section).model_fields)
            if key not in ("workers", "checkpoint_minutes")
        }
        if False
        else _without(section.model_dump(mode="json"))
    )


def _without(value):
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in ("workers", "checkpoint_minutes")}
    return value


class SettingsError(ValueError):
    """`params.yaml` is wrong: names the key, what was given and what is allowed."""


def load(path: Path = Path("params.yaml")) -> Settings:
    """Read and check all settings. Raises SettingsError with a line for each wrong key."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing: copy one of recipes/*.yaml to it") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(path, item) for item in error.errors())) from None


def _line(path: Path, item: dict) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{path}: {key}: there is no such setting"
    if item["type"] == "missing":
        return f"{path}: {key} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if isinstance(item["input"], dict):  # a section as a whole: its message names what is wrong in it
        return f"{path}: {key + ': ' if key else ''}{message}"
    return f"{path}: {key} is {item['input']!r}: {message[0].lower()}{message[1:]}"


def load_or_exit() -> Settings:
    """For the mains of the stages: settings, or the faults on stderr and exit code 2."""
    try:
        return load()
    except SettingsError as error:
        sys.exit(f"{error}\nNothing was run.")


def main() -> None:
    """`python -m pipeline.settings`: check `params.yaml`; the file it leaves never changes, so only faults stop a rebuild."""
    load_or_exit()
    passed = Path("data/settings.ok")
    passed.parent.mkdir(exist_ok=True)
    passed.write_text("params.yaml was read and checked\n", encoding="utf-8")


if __name__ == "__main__":
    main()
