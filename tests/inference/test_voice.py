"""Whether somebody speaks."""

import numpy as np
import pytest
from made_model import speech

from calm.inference import voice

SECONDS = 2


def noise(level_db: float, rate: int = 16000) -> np.ndarray:
    return (10 ** (level_db / 20) * np.random.default_rng(0).standard_normal(SECONDS * rate)).astype(np.float32)


@pytest.mark.parametrize(
    "samples", [np.zeros(32000, np.float32), np.full(32000, 0.3, np.float32), noise(-90), noise(-60), noise(-45), np.zeros(10, np.float32)]
)
def test_silence_and_the_noise_of_a_device_are_nobody(samples):
    assert voice.is_noise_floor(samples) and not voice.heard(samples, 16000)


@pytest.mark.parametrize("gain_db", [0, -30])
def test_quiet_speech_is_no_noise_floor(gain_db):
    assert not voice.is_noise_floor(10 ** (gain_db / 20) * speech(SECONDS))


@pytest.mark.parametrize("background", [0, 1e-3])
def test_one_word_in_a_long_silence_is_left_to_the_detection_of_voices(background):
    samples = background * np.random.default_rng(0).standard_normal(29 * 16000).astype(np.float32)
    samples[20 * 16000 :][:8000] += speech(0.5)
    assert not voice.is_noise_floor(samples)


def test_loud_noise_is_left_to_the_detection_of_voices(monkeypatch):
    loud = noise(-20, 44100)
    assert not voice.is_noise_floor(loud) and not voice.heard(loud, 44100)
    monkeypatch.setattr(voice, "detects", lambda: False)
    assert voice.heard(loud, 44100)
