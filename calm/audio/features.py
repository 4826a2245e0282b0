"""What turns samples into acoustic frames: the interface, and the kinds by name. A new kind is added here."""

from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from calm.array_types import Floats32
from calm.audio.encoder_states import EncoderStates, trim_samples
from calm.audio.logmel import LogMel, trim


class FrameExtractor(Protocol):
    """Frames of a signal at a fixed rate. A kind is a frozen dataclass whose fields are its settings,
    `sample_rate` and `channels` among them.

    Attributes:
        sample_rate: of the samples, in Hz.
        channels: values of a frame.
        hop, window: samples from the start of a frame to that of the next, and samples of a frame.
        frame_seconds: from the start of a frame to that of the next.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def sample_rate(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def hop(self) -> int: ...

    @property
    def window(self) -> int: ...

    @property
    def frame_seconds(self) -> float: ...

    def frames(self, samples: int) -> int:
        """Number of frames of a signal with so many samples; 0 if it is too short for one."""

    def __call__(self, samples: Floats32) -> Floats32:
        """Samples (samples,) float32 -> (frames, channels) float32."""


LOG_MEL, ENCODER = "log-mel", "encoder"
KINDS: dict[str, type[FrameExtractor]] = {LOG_MEL: LogMel, ENCODER: EncoderStates}


def extract(
    extractor: FrameExtractor, clips: Sequence[Floats32], trim_db: float | None = None, device: str = "cpu", folder: Path | None = None
) -> list[Floats32]:
    """Frames of clips without their quiet ends, (frames, channels) float32 each.

    Args:
        clips: (samples,) each.
        trim_db: see `calm.audio.logmel.trim`; None: quiet ends are kept. An encoder does not hear them at all.
        device, folder: of an encoder, see `EncoderStates.of_clips`.
    """
    if isinstance(extractor, EncoderStates):
        heard = clips if trim_db is None else [trim_samples(clip, extractor.sample_rate, trim_db) for clip in clips]
        return extractor.of_clips(heard, device, folder)
    frames = [extractor(clip) for clip in clips]
    return frames if trim_db is None else [trim(own, trim_db) for own in frames]
