"""A released model for answers alone, by ONNX Runtime or by torch."""

from pathlib import Path

from calm.inference.classifier import Classifier, check

GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # what is there where a driver of NVIDIA's, AMD's, or Windows' is


def load(folder: Path, device: str = "auto") -> Classifier:
    """A released model for answers alone: compiled, where it is to compute on the CPU, else by torch.

    Args:
        device: "cpu", "cuda", "cuda:1" ...; "auto": a GPU where there is one.

    Raises:
        ValueError: the folder is no released model.
    """
    if found := compiled(folder, device):
        return found
    from calm.inference.torch_classifier import Predictor

    return Predictor(folder, device)


def compiled(folder: Path, device: str) -> Classifier | None:
    """`load` without torch; None where the model has no graph, or is to compute on a GPU."""
    from calm.inference.onnx_classifier import Compiled

    on_gpu = device not in ("auto", "cpu") or device == "auto" and any(Path(path).exists() for path in GPUS)
    return None if on_gpu else Compiled.of(check(folder))
