"""Load a released model to predict with it, by ONNX Runtime if possible, else by torch."""

from pathlib import Path

from calm.inference.classifier import Classifier, check_folder
from calm.inference.finding import find

GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # device files of NVIDIA's, AMD's and Windows' drivers


def load_classifier(model: str | Path | None = None, device: str = "auto") -> Classifier:
    """Load a released model. On the CPU its ONNX graph computes, if it has one; else torch.

    Args:
        model: a folder that the stage `release` wrote, an archive of it, or another name that `calm.inference.finding.find` knows.
        device: "cpu", "cuda", "cuda:1" ...; "auto": a GPU if there is one.

    Raises:
        ValueError: the folder has no released model, or one of its files is damaged.
    """
    folder = find(model)
    if classifier := load_compiled(folder, device):
        return classifier
    from calm.inference.torch_classifier import Predictor

    return Predictor(folder, device)


def load_compiled(folder: Path, device: str) -> Classifier | None:
    """Load the ONNX graph of a released model without torch; None if there is none, or if the device is a GPU."""
    from calm.inference.onnx_classifier import Compiled

    on_gpu = device not in ("auto", "cpu") or device == "auto" and any(Path(path).exists() for path in GPUS)
    return None if on_gpu else Compiled.read(check_folder(folder))
