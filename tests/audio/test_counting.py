"""All of a file is heard, as FFmpeg decodes it, or it is refused: joined and piped files, wrong headers, several tracks, bombs."""

import os
import struct
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pytest
import soundfile
from made_model import speech

from calm.audio import ffmpeg, riff
from calm.audio.decoding import AudioError, AudioFile, read_audio
from calm.audio.headers import read_header
from calm.audio.opening import check_size


def encode(path: Path, codec: str, *tracks: np.ndarray, rate: int = 16000, form: str | None = None, picture: float = 0, **options) -> Path:
    """Write tracks (samples,) and a black picture of so many seconds with FFmpeg; `options`: of the container."""
    with av.open(str(path), "w", format=form, options=options) as file:
        video = file.add_stream("mpeg4", rate=5, width=16, height=16, pix_fmt="yuv420p") if picture else None
        streams = [file.add_stream(codec, rate=rate, layout="mono") for _ in tracks]
        for stream, samples in zip(streams, tracks, strict=True):
            whole = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            whole.rate, whole.pts = rate, 0
            cut = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate, frame_size=stream.frame_size or 1024)
            for frame in [*cut.resample(whole), *cut.resample(None), None]:
                file.mux(stream.encode(frame))
        for _ in range(round(5 * picture)):
            file.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def decoded_by_ffmpeg(path: Path) -> float:
    """Seconds that FFmpeg decodes of the first track, as its own tools do: what does not decode is left out."""
    seconds = 0.0
    with av.open(str(path)) as file:
        for packet in file.demux(audio=0):
            try:
                seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
            except av.InvalidDataError:
                continue
    return seconds


def piped_flac(path: Path) -> Path:
    """Its STREAMINFO counts 0 samples, in 36 bits from byte 21 on."""
    soundfile.write(path, speech(2.5), 16000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    return path


def two(path: Path, form: str, subtype: str) -> Path:
    soundfile.write(path.with_suffix(".one"), speech(1.5), 16000, format=form, subtype=subtype)
    return joined(path, path.with_suffix(".one"), path.with_suffix(".one"))


def tagged(path: Path) -> Path:
    """An MP3 whose APE tag is an eighth of it: FFmpeg then takes a length from the size, and not from the header."""
    item = struct.pack("<II", 2955, 0) + b"Comment\0".ljust(13, b"\0") + b"x" * 2955
    ends = [b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags) + bytes(8) for flags in (0xA0000000, 0x80000000)]
    whole = encode(path, "libmp3lame", speech(3, rate=44100), rate=44100).read_bytes()
    path.write_bytes(whole + ends[0] + item + ends[1])
    return path


def wrong_blocks(path: Path) -> Path:
    """A FLAC whose header tells blocks of 65,535 samples, of which libsndfile makes noise without an error."""
    soundfile.write(path, speech(2), 16000)
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff" * 4
    path.write_bytes(content)
    return path


TALK = np.concatenate([speech(4), np.zeros(20 * 16000, np.float32), speech(4)])
FILES = {
    "MP3 without Xing, 44.1 kHz": (lambda at: encode(at / "a.mp3", "libmp3lame", speech(3, rate=44100), rate=44100, write_xing="0"), 3.03),
    "joined MP3": (lambda at: two(at / "a.mp3", "MP3", "MPEG_LAYER_III"), 3.05),
    "joined FLAC": (lambda at: two(at / "a.flac", "FLAC", "PCM_16"), 3),
    "joined OGG": (lambda at: two(at / "a.ogg", "OGG", "VORBIS"), 3),
    "joined Opus": (lambda at: two(at / "a.opus", "OGG", "OPUS"), 3),
    "raw ADTS with a pause": (lambda at: encode(at / "a.aac", "aac", TALK, form="adts"), 28),
    "WebM without a duration": (lambda at: encode(at / "a.webm", "libopus", speech(3, rate=48000), rate=48000, live="1"), 3),
    "picture longer than its sound": (lambda at: encode(at / "a.mp4", "aac", speech(2), picture=6), 2),
    "picture before its sound": (lambda at: encode(at / "a.mkv", "libopus", speech(3, rate=48000), rate=48000, picture=1), 3),
    "MP3 with an APE tag": (lambda at: tagged(at / "a.mp3"), 3),
    "FLAC from a pipe": (lambda at: piped_flac(at / "a.flac"), 2.5),
    "FLAC with wrong blocks": (lambda at: wrong_blocks(at / "a.flac"), 2),
    "GSM": (lambda at: soundfile.write(at / "a.wav", speech(2), 8000, subtype="GSM610") or at / "a.wav", 4),
}


@pytest.mark.parametrize("name", FILES)
def test_all_of_the_sound_is_heard_as_ffmpeg_decodes_it(tmp_path, name):
    make, about = FILES[name]
    path = make(tmp_path)
    header, samples = read_header(path), read_audio(path)
    assert (header.fault, header.seconds) == ("", pytest.approx(about, abs=0.15))
    assert header.seconds == pytest.approx(decoded_by_ffmpeg(path), abs=0.01) == pytest.approx(len(samples) / 16000, abs=0.01)
    with AudioFile(path) as file:  # an interval is what the whole has there, however the file is read
        part = file.read(about - 1, about - 0.5)
    whole = samples[round((about - 1) * 16000) :][:8000]
    lag = np.correlate(np.pad(whole, 32), part, "valid").argmax() - 32
    assert abs(lag) <= 16 and np.corrcoef(np.roll(part, lag)[64:-64], whole[64:-64])[0, 1] > 0.98


def wav(path: Path, riff: int | None, data: int, more: bytes = b"") -> Path:
    """A WAV of 2 s, 64,000 bytes, whose header says `data` bytes, and `riff` of the whole file; None: what fits."""
    soundfile.write(path, speech(2), 16000)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 4, (data + 36) % 2**32 if riff is None else riff)
    struct.pack_into("<I", content, 40, data)
    path.write_bytes(bytes(content) + more)
    return path


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0, 0),
        (None, 0),
        (None, 0xFFFFFFFF),
        (None, 0x7FFFFFDB),
        (None, 2_000_000_000),
        (None, 10**6),
        (None, 2**28),
        (0, 123_456),
        (-1, 123_456),
    ],
)
def test_placeholders_of_streamed_wavs(tmp_path, riff, data):
    path = wav(tmp_path / "a.wav", riff and riff % 2**32, data)
    assert read_header(path).seconds == 2 and len(read_audio(path)) == 32000


@pytest.mark.parametrize(
    ("data", "more", "fault"),
    [
        (90_000, b"", "truncated audio"),
        (64_000, b"RIFF\x24\xfa\0\0WAVE" + bytes(64_000), "wrong header"),
        (32_000, b"", "wrong header"),
        (64_000, b"LIST\x04\0\0\0INFO", ""),
        (64_000, bytes(9_999), ""),
        (32_000, b"data\x00\x7d\0\0" + bytes(32_000), "wrong header"),
        (64_000, b"TAG" + b"x" * 999, ""),
    ],
)
def test_wavs_that_end_early_or_go_on(tmp_path, data, more, fault):
    assert read_header(wav(tmp_path / "a.wav", None, data, more)).fault == fault


def test_a_wav_that_says_twice_what_its_samples_are(tmp_path):
    """FFmpeg takes the first, libsndfile neither."""
    soundfile.write(path := tmp_path / "a.wav", speech(2), 16000)
    content = path.read_bytes()
    other = content[12:24] + struct.pack("<I", 8000) + content[28:36]
    path.write_bytes(content[:4] + struct.pack("<I", len(content) + 16) + content[8:36] + other + content[36:])
    with pytest.raises(AudioError, match="says 2 times what its samples are"):
        read_audio(path)


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [("a.aiff", "pcm_s16be", None), ("a.w64", "pcm_s16le", None), ("a.m4a", "aac", "ipod"), ("a.wma", "pcm_s16le", "asf")],
)
def test_a_second_file_of_which_nothing_would_be_read(tmp_path, name, codec, form):
    encode(path := tmp_path / name, codec, speech(2), form=form)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5000))
    assert read_header(path).fault == ""
    path.write_bytes(whole + whole)
    with pytest.raises(AudioError, match="a second file from byte"):
        read_audio(path)


@pytest.mark.parametrize("codec", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_an_ogg_with_a_page_that_decoders_pass_over(tmp_path, codec, damage):
    path = tmp_path / "a.ogg"
    soundfile.write(path, speech(5, rate=48000), 48000, format="OGG", subtype=codec)
    assert not read_header(path).fault
    content = path.read_bytes()
    pages = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    begin, end = pages[3], pages[4]
    path.write_bytes(content[:begin] + (b"" if damage == "lost" else content[begin : end - 9] + b"x" * 9) + content[end:])
    assert "lacks 1 of its pages" in read_header(path).detail


def test_packets_of_which_none_decodes_are_not_all_tried(tmp_path, monkeypatch):
    tried, decode = [], ffmpeg._Blocks.of
    monkeypatch.setattr(ffmpeg._Blocks, "of", lambda self, packet: tried.append(packet) or decode(self, packet))
    (tmp_path / "a.amr").write_bytes(b"#!AMR\n" + b"\x7c" * 20_000)
    assert read_header(tmp_path / "a.amr").fault == "unreadable audio" and len(tried) < 1100


def test_an_mp4_whose_clock_has_steps_of_a_second(tmp_path):
    content = bytearray(encode(path := tmp_path / "a.m4a", "aac", speech(3), form="ipod").read_bytes())
    struct.pack_into(">I", content, content.find(b"mdhd") + 16, 1)
    path.write_bytes(content)
    assert read_header(path).fault == "unpacks to too much"


KINDS = {
    "flac": lambda path: soundfile.write(path, speech(1), 16000, format="FLAC"),
    "ogg": lambda path: soundfile.write(path, speech(1), 16000, format="OGG"),
    "stereo.ogg": lambda path: soundfile.write(path, np.stack([speech(1)] * 2, axis=1), 16000, format="OGG"),
    "mp3": lambda path: encode(path, "libmp3lame", speech(1), form="mp3"),
    "untagged.mp3": lambda path: encode(path, "libmp3lame", speech(1), form="mp3", write_xing="0", id3v2_version="0"),
    "aac": lambda path: encode(path, "aac", speech(1), form="adts"),
    "m4a": lambda path: encode(path, "aac", speech(1), form="ipod"),
    "tta": lambda path: encode(path, "tta", speech(2), form="tta"),
    "mka": lambda path: encode(path, "pcm_s16le", speech(1), form="matroska"),
    "caf": lambda path: soundfile.write(path, speech(1), 16000, format="CAF"),
    "avi": lambda path: encode(path, "pcm_s16le", speech(1), form="avi"),
    "w64": lambda path: soundfile.write(path, speech(1), 16000, format="W64"),
    "voc": lambda path: soundfile.write(path, speech(1), 16000, format="VOC", subtype="PCM_16"),
    "flv": lambda path: encode(path, "libmp3lame", speech(2, rate=44100), rate=44100, form="flv"),
}


@pytest.mark.parametrize(
    "pair",
    ["flac untagged.mp3", "flac ogg", "ogg flac", "m4a mp3", "mp3 m4a", "mp3 aac", "tta tta", "mka flac", "ogg stereo.ogg"],
)
def test_two_files_of_which_one_would_not_be_read(tmp_path, pair):
    for name in pair.split():
        KINDS[name](tmp_path / name)
    joined(tmp_path / "a", *(tmp_path / name for name in pair.split()))
    header = read_header(tmp_path / "a")
    assert header.fault and ("a second file from byte" in header.detail or "give every recording a file" in header.detail)


@pytest.mark.parametrize("kind", ["tta", "caf", "avi", "w64", "voc", "flv", "mp3"])
def test_what_is_cut_is_not_taken_for_the_whole(tmp_path, kind):
    KINDS[kind](tmp_path / "a")
    assert not read_header(tmp_path / "a").fault
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) * 6 // 10])
    assert read_header(tmp_path / "a").fault in ("truncated audio", "unreadable audio")


@pytest.mark.parametrize("length", [2**62, 2**63 - 40, 2**64 - 1])
def test_a_chunk_longer_than_any_file_is_no_place_to_look_at(tmp_path, length):
    encode(path := tmp_path / "a.w64", "pcm_s16le", speech(1))
    content = bytearray(path.read_bytes())
    content[16:24] = length.to_bytes(8, "little")
    path.write_bytes(content)
    assert read_header(path).fault in ("", "truncated audio", "wrong header", "unreadable audio")


def test_a_silent_first_track_is_passed_over(tmp_path):
    path = encode(tmp_path / "a.mkv", "flac", np.zeros(32000, np.float32), speech(2))
    assert np.abs(read_audio(path) - speech(2)).max() < 1e-3
    assert read_header(path).notes == ("silent first track, another is used",)


@pytest.mark.parametrize(("form", "audio"), [("m3u8", "hidden.mp3"), ("ffconcat", "hidden.mp3"), ("m3u8", "http://127.0.0.1:1/a.mp3")])
def test_playlists_open_no_other_file(tmp_path, form, audio):
    soundfile.write(tmp_path / "hidden.mp3", speech(2), 16000)
    lists = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{audio}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile {audio}\n",
    }
    (tmp_path / "a.wav").write_text(lists[form])
    with pytest.raises(AudioError, match="no container of sound|cannot be read"):
        read_audio(tmp_path / "a.wav")


def test_a_file_that_unpacks_to_hours_is_refused_before_it_is_decoded(tmp_path):
    """20 minutes of nothing in 0.2 MB, and 65 channels: refused within the memory of an import."""
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 16000, 2) as file:
        for _ in range(20):
            file.write(np.zeros((60 * 16000, 2), np.int16))
    soundfile.write(tmp_path / "wide.wav", np.zeros((9, 65)), 16000)
    assert read_header(tmp_path / "long.flac").fault == "unpacks to too much"
    assert read_header(tmp_path / "wide.wav").fault == "too many channels"


@pytest.mark.parametrize(("size", "seconds"), [(45_000, 60), (60 * 60_000, 3600), (2 * 600 * 594, 1200)])
def test_speech_at_low_rates_is_not_too_much(size, seconds):
    """Opus at 6 kbit/s, MP3 at 8 kbit/s, AMR at 4.75 kbit/s."""
    check_size(Path("a.opus"), size, 48000, 1, 48000 * seconds)


def test_an_hour_in_many_channels_is_read_block_by_block(tmp_path):
    """Ten minutes of 16 channels are 307 MB as floats; their mean is 19 MB. What reading takes beside it is a few blocks."""
    rate = 8000
    with soundfile.SoundFile(tmp_path / "a.wav", "w", rate, 16, "PCM_U8") as file:
        for _ in range(10):
            file.write(np.zeros((60 * rate, 16), np.float32))
    code = (
        "import resource, sys; from calm.audio.decoding import read_audio; top = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    )
    code += "; before = top(); n = len(read_audio(sys.argv[1], sample_rate=8000)); print(n, (top() - before) // 1024)"
    samples, megabytes = subprocess.check_output([sys.executable, "-c", code, tmp_path / "a.wav"], text=True).split()
    assert int(samples) == 600 * rate and int(megabytes) < 120


def test_what_is_no_regular_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "lost.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "lfs.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    found = {name: read_header(tmp_path / f"{name}.wav") for name in ("pipe", "folder", "lost", "lfs")} | {
        "zero": read_header(Path("/dev/zero"))
    }
    assert [header.fault for header in found.values()] == [
        "not a regular file",
        "missing audio",
        "missing audio",
        "Git LFS pointer",
        "not a regular file",
    ]
    assert "git lfs pull" in found["lfs"].detail and "gone.wav" in found["lost"].detail


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", speech(1), 16000)
    monkeypatch.setattr(riff, "check", Mock(side_effect=OSError(5, "Input/output error")))
    assert read_header(tmp_path / "a.wav").detail == f"{tmp_path / 'a.wav'} cannot be read: Input/output error"


def test_names_that_are_not_utf_8_are_read(tmp_path):
    for suffix, form in ((b".wav", "WAV"), (b".webm", None)):
        name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9" + suffix)
        if form:
            soundfile.write(tmp_path / "a.wav", speech(1), 16000)
        else:
            encode(tmp_path / "a.wav", "libopus", speech(1, rate=48000), rate=48000, form="webm")
        (tmp_path / "a.wav").rename(name)
        assert len(read_audio(name)) == pytest.approx(16000, abs=160)
    with pytest.raises(AudioError, match=r"caf\\udce9 does not exist"):
        read_audio(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))


def test_a_file_that_changes_is_examined_again(tmp_path):
    soundfile.write(tmp_path / "a.flac", speech(1.5), 16000)
    assert len(read_audio(tmp_path / "a.flac")) == 24000
    joined(tmp_path / "b.flac", tmp_path / "a.flac", tmp_path / "a.flac").replace(tmp_path / "a.flac")
    assert len(read_audio(tmp_path / "a.flac")) == 48000
