"""The measurements on one GPU: all of them run on a CPU, with small sizes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, made

ROOT = Path(__file__).parents[2]
ABSENT = "soundfile soxr sklearn pydantic dvc mlflow scipy prefect typer joblib av faster_whisper ctranslate2 onnxruntime h5py"
WITHOUT = f"""
import sys
for name in {ABSENT!r}.split():
    sys.modules[name] = None  # an import fails, and nobody finds it
from benchmarks import gpu
gpu.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    """What the whole script writes, run where no other package can be imported."""
    file = tmp_path_factory.mktemp("gpu") / "out/gpu.json"
    command = [sys.executable, "-c", WITHOUT, "--device", "cpu", "--tiny", "--seconds", "0.5", "--out", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    assert "| recipes/paper.yaml |" in ended.stdout
    return json.loads(file.read_text())


def rows(measured: dict, beginning: str) -> list[dict]:
    found = [row for row in measured["rows"] if row["part"].startswith(beginning)]
    assert found
    return found


def test_every_part_is_measured_without_other_packages(measured):
    parts = [row["part"] for row in measured["rows"]]
    assert len(parts) == len(set(parts)) == 1 + 6 + 6 + 2 + 1 + 1 + 1 + 3
    assert all(row["seconds"] > 0 and row["flops"] > 0 and row["gb"] > 0 for row in rows(measured, "head"))
    assert measured["tiny"] and measured["device"].startswith("CPU")


def test_losses_and_gradients_are_near_those_in_float64(measured):
    for row in rows(measured, "parity"):
        assert row["fine"] and 0 < row["gradient"] < 1e-4


def test_a_wrong_gradient_is_not_parity(monkeypatch, tmp_path):
    bench = gpu.Bench(torch.device("cpu"), 1, 1e9, True, tmp_path)
    bench.sizes = {"tiny": made.TINY["tiny"]}
    right = gpu.derivative

    def wrong(model, batch, device, dtype):
        loss, gradients = right(model, batch, device, dtype)
        return loss, gradients * (1.01 if dtype is torch.float32 else 1)

    monkeypatch.setattr(gpu, "derivative", wrong)
    gpu.parity(bench)
    assert [row["fine"] for row in bench.rows] == [False] * 3
    assert bench.rows[0]["gradient"] == pytest.approx(0.01, rel=1e-3)


def test_a_stopped_training_goes_on_bit_for_bit(measured):
    assert rows(measured, "stop")[0]["apart"] == 0


def test_bfloat16_learns_what_float32_learns(measured):
    (row,) = rows(measured, "float32")
    assert row["worst"] < 0.05
    assert set(row["curves"]) == {"float32", "bfloat16"} and len(set(map(len, row["curves"].values()))) == 1


def test_a_part_that_is_cut_short_is_extrapolated_from_whole_steps(tmp_path, monkeypatch):
    """2 seconds of steps that take 1 s: three are timed (the clock is looked at before a step), of 10."""
    now = [0.0]
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    bench = gpu.Bench(torch.device("cpu"), 2, 1e9, True, tmp_path)
    clock, training = gpu.Clock(bench), type("Training", (), {"batches": range(10), "step": 0})()
    with pytest.raises(gpu.Enough):
        for training.step in range(10):
            clock(training)
            now[0] += 1
    assert (clock.steps, clock.end - clock.begin, clock.every) == (3, 3, 10)


def test_drawn_lengths_are_65_hours():
    seconds = made.drawn_lengths()
    assert 64.9 < seconds.sum() / 3600 <= 65 and seconds.min() >= 0.5 and seconds.max() <= 60
    assert np.median(seconds) == pytest.approx(6.3, rel=0.03)


def test_operations_of_the_recipe_are_those_of_the_page():
    """docs/scale.md has them in PFLOP, from `python -m pipeline.planning.scale`."""
    page, names = (ROOT / "docs/scale.md").read_text(), {"CALP": "CALP", "pretraining": "masked pretraining", "head": "heads"}
    for name, sizes in gpu.RECIPE.items():
        for size, tera in sizes.items():
            assert f"| {names[name]}, {size.upper()} | {tera / 1e3:,.1f} |" in page
