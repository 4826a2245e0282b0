"""Runs of trained heads and of baselines: one each, with the same parameters and the same names of metrics, so that they compare.

The stage that trains a head opens its run, and `evaluate` adds the figures. A search such as `params.modality = 'audio' and
params.tuning = 'frozen'` finds them in the experiment of a corpus.
"""

import contextlib
from collections.abc import Iterable

from pipeline.paper import BASELINES, FROZEN
from pipeline.tracking.tracker import TrackedRun

ALL_FOLDS = "all"  # the parameter `fold` of a run with the figures over all of them


def parameters(corpus: str, model: str, variant: str, modality: str, seed: int, fold: int | str | None = None) -> dict[str, str]:
    """What tells a head or a baseline from others. `variant`: as in `metrics.json`; `model`: of the settings, "none" for baselines."""
    tuning = "none" if variant in BASELINES else "frozen" if variant.endswith(FROZEN) else "unfrozen"
    names = {"corpus": corpus, "model": model, "row": variant.removesuffix(FROZEN), "tuning": tuning, "modality": modality, "seed": seed}
    return {key: str(value) for key, value in (names | ({} if fold is None else {"fold": fold})).items()}


def title(variant: str, modality: str, seed: int | str, fold: int | str | None = None) -> str:
    """Name of a run."""
    return ", ".join([variant, modality, f"seed {seed}", *([] if fold is None else [f"fold {fold}"])])


@contextlib.contextmanager
def opened(tracked: TrackedRun, about: dict[str, str], details: dict | None = None, tags: dict | None = None):
    """A new run beside that of the stage, where charts and comparisons show it.

    `about`: its `parameters`; `details`: parameters that only some runs have.
    """
    variant = about["row"] + (FROZEN if about["tuning"] == "frozen" else "")
    named = {"variant": variant, "modality": about["modality"], "seed": about["seed"], "calm.kind": "head", **(tags or {})}
    name = title(variant, about["modality"], about["seed"], about.get("fold"))
    with tracked.child(name, {**about, **(details or {})}, named, nested=False) as run:
        yield run


def add_figures(
    tracked: TrackedRun, known: str | None, about: dict[str, str], figures: Iterable[tuple[str, str, str, float | None]], tags: dict
) -> None:
    """Log what `evaluate` computed into the run of a head or baseline; into a new one if there is none in this store.

    Args:
        known: id of the run in which it was trained.
        figures: split, kind of thresholds, metric and value; named `split/kind/metric`.
    """
    values = {f"{split}/{kind}/{metric}": value for split, kind, metric, value in figures if value is not None}
    with tracked.again(known) if known and tracked.has(known) else opened(tracked, about, tags=tags) as run:
        run.log(values)
        run.tag(tags)
