"""What a rebuild leaves in Prefect's UI: the result table, what changed since the last one, the stages' times, and links to MLflow."""

import os
import shutil

from pipeline import paths
from pipeline.report import result_tables as results
from pipeline.report.table import cell_text
from pipeline.settings import Settings
from pipeline.tracking import provenance, store


def of_rebuild(given: Settings, rebuild: str, states: dict, whole: bool, seconds: float) -> None:
    """Write the artifacts. `whole`: all stages ended well, so that the next rebuild is compared with this one."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    create_table_artifact(times(states), "stage-times", f"All stages in {seconds:.0f} s")
    create_markdown_artifact(runs(given, rebuild), "mlflow-runs", "Runs of this rebuild in MLflow")
    metrics = paths.REPORTS / "metrics.json"
    if not metrics.exists():
        return
    rows = results.read_rows(metrics)
    create_markdown_artifact(tables(rows), "results", f"Results: {given.title}")
    last = paths.last_results()
    if last.exists():
        create_markdown_artifact(difference(rows, results.read_rows(last)), "difference", "Difference to the last successful rebuild")
    if whole:
        last.parent.mkdir(parents=True, exist_ok=True)
        partial = last.with_suffix(".partial")
        shutil.copyfile(metrics, partial)
        partial.replace(last)


def times(states: dict) -> list[dict]:
    """One row a stage: its state and the seconds that it ran, without the wait for a slot."""
    rows = []
    for name, state in states.items():
        seconds = state.result(raise_on_failure=False) if state.is_completed() else None
        rows.append({"stage": name, "state": state.name, "seconds": None if seconds is None else round(seconds, 1)})
    return rows


def tables(rows: list[dict]) -> str:
    """The result table of every corpus, as Markdown."""
    parts = []
    for corpus in results.names(rows, "corpus"):
        mine = [row for row in rows if row["corpus"] == corpus]
        parts.append(results.result_table(mine, corpus, results.thresholds(mine)[0]).markdown())
        if any(row["synthetic"] for row in mine):
            parts.append("Synthetic speech.\n")
    return "\n".join(parts)


def difference(rows: list[dict], before: list[dict]) -> str:
    """Weighted accuracy on test at tuned thresholds, mean over seeds, where it differs; in points."""
    lines = []
    for corpus in results.names([*rows, *before], "corpus"):
        of = {"corpus": corpus, "split": "test", "threshold": "tuned"}
        now, then = results.scores(rows, **of), results.scores(before, **of)
        for key in dict.fromkeys([*now, *then]):
            new, old = (found.get(key, {}).get("weighted_accuracy") for found in (now, then))
            if (new and new.mean) != (old and old.mean):
                change = f"{100 * (new.mean - old.mean):+.2f}" if new and old else "new" if new else "gone"
                name = " ".join(filter(None, (key.title, key.lm)))
                lines.append(f"| {corpus} | {name} | {key.input} | {cell_text(old)} | {cell_text(new)} | {change} |")
    if not lines:
        return "No figure changed."
    return "\n".join(["| corpus | variant | input | before | now | points |", "| --- | --- | --- | ---: | ---: | ---: |", *lines])


def runs(given: Settings, rebuild: str) -> str:
    """The parent run of this rebuild in each experiment: links where MLflow has a server, else the command that opens its page."""
    uri = store.absolute(os.environ.get("MLFLOW_TRACKING_URI") or given.tracking.uri, provenance.root())
    with store.clear_errors(uri):
        client = store.connect(uri)
        lines = []
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id], f"tags.`calm.rebuild` = '{rebuild}'"):
                name = f"{experiment.name}: {run.info.run_name}"
                place = f"{uri.rstrip('/')}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"
                lines.append(f"- [{name}]({place})" if uri.startswith("http") else f"- {name}: run {run.info.run_id}")
    if not lines:
        return "No stage ran, or none that is tracked."
    return "\n".join(lines) + ("" if uri.startswith("http") else f"\n\n`mlflow ui --backend-store-uri {uri}` opens them.")
