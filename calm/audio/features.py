"""What turns samples into acoustic frames: the interface, and the kinds by name. A new kind is added here."""

from typing import Protocol

import numpy as np

from calm.audio.logmel import LogMel


class FrameExtractor(Protocol):
    """Frames of a signal at a fixed rate. A kind is a frozen dataclass whose fields are its settings,
    `sample_rate` and `channels` among them.

    Attributes:
        sample_rate: of the samples, in Hz.
        channels: values of a frame.
        frame_seconds: from the start of a frame to that of the next.
    """

    sample_rate: int
    channels: int

    @property
    def frame_seconds(self) -> float: ...

    def frames(self, samples: int) -> int:
        """Number of frames of a signal with so many samples; 0 if it is too short for one."""

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Samples (samples,) float32 -> (frames, channels) float32."""


LOG_MEL = "log-mel"
KINDS: dict[str, type[FrameExtractor]] = {LOG_MEL: LogMel}
