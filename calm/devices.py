"""GPUs of this machine: whether PyTorch and CTranslate2 can use them and, where they cannot, why."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# The least driver on Linux by major version of CUDA (NVIDIA's "CUDA Toolkit Release Notes", minor version compatibility)
LEAST_DRIVER = {"11": "450.80.02", "12": "525.60.13", "13": "580"}
DRIVER_FILE = Path("/proc/driver/nvidia/version")
DEVICE_FILES = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"))
DRIVER_LIBRARY, AMD_DEVICE = "libcuda.so.1", Path("/dev/kfd")  # on Linux PyTorch finds no GPU without one of them
CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")  # the second needs the first


def count() -> int:
    """Number of GPUs that PyTorch can use. `torch.cuda.device_count` alone also counts those whose driver is too old."""
    if not _may_have_gpu():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def first() -> str:
    """The device of this process, as PyTorch names it: the first GPU, or under torchrun its own one; the CPU if there is no GPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if count() else "cpu"


def _may_have_gpu() -> bool:
    """Whether PyTorch must be asked for its GPUs; to load it takes seconds, which a process that does not need it saves."""
    return sys.platform != "linux" or "torch" in sys.modules or AMD_DEVICE.exists() or _opens(DRIVER_LIBRARY)


def _opens(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def driver() -> str | None:
    """Version of NVIDIA's driver; "" if there is a device whose driver does not tell; None without a device."""
    if DRIVER_FILE.exists() and (found := re.search(r"NVRM version:.*?\s(\d+\.\d[\d.]*)", DRIVER_FILE.read_text(errors="replace"))):
        return found[1]
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if answer.returncode == 0 and (lines := answer.stdout.split()):
            return lines[0]
    return "" if any(file.exists() for file in DEVICE_FILES) else None


def fault() -> str | None:
    """Why PyTorch leaves the GPU of this machine unused, in one sentence that says what to do; None if it does not.

    A GPU that `CUDA_VISIBLE_DEVICES` hides is not missed.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles") or not (_may_have_gpu() or driver() is not None):
        return None
    import torch

    if torch.cuda.is_available():
        return _too_old_devices()
    if torch.version.hip or (version := driver()) is None:
        return None
    if not torch.version.cuda:
        return f"this machine has an NVIDIA GPU, but torch {torch.__version__} is built without CUDA: install the wheel from PyPI"
    least = LEAST_DRIVER.get(torch.version.cuda.partition(".")[0])
    needed = f", which needs a driver of {least} or newer" if least else ""
    return (
        f"this machine has an NVIDIA GPU, but torch {torch.__version__} (CUDA {torch.version.cuda}{needed}) cannot use it with the driver "
        f"{version or 'of unknown version'}: update the driver, or install a torch for an older CUDA"
    )


def _too_old_devices() -> str | None:
    """A sentence on GPUs that are older than all that PyTorch was compiled for; None if there are none."""
    import torch

    known = [int(number) for name in torch.cuda.get_arch_list() if (number := name.removeprefix("sm_")).isdigit()]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if known and 10 * major + minor < min(known):
            name, least = torch.cuda.get_device_name(index), f"{min(known) // 10}.{min(known) % 10}"
            return (
                f"{name} has compute capability {major}.{minor}, but torch {torch.__version__} needs {least} or more: "
                "hide it by CUDA_VISIBLE_DEVICES, or install a torch for an older CUDA"
            )
    return None


@cache
def ctranslate2_fault() -> str | None:
    """Why CTranslate2 leaves a GPU of this machine unused, in one sentence that says what to do; None if it does not.

    CTranslate2 opens cuBLAS 12 by name at its first matrix product; the packages of PyTorch for CUDA 13 bring cuBLAS 13 alone.
    """
    import ctranslate2

    if not ctranslate2.get_cuda_device_count() or cublas_12():
        return None
    return (
        "faster-whisper transcribes on the CPU, as its GPU library, CTranslate2, does not find cuBLAS 12 (libcublas.so.12): "
        "`pip install nvidia-cublas-cu12` lets it use the GPU"
    )


def cublas_12() -> bool:
    """Whether cuBLAS 12 can be loaded: that of the system, or that of the package nvidia-cublas-cu12.

    It stays loaded, and the loader then finds it by its name wherever its file lies.
    """
    return all(_load(name) for name in CUBLAS)


def _load(library: str) -> bool:
    try:
        package = find_spec("nvidia.cublas")
    except ModuleNotFoundError:  # no package nvidia
        package = None
    folders = (package and package.submodule_search_locations) or []
    return any(_opens(str(path)) for path in (*(Path(folder) / "lib" / library for folder in folders), library))
