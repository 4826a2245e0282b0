"""Numbers and lists in words, as the sentences and tables of the page show them."""

from collections import defaultdict
from pathlib import Path

from pipeline.settings import Settings

MISSING = "–"  # a cell whose value is not known


def listed(parts: list[str]) -> str:
    """Parts as an enumeration: "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 epoch", "2 epochs"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def in_points(share: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds in a readable unit."""
    if seconds is None:
        return MISSING
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def audio_hours(hours: float) -> str:
    """An amount of audio, in minutes where it is less than an hour."""
    return f"{hours:.1f} h" if hours >= 0.95 else f"{60 * hours:.0f} min"


def language_model_title(language_model: str, layers: int | None) -> str:
    """A language model's name, with the number of its layers where only the first ones are used."""
    return Path(language_model).name + (f", first {layers} layers" if layers else "")


def spread(settings: Settings, corpus: str) -> str:
    """What differs between the seeds of the pretrained rows of a corpus: the heads alone, or the pretraining too; "" for one seed."""
    pretrainings = defaultdict(dict)  # by row of the tables: seed of the heads -> seed of their model's pretraining
    for name, heads in settings.heads.items():
        for row, condition in heads.rows.items():
            if heads.corpus == corpus and condition.network == "calm" and condition.start != "language_model":
                seeds = dict.fromkeys(settings.seeds_of(name), settings.pretraining_seed(heads.model))
                pretrainings[settings.lm(heads.model), row].update(seeds)
    rows: dict[str, list[str]] = {}
    for (lm, row), seeds in pretrainings.items():
        if len(seeds) > 1:
            different = len(set(seeds.values()))
            what = (
                "pretraining and heads" if different == len(seeds) else f"heads on {different} pretrainings" if different > 1 else "heads"
            )
            rows.setdefault(what, []).append(f"{row} ({lm})")
    if not rows:
        return ""
    most = max(rows, key=lambda what: len(rows[what]))
    alone = f"{most} alone, of one pretraining" if most == "heads" else most
    others = [f"; {what} for {listed(names)}" for what, names in rows.items() if what != most]
    return f"the spread over seeds is that of {alone}{''.join(others)}"


def mlflow_command(uri: str) -> str:
    """Command that opens the MLflow UI of a tracking store, or the address of its server."""
    return f"MLflow UI: {uri}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
