"""Stage `report`: the results of all stages as `reports/metrics.json`, tables, figures, files for DVC, and one self-contained page.

`python -m pipeline.stages.report` prints the result tables of `reports/metrics.json` in the terminal.
The stage itself is started like the others.
"""

import sys

from calm.storage import read_json, replacing
from pipeline import paths
from pipeline.report import result_tables, wording
from pipeline.report.stage_outputs import decisions
from pipeline.settings import Settings, load_or_exit
from pipeline.stage import whole


def run(settings: Settings) -> str:
    """Write `reports/`; returns a summary that names the page. Raises ValueError if no corpus was evaluated."""
    from pipeline.report import dvc_files, page
    from pipeline.report.stage_outputs import StageOutputs

    outputs = StageOutputs(settings)
    if not outputs.rows:
        raise ValueError(f"no corpus has {paths.evaluation('<corpus>')}/metrics.json: `dvc repro` evaluates before it reports")
    metrics = paths.REPORTS / "metrics.json"
    result_tables.write_rows(outputs.rows, metrics)
    dvc_files.write_summary(outputs.rows, outputs.decisions, paths.REPORTS / "summary.json")
    dvc_files.write_classes(outputs.rows, outputs.decisions, paths.REPORTS / "classes.csv")
    with whole(paths.REPORTS / "curves", sums=False) as folder:
        dvc_files.write_curves(settings, outputs, folder)
    with whole(paths.REPORTS / "figures", sums=False) as figures, whole(paths.REPORTS / "tables", sums=False) as folder:
        content = page.page_content(settings, outputs, figures)
        for table in content["tables"]:
            (folder / f"{table.name}.md").write_text(table.markdown(), encoding="utf-8")
            (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    path = paths.REPORTS / "index.html"
    with replacing(path) as partial:
        partial.write_text(page.render(content), encoding="utf-8")
    return f"{path} ({path.stat().st_size / 1024:.0f} kB) from {len(outputs.rows)} rows of {metrics}"


def print_results() -> None:
    """Print the result tables, and where the page and the MLflow runs are."""
    path = paths.REPORTS / "metrics.json"
    if not path.exists():
        sys.exit(f"{path} is missing: run dvc repro")
    settings = load_or_exit()
    spread = {corpus: wording.spread(settings, corpus) for corpus in settings.targets}
    print(result_tables.terminal_text(read_json(path), spread, decisions(settings)))
    print(f"The page:       {paths.REPORTS / 'index.html'}")
    print(f"The MLflow UI:  {wording.mlflow_command(settings.tracking.uri)}")


if __name__ == "__main__":
    print_results()
