"""What a rebuild adds to Prefect's page: the result table, what changed since the last rebuild, the stages' times, and links to MLflow."""

import os
import shutil

from calm.storage import replacing
from pipeline import paths
from pipeline.report import result_tables
from pipeline.report.table import cell_text
from pipeline.settings import Settings
from pipeline.tracking import provenance, store
from pipeline.uris import masked


def create(settings: Settings, rebuild: str, states: dict, complete: bool, seconds: float) -> None:
    """Create the artifacts of one rebuild.

    Args:
        rebuild: name of the rebuild, by which MLflow finds its runs.
        states: Prefect's final state of each stage, by name.
        complete: all stages succeeded, so that the next rebuild is compared with this one.
        seconds: duration of the rebuild.
    """
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    create_table_artifact(stage_times(states), "stage-times", f"All stages in {seconds:.0f} s")
    create_markdown_artifact(mlflow_links(settings, rebuild), "mlflow-runs", "Runs of this rebuild in MLflow")
    metrics = paths.REPORTS / "metrics.json"
    if not metrics.exists():
        return
    rows = result_tables.read_rows(metrics)
    create_markdown_artifact(tables_markdown(rows), "results", f"Results: {settings.title}")
    last = paths.last_results()
    if last.exists():
        create_markdown_artifact(difference(rows, result_tables.read_rows(last)), "difference", "Difference to the last successful rebuild")
    if complete:
        with replacing(last) as partial:
            shutil.copyfile(metrics, partial)


def stage_times(states: dict) -> list[dict]:
    """One row per stage: its state, and the seconds that it ran, without the wait for a slot."""
    rows = []
    for name, state in states.items():
        seconds = state.result(raise_on_failure=False) if state.is_completed() else None
        rows.append({"stage": name, "state": state.name, "seconds": None if seconds is None else round(seconds, 1)})
    return rows


def tables_markdown(rows: list[dict]) -> str:
    """The result table of every corpus, as Markdown."""
    parts = []
    for corpus in result_tables.names(rows, "corpus"):
        corpus_rows = [row for row in rows if row["corpus"] == corpus]
        parts.append(result_tables.result_table(corpus_rows, corpus, result_tables.thresholds(corpus_rows)[0]).markdown())
        if any(row["synthetic"] for row in corpus_rows):
            parts.append("Synthetic speech.\n")
    return "\n".join(parts)


def difference(rows: list[dict], before: list[dict]) -> str:
    """Changes of weighted accuracy on the test split at tuned thresholds, mean over seeds, in percentage points, as Markdown."""
    lines = []
    for corpus in result_tables.names([*rows, *before], "corpus"):
        selection = {"corpus": corpus, "split": "test", "threshold": "tuned"}
        current, previous = result_tables.scores(rows, **selection), result_tables.scores(before, **selection)
        for key in dict.fromkeys([*current, *previous]):
            new, old = (scores.get(key, {}).get("weighted_accuracy") for scores in (current, previous))
            if (new and new.mean) != (old and old.mean):
                change = f"{100 * (new.mean - old.mean):+.2f}" if new and old else "new" if new else "gone"
                name = " ".join(filter(None, (key.title, key.lm)))
                lines.append(f"| {corpus} | {name} | {key.input} | {cell_text(old)} | {cell_text(new)} | {change} |")
    if not lines:
        return "No figure changed."
    return "\n".join(["| corpus | variant | input | before | now | points |", "| --- | --- | --- | ---: | ---: | ---: |", *lines])


def mlflow_links(settings: Settings, rebuild: str) -> str:
    """This rebuild's parent run in each experiment, as Markdown: links if MLflow has a server, else the command that opens its page."""
    uri = store.absolute(os.environ.get("MLFLOW_TRACKING_URI") or settings.tracking.uri, provenance.root())
    with store.clear_errors(uri):
        client = store.connect(uri)
        lines = []
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id], f"tags.`calm.rebuild` = '{rebuild}'"):
                name = f"{experiment.name}: {run.info.run_name}"
                link = f"{masked(uri).rstrip('/')}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"
                lines.append(f"- [{name}]({link})" if uri.startswith("http") else f"- {name}: run {run.info.run_id}")
    if not lines:
        return "No tracked stage was run."
    return "\n".join(lines) + ("" if uri.startswith("http") else f"\n\n`mlflow ui --backend-store-uri {masked(uri)}` opens them.")
