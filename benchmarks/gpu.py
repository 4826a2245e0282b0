"""What CALM's training takes on one GPU, on 65 hours of frames that are drawn there: `python -m benchmarks.gpu --out reports/gpu.json`

Needs `calm/`, torch, Transformers, Accelerate, NumPy, pandas and PyArrow alone, and no file. Weights and frames are random; the lengths
are those of CMU-MOSEI's segments where $CALM_CORPORA has `labels/mosei_folds`, else drawn (`benchmarks.made.drawn_lengths`). Trainings
run by the project's own loop and end after `--seconds`: an epoch that was cut short is extrapolated from its whole steps, which the table
says. No run on a GPU is known so far.

`--device cpu --tiny` runs all of it on a CPU in less than a minute, with other sizes: a test of the script, not of a machine.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import accelerate
import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.made import FRAMES_A_SECOND, SIZES, TINY, Corpus
from calm.audio.speech_encoders import SAMPLE_RATE, WhisperStates, batch_states
from calm.training.forward import encode_blocks, step_flops
from calm.training.loop import Interrupted, Training, train
from calm.training.schedule import Schedule, precision

EPOCHS = {"CALP": 50, "pretraining": 20}  # of recipes/paper.yaml
BATCHES = {"CALP": 256, "pretraining": 64, "head": 64}
# TFLOP of recipes/paper.yaml by objective and size of BERT, as `pipeline.planning.scale` counts them; a test compares.
RECIPE = {
    "CALP": {"tiny": 4_086, "base": 85_351},
    "pretraining": {"tiny": 5_312, "base": 226_673},
    "head": {"tiny": 459_484, "base": 11_451_028},
}
WARM = 3  # steps that are not timed
TOLERANCE = 1e-3


@dataclass
class Bench:
    """A device, the corpus on it, and what was measured so far.

    Args:
        most: seconds of a training; deadline: of all, by `time.perf_counter`.
        tiny: other sizes, for a CPU.
    """

    device: torch.device
    most: float
    deadline: float
    tiny: bool
    work: Path
    rows: list[dict] = field(default_factory=list)
    rates: dict[tuple[str, str], float] = field(default_factory=dict)  # FLOP/s of an objective at a size
    epochs: dict[tuple[str, str], float] = field(default_factory=dict)  # seconds of an epoch

    def __post_init__(self):
        self.corpus = Corpus.made(40 if self.tiny else None, self.device)
        self.sizes = TINY if self.tiny else SIZES
        self.monitor = Monitor(self.device)

    @property
    def seconds(self) -> float:
        """Of a training: less when the time is nearly over."""
        return max(1.0, min(self.most, (self.deadline - time.perf_counter()) / 4))

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def report(self, part: str, measured: str, note: str = "", **numbers) -> None:
        """A line of the table; numbers go to the JSON alone."""
        self.rows.append({"part": part, "measured": measured, "note": note, **numbers})
        print(f"{part}: {measured} {note}", file=sys.stderr, flush=True)


class Monitor:
    """The GPU's busy share by nvidia-smi, five times a second; nothing without it."""

    def __init__(self, device: torch.device):
        self.samples: list[tuple[float, float]] = []
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0", "-lms", "200"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True) if device.type == "cuda" else None
        except OSError:
            self.process = None
        if self.process:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.samples.append((time.perf_counter(), float(line)))

    def busy(self, begin: float, end: float) -> float | None:
        """Mean share between two times of `time.perf_counter`, in percent."""
        found = [share for moment, share in self.samples if begin <= moment <= end]
        return float(np.mean(found)) if found else None

    def stop(self) -> None:
        if self.process:
            self.process.terminate()


def peak(bench: Bench) -> None:
    """FLOP/s of a large matrix product in the type of mixed precision."""
    size, dtype = (512 if bench.tiny else 8192), precision(bench.device)
    a = torch.randn(size, size, device=bench.device).to(dtype)
    times = []
    for _ in range(10):
        bench.wait()
        begin = time.perf_counter()
        torch.mm(a, a)
        bench.wait()
        times.append(time.perf_counter() - begin)
    bench.peak = 2 * size**3 / float(np.median(times))
    bench.report("matrix product", f"{bench.peak / 1e12:,.2f} TFLOP/s", f"{size} x {size}, {dtype}", flops=bench.peak)


def parity(bench: Bench) -> None:
    """Losses and gradients in float32 on the device against float64 on the CPU, on the same batch, without dropout."""
    for size in bench.sizes:
        for objective in BATCHES:
            model, collator = bench.corpus.first(8).built(objective, bench.sizes[size])
            batch = collator(np.arange(8 if size == "tiny" else 4))
            loss, gradients = derivative(model.double(), batch, torch.device("cpu"), torch.float64)
            other, others = derivative(model.float(), batch, bench.device, torch.float32)
            errors = {"loss": abs(other - loss) / abs(loss), "gradient": float((others - gradients).norm() / gradients.norm())}
            fine = max(errors.values()) <= TOLERANCE
            measured = f"loss {errors['loss']:.1e}, gradient {errors['gradient']:.1e}: {'within' if fine else 'NOT within'} {TOLERANCE:g}"
            bench.report(f"parity, {objective} {size}", measured, "relative error against float64 on the CPU", fine=fine, **errors)


def derivative(model: nn.Module, batch: dict, device: torch.device, dtype: torch.dtype) -> tuple[float, torch.Tensor]:
    """The loss, and all gradients in one vector, in float64 on the CPU."""
    model = model.to(device).eval()
    model.zero_grad()
    own = {name: (value.to(dtype) if value.is_floating_point() else value).to(device) for name, value in batch.items()}
    loss = model(**own).loss
    loss.backward()
    gradients = [parameter.grad.flatten().double().cpu() for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(gradients)


class Enough(Exception):
    """The part has had its seconds."""


class Clock:
    """Times the steps of a training from the fourth on; raises Enough when the seconds are over."""

    def __init__(self, bench: Bench):
        self.bench, self.begin, self.end, self.from_step, self.steps, self.every = bench, 0.0, 0.0, WARM, 0, 0

    def __call__(self, training: Training) -> None:
        self.every = len(training.batches)
        self.from_step = min(WARM, self.every - 1)
        if training.step == self.from_step:
            self.bench.wait()
            self.begin = time.perf_counter()
        elif training.step > self.from_step and time.perf_counter() - self.begin > self.bench.seconds:
            self.stop(training.step)
            raise Enough

    def stop(self, step: int) -> None:
        self.bench.wait()
        self.end, self.steps = time.perf_counter(), step - self.from_step


def epochs(bench: Bench) -> None:
    """An epoch of every objective at both sizes: seconds, FLOP/s, busy share, memory."""
    for size in bench.sizes:
        for objective, batch in BATCHES.items():
            with memory(bench) as used:
                model, collator = bench.corpus.built(objective, bench.sizes[size])
                batch, rows, clock = min(batch, 8) if bench.tiny else batch, np.arange(len(bench.corpus.lengths)), Clock(bench)
                sample = collator(np.random.default_rng(3).choice(rows, min(16, batch), replace=False))
                flops = step_flops(model.to(bench.device), sample) / min(16, batch) * len(rows)
                lengths = sum(collator.lengths(rows)) if objective == "head" else None
                try:
                    train(
                        model,
                        rows,
                        collator,
                        Schedule(1, batch, 1e-4),
                        bench.work / f"{objective}-{size}",
                        0,
                        lengths=lengths,
                        on_step=clock,
                    )
                    clock.stop(clock.every)
                except Enough:
                    pass
            seconds = (clock.end - clock.begin) / clock.steps * clock.every
            rate, busy = flops / seconds, bench.monitor.busy(clock.begin, clock.end)
            bench.epochs[objective, size], bench.rates[objective, size] = seconds, rate
            measured = f"{seconds:,.2f} s an epoch, {rate / 1e12:,.2f} TFLOP/s ({rate / bench.peak:.0%} of the product)"
            measured += "" if busy is None else f", GPU busy {busy:.0f} %"
            cut = "whole epoch" if clock.steps >= clock.every - WARM else "extrapolated"
            note = f"{cut}: {clock.steps} of {clock.every} steps timed; {used['gb']:.1f} GB"
            bench.report(f"{objective} {size}", measured, note, seconds=seconds, flops=flops, rate=rate, busy=busy, **used)


@contextmanager
def memory(bench: Bench):
    """Most memory in the body, GB: of the GPU, or of this process since it began."""
    used = {}
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield used
    own = torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used["gb"] = own / 1e9


def embed(bench: Bench) -> None:
    """All blocks through SpecTran, as `embed` does, in float32."""
    for size in bench.sizes:
        spectran, count, begin, seconds = (
            bench.corpus.first(8).built("CALP", bench.sizes[size])[0].spectran.to(bench.device),
            8,
            time.perf_counter(),
            0.0,
        )
        while True:  # ever more utterances, until they take a third of the time or are all
            frames = bench.corpus.first(count).frames
            own = time.perf_counter()
            encode_blocks(spectran, frames)
            seconds = time.perf_counter() - own
            if count >= len(bench.corpus.lengths) or time.perf_counter() - begin + 4 * seconds > bench.seconds:
                break
            count *= 4
        blocks, every = frames.blocks.sum(), bench.corpus.frames.blocks.sum()
        note = "all of them" if blocks == every else f"extrapolated from {blocks:,} of {every:,} blocks"
        bench.report(
            f"embed {size}", f"{seconds * every / blocks:,.2f} s, {blocks / seconds:,.0f} blocks/s", note, blocks_a_second=blocks / seconds
        )


def states(bench: Bench) -> None:
    """States of an encoder of the size of Whisper large-v3, in half precision on a GPU."""
    sizes = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "num_mel_bins": 128}
    tiny = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 1, "encoder_ffn_dim": 128}
    with memory(bench) as used:
        model = WhisperEncoder(WhisperConfig(**tiny if bench.tiny else sizes))
        network = WhisperStates(model, [model.config.encoder_layers]).to(bench.device).eval()
        if bench.device.type == "cuda":
            network.model.half()
        noise, heard, begin = np.random.default_rng(4).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32), 0, 0.0
        with FlopCounterMode(display=False) as counter:
            batch_states(network, [noise[: 8 * SAMPLE_RATE]])
        for number in range(10_000):
            own = bench.corpus.lengths[number * 16 : number * 16 + 16] * SAMPLE_RATE // FRAMES_A_SECOND
            clips = [noise[: min(length, 30 * SAMPLE_RATE)] for length in own]
            if number == 1:  # the first batch warms up
                begin = time.perf_counter()
            batch_states(network, clips)
            heard += sum(map(len, clips)) * (number > 0)
            if number and (time.perf_counter() - begin > bench.seconds / 2 or (number + 2) * 16 > len(bench.corpus.lengths)):
                break
    spent = time.perf_counter() - begin
    speed, rate = heard / SAMPLE_RATE / spent, counter.get_total_flops() / 8 * heard / SAMPLE_RATE / spent
    measured = f"{speed:,.0f} x real time, {rate / 1e12:,.2f} TFLOP/s ({rate / bench.peak:.0%} of the product)"
    note = f"{heard / SAMPLE_RATE:,.0f} s of noise, operations as in clips of 8 s; {used['gb']:.1f} GB"
    bench.report("encoder states", measured, note, speed=speed, rate=rate, **used)


def curves(bench: Bench) -> None:
    """Losses of CALP over a few epochs of some hundred utterances: in float32, and in bfloat16 from the same weights."""
    rows, found = np.arange(min(24 if bench.tiny else 512, len(bench.corpus.lengths))), {}
    for dtype in (torch.float32, torch.bfloat16):
        model, collator = bench.corpus.first(len(rows)).built("CALP", bench.sizes["tiny"])
        folder = bench.work / f"curve-{dtype}"
        curve = train(model, rows, collator, Schedule(4 if bench.tiny else 20, len(rows) // 4, 1e-3), folder, 0, dtype=dtype)
        found[str(dtype).removeprefix("torch.")] = [entry["loss"] for entry in curve]
    single, half = (np.array(curve) for curve in found.values())
    worst = float(np.max(np.abs(half - single) / np.abs(single)))
    measured = f"loss {single[0]:.3f} to {single[-1]:.3f}; bfloat16 {half[0]:.3f} to {half[-1]:.3f}, at most {worst:.1%} apart"
    bench.report("float32 and bfloat16", measured, f"CALP tiny, {len(single)} epochs of {len(rows)} utterances", curves=found, worst=worst)


def resume(bench: Bench) -> None:
    """CALP stopped by SIGTERM in the middle and gone on with, against CALP that was not stopped."""
    rows, weights = np.arange(min(24 if bench.tiny else 512, len(bench.corpus.lengths))), []

    def stop(training: Training) -> None:
        if training.step == training.steps // 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def run(folder: str, on_step: Callable | None = None) -> None:
        model, collator = bench.corpus.first(len(rows)).built("CALP", bench.sizes["tiny"])
        train(model, rows, collator, Schedule(2, len(rows) // 8, 1e-3), bench.work / folder, 0, on_step=on_step)
        weights.append(torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()]))

    run("through")
    try:
        run("stopped", stop)
        raise RuntimeError("SIGTERM did not stop the training")
    except Interrupted:
        run("stopped")
    through, stopped = weights
    apart = float((through - stopped).abs().max() / through.abs().max())
    bench.report("stop by SIGTERM and go on", f"weights {apart:.1e} apart", "0: bit for bit; a share of the largest weight", apart=apart)


def extrapolated(bench: Bench) -> None:
    """The paper's pretraining (table 4's models, 65 h), and its whole recipe, at the rates that were measured."""
    hours, tiny = bench.corpus.hours, "of no meaning with --tiny; " if bench.tiny else ""
    for size in bench.sizes:
        seconds = sum(number * bench.epochs[name, size] for name, number in EPOCHS.items()) * 65 / hours
        epochs = " and ".join(f"{number} epochs of {name}" for name, number in EPOCHS.items())
        bench.report(f"table 4, {size}", f"{seconds / 60:,.1f} min", f"{tiny}extrapolated: {epochs}, 65 h", seconds=seconds)
    seconds = sum(1e12 * tera / bench.rates[name, size] for name, sizes in RECIPE.items() for size, tera in sizes.items())
    note = f"{tiny}extrapolated: the operations of each objective at its rate; heads for comparison at that of CALM's; no transcription"
    bench.report("recipes/paper.yaml", f"{seconds / 3600:,.1f} h", note, seconds=seconds)


PARTS = (peak, parity, epochs, embed, states, curves, resume, extrapolated)


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    lines = ["| part | measured | how |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {row['part']} | {row['measured']} | {row['note']} |" for row in rows])


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file for the numbers")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=20, help="of each training; what is longer is extrapolated")
    parser.add_argument("--minutes", type=float, default=5.5, help="of all; near their end trainings get fewer seconds")
    parser.add_argument("--tiny", action="store_true", help="40 utterances and small models, to test the script")
    options, begin = parser.parse_args(arguments), time.perf_counter()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU can be used here: run it on a machine with one, or with --device cpu --tiny")
    os.environ["ACCELERATE_USE_CPU"] = str(options.device == "cpu").lower()
    torch.backends.cudnn.allow_tf32 = False  # parity is that of float32; trainings run in bfloat16
    with tempfile.TemporaryDirectory(prefix="calm-gpu-") as work:
        bench = Bench(torch.device(options.device), options.seconds, begin + 60 * options.minutes, options.tiny, Path(work))
        for part in PARTS:
            part(bench)
        bench.monitor.stop()
    hours = bench.corpus.hours
    about = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, accelerate, np)},
        "corpus": f"{len(bench.corpus.lengths):,} utterances, {hours:.1f} h of drawn frames, lengths: {bench.corpus.source}",
        "tiny": options.tiny,
        "seconds": time.perf_counter() - begin,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about | {"rows": bench.rows}, indent=1))
    print(f"{about['device']}; {about['corpus']}; {about['versions']}; {about['seconds']:.0f} s in all\n\n{markdown(bench.rows)}")
    return about | {"rows": bench.rows}


if __name__ == "__main__":
    main()
