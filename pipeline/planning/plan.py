"""`calm plan`: stages of a recipe with trainings, operations, time on this machine, memory and disk."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from calm.data.arrays import IN_MEMORY
from pipeline import settings, state
from pipeline.planning.machine import Machine
from pipeline.planning.sizes import TOKENS_A_SECOND, Size, size
from pipeline.planning.trainings import Shapes, Training, trainings
from pipeline.settings import Settings

FLOAT16, FLOAT32 = 2, 4  # bytes
ADAM = 4 * FLOAT32  # bytes of a trained parameter: weight, gradient, two moments
COPIES = 2  # of every output: in its place, and in DVC's cache if the file system cannot share it
DAYS = 86400
WHISPER = {"tiny": (4, 384), "base": (6, 512), "small": (12, 768), "medium": (24, 1024), "large": (32, 1280), "turbo": (32, 1280)}
POSITIONS, WINDOW = 50, 30  # Whisper's encoder positions a second, and its window in seconds


@dataclass
class Line:
    """One kind of stage. None: not estimated."""

    stage: str
    count: int  # stages of this kind
    trainings: int = 0
    flops: float = 0
    seconds: float | None = None
    bytes: float = 0  # of its outputs
    how: str = ""


@dataclass
class Plan:
    """What a recipe takes on a machine."""

    title: str
    machine: Machine
    sizes: dict[str, Size]
    trainings: list[Training]
    lines: list[Line]
    memory: float  # bytes of the largest stage, without activations
    free: int  # bytes of disk

    @property
    def seconds(self) -> float:
        return sum(line.seconds or 0 for line in self.lines)

    @property
    def bytes(self) -> float:
        """Of disk, with the copy in DVC's cache."""
        return COPIES * sum(line.bytes for line in self.lines)

    def warnings(self) -> Iterable[str]:
        """What should be known before this is started."""
        longest = max(self.lines, key=lambda line: line.seconds or 0)
        if self.seconds > DAYS and not self.machine.gpus:
            share = (longest.seconds or 0) / self.seconds
            yield f"{duration(self.seconds)} on CPUs, {share:.0%} of it the stage {longest.stage}: take a GPU, fewer epochs or fewer rows"
        if self.bytes > self.free:
            yield f"{self.bytes / 1e9:.1f} GB of disk are needed, {self.free / 1e9:.1f} GB are free here"


def plan(loaded: Settings, machine: Machine) -> Plan:
    """Estimate what a recipe takes. Raises ValueError if the size of a corpus or of a language model is not known."""
    spoken = machine.spoken[0] if loaded.synthetic else 0.0
    sizes = {name: size(loaded, name, spoken) for name in loaded.corpora}
    found = trainings(loaded, sizes)
    lines = [*_before(loaded, machine, sizes), *_training(loaded, machine, sizes, found), *_after(loaded, machine, sizes)]
    free = shutil.disk_usage(".").free
    return Plan(loaded.title, machine, sizes, found, lines, _memory(loaded, machine, sizes, found), free)


def _before(loaded: Settings, machine: Machine, sizes: dict[str, Size]) -> list[Line]:
    """The stages up to the features."""
    corpora, seconds = len(sizes), sum(size.seconds for size in sizes.values())
    made = sum(synthetic.utterances for synthetic in loaded.synthetic.values())
    lines = []
    if made:
        speech = made * machine.spoken[0]
        time = made * machine.spoken[1] / machine.cores
        lines.append(Line("synthesise", len(loaded.synthetic), seconds=time, bytes=speech * 32000, how="8 utterances measured"))
    lines.append(Line("ingest", corpora, seconds=0, how="little"))
    flops = sum(whisper_flops(loaded, size) for name, size in sizes.items() if size.without_text and loaded.reads(name))
    heard = Line(
        "transcribe", corpora, flops=flops, seconds=flops / machine.matrix / max(1, machine.gpus), how="operations / FLOP/s of a product"
    )
    layers = len(loaded.features.layers) if loaded.features.encoder else 0
    copies = 1 + len(loaded.features.speeds)
    size_log_mel = seconds / (loaded.features.hop_ms / 1000) * loaded.features.mels * FLOAT16
    states = layers * copies * seconds * POSITIONS * 384 * FLOAT16  # as wide as Whisper tiny.en's
    note = "10 s measured" + ("; the encoder's states are not in the time" if layers else "")
    frames = Line("features", corpora, seconds=seconds / machine.log_mel / machine.cores, bytes=size_log_mel + states, how=note)
    return [*lines, heard, frames]


def _training(loaded: Settings, machine: Machine, sizes: dict[str, Size], found: list[Training]) -> list[Line]:
    """CALP, the encoded blocks, masked pretraining, heads."""
    lines = []
    for stage, over in (("calp", loaded.models), ("embed", loaded.models), ("pretrain", loaded.models), ("head", loaded.heads)):
        if stage == "embed":
            lines.append(_embed(loaded, machine, sizes, found))
            continue
        own = [training for training in found if training.stage == stage]
        share = machine.gpus if stage == "head" and machine.gpus else 1
        share = share if stage == "head" else loaded.compute.devices.get(stage, 1) if machine.gpus else 1
        seconds = sum(training.flops / machine.training_rate(training) for training in own) / share
        seconds += sum(training.steps + training.light_steps for training in own) * machine.step / (machine.cores if stage == "head" else 1)
        weights = {training.name: training.parameters * FLOAT32 for training in own} if stage != "head" else {}
        number = sum(training.runs for training in own)
        flops = sum(training.flops for training in own)
        lines.append(Line(stage, len(over), number, flops, seconds, sum(weights.values()), "a step of each kind of model measured"))
    return lines


def _embed(loaded: Settings, machine: Machine, sizes: dict[str, Size], found: list[Training]) -> Line:
    """One pass of SpecTran over all blocks, at the rate of CALP's training, of which it is a third."""
    flops, seconds, stored = 0.0, 0.0, 0.0
    calp = {training.name: training for training in found if training.stage == "calp"}
    for name in loaded.models:
        corpora = [sizes[corpus] for corpus in loaded.pretraining_corpora(name)]
        if not corpora or loaded.for_model(name).pretrain.train_spectran:
            continue
        shapes = Shapes(loaded, name, corpora)
        blocks = shapes.blocks * sum(size.utterances for size in corpora)
        stored += blocks * (shapes.spectran.width or shapes.text.hidden_size) * FLOAT16
        if training := calp.get(name):
            passed = training.row_flops / 2 / 3 * blocks  # a row of CALP is a pair of blocks, forward and backward
            flops, seconds = flops + passed, seconds + passed / machine.training_rate(training) / max(1, machine.gpus)
    return Line("embed", len(loaded.models), 0, flops, seconds, stored, "by CALP's rate")


def _after(loaded: Settings, machine: Machine, sizes: dict[str, Size]) -> list[Line]:
    """Baselines, and what every stage takes to start."""
    lines = []
    if "egemaps" in loaded.evaluate.baselines:
        heard = sum(sizes[corpus].seconds for corpus in loaded.targets)
        lines.append(Line("baselines", len(loaded.targets), seconds=heard / machine.egemaps / machine.cores, how="eGeMAPS; 3 s measured"))
    stages = len(list(state.addresses(loaded)))
    lines.append(Line("starts", stages, seconds=stages * machine.start, how="of all stages, one measured"))
    return lines


def _memory(loaded: Settings, machine: Machine, sizes: dict[str, Size], found: list[Training]) -> float:
    """Bytes of the largest training stage: frames of its corpora, as far as a process holds them (`calm.data.arrays`), weights, gradients
    and moments; without activations."""
    rate = loaded.features.mels / (loaded.features.hop_ms / 1000) * FLOAT16
    most = 0.0
    for training in found:
        name = training.name.partition(":")[0]
        corpora = loaded.pretraining_corpora(name) if training.stage != "head" else [loaded.heads[name].corpus]
        processes = (machine.gpus or min(machine.cores, 8)) if training.stage == "head" else loaded.compute.devices.get(training.stage, 1)
        frames = rate * sum(sizes[corpus].seconds for corpus in corpora)
        most = max(most, processes * (min(frames, IN_MEMORY) + ADAM * training.parameters))
    return most


def whisper_flops(loaded: Settings, size: Size) -> float:
    """Operations of Whisper for a corpus without text: encoder and, for each token and beam, decoder (arXiv 2212.04356, table 1)."""
    section = loaded.transcribe
    name = section.model.partition(".")[0].partition("-")[0]
    layers, width = WHISPER.get(name, WHISPER["large"])
    window = max(section.window_seconds, min(WINDOW, size.mean + 1))
    windows, positions = size.utterances * math.ceil(max(1, size.mean / WINDOW)), POSITIONS * window
    encoder = layers * positions * (24 * width**2 + 4 * positions * width)
    decoder = 4 if name == "turbo" else layers
    token = decoder * (32 * width**2 + 4 * positions * width) + 2 * width * 51_865
    return windows * encoder + size.utterances * (4 + TOKENS_A_SECOND * size.mean) * section.beam * token


def described(result: Plan) -> str:
    """A plan as text for people."""
    machine = result.machine
    lines = [f"{result.title}, on {machine.title}"]
    lines += [f"  {name}: {size.utterances} utterances, {size.hours:.1f} h ({size.source})" for name, size in result.sizes.items()]
    lines.append(f"  {'stage':<12}{'stages':>7}{'trainings':>11}{'TFLOP':>14}{'time':>10}{'disk':>10}   how")
    for line in result.lines:
        flops = f"{line.flops / 1e12:,.1f}" if line.flops else "-"
        disk = f"{line.bytes / 1e6:,.0f} MB" if line.bytes else "-"
        trained = line.trainings or "-"
        lines.append(f"  {line.stage:<12}{line.count:>7}{trained:>11}{flops:>14}{duration(line.seconds):>10}{disk:>10}   {line.how}")
    total = sum(line.flops for line in result.lines)
    lines.append(f"  in all: {total / 1e12:,.0f} TFLOP, {duration(result.seconds)}; disk {result.bytes / 1e9:.1f} GB with DVC's copy")
    lines.append(f"  memory: {result.memory / 1e9:.1f} GB in the largest training stage, activations not counted")
    lines.append(f"  measured: {machine.matrix / 1e9:,.0f} GFLOP/s in a matrix product, log-mel {machine.log_mel:,.0f} x real time a core")
    return "\n".join([*lines, *(f"  WARNING {warning}" for warning in result.warnings())])


def as_dict(result: Plan) -> dict:
    """A plan as plain values for JSON."""
    about = {"title": result.title, "machine": result.machine.title, "seconds": result.seconds, "bytes": result.bytes}
    about |= {"memory": result.memory, "matrix": result.machine.matrix, "warnings": list(result.warnings())}
    return about | {
        "corpora": {name: asdict(size) for name, size in result.sizes.items()},
        "stages": [asdict(line) for line in result.lines],
    }


def duration(seconds: float | None) -> str:
    """In the unit that people would use."""
    if seconds is None:
        return "unknown"
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (2 * DAYS, 3600, "h"), (math.inf, DAYS, "days")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:,.1f} {name}" if unit > 60 and value < 100 else f"{value:,.0f} {name}"
    return "unknown"


def of_recipe(path: Path) -> Plan:
    """The plan of a file of settings on this machine. Raises ValueError if it is faulty or something is not known."""
    return plan(settings.load(path), Machine())
