"""What the flows add to Prefect's page: tables of results and of scores, what changed, the stages' times, and where to read on."""

import os
import platform
import shutil
from pathlib import Path

from calm.storage import read_json, replacing
from pipeline import paths
from pipeline.flows import limits, scoring
from pipeline.report import result_tables
from pipeline.report.table import cell_text
from pipeline.settings import Settings
from pipeline.tracking import provenance, store
from pipeline.uris import masked

SHOWN = 100  # rows of scores in an artifact


@limits.waits_for_server
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
    rows = read_json(metrics)
    create_markdown_artifact(f"{page_link()}\n\n{tables_markdown(rows)}", "results", f"Results: {settings.title}")
    last = paths.last_results()
    if last.exists():
        create_markdown_artifact(difference(rows, read_json(last)), "difference", "Difference to the last successful rebuild")
    if complete:
        with replacing(last) as partial:
            shutil.copyfile(metrics, partial)


@limits.waits_for_server
def create_scores(summary: str, scores: Path, files: list[scoring.InboxFile]) -> None:
    """Create the artifacts of one run of `score_new`: a summary with where to read on, and the rows of these files."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    rows = score_rows(scores, files)
    more = f" The artifact `scored-files` shows {SHOWN:,} of {len(rows):,} rows." if len(rows) > SHOWN else ""
    create_markdown_artifact(f"{summary}.{more}\n\n{page_link()}".rstrip(), "scores", "What score_new did")
    create_table_artifact(rows[:SHOWN], "scored-files", "What score_new heard and decided")


def score_rows(scores: Path, files: list[scoring.InboxFile]) -> list[dict]:
    """Rows of the table of scores that belong to these files: where, what was said, the classes, and the likeliest one's probability."""
    rows = []
    for row in scoring.rows_of(scores, files):
        likeliest = max(row["probabilities"] or [], key=lambda pair: pair[1], default=None)
        decided = row["fault"] or ", ".join(row["decided"] or []) or "none of the classes"
        likely = f"{likeliest[0]} {100 * likeliest[1]:.0f} %" if likeliest else ""
        times = {name: None if row[name] is None else round(row[name], 2) for name in ("start", "end")}
        rows.append({"file": row["file"], **times, "text": row["text"] or "", "answer": decided, "likeliest": likely})
    return rows


def page_link() -> str:
    """Where the page of results is, as Markdown; "" where there is none. A browser opens such a link only on the same machine."""
    page = (paths.REPORTS / "index.html").resolve()
    return f"[The page of results]({page.as_uri()}) is `{page}` on {platform.node()}." if page.exists() else ""


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
                link = f"{masked(uri).rstrip('/')}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}?{store.VIEW}"
                lines.append(f"- [{name}]({link})" if uri.startswith("http") else f"- {name}: run {run.info.run_id}")
    if not lines:
        return "No tracked stage was run."
    return "\n".join(lines) + ("" if uri.startswith("http") else f"\n\n`mlflow ui --backend-store-uri {masked(uri)}` opens them.")
