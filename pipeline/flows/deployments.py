"""The flows on the schedules of params.yaml (section `flows`): served by this machine's worker, or deployed to a work pool."""

import asyncio
import os
import signal
from pathlib import Path

import psutil
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType
from prefect.runner import Runner
from prefect.schedules import Cron

from pipeline.flows.rebuild import rebuild
from pipeline.flows.score_new import score_new
from pipeline.flows.study import study
from pipeline.settings import Flows


class Worker(Runner):
    """Prefect's runner, which on SIGTERM waits until its flows have ended. Prefect's own kills them before they can report their state."""

    stop_seconds: float

    def handle_sigterm(self, *args, **kwargs) -> None:
        flows = psutil.Process().children()
        for flow in flows:
            flow.send_signal(signal.SIGTERM)
        psutil.wait_procs(flows, self.stop_seconds)
        super().handle_sigterm(*args, **kwargs)


def serve(section: Flows) -> None:
    """Run the flows when they are due or requested, until SIGTERM. A run that is due while the last one still runs is skipped."""
    worker = Worker("calm")
    worker.stop_seconds = section.stop_seconds
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    for flow, cron in ((rebuild, section.rebuild), (study, section.study), (score_new, section.score_new)):
        schedules = [Cron(cron, timezone=section.timezone)] if cron else None
        worker.add_deployment(
            flow.to_deployment(flow.name, schedules=schedules, concurrency_limit=one_at_a_time, entrypoint_type=EntrypointType.MODULE_PATH)
        )
    print("serving rebuild, study and score_new", flush=True)
    asyncio.run(worker.start())


def environment(section: Flows) -> dict[str, str]:
    """Variables of `prefect.yaml`, from the settings. Variables that are set already are kept (such as the folder on a cluster's nodes)."""
    variables = {"CALM_FOLDER": str(Path.cwd()), "CALM_WORK_POOL": section.work_pool, "CALM_TIMEZONE": section.timezone}
    for name, cron in (("REBUILD", section.rebuild), ("STUDY", section.study), ("SCORE_NEW", section.score_new)):
        variables |= {f"CALM_{name}_CRON": cron or "0 0 * * *", f"CALM_{name}_SCHEDULED": str(cron is not None).lower()}
    return {name: value for name, value in variables.items() if name not in os.environ}
