"""openSMILE's functionals and CALM on the same clip: seconds a clip in a loop, and from the start of a process.

    python benchmarks/side_by_side.py --model data/heads/msp/small/model --clip clip.wav

The two take turns, so that whatever else the machine does slows both. In the loop each has one core; a process has as many as it
takes by default. CPU is user and system time of the process. It prints medians and their ratios to the first line.
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
    clip: Annotated[Path, typer.Option(help="Speech; its beginning is used.")],
    text: Annotated[str, typer.Option(help="What is said.")] = "i am so glad to see you",
    seconds: Annotated[float, typer.Option(help="How much of the clip.")] = 5.0,
    loops: Annotated[int, typer.Option(help="Turns of each in the loop.")] = 20,
    starts: Annotated[int, typer.Option(help="Starts of each process; 0: none.")] = 5,
) -> None:
    """Time openSMILE's functionals and CALM's predictions and vectors."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.wav"
        samples = read_audio(clip, 0, seconds)
        soundfile.write(file, samples, 16000)
        print(f"{len(samples) / 16000:.2f} s of speech, 16 kHz")
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        wall, _ = in_turn(in_process(model, file, text), loops)
        os.sched_setaffinity(0, cores)
        show("a clip in a loop, ms", wall, 1000)
        if not starts:
            return
        wall, cpu = in_turn({name: process(command) for name, command in started(model, file, text).items()}, starts)
        show("a process, s", wall)
        show("a process, s of CPU", cpu)


def in_process(model: Path, file: Path, text: str) -> dict[str, Callable[[], object]]:
    """What is done again and again, by name, with everything loaded."""
    import opensmile
    import torch

    from calm.inference import loading, recordings
    from calm.inference.classifier import Classifier
    from calm.inference.torch_classifier import Predictor
    from calm.tools import embedding

    torch.set_num_threads(1)
    classifier, predictor = loading.load_classifier(model, "cpu"), Predictor(model)
    listener = recordings.Listener(predictor.sample_rate)

    def calm(compute: Callable, loaded: Classifier, said: str | None) -> Callable[[], object]:
        return lambda: [compute(loaded, segment) for segment in listener(file, said)]

    calls: dict[str, Callable[[], object]] = {}
    for name in SETS:
        smile = opensmile.Smile(feature_set=getattr(opensmile.FeatureSet, name), feature_level=opensmile.FeatureLevel.Functionals)
        calls[f"openSMILE {name}"] = partial(smile.process_file, str(file))
    calls["calm predict, audio"] = calm(recordings.classify_segment, classifier, None)
    calls["calm predict, audio + text"] = calm(recordings.classify_segment, classifier, text)
    return calls | {"calm embed, audio + text": calm(embedding.vectors, predictor, text)}


def started(model: Path, file: Path, text: str) -> dict[str, list[str]]:
    """Commands by name."""
    calm = [sys.executable, "-m", "calm.cli"]
    more = ["--model", str(model), "--text", text]
    smiles = {f"openSMILE {name}": [sys.executable, "-c", f"{SMILE.format(name)}print(smile.process_file({str(file)!r}))"] for name in SETS}
    return smiles | {
        "calm predict, audio + text": [*calm, "predict", str(file), *more],
        "calm embed, audio + text": [*calm, "embed", str(file), *more, "-o", str(file.with_suffix(".parquet"))],
    }


def process(command: list[str]) -> Callable[[], object]:
    """What starts a command and waits for it."""
    return partial(subprocess.run, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def in_turn(calls: dict[str, Callable[[], object]], turns: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each, and of the CPU of the processes that it started; the first turn is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(turns + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), children()
            call()
            taken[name].append((time.perf_counter() - wall, children() - cpu))
    medians = {name: [statistics.median(column) for column in zip(*of[1:], strict=True)] for name, of in taken.items()}
    return {name: wall for name, (wall, _) in medians.items()}, {name: cpu for name, (_, cpu) in medians.items()}


def children() -> float:
    """CPU seconds of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def show(title: str, medians: dict[str, float], factor: float = 1) -> None:
    """Medians, and each one's ratio to the first."""
    first = next(iter(medians.values()))
    print(f"\n{title}")
    for name, value in medians.items():
        print(f"  {name:28}{factor * value:9.2f}{value / first:9.2f} x")


if __name__ == "__main__":
    typer.run(main)
