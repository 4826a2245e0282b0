"""All settings together, and the checks that concern more than one section."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.settings.base import Name, Overrides, Section
from pipeline.settings.corpora import CorpusSettings, Features, Ingest, Synthetic, Transcribe
from pipeline.settings.execution import Compute, Flows, Report, Tracking
from pipeline.settings.heads import Evaluate, Head, Heads, Transfer
from pipeline.settings.models import NO_CORPUS, Augment, Calp, Model, Pretrain, SpecTranSettings


class Settings(Section):
    """All of `params.yaml`."""

    title: str
    """Title of the page of results."""
    seeds: Annotated[list[int], Field(min_length=1)]
    """Seeds of the heads, one training per seed. The first one is also the seed of pretraining, where a model sets no `seed`."""
    synthetic: dict[Name, Synthetic] = {}
    corpora: Annotated[dict[Name, CorpusSettings], Field(min_length=1)]
    targets: Annotated[list[Name], Field(min_length=1)]
    """Corpora whose labels are learned."""
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
    head_of: Annotated[dict[Name, dict], Overrides(Head, by_name=True)] = {}
    """Values that differ from `head`, by target (5.2 and 5.3 use other learning rates and batches)."""
    evaluate: Evaluate
    report: Report = Report()
    tracking: Tracking
    compute: Compute = Compute()
    flows: Flows = Flows()

    @field_validator("seeds")
    @classmethod
    def seeds_differ(cls, seeds: list[int]) -> list[int]:
        """The same seed twice would count one result twice."""
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        return seeds

    @model_validator(mode="after")
    def synthetic_corpora_exist(self):
        """Each corpus that is synthesised is used."""
        for name, synthetic in self.synthetic.items():
            if name not in self.corpora or self.corpora[name].path != synthetic.path:
                raise ValueError(f"synthetic.{name}: corpora has no '{name}' with its path, {synthetic.path}")
        return self

    @model_validator(mode="after")
    def corpora_exist(self):
        """Targets and models name corpora."""
        if NO_CORPUS in self.corpora:
            raise ValueError(f"corpora: '{NO_CORPUS}' stands for no corpus in models.<name>.pretrain_on, choose another name")
        for target in self.targets:
            _check_name(target, self.corpora, "targets", "corpora")
        for name, model in self.models.items():
            if name == "baselines":
                raise ValueError("models: 'baselines' is the folder of the baselines, choose another name for the model")
            if model.pretrain_on not in (".", NO_CORPUS):
                _check_name(model.pretrain_on, self.corpora, f"models.{name}.pretrain_on", "corpora")
        return self

    @model_validator(mode="after")
    def heads_exist_once(self):
        """Heads name targets and models; each seed of a row, and each pair of corpus and model, occurs once; every target has heads."""
        rows, pairs = Counter(), Counter()
        for name, heads in self.heads.items():
            _check_name(heads.corpus, self.targets, f"heads.{name}.corpus", "targets")
            _check_name(heads.model, self.models, f"heads.{name}.model", "models")
            seeds = self.seeds_of(name)
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"heads.{name}.seeds must be different")
            rows.update((heads.corpus, self.lm(heads.model), row, seed) for row in heads.rows for seed in seeds)
            pairs.update([(heads.corpus, heads.model)])
        for (corpus, lm, row, seed), count in rows.items():
            if count > 1:
                raise ValueError(
                    f"heads: the row '{row}' of {lm} on {corpus} occurs {count} times with seed {seed}: give each its own name, or seeds"
                )
        for (corpus, model), count in pairs.items():
            if count > 1:
                raise ValueError(f"heads: {count} entries have corpus {corpus} and model {model}: put their rows into one")
        if missing := [target for target in self.targets if not any(heads.corpus == target for heads in self.heads.values())]:
            raise ValueError(f"heads: no entry has corpus {', '.join(missing)}, which is one of targets")
        return self

    @model_validator(mode="after")
    def pretraining_never_hears_who_is_tested(self):
        """A model whose heads are trained in folds is not pretrained on their corpus, all of whose speakers are tested in some fold."""
        for name, heads in self.heads.items():
            if self.corpora[heads.corpus].folds is not None and heads.corpus in self.pretraining_corpora(heads.model):
                raise ValueError(
                    f"heads.{name}: model '{heads.model}' is pretrained on {heads.corpus}, whose speakers are tested in folds: set "
                    f"models.{heads.model}.pretrain_on to another corpus, or to {NO_CORPUS} with rows that have start: language_model"
                )
        return self

    @model_validator(mode="after")
    def rows_have_a_start(self):
        """Without pretraining there are no pretrained weights to start from."""
        for name, heads in self.heads.items():
            for row_name, row in heads.rows.items():
                if not self.pretraining_corpora(heads.model) and row.network == "calm" and row.start != "language_model":
                    raise ValueError(
                        f"heads.{name}.rows.{row_name}: model '{heads.model}' is not pretrained (pretrain_on: {NO_CORPUS}): "
                        "set the row's start: language_model"
                    )
        return self

    @model_validator(mode="after")
    def transfers_are_possible(self):
        """A transfer is from one released model to another, of different corpora."""
        for name, transfer in self.transfer.items():
            for key, heads in transfer:
                _check_name(heads, self.heads, f"transfer.{name}.{key}", "heads")
                if not self.heads[heads].release:
                    raise ValueError(f"transfer.{name}.{key}: '{heads}' has release: false, so its model is not kept")
            if self.heads[transfer.trained].corpus == self.heads[transfer.tested].corpus:
                raise ValueError(f"transfer.{name}: '{transfer.trained}' and '{transfer.tested}' are of the same corpus")
            if self.corpora[self.heads[transfer.tested].corpus].folds is not None:
                raise ValueError(f"transfer.{name}: the corpus of '{transfer.tested}' has folds, and no test split to transfer to")
        return self

    @model_validator(mode="after")
    def encoder_is_there(self):
        """Functionals of an encoder's states need an encoder."""
        if any(name.startswith("encoder_") for name in self.evaluate.baselines) and not self.features.encoder:
            raise ValueError("evaluate.baselines has encoder_functionals, but features.encoder names no encoder: set it to whisper-tiny.en")
        return self

    @model_validator(mode="after")
    def overrides_of_models_are_valid(self):
        """A section with a model's own values passes the checks of the section."""
        for name in self.models:
            for section in ("spectran", "calp", "pretrain"):
                _check_section(f"models.{name}.{section}", lambda name=name, section=section: self._of_model(name, section))
            _check_frames(self._of_model(name, "spectran"), self.features, f"models.{name}.spectran")
        return self

    @model_validator(mode="after")
    def batches_can_be_shared(self):
        """Processes that train together take equal parts of a batch."""
        for stage in {"calp", "pretrain"} & set(self.compute.devices):
            processes = self.compute.devices[stage]
            for batch in {self._of_model(name, stage).batch for name in self.models}:
                if batch % processes:
                    raise ValueError(f"compute.devices.{stage} is {processes}: it must divide {stage}.batch, {batch}, which they share")
        return self

    @model_validator(mode="after")
    def overrides_of_heads_are_valid(self):
        """The section `head` with a target's own values passes the checks of the section."""
        for target in self.head_of:
            _check_name(target, self.targets, "head_of", "targets")
            _check_section(f"head_of.{target}", lambda target=target: self.for_target(target))
        return self

    @model_validator(mode="after")
    def augmentation_fits_the_frames(self):
        """Gain and vocal tract length are changes of log-mel, and mean nothing on the states of an encoder."""
        for name in self.models:
            _check_augment(self._of_model(name, "calp").augment, self._of_model(name, "spectran"), f"calp.augment of the model {name}")
        for heads in self.heads.values():
            spectran, target = self._of_model(heads.model, "spectran"), self.for_target(heads.corpus).head
            _check_augment(target.augment, spectran, f"head.augment of {heads.corpus}")
        return self

    @model_validator(mode="after")
    def encoders_can_be_trained_by_calp(self):
        """CALP trains an encoder that its frames come from, and masks no blocks, which are cut after it."""
        for name in self.models:
            section, spectran, key = self._of_model(name, "calp"), self._of_model(name, "spectran"), f"calp of the model {name}"
            if not self._calp_trains_encoder(name):
                continue
            if spectran.frames != "encoder":
                raise ValueError(f"{key}: train_encoder is true, but its spectran.frames is {spectran.frames}")
            _check_trained_encoder(spectran, self.features, key)
            if section.augment.time_masks or section.augment.mel_masks:
                raise ValueError(f"{key}: augment masks blocks, which train_encoder makes anew: set time_masks: 0 and mel_masks: 0")
        return self

    @model_validator(mode="after")
    def heads_hear_what_they_ask_for(self):
        """An encoder is trained, and copies are listened to, only where there are some."""
        for corpus in self.targets:
            head, entries = self.for_target(corpus).head, [heads for heads in self.heads.values() if heads.corpus == corpus]
            sections = [self._of_model(heads.model, "spectran") for heads in entries]
            heard = [section for section in sections if section.frames == "encoder"]
            _check_hearing(head, self.features, heard, f"head of {corpus}")
            for heads, spectran in zip(entries, sections, strict=True):
                _check_rows(heads, head, spectran)
            if head.train_encoder and any(row.normalise not in (None, "corpus") for heads in entries for row in heads.rows.values()):
                raise ValueError(f"head of {corpus}: train_encoder needs the states as they were: set its rows' normalise: corpus, or none")
        return self

    def _calp_trains_encoder(self, name: str) -> bool:
        return self._of_model(name, "calp").train_encoder and self.models[name].aligned and bool(self.pretraining_corpora(name))

    def trains_encoder(self) -> bool:
        """Whether CALP or heads train the blocks of the speech encoder."""
        heads = (self.for_target(corpus).head for corpus in self.targets)
        return any(map(self._calp_trains_encoder, self.models)) or any(head.train_encoder for head in heads)

    def for_target(self, corpus: str) -> "Settings":
        """The settings with a target's own values in `head`."""
        head = Head.model_validate(self.head.model_dump() | self.head_of.get(corpus, {}))
        return self.model_copy(update={"head": head})

    def for_model(self, name: str) -> "Settings":
        """The settings with a model's own values in `spectran`, `calp` and `pretrain`."""
        return self.model_copy(update={section: self._of_model(name, section) for section in ("spectran", "calp", "pretrain")})

    def _of_model(self, name: str, section: str) -> Section:
        shared = getattr(self, section)
        values = shared.model_dump() | getattr(self.models[name], section)
        if section == "spectran" and values["frames"] is None:
            values["frames"] = "encoder" if self.features.encoder else "log-mel"
        return type(shared).model_validate(values)

    def pretraining_seed(self, model: str) -> int:
        """Seed of a model's pretraining."""
        own = self.models[model].seed
        return self.seeds[0] if own is None else own

    def seeds_of(self, heads: str) -> list[int]:
        """Seeds of an entry of `heads`."""
        return self.heads[heads].seeds or self.seeds

    def lm(self, model: str) -> str:
        """Name of a model's language model in the tables."""
        return self.models[model].lm or model

    def pretraining_corpora(self, model: str) -> list[str]:
        """Names of the corpora that a model is pretrained on; [] without pretraining."""
        corpus = self.models[model].pretrain_on
        if corpus == NO_CORPUS:
            return []
        return list(self.corpora) if corpus == "." else [corpus]

    def reads(self, corpus: str) -> bool:
        """Whether anything learns from a corpus's texts, or is tested with them: pretraining, or a head that does not hear audio alone."""
        if any(corpus in self.pretraining_corpora(model) for model in self.models):
            return True
        tested = {transfer.trained for transfer in self.transfer.values() if self.heads[transfer.tested].corpus == corpus}
        entries = [heads for name, heads in self.heads.items() if heads.corpus == corpus or name in tested]
        modalities = (row.trained_with(self.for_target(heads.corpus).head) for heads in entries for row in heads.rows.values())
        return any(modality != "audio" for pairs in modalities for _, modality in pairs)


def _check_name(name: str, known: Iterable[str], key: str, where: str) -> None:
    if name not in known:
        raise ValueError(f"{key}: '{name}' is not one of {where} ({', '.join(known)})")


def _check_section(key: str, build: Callable[[], object]) -> None:
    """Build a section with overrides. Raises ValueError that names the key of the first wrong value."""
    try:
        build()
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join([key, *map(str, fault["loc"])])
        raise ValueError(f"{key} is {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}") from None


def _check_augment(augment: Augment, section: SpecTranSettings, key: str) -> None:
    if section.frames == "encoder" and (wrong := [name for name in ("gain_db", "warp") if getattr(augment, name)]):
        raise ValueError(
            f"{key}: {' and '.join(wrong)} would change the states of features.encoder as if they were log-mel: set 0 (features.speeds "
            "makes copies of the audio itself)"
        )


def _check_hearing(head: Head, features: Features, heard: list[SpecTranSettings], key: str) -> None:
    """`heard`: SpecTran's settings of the models of the heads that have an encoder's frames."""
    if head.train_encoder and not heard:
        raise ValueError(f"{key}: train_encoder is true, but no model of it has spectran.frames: encoder")
    for section in heard if head.train_encoder else ():
        _check_trained_encoder(section, features, key)
    if head.average_speeds and not (heard and features.speeds):
        raise ValueError(f"{key}: average_speeds is true, but no model of it hears copies: set features.encoder and features.speeds")


def _check_rows(heads: Heads, head: Head, spectran: SpecTranSettings) -> None:
    """Heads by the corpus and by the speaker are averaged where there are two of them, and linear."""
    for name, row in heads.rows.items():
        if not row.by_speaker_too:
            continue
        if (row.normalise or spectran.normalise) not in ("corpus", "tested_speaker"):
            raise ValueError(
                f"row {name}: by_speaker_too adds heads by the speaker to those by the corpus: set its normalise: corpus, or none"
            )
        if head.frozen_fit != "logistic" or any(tuning != "frozen" for tuning, _ in row.trained_with(head)):
            raise ValueError(
                f"row {name}: by_speaker_too averages logistic regressions: set head.frozen_fit: logistic, and tuning: [frozen]"
            )


def _check_trained_encoder(section: SpecTranSettings, features: Features, key: str) -> None:
    layers = features.layers
    if len(layers) < 2 or any(layer >= after for layer, after in pairwise(layers)):
        raise ValueError(
            f"{key}: train_encoder trains the blocks above the first of several layers: features.layers is {layers}, set it in ascending "
            "order, as [0, 4]"
        )
    if section.normalise != "corpus":
        raise ValueError(f"{key}: train_encoder needs the states as they were before they were normalised: set spectran.normalise: corpus")


def _check_frames(section: SpecTranSettings, features: Features, key: str) -> None:
    if section.frames == "encoder" and not features.encoder:
        raise ValueError(
            f"{key}.frames is encoder, but features.encoder names none: set it to whisper-tiny.en, a folder or a name on the hub"
        )
    if section.encoder_layers == "learned_mean" and (section.frames != "encoder" or len(features.layers) < 2):
        raise ValueError(f"{key}.encoder_layers is learned_mean, which needs an encoder's frames with several features.layers")
    if section.frames == "log-mel" and section.patch[1] > features.mels:
        raise ValueError(f"{key}.patch is {list(section.patch)}: its channels must be no more than features.mels, {features.mels}")
