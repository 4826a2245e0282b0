"""Hidden states of a pretrained speech encoder as acoustic frames. PyTorch is imported when the first frames are computed by it."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calm.array_types import Floats32
from calm.audio.logmel import LogMel, loud_frames

if TYPE_CHECKING:
    from calm.audio.speech_encoders import SpeechEncoder

LONGEST = 30.0  # seconds of a window of a longer clip, to which Whisper's positions reach
CONTEXT = 1.0  # seconds on either side of what is kept of a window
GRAPH = "encoder.onnx"  # the encoder of a released model, from samples (1, samples) to states (1, frames, channels)
WEIGHTS = "encoder"  # folder of its weights

logger = logging.getLogger(__name__)

Compute = Callable[[Sequence[Floats32]], list[Floats32]]  # clips of at most LONGEST -> (frames, channels) float32 each


@dataclass(frozen=True)
class EncoderStates:
    """States of some layers of a speech encoder, side by side; a `calm.audio.features.FrameExtractor`.

    A clip goes in at its own length, without padding. A longer one than 30 s goes in by windows, of which the outermost second is only
    context. The sizes are those of the encoder, written down so that they are known without loading it (`describe`).

    Args:
        sample_rate: in Hz.
        channels: of a frame, the width of a layer times the number of layers.
        encoder: see `calm.audio.speech_encoders.load_speech_encoder`.
        layers: 1 is the first transformer block's output, 0 its input.
        hop, window: samples from frame to frame, and those that a frame needs.
    """

    sample_rate: int = 16000
    channels: int = 384
    encoder: str = "whisper-tiny.en"
    layers: tuple[int, ...] = (2,)
    hop: int = 320
    window: int = 320

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))  # a list, where they were read from JSON

    @classmethod
    def describe(cls, encoder: str, layers: Sequence[int]) -> "EncoderStates":
        """The states of an encoder, with its sizes. Raises ValueError if it cannot be loaded or lacks a layer."""
        from calm.audio.speech_encoders import SAMPLE_RATE

        network = _loaded(encoder, tuple(layers), "cpu")
        return cls(SAMPLE_RATE, network.channels, encoder, tuple(layers), network.hop, network.window)

    @property
    def frame_seconds(self) -> float:
        """Seconds from frame to frame."""
        return self.hop / self.sample_rate

    def frames(self, samples: int) -> int:
        """Number of frames of a signal with so many samples."""
        return 1 + (samples - self.window) // self.hop if samples >= self.window else 0

    def __call__(self, samples: Floats32) -> Floats32:
        return self.of_clips([samples])[0]

    def of_clips(self, clips: Sequence[Floats32], device: str = "cpu", folder: Path | None = None) -> list[Floats32]:
        """Frames of several clips, (frames, channels) float32 each.

        Args:
            device: that computes, by PyTorch.
            folder: of a released model, whose encoder is used: on the CPU its graph by ONNX Runtime, if there is one.
        """
        compute, windows = self._compute(device, folder), [self._windows(len(clip)) for clip in clips]
        pieces = [clip[first:last] for clip, own in zip(clips, windows, strict=True) for first, last, _ in own]
        states = iter(compute([np.asarray(piece, np.float32) for piece in pieces]))
        empty = np.empty((0, self.channels), np.float32)
        return [np.concatenate([empty, *(next(states)[kept] for *_, kept in own)]) for own in windows]

    def _windows(self, samples: int) -> list[tuple[int, int, slice]]:
        """First and last sample of each window, and which of its frames are kept; none for a clip without a frame."""
        frames, context = self.frames(samples), round(CONTEXT / self.frame_seconds)
        most = self.frames(round(LONGEST * self.sample_rate))
        if frames <= most:
            return [(0, samples, slice(0, frames))] if frames else []
        windows = []
        for kept in range(0, frames, most - 2 * context):
            first, end = max(0, kept - context), min(kept + most - 2 * context, frames)
            last = min(end + context, frames)
            windows.append((first * self.hop, (last - 1) * self.hop + self.window, slice(kept - first, end - first)))
        return windows

    def _compute(self, device: str, folder: Path | None) -> Compute:
        if folder and device == "cpu" and (compute := _graph(folder / GRAPH)):
            return compute
        from calm.audio.speech_encoders import batch_states

        name = str(folder / WEIGHTS) if folder and (folder / WEIGHTS).is_dir() else self.encoder
        network = _loaded(name, self.layers, device)
        return lambda clips: batch_states(network, clips)


def load_encoder(model: Path) -> "SpeechEncoder | None":
    """The speech encoder whose weights lie in the folder of a model; None if there are none.

    In the result of CALP it is the one that was trained along. Stored features are states of the encoder before that, and only those of
    its first layer are the same.
    """
    from transformers.utils import FEATURE_EXTRACTOR_NAME

    from calm.audio.speech_encoders import load_speech_encoder

    if not (model / WEIGHTS).is_dir():
        return None
    return load_speech_encoder(str(model / WEIGHTS), json.loads((model / FEATURE_EXTRACTOR_NAME).read_text(encoding="utf-8"))["layers"])


@cache
def _loaded(encoder: str, layers: tuple[int, ...], device: str) -> "SpeechEncoder":
    """The network on a device; in half precision on a GPU."""

    from calm.audio.speech_encoders import load_speech_encoder

    network = load_speech_encoder(encoder, layers).to(device)
    if device != "cpu":
        network.model.half()  # what comes before the model, such as Whisper's log-mel, stays in float32
    return network


def _graph(file: Path) -> Compute | None:
    """An exported encoder; None if there is none, or if it is damaged."""
    return _session(file, file.stat().st_mtime_ns) if file.is_file() else None


@cache
def _session(file: Path, changed: int) -> Compute | None:
    """The graph of a file as it was `changed`, in nanoseconds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        logger.warning(f"{file} is damaged, torch is used instead: release the model again ({error})")
        return None
    return lambda clips: [session.run(["states"], {"samples": clip[None]})[0][0] for clip in clips]


@cache  # with its filters
def pictured(sample_rate: int) -> LogMel:
    """Log-mel in place of an encoder's states, where loudness is asked for, or something to look at."""
    return LogMel(sample_rate, high_hz=min(7600, sample_rate / 2))


def trim_samples(samples: Floats32, sample_rate: int, trim_db: float) -> Floats32:
    """Cut the quiet ends of a signal (samples,): as `calm.audio.logmel.trim` does, on log-mel frames that are computed for this alone."""
    logmel = pictured(sample_rate)
    first, last = loud_frames(logmel(samples), trim_db)
    return samples[first * logmel.hop : max(last - 1, 0) * logmel.hop + logmel.window] if last else samples


def at_speed(samples: Floats32, sample_rate: int, speed: float) -> Floats32:
    """The signal played faster (speed above 1) or slower, pitch included: (samples / speed,)."""
    import soxr

    played: Floats32 = soxr.resample(samples, sample_rate * speed, sample_rate).astype(np.float32)
    return played
