"""An encoder's states of clips of any length, the ends of clips, copies at other speeds, and functionals."""

import encoders
import numpy as np
import pytest

from calm.audio import encoder_states
from calm.audio.encoder_states import EncoderStates, at_speed, trim_samples
from calm.audio.features import extract
from calm.audio.functionals import PER_CHANNEL, functionals


@pytest.fixture(scope="module")
def hubert(tmp_path_factory) -> EncoderStates:
    """An encoder without positions that end, small enough to hear a minute in one pass."""
    return EncoderStates.describe(str(encoders.folder(tmp_path_factory.mktemp("encoder") / "hubert", "hubert")), [0, 2])


def test_an_encoder_describes_itself(hubert):
    assert (hubert.sample_rate, hubert.channels, hubert.layers, hubert.hop, hubert.window) == (16000, 128, (0, 2), 320, 400)
    assert hubert.frame_seconds == 0.02 and EncoderStates(layers=[2]) == EncoderStates()
    with pytest.raises(ValueError, match=r"layers are \[7\]: the encoder has the layers 0 to 3"):
        EncoderStates.describe(hubert.encoder, [7])


@pytest.mark.parametrize("seconds", [0.02, 0.025, 1, 30, 30.005, 30.1, 57.93, 58.5, 61.7, 95])
def test_windows_cover_every_frame_once(seconds):
    """Of a clip of any length; each window is at most 30 s and has a second around what is kept, but at the ends."""
    states, samples = EncoderStates(hop=320, window=400), round(seconds * 16000)
    windows = states._windows(samples)
    assert sum(kept.stop - kept.start for *_, kept in windows) == states.frames(samples)
    next_frame = 0
    for first, last, kept in windows:
        assert last - first <= 30 * 16000 and last <= samples and first % 320 == 0
        assert first // 320 + kept.start == next_frame
        frames, next_frame = states.frames(last - first), next_frame + kept.stop - kept.start
        assert kept.stop <= frames
        assert first == 0 or kept.start == 50
        assert frames - kept.stop == 50 or next_frame > states.frames(samples) - 50
    assert next_frame == states.frames(samples)
    assert len(windows) == {0.02: 0, 0.025: 1, 1: 1, 30: 1, 30.005: 2, 30.1: 2, 57.93: 3, 58.5: 3, 61.7: 3, 95: 4}[seconds]


def test_a_long_clip_by_windows_is_nearly_what_one_pass_gives(hubert, monkeypatch):
    """Frame by frame; more context than windows have changes little, and with one window nothing."""
    clip = encoders.noise(45 * 16000)
    by_windows = hubert(clip)
    assert by_windows.shape == (hubert.frames(len(clip)), 128)
    monkeypatch.setattr(encoder_states, "LONGEST", 60.0)
    whole = hubert(clip)
    error = np.abs(by_windows - whole).mean(1) / np.abs(whole).mean()
    assert error.max() < 0.35 and np.abs(whole - np.roll(whole, 1, 0)).mean() > 2 * np.abs(by_windows - whole).mean()


def test_clips_too_short_for_a_frame_give_none_and_keep_their_place(hubert):
    found = hubert.of_clips([encoders.noise(399), encoders.noise(8000), encoders.noise(100)])
    assert [frames.shape for frames in found] == [(0, 128), (24, 128), (0, 128)]
    np.testing.assert_array_equal(found[1], hubert(encoders.noise(8000)))


def test_an_encoder_does_not_hear_quiet_ends():
    """Half a second of sound within silence: what is left is the sound and 50 ms on either side."""
    sound = np.concatenate([np.zeros(16000), encoders.noise(16000), np.zeros(16000)]).astype(np.float32)
    kept = trim_samples(sound, 16000, 40)
    assert 16000 <= len(kept) <= 16000 + 2 * 1200
    start = next(at for at in range(14000, 16001) if np.array_equal(sound[at : at + len(kept)], kept))
    assert 16000 - 1200 <= start <= 16000
    np.testing.assert_array_equal(trim_samples(sound[:200], 16000, 40), sound[:200])  # no log-mel frame to measure


def test_extract_trims_before_the_encoder(hubert):
    sound = np.concatenate([np.zeros(16000), encoders.noise(16000), np.zeros(16000)]).astype(np.float32)
    (trimmed,), (whole,) = extract(hubert, [sound], 40), extract(hubert, [sound])
    np.testing.assert_array_equal(trimmed, hubert(trim_samples(sound, 16000, 40)))
    assert len(whole) == 149 and len(trimmed) < 60


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_copies_are_faster_and_higher(speed):
    time = np.arange(32000) / 16000
    copy = at_speed(np.sin(2 * np.pi * 400 * time).astype(np.float32), 16000, speed)
    assert abs(len(copy) - 32000 / speed) <= 1 and copy.dtype == np.float32
    middle = copy[4000:20000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() == pytest.approx(400 * speed, abs=1)  # bins of 1 Hz


def test_functionals_by_hand():
    """Eleven frames of one channel, 0 to 10 in no order, and of one that stays: mean, deviation, and ranks 1, 5 and 9 of 10."""
    frames = np.stack([np.random.default_rng(0).permutation(11), np.full(11, 3)], 1).astype(np.float16)
    found = functionals(frames)
    assert found.dtype == np.float32 and len(found) == 2 * PER_CHANNEL["whole"]
    np.testing.assert_allclose(found, [5, 3, 10**0.5, 0, 1, 3, 5, 3, 9, 3], rtol=1e-6)
    np.testing.assert_allclose(functionals(np.array([[7.0]], np.float16)), [7, 0, 7, 7, 7])
