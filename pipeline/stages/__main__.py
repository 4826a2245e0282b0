"""The command that `dvc.yaml` calls: `python -m pipeline.stages STAGE [NAME]`."""

import sys

from pipeline import stage, state

if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or [""]
    if name not in state.STAGES:
        sys.exit(f"usage: python -m pipeline.stages STAGE [NAME], where STAGE is one of {', '.join(state.STAGES)}")
    stage.start(name, arguments)
