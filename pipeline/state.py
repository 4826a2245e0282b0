"""What a stage depends on besides its data: the settings that it sees, resolved, and the code that it runs.

The stage `check` writes both to one small file a stage, `data/state/<stage>.json`, which `dvc.yaml` lists in place of source files and
settings. A stage sees no other settings than those of its file, so that none can change a result without a word.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from calm import corpora
from pipeline import code, forgetting
from pipeline.settings import Settings, results_only

EXECUTION = ("tracking", "compute", "flows")  # sections that never change a result: every stage sees them


class Visible:
    """The sections of the settings that a stage sees. Raises AttributeError for any other one."""

    def __init__(self, stage: str, settings: Settings, sections: dict[str, Any]):
        self.stage, self.sections = stage, sections
        self.__dict__.update({name: getattr(settings, name) for name in EXECUTION} | sections)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"the stage {self.stage} does not see the setting '{name}': list it in pipeline/state.py")

    def is_synthetic(self, corpora: list[str]) -> bool:
        """Whether any of the corpora is synthetic speech."""
        return any(self.corpora[name].synthetic for name in corpora)


@dataclass(frozen=True)
class Stage:
    """A stage of `dvc.yaml`.

    Args:
        over: the section whose names it is repeated over; None: it runs once.
        sections: the sections that it sees, from all settings and a name of `over`.
        gpu: whether most of it is computed on a GPU if there is one; `meta: {limit: gpu}` of `dvc.yaml`.
        templates: files beside the code that it fills in, below the folder of the package `pipeline`.
    """

    over: str | None
    sections: Callable[[Settings, str], dict[str, Any]]
    gpu: bool = False
    templates: tuple[str, ...] = ()


def visible(settings: Settings, stage: str, name: str = "") -> Visible:
    """What a stage sees of the settings, with a model's and a target's own values in place."""
    return Visible(stage, settings, STAGES[stage].sections(settings, name))


def names(settings: Settings, stage: str) -> list[str]:
    """The names that a stage is repeated over; [""] where it runs once."""
    over = STAGES[stage].over
    return [""] if over is None else list(getattr(settings, over))


def addresses(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Every stage with its name and its address in DVC: ("calp", "small", "calp@small")."""
    for stage in STAGES:
        for name in names(settings, stage):
            yield stage, name, address(stage, name)


def address(stage: str, name: str = "") -> str:
    """How DVC calls a stage: "calp@small", "report"."""
    return f"{stage}@{name}" if name else stage


def state(settings: Settings, stage: str, name: str = "") -> dict:
    """Settings and code of a stage, as plain data."""
    readers = [corpora.FORMATS[settings.corpora[name].format]] if stage == "ingest" else []
    sections = STAGES[stage].sections(settings, name)
    digests = code.modules(f"pipeline.stages.{stage}", readers) | {name: code.of_file(name) for name in STAGES[stage].templates}
    gone = {"forgotten": forgotten} if stage == "ingest" and (forgotten := forgetting.forgotten(name)) else {}
    return {"settings": _plain(sections), "code": digests} | gone


def _plain(value: Any) -> Any:
    """Settings as JSON has them, without those that never change a result."""
    if isinstance(value, BaseModel):
        return results_only(value)
    if isinstance(value, SimpleNamespace):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# The sections of each stage


def _corpora(settings: Settings, *names: str) -> dict:
    """Corpora by name, and of each what later stages say of it; their rows are data."""
    return {"corpora": {name: _only(settings.corpora[name], "format", "synthetic") for name in dict.fromkeys(names)}}


def _target(settings: Settings, corpus: str, *others: str) -> dict:
    """A corpus that heads and baselines are trained on, with how they are, and other corpora."""
    own = {corpus: _only(settings.corpora[corpus], "format", "synthetic", "refit")}
    return {"corpora": _corpora(settings, *others)["corpora"] | own}


def _raw(settings: Settings, corpus: str) -> dict:
    return {"corpora": {corpus: settings.corpora[corpus]}}


def _ingest(settings: Settings, corpus: str) -> dict:
    return _raw(settings, corpus) | {"ingest": settings.ingest, "targets": [name for name in settings.targets if name == corpus]}


def _models(settings: Settings, *names: str) -> dict:
    """Models by name, without what differs from other sections (those are resolved), their seeds and their names in tables."""
    apart = {"lm": None, "seed": None, "stands_for": None, "spectran": {}, "calp": {}, "pretrain": {}}
    return {"models": {name: settings.models[name].model_copy(update=apart) for name in names}}


def _pretraining(settings: Settings, model: str) -> dict:
    """A model, the corpora that it is pretrained on, and SpecTran's settings."""
    corpora = settings.pretraining_corpora(model)
    return _models(settings, model) | _corpora(settings, *corpora) | {"pretraining": corpora} | _own(settings, model, "spectran")


def _own(settings: Settings, model: str, *sections: str) -> dict:
    """Sections with a model's own values in place."""
    resolved = settings.for_model(model)
    return {section: getattr(resolved, section) for section in sections}


def _first_seed(settings: Settings) -> dict:
    return {"seeds": settings.seeds[:1]}


def _pretraining_seed(settings: Settings, model: str) -> dict:
    return {"seeds": [settings.pretraining_seed(model)]}


def _only(section: object, *fields: str) -> SimpleNamespace:
    return SimpleNamespace(**{field: getattr(section, field) for field in fields})


def _transcribe(settings: Settings, corpus: str) -> dict:
    """`transcribe` is None where nothing reads the texts."""
    return _raw(settings, corpus) | {"transcribe": settings.transcribe if settings.reads(corpus) else None}


def _features(settings: Settings, corpus: str) -> dict:
    return {"features": settings.features, "ingest": _only(settings.ingest, "max_dropped")}


def _calp(settings: Settings, model: str) -> dict:
    return _pretraining(settings, model) | _own(settings, model, "calp") | _pretraining_seed(settings, model)


def _embed(settings: Settings, model: str) -> dict:
    return _pretraining(settings, model) | {"pretrain": _only(settings.for_model(model).pretrain, "train_spectran")}


def _pretrain(settings: Settings, model: str) -> dict:
    return _pretraining(settings, model) | _own(settings, model, "pretrain") | _pretraining_seed(settings, model)


def _head(settings: Settings, heads: str) -> dict:
    entry = settings.heads[heads]
    sections = _pretraining(settings, entry.model)
    corpora = _target(settings, entry.corpus, *sections["corpora"])
    head = settings.for_target(entry.corpus).head
    return sections | corpora | {"heads": {heads: entry}, "head": head, "seeds": settings.seeds_of(heads)}


def _baselines(settings: Settings, corpus: str) -> dict:
    evaluate = _only(settings.evaluate, "baselines")
    return _target(settings, corpus) | _first_seed(settings) | {"evaluate": evaluate, "features": settings.features}


def _evaluate(settings: Settings, corpus: str) -> dict:
    entries = {name: entry for name, entry in settings.heads.items() if entry.corpus == corpus}
    lm = {entry.model: settings.lm(entry.model) for entry in entries.values()}
    sections = {"heads": entries, "lm": lm, "evaluate": _only(settings.evaluate, "bootstrap", "threshold_resamples")}
    sections["head"] = _only(settings.for_target(corpus).head, "loss", "decision")
    return _corpora(settings, corpus) | _first_seed(settings) | sections | {"transcribe": _only(settings.transcribe, "language")}


def _release(settings: Settings, heads: str) -> dict:
    model, sections = settings.heads[heads].model, _head(settings, heads)
    return {
        **sections,
        "seeds": sections["seeds"][:1],
        "head": _only(sections["head"], "modalities", "tuning", "max_tokens", "average_speeds", "decision"),
        "lm": {model: settings.lm(model)},
        "evaluate": _only(settings.evaluate, "bootstrap"),
    }


def _transfer(settings: Settings, name: str) -> dict:
    transfer = settings.transfer[name]
    trained, tested = settings.heads[transfer.trained], settings.heads[transfer.tested]
    return {
        "transfer": {name: transfer},
        "heads": {entry: settings.heads[entry] for entry in (transfer.trained, transfer.tested)},
        **_corpora(settings, trained.corpus, tested.corpus),
        **_models(settings, trained.model),
        **_own(settings, trained.model, "spectran"),
        "calp": _only(settings.for_model(trained.model).calp, "train_encoder"),
        **_first_seed(settings),
        "head": _only(settings.for_target(trained.corpus).head, "batch", "max_tokens"),
        "evaluate": _only(settings.evaluate, "bootstrap"),
        "lm": {model: settings.lm(model) for model in (trained.model, tested.model)},
    }


def _everything(settings: Settings, _: str) -> dict:
    return {name: value for name, value in settings if name not in EXECUTION}


STAGES = {
    "synthesise": Stage("synthetic", lambda settings, name: {"synthetic": {name: settings.synthetic[name]}}),
    "ingest": Stage("corpora", _ingest),
    "transcribe": Stage("corpora", _transcribe, gpu=True),
    "features": Stage("corpora", _features),
    "calp": Stage("models", _calp, gpu=True),
    "embed": Stage("models", _embed, gpu=True),
    "pretrain": Stage("models", _pretrain, gpu=True),
    "head": Stage("heads", _head, gpu=True),
    "baselines": Stage("targets", _baselines),
    "evaluate": Stage("targets", _evaluate),
    "release": Stage("heads", _release),
    "transfer": Stage("transfer", _transfer, gpu=True),
    "report": Stage(None, _everything, templates=("report/report.html.j2", "report/report.js")),
}
