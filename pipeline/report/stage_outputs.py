"""What the stages before `report` wrote, as far as it is there."""

from pathlib import Path

from calm import storage
from pipeline import paths
from pipeline.report import result_tables
from pipeline.report.wording import spread
from pipeline.settings import Settings


class StageOutputs:
    """Reports and metrics by corpus or model, and rows of `metrics.json`.

    Measurements of a run (seconds, device, MLflow runs) are `measured`, by stage as DVC names it. They are empty where there are none.
    """

    def __init__(self, settings: Settings):
        corpora, models, targets = settings.corpora, settings.models, settings.targets
        self.corpora = _present({name: paths.ingest_report(name) for name in corpora})
        self.texts = _present({name: paths.texts(name) / "metrics.json" for name in corpora})
        self.features = _present({name: paths.features(name) / "report.json" for name in corpora})
        self.calp = _present({name: paths.calp(name) / "metrics.json" for name in models})
        self.pretrained = _present({name: paths.pretrained(name) / "metrics.json" for name in models})
        self.heads = _present({name: paths.heads(heads.corpus, heads.model) / "curves.json" for name, heads in settings.heads.items()})
        evaluations = _present({name: paths.evaluation(name) / "metrics.json" for name in targets})
        self.rows = result_tables.sort_rows(row for rows in evaluations.values() for row in rows)
        self.comparisons = _present({name: paths.evaluation(name) / "comparisons.json" for name in targets})
        self.folds = _present({name: paths.evaluation(name) / "folds.json" for name in targets})
        self.spread = {name: spread(settings, name) for name in targets}
        self.notes = _present({name: paths.evaluation(name) / "notes.json" for name in targets})
        self.decisions = decisions(settings)
        stages = [f"{stage}@{name}" for stage in ("calp", "pretrain") for name in models]
        stages += [f"features@{name}" for name in corpora]
        stages += [f"head@{name}" for name in settings.heads]
        stages += [f"{stage}@{name}" for stage in ("baselines", "evaluate") for name in targets]
        self.measured = _present({stage: paths.measured(stage) for stage in stages})


def decisions(settings: Settings) -> dict[str, str]:
    """Kind of thresholds by which the released models decide, by corpus."""
    notes = {name: read(paths.evaluation(name) / "notes.json") or {} for name in settings.targets}
    return {name: note.get("decision", "tuned") for name, note in notes.items()}


def read(path: Path):
    """Content of a JSON file, or None where there is no file."""
    return storage.read_json(path) if path.exists() else None


def _present(files: dict[str, Path]) -> dict:
    """Content of the files that exist and are not empty."""
    return {name: content for name, file in files.items() if (content := read(file))}
