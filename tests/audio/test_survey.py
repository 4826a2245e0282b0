"""What the samples tell: channels that cancel, floats at the scale of integers, constant offsets, spectra that end early."""

import numpy as np
import pytest
import soundfile
import soxr
from made_model import speech

from calm.audio.decoding import AudioError, AudioFile, read_audio
from calm.audio.headers import read_header
from calm.audio.survey import one_channel

SPEECH = speech(2)


def written(folder, samples, rate: int = 16000, **options):
    soundfile.write(folder / "a.wav", samples, rate, **{"subtype": "FLOAT"} | options)
    return folder / "a.wav"


@pytest.mark.parametrize("right", [-1.0, -0.9])
def test_channels_that_cancel(tmp_path, right):
    path = written(tmp_path, np.stack([SPEECH, right * SPEECH], axis=1))
    np.testing.assert_array_equal(read_audio(path), SPEECH)
    assert read_header(path).notes == ("channels cancel, the loudest is used",)
    with AudioFile(path) as file:
        np.testing.assert_array_equal(file.read(0.5, 1), SPEECH[8000:16000])


def test_channels_that_cancel_in_a_part(tmp_path):
    """Such as two recordings in one file, of which one has a channel with the poles swapped."""
    right = np.where(np.arange(len(SPEECH)) < 24000, SPEECH, -SPEECH)
    np.testing.assert_array_equal(read_audio(written(tmp_path, np.stack([SPEECH, right], axis=1))), SPEECH)
    assert one_channel(np.stack([SPEECH, right])).tolist() == SPEECH.tolist()


@pytest.mark.parametrize("right", [1.0, 0.0, -0.5, 0.8])
def test_other_channels_are_averaged(tmp_path, right):
    path = written(tmp_path, np.stack([SPEECH, right * SPEECH], axis=1))
    np.testing.assert_allclose(read_audio(path), (1 + right) / 2 * SPEECH, atol=1e-7)
    assert read_header(path).notes == ()


@pytest.mark.parametrize("scale", [2**15, 2**23, 2**31])
def test_floats_at_the_scale_of_integers_are_divided(tmp_path, scale):
    """At 24 and 32 bits the peak tells the scale, so the signal has to use it."""
    loud = SPEECH / np.abs(SPEECH).max() * 0.9
    path = written(tmp_path, np.rint(loud.astype(np.float64) * scale).astype(np.float32), subtype="DOUBLE")
    np.testing.assert_allclose(read_audio(path), loud, atol=1 / 2**15)
    assert read_header(path).notes == ("float samples at the scale of integers, divided",)


@pytest.mark.parametrize("values", [2**8, 2**16])
def test_floats_that_are_integers_without_a_sign(tmp_path, values):
    path = written(tmp_path, np.rint((SPEECH / np.abs(SPEECH).max() * 0.9 + 1) * values / 2))
    assert np.abs(read_audio(path)).max() == pytest.approx(0.9, abs=0.03) and abs(read_audio(path).mean()) < 1e-3


def test_16_bits_in_the_lower_half_of_32_are_multiplied_and_noise_is_not(tmp_path):
    samples = np.rint(SPEECH * 2**15).astype(np.int32)
    path = written(tmp_path, samples, subtype="PCM_32")
    np.testing.assert_allclose(read_audio(path), SPEECH, atol=1 / 2**15)
    assert read_header(path).notes == ("samples of 16 bits in the lower half of 32, multiplied",)
    assert read_header(written(tmp_path, samples % 5 << 8, subtype="PCM_32")).notes == ()  # noise of a converter of 24 bits


def test_other_samples_far_beyond_1_are_refused_and_hot_ones_are_not(tmp_path):
    path = written(tmp_path, SPEECH * 1000.3)
    header = read_header(path)
    assert header.fault == "samples far beyond 1" and "between -1 and 1" in header.detail
    with pytest.raises(AudioError, match="has samples up to"):
        read_audio(path, 0.5, 1)
    hot = SPEECH / np.abs(SPEECH).max() * 2.5
    assert np.abs(read_audio(written(tmp_path, hot))).max() == pytest.approx(2.5)


def test_an_offset_is_removed(tmp_path):
    path = written(tmp_path, SPEECH + 0.2)
    assert abs(read_audio(path).mean()) < 1e-4 and np.abs(read_audio(path) - (SPEECH - SPEECH.mean())).max() < 1e-4
    with AudioFile(path) as file:
        np.testing.assert_array_equal(file.read(0.5, 1), read_audio(path)[8000:16000])
    assert read_header(path).notes == ("constant offset removed",)
    assert read_header(written(tmp_path, SPEECH + 0.002)).notes == () == read_header(written(tmp_path, np.full(16000, 0.2))).notes


def test_a_long_file_is_judged_by_its_start_middle_and_end(tmp_path):
    long = np.tile(SPEECH, 80)
    with AudioFile(written(tmp_path, np.stack([long, -long], axis=1))) as file:
        assert file.seconds == 160
        np.testing.assert_array_equal(file.read(30, 32), SPEECH)


def noise(seconds: float, rate: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def test_where_the_spectrum_ends(tmp_path):
    """Telephone speech in a file of 8 kHz, and of 16 kHz; sound of all frequencies."""
    narrow = noise(2, 8000)
    assert read_header(written(tmp_path, narrow, 8000), bands=True).top_hz == 4000
    assert read_header(written(tmp_path, soxr.resample(narrow, 8000, 16000), subtype="PCM_16"), bands=True).top_hz == 4000
    assert read_header(written(tmp_path, noise(2, 16000)), bands=True).top_hz is None
    assert read_header(written(tmp_path, np.zeros(32000)), bands=True).top_hz is None
