"""`python -m pipeline.flows`: start and stop the servers, serve the flows on their schedules, or run one now."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import settings
from pipeline.flows import servers
from pipeline.uris import masked

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _prepare(context: typer.Context) -> None:
    context.obj = settings.load_or_exit()
    os.environ.update(servers.environment(context.obj.flows))


@app.command()
def up(context: typer.Context) -> None:
    """Start Prefect's server, MLflow's server and the worker on this machine, and print their addresses."""
    try:
        typer.echo("\n".join(servers.up(context.obj)))
    except servers.ServerError as error:
        sys.exit(str(error))


@app.command()
def down(context: typer.Context) -> None:
    """End what `up` started, and nothing else."""
    typer.echo("\n".join(servers.down(context.obj.flows)))


@app.command()
def limits(context: typer.Context) -> None:
    """Create the global concurrency limits on Prefect's server."""
    from pipeline.flows import limits

    typer.echo(", ".join(f"{name}: {slots}" for name, slots in limits.create(context.obj.flows).items()))


@app.command()
def serve(context: typer.Context) -> None:
    """Run the worker, which starts flows on their schedules and on request, until it is stopped."""
    from pipeline.flows import deployments

    deployments.serve(context.obj.flows)


@app.command()
def deploy(context: typer.Context) -> None:
    """Deploy `prefect.yaml` to a work pool, with the schedules of params.yaml."""
    from pipeline.flows import deployments

    arguments = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    sys.exit(subprocess.run(arguments, env={**os.environ, **deployments.environment(context.obj.flows)}).returncode)


@app.command()
def rebuild(targets: Annotated[list[str] | None, typer.Argument(help="Stages to bring up to date; default: all.")] = None) -> None:
    """Run the flow `rebuild` now, in this process."""
    from pipeline.flows.rebuild import rebuild

    _run(lambda: rebuild(targets or None))


@app.command()
def study(
    recipe: Annotated[Path | None, typer.Option(help="Settings in the form of params.yaml; default: flows.study_recipe.")] = None,
    targets: Annotated[list[str] | None, typer.Argument(help="Stages to bring up to date; default: all.")] = None,
) -> None:
    """Run the flow `study` now, in this process: a rebuild of a recipe in a working copy of its own."""
    from pipeline.flows.study import study

    _run(lambda: study(recipe, targets or None))


@app.command("score-new")
def score_new(
    inbox: Annotated[Path | None, typer.Option(help="Folder with audio; default: flows.inbox.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder of a released model, or models:/name@alias; default: flows.model.")] = None,
) -> None:
    """Run the flow `score_new` now, in this process."""
    from pipeline.flows.score_new import score_new

    _run(lambda: score_new(inbox, model))


def _run(flow) -> None:
    """Run a flow. Its errors are in its log already, so that only their message is printed."""
    from httpx import TransportError

    try:
        flow()
    except TransportError as error:
        sys.exit(f"Prefect's server at {masked(os.environ['PREFECT_API_URL'])} does not answer ({error}): start it by `make up`")
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    app()
