"""Audio headers: sound files of any encoding, and each fault that makes a file unusable."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calm.audio.decoding import AudioError, read_audio
from calm.audio.headers import read_header


def speech(seconds: float = 0.5, channels: int = 1, rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))


def write(path: Path, channels: int = 1, rate: int = 16000, **options) -> Path:
    soundfile.write(path, speech(channels=channels, rate=rate), rate, **options)
    return path


def patch(path: Path, offset: int, *values, form: str) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "channels", "rate", "options"),
    [
        ("a.wav", 1, 16000, {}),
        ("a.wav", 1, 8000, {"subtype": "PCM_U8"}),
        ("a.wav", 2, 44100, {"subtype": "PCM_24"}),
        ("a.wav", 5, 48000, {"subtype": "FLOAT"}),
        ("a.wav", 1, 16000, {"format": "RF64"}),
        ("a.wav", 1, 16000, {"format": "WAVEX", "subtype": "DOUBLE"}),
        ("a.flac", 1, 16000, {}),
        ("a.ogg", 1, 16000, {}),
        ("a.mp3", 2, 48000, {}),
        ("mp3 with another ending.wav", 1, 16000, {"format": "MP3"}),
    ],
)
def test_sound_files(tmp_path, name, channels, rate, options):
    header = read_header(write(tmp_path / name, channels, rate, **options))
    assert not header.fault and header.seconds == pytest.approx(0.5, abs=0.01)


def test_containers_that_libsndfile_does_not_know_are_read_with_pyav(tmp_path):
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(speech(1.0).T.astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame) + stream.encode(None))
    header = read_header(path)
    assert not header.fault and header.seconds == pytest.approx(1, abs=0.1)


def test_a_recording_truncated_between_packets(tmp_path):
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("flac", rate=16000, layout="mono")
        whole = av.AudioFrame.from_ndarray((speech(2.0).T * 32767).astype(np.int16), format="s16", layout="mono")
        whole.sample_rate, whole.pts = 16000, 0
        pieces = av.AudioResampler(format="s16", layout="mono", rate=16000, frame_size=stream.frame_size or 1024)
        for frame in [*pieces.resample(whole), *pieces.resample(None), None]:
            file.mux(stream.encode(frame))
    assert read_header(path).seconds == pytest.approx(2, abs=0.01)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert read_header(path).fault == "truncated audio"


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: path, "missing audio"),
        (lambda path: path.mkdir() or path, "missing audio"),
        (lambda path: path.symlink_to("nowhere") or path, "missing audio"),
        (lambda path: path.write_bytes(b"") and path or path, "empty audio"),
        (lambda path: path.write_bytes(b"<html>" * 999) and path, "unreadable audio"),
        (lambda path: path.write_bytes(np.random.default_rng(1).bytes(9999)) and path, "unreadable audio"),
        (lambda path: path.write_bytes(write(path).read_bytes()[:30]) and path, "unreadable audio"),
        (lambda path: path.write_bytes(write(path).read_bytes()[:44]) and path, "empty audio"),
        (lambda path: path.write_bytes(write(path).read_bytes()[:9000]) and path, "truncated audio"),
        (lambda path: path.write_bytes(write(path, format="FLAC").read_bytes()[:9000]) and path, "truncated audio"),
        (lambda path: path.write_bytes(write(path, format="MP3").read_bytes()[:1500]) and path, "truncated audio"),
        (lambda path: patch(write(path), 24, 3, 6, form="<II"), "wrong header"),
        (lambda path: patch(write(path), 22, 0, form="<H"), "unreadable audio"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, make, fault):
    header = read_header(make(tmp_path / "a.wav"))
    assert header.fault == fault and "a.wav" in header.detail and header.seconds == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["WAV", "FLAC", "MP3", "OGG", "CAF", "W64"]))
def test_damaged_files_are_sound_or_have_a_fault(tmp_path, data, form):
    """A file that is cut anywhere and has any byte of its header changed has a length or a fault, never both, and is read so long."""
    path = write(tmp_path / "a.bin", format=form)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, 43))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    header = read_header(path)
    assert bool(header.fault) != bool(header.seconds > 0)
    if header.fault:
        with pytest.raises(AudioError):
            read_audio(path)
    else:
        assert len(read_audio(path)) / 16000 == pytest.approx(header.seconds, abs=0.01)
