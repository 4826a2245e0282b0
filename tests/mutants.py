"""Mutation testing of losses, masks, metrics and readers, by mutmut with the settings of pyproject.toml.

    pip install mutmut==3.8.1
    python -m tests.mutants --readers 600 --seed 1

Every mutant of losses, masks and metrics is tested, and a random sample of those of the readers. mutmut copies the code to `mutants/`,
forks once a mutant and runs only the tests that reach the mutated function. `mutmut show NAME` prints a mutant.
"""

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

WHOLE = ("calm/models/losses.py", "calm/data/masking.py", "calm/evaluation/metrics.py")
KILLED = {1, 3}  # exit status where a test failed, or pytest itself; 0: survived, 33: no test reaches it
TIME = {24, -24, 36, 152, 255}  # the tests took many times as long as without the mutant: killed, too, unless the machine was busy


def mutmut(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "mutmut", "run", *arguments], check=True, stdout=subprocess.DEVNULL)


def verdicts(module: Path) -> dict[str, int | None]:
    """Exit status by the name of each mutant of a module; None: not tested."""
    verdicts: dict[str, int | None] = json.loads(Path("mutants", f"{module}.meta").read_text())["exit_code_by_key"]
    return verdicts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--readers", type=int, default=600, help="mutants of calm/corpora")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--children", default="2", help="mutants at a time")
    chosen = options.parse_args()
    mutmut("--max-children", chosen.children, *(f"{module.removesuffix('.py').replace('/', '.')}.*" for module in WHOLE))
    readers = sorted(Path("calm/corpora").glob("*.py"))
    names = sorted(name for module in readers for name in verdicts(module))
    sample = random.Random(chosen.seed).sample(names, min(chosen.readers, len(names)))
    mutmut("--max-children", chosen.children, *sample)
    wanted, total = set(sample), Counter()
    for module in [*map(Path, WHOLE), *readers]:
        tested = {name: status for name, status in verdicts(module).items() if str(module) in WHOLE or name in wanted}
        killed, late = (sum(status in kind for status in tested.values()) for kind in (KILLED, TIME))
        total.update(killed=killed, late=late, mutants=len(tested))
        left = (name for name, status in tested.items() if status not in KILLED | TIME)
        print(f"{module}: {killed} of {len(tested)} killed, {late} by time", *left, sep="\n  ")
    print(f"{total['killed']} of {total['mutants']} killed, {total['late']} by time; readers have {len(names)}, seed {chosen.seed}")


if __name__ == "__main__":
    main()
