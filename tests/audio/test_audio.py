"""Reading audio of every kind, and log-mel frames against hand-computed numbers and torchaudio's."""

import math

import av
import numpy as np
import pytest
import soundfile

from calm.audio.decoding import AudioError, AudioFile, NotNumbers, read_audio
from calm.audio.logmel import LOG_FLOOR, LogMel, mel_filters, trim


def sine(hz: float, seconds: float, rate: int = 16000, height: float = 0.5) -> np.ndarray:
    return (height * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


# Reading


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_any_rate_becomes_16_khz(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", sine(440, 1.0, rate), rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "a.wav")
    assert samples.dtype == np.float32
    assert len(samples) == 16000
    assert np.abs(samples - sine(440, 1.0))[800:-800].max() < 2e-3


@pytest.mark.parametrize("channels", range(1, 9))
def test_channels_are_averaged(tmp_path, channels):
    tones = np.stack([sine(200 * (c + 1), 0.5) for c in range(channels)], axis=1)
    soundfile.write(tmp_path / "a.wav", tones, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), tones.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 1e-6),
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "DOUBLE", 1e-7),
        ("a.wav", "ULAW", 0.05),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
        ("a.ogg", "VORBIS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_sample_formats(tmp_path, name, subtype, step):
    soundfile.write(tmp_path / name, sine(440, 0.5), 16000, subtype=subtype)
    samples = read_audio(tmp_path / name)
    assert len(samples) == 8000
    assert np.abs(samples - sine(440, 0.5))[1600:-1600].max() <= step * 1.01


def test_an_interval_is_what_the_whole_file_has_there(tmp_path):
    whole = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", whole, 16000, subtype="FLOAT")
    with AudioFile(tmp_path / "a.wav") as file:
        np.testing.assert_array_equal(file.read(0.5, 1.25), whole[8000:20000])
        np.testing.assert_array_equal(file.read(None, 0.001), whole[:16])
        np.testing.assert_array_equal(file.read(1.5), whole[24000:])
        np.testing.assert_array_equal(file.read(1.5, 99), whole[24000:])  # an end beyond the file is clamped
        assert len(file.read(0, 1, sample_rate=8000)) == 8000


def write_with_ffmpeg(path, codec: str, samples: np.ndarray, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 192000
        whole = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        whole.rate, whole.pts = rate, 0
        cut = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or 1024)
        for frame in [*cut.resample(whole), *cut.resample(None), None]:
            container.mux(stream.encode(frame))


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.m4a", "aac", 44100), ("a.webm", "libopus", 48000), ("a.mka", "flac", 22050)])
def test_files_that_libsndfile_cannot_open_are_read_with_ffmpeg(tmp_path, name, codec, rate):
    def rising(rate):
        return sine(440, 6.0, rate) * np.linspace(0.1, 1, 6 * rate, dtype=np.float32)

    write_with_ffmpeg(tmp_path / name, codec, rising(rate), rate)
    with AudioFile(tmp_path / name) as file:
        whole, part = file.read(), file.read(3.0, 3.5)
    assert abs(len(whole) - 96000) < 1024  # AAC pads to whole packets
    assert np.abs(whole[800:95000] - rising(16000)[800:95000]).max() < 0.03
    assert len(part) == 8000
    lag = np.correlate(whole[48000 - 32 : 56000 + 32], part, "valid").argmax() - 32
    assert abs(lag) <= 16  # WebM counts in ms


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is an empty file"),
        (lambda path: path.write_bytes(b"no audio " * 500), "cannot be read as audio"),
        (lambda path: soundfile.write(path, np.zeros(0), 16000), "holds no audio"),
    ],
)
def test_files_that_are_not_audio_are_named(tmp_path, make, says):
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(AudioError, match=says) as error:
        read_audio(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [(2, 3, "no audio after 2 s"), (0.5, 0.5, "is empty"), (-1, 1, "is empty or negative"), (-1, None, "from -1 s to the end is empty")],
)
def test_intervals_without_audio(tmp_path, start, end, says):
    soundfile.write(tmp_path / "a.wav", sine(440, 1), 16000)
    with pytest.raises(AudioError, match=says):
        read_audio(tmp_path / "a.wav", start, end)


def test_a_truncated_flac_is_an_error_and_not_a_shorter_clip(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 64000), 16000)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match="promises 4.00 s and holds"):
        read_audio(tmp_path / "a.flac", 2.5, 4)


# Log-mel


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (8240, 50), (16000, 98), (400 + 160 * 4999, 5000)]
)
def test_frame_count(samples, frames):
    logmel = LogMel()
    assert logmel.frames(samples) == frames
    assert logmel(np.zeros(samples, np.float32)).shape == (frames, 64)


def test_silence_is_the_floor():
    np.testing.assert_allclose(LogMel()(np.zeros(800, np.float32)), math.log(LOG_FLOOR), rtol=1e-6)


def test_a_sine_on_a_bin_has_the_power_computed_by_hand():
    """1000 Hz is bin 32 of 512 at 16 kHz: |X| = height / 2 * sum of the Hann window (400 / 2) = 50 at height 0.5."""
    logmel = LogMel()
    frame = logmel(sine(1000, 0.1, height=0.5))[3]
    band = int(frame.argmax())
    low, high = 2595 * math.log10(1 + 20 / 700), 2595 * math.log10(1 + 7600 / 700)
    mel = 2595 * math.log10(1 + 1000 / 700)
    assert band == round((mel - low) / (high - low) * 65) - 1
    total = np.exp(frame.astype(np.float64)).sum()
    # All triangles together weigh every bin 1, and the sum of the spectrum's power is that of the windowed sine (Parseval).
    hann = np.hanning(401)[:-1]
    parseval = 512 * np.sum((hann * sine(1000, 0.025)) ** 2) / 2
    assert total == pytest.approx(parseval, rel=1e-3)
    power = np.abs(np.fft.rfft(hann * sine(1000, 0.025), 512)) ** 2
    assert power[32] == pytest.approx(50**2, rel=1e-3)
    assert frame[band] == pytest.approx(math.log(power @ logmel.filters[:, band]), abs=1e-3)


@pytest.mark.parametrize("hz", [100, 300, 440, 1000, 3000, 7000])
def test_a_sine_lands_in_the_band_around_it(hz):
    low, high = (2595 * math.log10(1 + x / 700) for x in (20, 7600))
    corners = 700 * (10 ** (np.linspace(low, high, 66) / 2595) - 1)
    band = int(LogMel()(sine(hz, 0.2)).mean(axis=0).argmax())
    assert corners[band] < hz < corners[band + 2]


def test_scaling_the_signal_shifts_the_logarithm():
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)
    np.testing.assert_allclose(LogMel()(10 * noise) - LogMel()(noise), math.log(100), atol=1e-3)


def test_filters_add_up_to_one_between_the_outer_bands():
    weights = mel_filters(512, 16000, 64, 20, 7600)
    assert weights.shape == (257, 64)
    np.testing.assert_allclose(weights.sum(axis=1)[2:230], 1, atol=1e-5)  # from the first band's top to the last one's
    assert weights.max() <= 1


@pytest.mark.parametrize(("rate", "mels"), [(16000, 64), (16000, 40), (8000, 40)])
def test_same_as_torchaudio(rate, mels):
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchaudio.transforms")
    high = min(7600, rate / 2)
    ours = LogMel(sample_rate=rate, channels=mels, high_hz=high)
    samples = np.random.default_rng(1).normal(0, 0.1, 3 * rate).astype(np.float32)
    theirs = transforms.MelSpectrogram(rate, ours.fft_size, ours.window, ours.hop, 20, high, n_mels=mels, center=False)
    pad = (ours.fft_size - ours.window) // 2  # torch centres the window in the FFT's frame
    expected = theirs(torch.nn.functional.pad(torch.from_numpy(samples), (pad, pad))).clamp_min(LOG_FLOOR).log().T.numpy()
    np.testing.assert_allclose(ours(samples), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"high_hz": 9000}, "high_hz"),
        ({"low_hz": 8000, "high_hz": 7000}, "low_hz"),
        ({"channels": 200}, "bands would be narrower"),
        ({"hop_ms": 0.01}, "less than a sample"),
    ],
)
def test_impossible_settings_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        LogMel(**options)


# Trimming


def levels(*parts: tuple[int, float]) -> np.ndarray:
    """Frames of two equal bands, by (frames, dB)."""
    return np.concatenate([np.full((frames, 2), db * math.log(10) / 10, np.float32) for frames, db in parts])


def test_trim_cuts_the_quiet_ends_and_keeps_the_pause():
    logmel = levels((100, -60), (40, 0), (30, -60), (40, -20), (100, -60))
    trimmed = trim(logmel, 40)
    assert len(trimmed) == 40 + 30 + 40 + 2 * 5
    np.testing.assert_array_equal(trimmed, logmel[95:215])
    assert len(trim(logmel, 10, minimum=1)) == 40 + 10  # now the second part is too quiet
    assert len(trim(logmel, 70)) == len(logmel)


@pytest.mark.parametrize(
    ("before", "loud", "behind", "first", "frames"),
    [(100, 1, 100, 76, 50), (0, 1, 100, 0, 50), (100, 1, 0, 51, 50), (3, 1, 3, 0, 7), (20, 10, 20, 0, 50)],
)
def test_trim_leaves_one_block(before, loud, behind, first, frames):
    logmel = levels((before, -60), (loud, 0), (behind, -60))
    logmel[:, 0] += np.arange(len(logmel)) * 1e-4  # so that each frame is known
    trimmed = trim(logmel, 30)
    np.testing.assert_array_equal(trimmed, logmel[first : first + frames])


def test_trim_of_nothing_and_of_silence():
    assert trim(np.empty((0, 64), np.float32), 40).shape == (0, 64)
    assert len(trim(np.full((200, 64), math.log(LOG_FLOOR), np.float32), 40)) == 200


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, value):
    samples = np.zeros(16000, np.float32)
    samples[12000] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert len(read_audio(tmp_path / "a.wav", 0, 0.5)) == 8000
    with pytest.raises(NotNumbers, match=r"a\.wav holds samples that are NaN or infinite after 0\.5 s"):
        read_audio(tmp_path / "a.wav", 0.5, 1)
