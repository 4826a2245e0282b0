"""What this machine does in a second, measured in a few seconds."""

import subprocess
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from calm import devices
from calm.audio.decoding import read_audio
from calm.audio.logmel import LogMel
from calm.tools.needs import rate
from calm.training.loop import train
from calm.training.schedule import Schedule, precision
from pipeline import factory
from pipeline.execution.workers import cores
from pipeline.planning.trainings import Training

RATE = 16000
BUDGET = 5e10  # floating-point operations of a step that is timed on a CPU, at most; a row at least


class Machine:
    """Rates of this machine; each is measured when it is first asked for."""

    def __init__(self):
        self.device, self.gpus, self.cores = factory.device(), devices.count(), cores()
        self._rates: dict[tuple, float] = {}

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.gpus} x {torch.cuda.get_device_name(0)}" if self.gpus else f"{self.cores} CPU cores"

    @cached_property
    def matrix(self) -> float:
        """FLOP/s of a large matrix product on one device: float32 on the CPU, in training's precision on a GPU."""
        size = 8192 if self.gpus else 2048
        a = torch.randn(size, size, device=self.device)
        a = a.to(self.precision)
        return 2 * size**3 * rate(lambda: a @ a, self.device)

    @property
    def precision(self) -> torch.dtype:
        """That of mixed-precision training; torch.float32: none."""
        return precision(self.device)

    def training_rate(self, training: Training) -> float:
        """FLOP/s of training steps on one device, the optimiser and the making of batches included."""
        if training.family not in self._rates:
            timed = training if self.gpus else training.shallow()
            most = timed.batch if self.gpus else int(BUDGET / timed.row_flops)
            rows = np.arange(max(timed.least_rows, min(timed.batch, most)))
            model, collator = timed.build(len(rows))
            model = model.to(self.device).train()
            adam = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], fused=True)

            def step() -> None:
                with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                    loss = model(**{key: value.to(self.device) for key, value in collator(rows).items()}).loss
                loss.backward()
                adam.step()
                adam.zero_grad()

            self._rates[training.family] = timed.row_flops * len(rows) * rate(step, self.device, 0.5)
        return self._rates[training.family]

    @cached_property
    def step(self) -> float:
        """Seconds of a step of the training loop besides the operations of its model."""
        model = _Point()
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            schedule = Schedule(epochs=1, batch=1, learning_rate=0.01)
            train(model.to(self.device), range(200), lambda rows, generator=None: {"x": torch.ones(1)}, schedule, Path(folder), 0)
        return (time.perf_counter() - begin) / 200

    @cached_property
    def log_mel(self) -> float:
        """Seconds of audio a second and core, read from WAV."""
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            file, logmel = Path(folder) / "noise.wav", LogMel()
            soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 10 * RATE), RATE)
            return 10 * rate(lambda: logmel(read_audio(file, 0, 10, RATE)))

    @cached_property
    def egemaps(self) -> float:
        """Seconds of audio a second and core."""
        from calm.evaluation.baselines import _smile

        noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
        return 3 * rate(lambda: _smile().process_signal(noise, RATE))

    @cached_property
    def spoken(self) -> tuple[float, float]:
        """Of synthetic speech: seconds of an utterance, and seconds of one core for it."""
        from calm.synthesis import plan, voices

        lines = [turn.line for turn in plan.plan("mosei", 60, 20, 0.0, 0)][:8]
        voices.speak(lines[0])
        begin = time.perf_counter()
        lengths = [len(voices.speak(line)) / voices.SAMPLE_RATE for line in lines]
        return float(np.mean(lengths)), (time.perf_counter() - begin) / len(lines)

    @cached_property
    def start(self) -> float:
        """Seconds that a stage takes to start: Python and the packages of one that trains."""
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import pipeline.heads.training"], check=True)
        return time.perf_counter() - begin


class _Point(torch.nn.Module):
    """The least model that the training loop takes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x - 1).square().sum()}
