"""Many speakers and speaking styles from the single voice of hibari-tts (Apache-2.0), by changing the output of its network.

For each frame of 12.5 ms, the network returns log spectra of the harmonics and of the noise (601 bins up to 12 kHz) and F0. A `Voice`
tells how these are changed before synthesis. All its fields are additive (semitones, octaves, decibels): speaker and style are added, a
stronger style is a multiple, and a mixture of two emotions a weighted sum.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from calm.array_types import Floats32
from calm.processes import end_with_parent

if TYPE_CHECKING:
    from hibari import Hibari

SAMPLE_RATE = 16000
FRAMES_PER_SECOND = 80
BINS = 601
VOICED_HZ = 40.0  # in hibari, an F0 below this marks an unvoiced frame
TREMOR_HZ = 5.5
NEPER = np.log(10) / 20  # one decibel on a natural-log amplitude scale


@dataclass(frozen=True)
class Voice:
    """A change of hibari's voice; with all zeros the voice is unchanged."""

    pitch: float = 0.0  # semitones
    range: float = 0.0  # octaves of the spread of F0 around its mean: 1 doubles the spread
    rate: float = 0.0  # octaves of tempo: 1 is twice as fast
    formants: float = 0.0  # octaves of the spectral envelope: positive is a shorter vocal tract
    gain: float = 0.0  # dB
    tilt: float = 0.0  # dB at 12 kHz relative to 0 Hz: positive is bright and pressed, negative soft
    breath: float = 0.0  # dB of the noise relative to the harmonics
    tremor: float = 0.0  # semitones of a 5.5 Hz wobble
    rise: float = 0.0  # semitones that F0 climbs over the last 40 % of the utterance

    def __add__(self, other: "Voice") -> "Voice":
        return Voice(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> "Voice":
        return Voice(*(a * factor for a in astuple(self)))


# Pitch, loudness and tilt follow arousal: anger is close to happy, fear to surprise, sad to neutral, and contempt to disgust.
STYLES = {
    "neutral": Voice(range=-0.35),
    "happy": Voice(pitch=3.8, range=0.5, rate=0.12, formants=0.06, gain=4, tilt=5, rise=1.0),
    "anger": Voice(pitch=2.0, range=0.25, rate=0.16, gain=7, tilt=12, breath=-3, rise=-2.0),
    "sad": Voice(pitch=-2.0, range=-1.1, rate=-0.26, gain=-6, tilt=-9, breath=5, rise=-1.0),
    "fear": Voice(pitch=4.2, range=-0.5, rate=0.20, gain=-3, tilt=-2, breath=8, tremor=0.7),
    "surprise": Voice(pitch=4.6, range=0.75, rate=-0.02, gain=2, tilt=1, breath=2, rise=5.0),
    "disgust": Voice(pitch=-3.2, range=0.1, rate=-0.20, formants=-0.07, gain=2, tilt=5, breath=3, rise=-2.0),
    "contempt": Voice(pitch=-2.4, range=-0.2, rate=-0.12, formants=-0.04, gain=-2, tilt=6, breath=-3, rise=-3.0),
}
# Standard deviation between utterances of one speaker in one style.
JITTER = Voice(pitch=0.7, range=0.15, rate=0.04, formants=0.008, gain=1.0, tilt=1.2, breath=1.0, rise=0.6)


@dataclass(frozen=True)
class Speaker:
    """One synthetic speaker. `noise` is the level of the background noise in dB relative to full scale."""

    number: int
    gender: str  # "female" or "male"
    voice: Voice
    noise: float


def draw_speaker(number: int, rng: np.random.Generator) -> Speaker:
    """A speaker with random pitch, vocal tract, rate, gain, tilt and breath. Even numbers are women, odd ones men."""
    male = number % 2 == 1
    voice = Voice(
        pitch=rng.uniform(-10.5, -5.5) if male else rng.uniform(-2.5, 2.5),
        range=rng.uniform(-0.25, 0.25),
        rate=rng.uniform(-0.36, -0.04),  # hibari itself speaks fast
        formants=rng.uniform(-0.26, -0.12) if male else rng.uniform(-0.06, 0.12),
        gain=rng.uniform(-1.5, 1.5),
        tilt=rng.uniform(-2.5, 2.5),
        breath=rng.uniform(-2, 2),
    )
    return Speaker(number, "male" if male else "female", voice, rng.uniform(-68, -56))


def perform(style: Voice, strength: float, rng: np.random.Generator) -> Voice:
    """A style in one utterance: scaled by `strength`, with the variation of a natural speaker."""
    return style * strength + Voice(*(rng.normal(0, spread) for spread in astuple(JITTER)))


@dataclass(frozen=True)
class Line:
    """A text and how to speak it. `seed` is the entropy of a SeedSequence: a line gives the same samples in any process."""

    text: str
    voice: Voice
    seed: tuple[int, ...]


def speak_all(lines: Sequence[Line], workers: int | None = None) -> Iterator[Floats32]:
    """Yield the samples of all lines in order (float32, mono, 16 kHz, peaks below 1). `workers`: processes; None: one per core."""
    workers = min(workers or _cores(), len(lines))
    if workers <= 1:
        yield from map(speak, lines)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with onnxruntime's threads can hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    try:
        yield from pool.map(speak, lines, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def speak(line: Line) -> Floats32:
    """Samples of one line: float32, mono, 16 kHz, with 0.1 s of silence at both ends and peaks below 1."""
    import soxr
    from hibari import dsp

    engine = _engine()
    rng = np.random.default_rng(np.random.SeedSequence(line.seed))
    parts = [dsp.synth(*_frames(engine, phonemes, line.voice), rng) for phonemes in engine.phonemize(line.text)]
    wave = soxr.resample(np.concatenate(parts), engine.sample_rate, SAMPLE_RATE)
    return limit(trim(wave) * np.float32(10 ** (line.voice.gain / 20)))


_loaded: "Hibari | None" = None


def _engine() -> "Hibari":
    """hibari with one thread, loaded once per process."""
    global _loaded
    if _loaded is None:
        from hibari import Hibari

        _loaded = Hibari(threads=1)
    return _loaded


def _frames(engine: "Hibari", phonemes: str, voice: Voice) -> tuple[Floats32, ...]:
    """Arguments of `hibari.dsp.synth` before its generator, changed by the voice.

    These are harmonics, their phase, noise, free part and its phase, (BINS, frames) each, and F0, (frames,).
    """
    feed = {"ids": np.asarray([engine.ids(phonemes)], np.int64), "speed": np.asarray([2**voice.rate], np.float32)}
    harmonics, harmonic_phase, noise, free, free_phase, f0 = (out[0] for out in engine.sess.run(None, feed))
    harmonics, noise, free = (_stretch(spectrum, voice.formants) for spectrum in (harmonics, noise, free))
    nearest = np.clip(np.round(np.arange(BINS) / 2**voice.formants), 0, BINS - 1).astype(int)
    slope = (np.linspace(0, voice.tilt, BINS) * NEPER).astype(np.float32)[:, None]
    breath = np.float32(voice.breath * NEPER)
    return harmonics + slope, harmonic_phase[nearest], noise + slope + breath, free + slope, free_phase[nearest], _pitch(f0, voice)


def _stretch(spectrum: Floats32, octaves: float) -> Floats32:
    """Stretch a (BINS, frames) envelope along frequency, which moves the formants but not F0."""
    source = np.clip(np.arange(BINS) / 2**octaves, 0, BINS - 1)
    low = source.astype(int)
    weight = (source - low).astype(np.float32)[:, None]
    stretched: Floats32 = spectrum[low] * (1 - weight) + spectrum[np.minimum(low + 1, BINS - 1)] * weight
    return stretched


def _pitch(f0: Floats32, voice: Voice) -> Floats32:
    """F0 (frames,) in Hz with its mean, range, tremor and final rise changed. Unvoiced frames are unchanged."""
    voiced = np.flatnonzero(f0 > VOICED_HZ)
    if not len(voiced):
        return f0
    octaves = np.log2(f0[voiced])
    mean = octaves.mean()
    position = (voiced - voiced[0]) / max(1, voiced[-1] - voiced[0])
    semitones = voice.pitch + voice.tremor * np.sin(2 * np.pi * TREMOR_HZ * voiced / FRAMES_PER_SECOND)
    semitones = semitones + voice.rise * np.clip((position - 0.6) / 0.4, 0, 1)
    changed = f0.copy()
    changed[voiced] = 2 ** (mean + 2**voice.range * (octaves - mean) + semitones / 12)
    return np.maximum(changed, np.where(f0 > VOICED_HZ, 55, 0)).astype(np.float32)  # 55 Hz: lower pulses no longer sound like speech


def trim(wave: Floats32, keep: float = 0.1, below_db: float = 45) -> Floats32:
    """Cut the ends that are `below_db` quieter than the loudest 20 ms, except for `keep` seconds, and fade in and out over 10 ms."""
    hop = SAMPLE_RATE // 50
    power = np.square(wave[: len(wave) // hop * hop].reshape(-1, hop)).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-below_db / 10))
    wave = wave[max(0, int(loud[0] * hop - keep * SAMPLE_RATE)) : int((loud[-1] + 1) * hop + keep * SAMPLE_RATE)].copy()
    fade = np.linspace(0, 1, SAMPLE_RATE // 100, dtype=np.float32)
    wave[: len(fade)] *= fade
    wave[-len(fade) :] *= fade[::-1]
    return wave


def limit(wave: Floats32, knee: float = 0.7, ceiling: float = 0.97) -> Floats32:
    """Soft limiter: unchanged up to `knee`, above it compressed smoothly so that no peak exceeds `ceiling`."""
    size = np.abs(wave)
    bent = knee + (ceiling - knee) * np.tanh((size - knee) / (ceiling - knee))
    return np.where(size > knee, np.copysign(bent, wave), wave).astype(np.float32)
