"""Check the installation: packages, devices, packaged weights, servers, disk."""

import os
import platform
import shutil
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet

from calm.tools.console import PARTS

PACKAGE = "calm-speech"
TIMEOUT = 5.0  # seconds to wait for a server
LEAST_GIGABYTES = 0.6  # free disk for `data` and DVC's cache after a rebuild of the embedded default


@dataclass(frozen=True)
class Finding:
    """The state of one part of the installation; a fault if something that is needed is missing."""

    name: str
    state: str
    fault: bool = False


def examine() -> Iterator[Finding]:
    """Check everything, one finding at a time."""
    yield Finding("python", platform.python_version())
    yield from packages()
    yield from devices()
    if find_spec("torch"):
        yield from weights()
    yield server("MLflow", "MLFLOW_TRACKING_URI", "/health")
    yield server("Prefect", "PREFECT_API_URL", "/health")
    free = shutil.disk_usage(".").free / 1e9
    yield Finding("disk", f"{free:.1f} GB free here, {LEAST_GIGABYTES:g} GB are needed", free < LEAST_GIGABYTES)


def packages() -> Iterator[Finding]:
    """Versions of this package and of all that it and its installed parts require, and the parts that are not installed."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires(PACKAGE) or []]
    except metadata.PackageNotFoundError:
        yield Finding(PACKAGE, "not installed: pip install -e . in the project's folder", True)
        return
    yield Finding(PACKAGE, metadata.version(PACKAGE))
    absent = [part for part, (module, *_) in PARTS.items() if not find_spec(module)]
    installed = {"", *PARTS} - set(absent)
    for requirement in requirements:
        needed = requirement.marker is None or any(requirement.marker.evaluate({"extra": part}) for part in installed)
        if needed and requirement.name != PACKAGE:
            yield package(requirement.name, requirement.specifier)
    for part in absent:
        yield Finding(f"part {part}", f"not installed: pip install '{PACKAGE}[{part}]'")


def package(name: str, specifier: SpecifierSet) -> Finding:
    """Version of one package, against the versions that are required."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, f"not installed: pip install '{name}{specifier}'", True)
    if not specifier.contains(version, prereleases=True):
        return Finding(name, f"{version}, required is {specifier}: pip install '{name}{specifier}'", True)
    return Finding(name, version)


def devices() -> Iterator[Finding]:
    """CPU cores and GPUs that training and inference would use."""
    from calm.tools.needs import cores

    yield Finding("cpu", f"{cores()} cores")
    if not find_spec("torch"):
        yield Finding("gpu", "none is used: the part train is not installed")
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("gpu", f"torch cannot be imported: {error}", True)
        return
    from calm import devices as gpus

    names = [f"{torch.cuda.get_device_name(index)} ({_capability(index)})" for index in range(gpus.count())]
    fault = gpus.fault()
    yield Finding("gpu", fault or ", ".join(names) or "none, everything runs on the CPU", fault is not None)
    if version := gpus.driver():
        yield Finding("NVIDIA driver", version)
    if names and (fault := gpus.ctranslate2_fault()):
        yield Finding("Whisper on the GPU", fault)


def _capability(index: int) -> str:
    import torch

    return "compute capability {}.{}".format(*torch.cuda.get_device_capability(index))


def weights() -> Iterator[Finding]:
    """Weights from packages, against the SHA-256 of the official files."""
    from calm.audio import packaged
    from calm.models.language_model import PACKAGED_SHA256, packaged_folder

    try:
        yield Finding("MiniLM", f"{packaged_folder() / 'model.safetensors'}, SHA-256 {PACKAGED_SHA256[:12]}... as published")
    except (ImportError, OSError, ValueError) as error:
        yield Finding("MiniLM", str(error), True)
    for name, (module, digest) in packaged.WEIGHTS.items():
        try:
            folder = packaged.packaged(name)
        except packaged.WeightsError as error:
            yield Finding(f"Whisper {name}", str(error), True)
            continue
        state = f"{folder / 'model.bin'}, SHA-256 {digest[:12]}... as published" if folder else f"not installed: package with {module}"
        yield Finding(f"Whisper {name}", state, folder is None)


def server(name: str, variable: str, health: str) -> Finding:
    """Whether the server that an environment variable names answers. The variable may be unset."""
    address = os.environ.get(variable)
    if not address:
        return Finding(name, f"{variable} is not set: " + ("runs are written to mlflow.db" if name == "MLflow" else "no server is used"))
    fault = unanswered(address, health)
    shown = urlsplit(address)._replace(netloc=urlsplit(address).netloc.rpartition("@")[2]).geturl()  # without a password
    return Finding(name, f"{variable} {shown} " + (f"does not answer: {fault}" if fault else "answers"), bool(fault))


def unanswered(address: str, health: str) -> str:
    """Why a server or a database file does not answer; "" if it does."""
    parts = urlsplit(address)
    try:
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(address.rstrip("/") + health, timeout=TIMEOUT):
                return ""
        if parts.scheme.startswith("sqlite"):
            return _database(Path(address.partition("///")[2]))
        if parts.hostname:
            with socket.create_connection((parts.hostname, parts.port or 5432), TIMEOUT):
                return ""
        return "neither a database nor a server: set it to sqlite:///FILE, a database URL or http://HOST:PORT"
    except (OSError, ValueError, sqlite3.Error) as error:
        reason = getattr(error, "reason", None)  # of URLError, which is an OSError
        return str(reason if isinstance(reason, OSError) else error)


def _database(file: Path) -> str:
    if not file.is_file():
        return "" if file.absolute().parent.is_dir() else f"{file.parent} does not exist"  # MLflow creates the file
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("select count(*) from sqlite_master").fetchone()
    return ""
