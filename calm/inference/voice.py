"""Whether somebody speaks: asked of every recording before a model answers, as a model would call silence something too."""

from importlib.util import find_spec

import numpy as np
import soxr

from calm.audio import pauses
from calm.audio.pauses import SAMPLE_RATE, Pauses

NO_SPEECH = "no speech"
FLOOR = -70.0  # dB of full scale: what is never louder is silence, that of a microphone included
STEADY = 8.0  # dB between loud and quiet frames: what varies less is noise, as speech has pauses and bursts
QUIET = -40.0  # dB: steady sound above it may be anything
FRAME = 400  # samples of a frame, 25 ms at 16 kHz
WORD = 8  # frames that a word has at least, however long the recording is


def heard(samples: np.ndarray, sample_rate: int) -> bool:
    """Whether there is speech in samples (samples,) float32 of one recording.

    By level first, then by voice activity detection, where the part of the installation that has it is there.
    """
    if is_noise_floor(samples):
        return False
    if not detects():
        return True
    at_16_khz = samples if sample_rate == SAMPLE_RATE else soxr.resample(samples, sample_rate, SAMPLE_RATE)
    return bool(pauses.speech(np.asarray(at_16_khz, np.float32), Pauses()))


def detects() -> bool:
    """Whether the part of the installation that detects voice activity is there."""
    return find_spec("faster_whisper") is not None


def is_noise_floor(samples: np.ndarray) -> bool:
    """Whether samples (samples,) are digital silence or the steady noise of a device.

    Levels are of frames of 25 ms at 16 kHz, between the quietest twentieth of them, and the loudest one or those of a word.
    """
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME) if len(samples) >= FRAME else samples[None]
    frames = frames - frames.mean(axis=1, keepdims=True)  # a constant offset is no sound
    levels = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-20)
    quiet, loud = np.quantile(levels, [0.05, max(0.95, 1 - WORD / len(levels))])
    return bool(loud < FLOOR or (loud < QUIET and loud - quiet < STEADY))
