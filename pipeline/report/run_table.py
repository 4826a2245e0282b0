"""The MLflow runs behind the numbers of the page."""

from pipeline.report.result_tables import Key
from pipeline.report.stage_outputs import StageOutputs
from pipeline.report.table import Table, group_starts
from pipeline.settings import Settings


def run_table(settings: Settings, outputs: StageOutputs) -> Table:
    """One row for each run of a stage or of heads, as far as MLflow runs are known."""
    cells = []
    for stage, measured in outputs.measured.items():
        kind, _, name = stage.partition("@")
        experiment = f"calm/{settings.heads[name].corpus if kind == 'head' else name}"
        for run, heads in _runs(measured).items():
            cells.append([stage, experiment, _heads_title(heads), run])
    return Table("runs", "MLflow runs", ["stage", "experiment", "heads", "run"], cells, 4, rules=group_starts([row[0] for row in cells]))


def _runs(measured: dict) -> dict[str, list[dict]]:
    """Run -> the heads that it trained; for other stages one run without heads."""
    if "heads" not in measured:
        return {measured["mlflow_run"]: []} if measured.get("mlflow_run") else {}
    runs: dict[str, list[dict]] = {}
    for head in measured["heads"]:
        if head.get("mlflow_run"):
            runs.setdefault(head["mlflow_run"], []).append(head)
    return runs


def _heads_title(heads: list[dict]) -> str:
    if not heads:
        return ""
    key = Key(heads[0]["variant"], "", heads[0]["modality"])
    return f"{key.title}, {key.input}, seed {' '.join(str(head['seed']) for head in heads)}"
