"""This project and its peers, measured in turn on this machine: `python -m benchmarks`

Systems take turns (A B A B); a first turn is not counted, and medians of CPU time are compared, which other load hardly changes. All use
one thread. The start to an answer is wall time too. Real speech is LibriSpeech in $CALM_CORPORA; without it, synthetic speech. A table is
printed, and reports/benchmarks.json written.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import argparse
import platform
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import audio_rows, stages, training_rows
from benchmarks.measuring import SIZE, Options, Result, cpu_in_turn, product, say
from calm.storage import write_json

ROWS = {
    "features": audio_rows.features,
    "spectran": training_rows.spectran,
    "seeds": training_rows.seeds,
    "encoded": training_rows.encoded,
    "frozen": training_rows.frozen,
    "encoder": audio_rows.encoder,
    "start": audio_rows.start,
    "epoch": training_rows.epoch,
    "asr": audio_rows.asr,
    "growth": stages.growth,
    "memory": stages.memory,
}
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "faster-whisper", "openai-whisper", "torchaudio")


def markdown(results: list[Result]) -> str:
    """The results as a table."""
    lines = ["| what | CALM | beside it | measured | aim | note |", "| --- | --- | --- | ---: | ---: | --- |"]
    for result in results:
        reached = {None: "-", True: "yes", False: "NO"}[result.met]
        aim = "none" if result.aim is None else f"{'at most' if result.most else 'at least'} {result.aim:g}: {reached}"
        measured = f"{result.number:.2f} {result.unit}"
        lines.append(f"| {result.what} | {result.ours} | {result.other} | {measured} | {aim} | {result.note} |")
    return "\n".join(lines)


def machine() -> dict:
    """The machine, its limit, and the versions."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    seconds = cpu_in_turn({"product": product()}, 5)["product"]
    return {
        "machine": f"{model or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "product": 2 * SIZE**3 / seconds,
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure the rows, print the table, and write the JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ROWS, help="one row")
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn: a test of the rows")
    parser.add_argument("--turns", type=int, default=3, help="of each system")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks.json"))
    options, results = parser.parse_args(arguments), []
    torch.set_num_threads(1)
    about = machine()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="calm-benchmarks-") as work:
        for name in [options.only] if options.only else ROWS:
            begin = time.perf_counter()
            own = ROWS[name](Options(options.quick, 1 if options.quick else options.turns, Path(work)))
            results += own
            say(f"{name}: {time.perf_counter() - begin:.0f} s\n{markdown(own)}")
            rows = [asdict(result) | {"met": result.met} for result in results]
            write_json(about | {"rows": rows}, options.out)  # after every row, as all take a while
    print(f"{about['machine']}; matrix product {about['product'] / 1e9:.1f} GFLOP/s on one thread; {about['date']}; {about['versions']}\n")
    print(markdown(results))
    return results


if __name__ == "__main__":
    main()
