"""The `score_new` flow: audio that appears in an inbox is cut at its pauses, transcribed, scored and written to a table, once a file."""

import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from pipeline import settings
from pipeline.flows import limits, scoring
from pipeline.flows.subprocesses import Children
from pipeline.tracking import registry


@flow(name="score_new")
def score_new(inbox: Path | None = None, model: str | None = None) -> int:
    """Score the files that are new in the inbox; returns how many were found.

    A flow that is killed half-way loses at most the work on one batch; the next one goes on. Nothing is loaded where nothing is new.

    Args:
        inbox: folder with audio; None: `flows.inbox` of params.yaml.
        model: a released model's folder, or `models:/name@alias`; None: `flows.model`, else the champion of the first target.
    """
    given = settings.load()
    inbox, scores = inbox or given.flows.inbox, given.flows.scores
    model = model or given.flows.model or f"models:/{registry.name_of(given.targets[0])}@{registry.CHAMPION}"
    inbox.mkdir(parents=True, exist_ok=True)
    new = scoring.new_files(inbox, scores)
    if not new:
        get_run_logger().info(f"nothing new in {inbox}")
        return 0
    children = Children(given.flows.stop_seconds)
    with children.ended_with_the_flow():
        said = score(children, limits.of_server(), [str(inbox), str(scores), model])
    create_markdown_artifact(f"{said}, from `{inbox}` to `{scores}` by `{model}`", "scores", "What score_new did")
    return len(new)


@task(cache_policy=NO_CACHE)
def score(children: Children, slots: limits.Limits, arguments: list[str]) -> str:
    """Score in a process of its own, on a slot of the limit "gpu"; returns its last line."""
    said = [""]
    log = get_run_logger()

    def heard(line: str) -> None:
        said.append(line)
        log.info(line)

    with slots.take("gpu", 1, children.stopped) as environment:
        code = children.run([sys.executable, "-m", "pipeline.flows.scoring", *arguments], environment, heard)
    if code:
        raise RuntimeError(f"scoring ended with exit code {code}: {said[-1]}")
    return said[-1]
