"""Time of openSMILE's functionals and of CALM on the same clip: per clip in a loop, and per process.

    python benchmarks/side_by_side.py --model data/models/msp/small --clip clip.wav

The systems take turns, so that other load on the machine slows all of them alike. In the loop each uses one core; a process uses as many
as it does by default. CPU is the user and system time of the process. Medians are printed with their ratios to the first line.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import soundfile
import typer

from calm.audio.decoding import read_audio

SETS = ("eGeMAPSv02", "ComParE_2016")
SMILE = """
import opensmile
smile = opensmile.Smile(feature_set=opensmile.FeatureSet.{}, feature_level=opensmile.FeatureLevel.Functionals)
"""


def main(
    model: Annotated[Path, typer.Option(help="Folder of a released model.")],
    clip: Annotated[Path, typer.Option(help="A recording of speech, of which the beginning is used.")],
    text: Annotated[str, typer.Option(help="What is said.")] = "i am so glad to see you",
    seconds: Annotated[float, typer.Option(help="Seconds of the clip to use.")] = 5.0,
    loops: Annotated[int, typer.Option(help="Repetitions of each system in the loop.")] = 20,
    starts: Annotated[int, typer.Option(help="Repetitions of each process; 0: none.")] = 5,
) -> None:
    """Time openSMILE's functionals and CALM's predictions and vectors."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.wav"
        samples = read_audio(clip, 0, seconds)
        soundfile.write(file, samples, 16000)
        print(f"{len(samples) / 16000:.2f} s of speech, 16 kHz")
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        wall, _ = in_turn(calls_in_process(model, file, text), loops)
        os.sched_setaffinity(0, cores)
        show("per clip in a loop, ms", wall, 1000)
        if not starts:
            return
        wall, cpu = in_turn({name: run(command) for name, command in commands(model, file, text).items()}, starts)
        show("per process, s", wall)
        show("per process, s of CPU", cpu)


def calls_in_process(model: Path, file: Path, text: str) -> dict[str, Callable[[], object]]:
    """Calls to time in this process, with everything loaded, by name of the system."""
    import opensmile
    import torch

    from calm.inference.classifier import Classifier
    from calm.inference.loading import load_classifier
    from calm.inference.recordings import Listener, classify_segment
    from calm.inference.torch_classifier import Predictor
    from calm.tools import embedding

    torch.set_num_threads(1)
    classifier, predictor = load_classifier(model, "cpu"), Predictor(model)
    listener = Listener.of(predictor)

    def calm(function: Callable, loaded: Classifier, transcript: str | None) -> Callable[[], object]:
        return lambda: [function(loaded, segment) for segment in listener(file, transcript)]

    calls: dict[str, Callable[[], object]] = {}
    for name in SETS:
        smile = opensmile.Smile(feature_set=getattr(opensmile.FeatureSet, name), feature_level=opensmile.FeatureLevel.Functionals)
        calls[f"openSMILE {name}"] = partial(smile.process_file, str(file))
    calls["calm predict, audio"] = calm(classify_segment, classifier, None)
    calls["calm predict, audio + text"] = calm(classify_segment, classifier, text)
    return calls | {"calm embed, audio + text": calm(embedding.vectors, predictor, text)}


def commands(model: Path, file: Path, text: str) -> dict[str, list[str]]:
    """Commands to time, by name of the system."""
    calm = [sys.executable, "-m", "calm"]
    options = ["--model", str(model), "--text", text]
    smiles = {f"openSMILE {name}": [sys.executable, "-c", f"{SMILE.format(name)}print(smile.process_file({str(file)!r}))"] for name in SETS}
    return smiles | {
        "calm predict, audio + text": [*calm, "predict", str(file), *options],
        "calm embed, audio + text": [*calm, "embed", str(file), *options, "-o", str(file.with_suffix(".parquet"))],
    }


def run(command: list[str]) -> Callable[[], object]:
    """A function that runs a command."""
    return partial(subprocess.run, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def in_turn(calls: dict[str, Callable[[], object]], repetitions: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each call, and of the CPU time of its child processes; the first turn is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repetitions + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), cpu_of_children()
            call()
            times[name].append((time.perf_counter() - wall, cpu_of_children() - cpu))
    medians = {name: [statistics.median(column) for column in zip(*turns[1:], strict=True)] for name, turns in times.items()}
    return {name: wall for name, (wall, _) in medians.items()}, {name: cpu for name, (_, cpu) in medians.items()}


def cpu_of_children() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def show(title: str, medians: dict[str, float], factor: float = 1) -> None:
    """Print the medians and their ratios to the first one."""
    first = next(iter(medians.values()))
    print(f"\n{title}")
    for name, value in medians.items():
        print(f"  {name:28}{factor * value:9.2f}{value / first:9.2f} x")


if __name__ == "__main__":
    typer.run(main)
