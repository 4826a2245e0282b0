"""The MLflow runs behind the numbers of the page."""

from pipeline.report.result_tables import Key
from pipeline.report.stage_outputs import StageOutputs
from pipeline.report.table import Table, group_starts
from pipeline.settings import Settings


def run_table(settings: Settings, outputs: StageOutputs) -> Table:
    """One row for each run of a stage, of a head or of a baseline, as far as MLflow runs are known."""
    cells = []
    for stage, measured in outputs.measured.items():
        kind, _, name = stage.partition("@")
        experiment = f"calm/{settings.heads[name].corpus if kind == 'head' else name}"
        for head in measured.get("heads", [{"mlflow_run": measured.get("mlflow_run")}]):
            if head.get("mlflow_run"):
                cells.append([stage, experiment, _title(head), head["mlflow_run"]])
    return Table("runs", "MLflow runs", ["stage", "experiment", "head", "run"], cells, 4, rules=group_starts([row[0] for row in cells]))


def _title(head: dict) -> str:
    """Of a head or baseline; "" for a stage."""
    if "variant" not in head:
        return ""
    key = Key(head["variant"], "", head["modality"])
    return f"{key.title}, {key.input}, seed {head['seed']}" + (f", fold {head['fold']}" if "fold" in head else "")
