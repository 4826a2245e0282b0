"""The `score_new` flow: new audio in an inbox is cut at its pauses, transcribed, scored and written to a table, each file once."""

import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from pipeline import settings
from pipeline.flows import artifacts, limits, scoring
from pipeline.flows.subprocesses import Subprocesses
from pipeline.tracking import registry


@flow(name="score_new")
def score_new(inbox: Path | None = None, model: str | None = None) -> int:
    """Score the new files in the inbox; returns how many there were.

    A flow that is killed half-way loses at most the work on one batch, and the next run continues. If nothing is new, nothing is loaded.

    Args:
        inbox: folder with audio; None: `flows.inbox` of params.yaml.
        model: a released model's folder, or `models:/name@alias`; None: `flows.model`, else the champion of the first target.
    """
    loaded = settings.load()
    inbox, scores = inbox or loaded.flows.inbox, loaded.flows.scores
    model = model or loaded.flows.model or f"models:/{registry.name_of(loaded.targets[0])}@{registry.CHAMPION}"
    inbox.mkdir(parents=True, exist_ok=True)
    new = scoring.new_files(inbox, scores)
    if not new:
        get_run_logger().info(f"nothing new in {inbox}")
        return 0
    subprocesses = Subprocesses(loaded.flows.stop_seconds)
    with subprocesses.stopped_with_flow():
        summary = score(subprocesses, limits.read(), [str(inbox), str(scores), model])
    artifacts.create_scores(f"{summary}, from `{inbox}` to `{scores}` by `{model}`", scores, new)
    return len(new)


@task(cache_policy=NO_CACHE)
def score(subprocesses: Subprocesses, slots: limits.Limits, arguments: list[str]) -> str:
    """Score in a process of its own, on a slot of the limit "gpu"; returns the last line that it prints."""
    last_line, log = "", get_run_logger()

    def record(line: str) -> None:
        nonlocal last_line
        last_line = line
        log.info(line)

    with slots.take("gpu", 1, subprocesses.stopped) as environment:
        code = subprocesses.run([sys.executable, "-m", "pipeline.flows.scoring", *arguments], environment, record)
    if code:
        raise RuntimeError(f"scoring ended with exit code {code}: {last_line}")
    return last_line
