"""From samples to normalised acoustic frames, computed and rounded as in training (5.1); without torch, so that it loads fast."""

import copy
import dataclasses
import json
import logging
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import soxr

from calm.array_types import Floats32
from calm.audio.errors import AudioError, NotNumbers
from calm.audio.features import ENCODER, KINDS, LOG_MEL, FrameExtractor, extract
from calm.audio.survey import BEYOND
from calm.data.normalisation import Sums, of_speaker
from calm.data.ragged import AcousticFrames, Ragged

CONFIG = "preprocessor_config.json"  # Transformers' name of the file that holds a feature extractor
NORMALISE = ("corpus", "utterance")
logger = logging.getLogger(__name__)


def kind_settings(kind: str) -> dict[str, object]:
    """Settings of a kind of frames with their defaults, besides the sample rate."""
    return {field.name: field.default for field in dataclasses.fields(KINDS[kind]) if field.name != "sample_rate"}


class AcousticExtractor:
    """The settings and the arithmetic of `CalmFeatureExtractor`.

    Args:
        sampling_rate: at which frames are computed, in Hz.
        kind: name in `calm.audio.features.KINDS`; the settings of this kind are arguments too: for "log-mel" `channels`, `window_ms`,
            `hop_ms`, `low_hz` and `high_hz`, see `calm.audio.logmel.LogMel`; for "encoder" those of
            `calm.audio.encoder_states.EncoderStates`.
        trim_db: see `calm.audio.logmel.trim`; None: quiet ends are kept.
        normalise: "corpus", by `mean` and `std` of the training split, (channels,) each, or of a speaker after `for_speaker`;
            "utterance", by those of the utterance.
        block_frames, block_hop: see `CalmConfig`.
        max_tokens: places of the transformer, which text and audio share.
        speeds: at which new audio is heard too, and the logits averaged; pitch included.
        functionals: kind of functionals of an utterance's frames that the model's heads see, see `calm.audio.functionals`.
        longest: seconds of the longest utterance that the model learned from; None: not known. Longer recordings are cut.

    Raises:
        ValueError: settings that do not go together.
    """

    channels: int  # settings of the kind: this one of all kinds
    encoder: str  # and this one of "encoder"

    def __init__(
        self,
        sampling_rate: int = 16000,
        kind: str = LOG_MEL,
        trim_db: float | None = None,
        normalise: str = "utterance",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        block_frames: int = 50,
        block_hop: int = 30,
        max_tokens: int = 512,
        functionals: str | None = None,
        speeds: Sequence[float] = (),
        longest: float | None = None,
        **others: Any,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind is '{kind}': allowed are {', '.join(KINDS)}")
        for name, value in (("sampling_rate", sampling_rate), ("max_tokens", max_tokens), ("longest", longest), ("trim_db", trim_db)):
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} is {value!r}: give a number above 0")
        self.sampling_rate, self.kind = sampling_rate, kind
        for name, default in kind_settings(kind).items():
            setattr(self, name, others.pop(name, default))
        self.trim_db, self.normalise = trim_db, normalise
        self.mean, self.std = (None if values is None else [float(value) for value in values] for values in (mean, std))
        self.block_frames, self.block_hop, self.max_tokens = block_frames, block_hop, max_tokens
        self.functionals, self.speeds, self.longest = functionals, list(speeds), longest
        self._device = "cpu"
        self._folder: Path | None = None
        super().__init__(**others)
        self.frame_extractor  # noqa: B018, raises ValueError if the settings of the kind do not go together
        if trim_db is not None and kind not in (LOG_MEL, ENCODER):
            raise ValueError(f"trim_db is {trim_db:g}, but quiet ends can only be found in {LOG_MEL}, or for an encoder: set it to None")
        if normalise not in NORMALISE:
            raise ValueError(f"normalise is '{normalise}': allowed are {' and '.join(NORMALISE)}")
        if normalise == "corpus" and not len(self.mean or ()) == len(self.std or ()) == self.channels:
            raise ValueError(f"normalise is '{normalise}': mean and std are needed, for {self.channels} channels each")

    @classmethod
    def read(cls, folder: Path) -> "AcousticExtractor":
        """What `CalmFeatureExtractor.save_pretrained` wrote to a folder."""
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        extractor = cls(**{name: value for name, value in settings.items() if name not in ("feature_extractor_type", "processor_class")})
        extractor.uses("cpu", folder)
        return extractor

    @property
    def frame_extractor(self) -> FrameExtractor:
        """What computes the frames."""
        settings = {name: _hashable(getattr(self, name)) for name in kind_settings(self.kind)}
        return _frame_extractor(self.kind, sample_rate=self.sampling_rate, **settings)

    def clips(self, raw_speech: Any, sampling_rate: int | None) -> list[np.ndarray]:
        """Samples of each utterance, (samples,) float32, at the extractor's rate; arguments as for `CalmFeatureExtractor`."""
        if sampling_rate is None or sampling_rate <= 0:
            raise ValueError(
                f"sampling_rate is {sampling_rate}: give the rate of the samples in Hz (this model computes at {self.sampling_rate})"
            )
        several = isinstance(raw_speech, list | tuple) and len(raw_speech) and np.ndim(raw_speech[0]) > 0
        several = several or getattr(raw_speech, "ndim", 1) > 1
        return [self._clip(clip, sampling_rate) for clip in (raw_speech if several else [raw_speech])]

    def _clip(self, given: Any, sampling_rate: int) -> Floats32:
        samples: np.ndarray = given.detach().cpu().numpy() if hasattr(given, "detach") else np.asarray(given)
        if samples.ndim != 1:
            raise ValueError(f"samples have the shape {samples.shape}: an utterance is (samples,) of one channel; take the channels' mean")
        if not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"samples are {samples.dtype}: give floats in [-1, 1] (int16 divided by 32768)")
        if not np.isfinite(samples).all():
            raise NotNumbers("samples hold NaN or infinity: mend the audio")
        if (peak := float(np.abs(samples).max(initial=0))) > 2 * BEYOND:  # samples of a file are checked, and overshoot where resampled
            raise AudioError(f"samples reach {peak:.6g}: divide them, so that they lie between -1 and 1 (int16 by 32768)")
        samples = samples.astype(np.float32, copy=False)
        if sampling_rate != self.sampling_rate:
            samples = soxr.resample(samples, sampling_rate, self.sampling_rate)
        if not self.frame_extractor.frames(len(samples)):
            raise AudioError(f"{len(samples)} samples at {self.sampling_rate} Hz are less than a frame: give more audio", "too short")
        return samples

    def acoustic_frames(self, clips: Sequence[np.ndarray]) -> AcousticFrames:
        """Normalised frames of samples as `clips` returns them."""
        return self.normalised([self.frames(samples) for samples in clips])

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Frames of one utterance before they are normalised, (frames, channels) float16, as features are stored."""
        (frames,) = extract(self.frame_extractor, [samples], self.trim_db, self._device, self._folder)
        return frames.astype(np.float16)

    def untrimmed(self, samples: np.ndarray) -> np.ndarray:
        """As `frames`, with the quiet ends; no frame of too short an audio."""
        (frames,) = extract(self.frame_extractor, [samples], None, self._device, self._folder)
        return frames.astype(np.float16)

    def uses(self, device: str, folder: Path | None) -> None:
        """Where a speech encoder computes, and the folder of the released model that holds it; None: it is found by its name."""
        self._device, self._folder = device, folder

    @property
    def folder(self) -> Path | None:
        """Folder of the released model, see `uses`."""
        return self._folder

    def normalised(self, utterances: Sequence[np.ndarray]) -> AcousticFrames:
        """Normalised frames of what `frames` returns: float16, padded to at least one block."""
        rows = [self._normalised(frames.astype(np.float32)) for frames in utterances]
        return AcousticFrames(Ragged.from_rows(rows), np.ones(len(rows), np.float32), self.block_frames, self.block_hop)

    def for_speaker(self, clips: Iterable[np.ndarray]) -> Self:
        """This extractor for one speaker, whose frames are normalised by these recordings of the speaker, without any label.

        Args:
            clips: samples of each recording, as `clips` returns them; one in each mood that will be heard says most.

        Raises:
            ValueError: the model normalises every utterance by its own frames, or there is no recording.
        """
        if self.normalise == "utterance":
            raise ValueError("this model normalises every utterance by its own frames, so that it needs no other recordings")
        sums = Sums()
        for samples in clips:
            sums.add(self.frames(samples))
        if not sums.frames:
            raise ValueError("nobody speaks in the speaker's recordings: give one in which the person is heard")
        other = copy.copy(self)
        other.mean, other.std = (values.tolist() for values in of_speaker(sums, (np.array(self.mean), np.array(self.std))))
        return other

    def nothing(self) -> AcousticFrames:
        """Frames of no utterance, for texts alone."""
        return AcousticFrames(Ragged(np.empty((0, self.channels), np.float16), np.empty(0, np.int64)), np.empty(0, np.float32))

    def _normalised(self, frames: np.ndarray) -> np.ndarray:
        if self.normalise == "utterance":
            mean, std = frames.mean(0), frames.std(0) + 1e-3
        else:
            mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        padded = np.zeros((max(len(frames), self.block_frames), frames.shape[1]), np.float16)
        padded[: len(frames)] = (frames - mean) / std
        return padded


def text_or_empty(text: str | None) -> str:
    """The text as it is, "" for None; its case is left to the tokenizer. Raises ValueError for anything else."""
    if not isinstance(text, str | None):
        raise ValueError(f"a text is {type(text).__name__}: give a string, or None for an utterance without text")
    return text or ""


def warn_cut(cut: int, utterances: int, places: int) -> None:
    """Warn that the ends of `cut` of the utterances are left out."""
    if cut:
        logger.warning(
            f"{cut} of {utterances} utterances do not fit the {places} places of text and audio: their ends are left out. "
            "Cut long recordings at their pauses, as `calm predict` does."
        )


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@cache  # with its filters; kept out of the extractor, whose attributes are saved
def _frame_extractor(kind: str, **settings: Any) -> FrameExtractor:
    return KINDS[kind](**settings)
