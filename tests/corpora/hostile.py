"""Sounds, tables and corpora in the layout of CMU-MOSEI with all faults that a release or a copy of it may have.

Each strategy draws a description, and each `write_*` writes it to disk. Expected results are computed from the description, never from
the files.
"""

import io
import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import soundfile
from hypothesis import strategies as st

NAN, INF = float("nan"), float("inf")


# Sounds


@dataclass(frozen=True)
class Sound:
    """A file that is called .wav; `seconds` is 0 where it cannot be used."""

    name: str
    seconds: float
    subtype: str = "PCM_16"
    channels: int = 1
    rate: int = 16000
    form: str = "WAV"


GOOD = [
    Sound("16 bit", 1.0),
    Sound("8 bit, unsigned", 0.5, "PCM_U8", rate=8000),
    Sound("24 bit, stereo", 0.75, "PCM_24", 2, 11025),
    Sound("32 bit", 0.3, "PCM_32"),
    Sound("float, 5 channels", 0.5, "FLOAT", 5),
    Sound("double, odd rate", 0.5, "DOUBLE", 1, 12345),
    Sound("5 channels", 0.4, "PCM_16", 5, 8000),
    Sound("mu-law", 0.5, "ULAW", 1, 8000),
    Sound("extensible, 24 bit, 5 channels", 0.5, "PCM_24", 5, 8000, "WAVEX"),
    Sound("MP3 called .wav", 1.0, "MPEG_LAYER_III", 1, 16000, "MP3"),
]
BAD = ["missing", "empty", "folder", "header alone", "cut in its header", "truncated", "text", "junk", "3 Hz", "no channel"]
BAD_SOUNDS = [Sound(name, 0) for name in BAD]


def signal(seconds: float, channels: int = 1, rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(7).uniform(-0.5, 0.5, (round(seconds * rate), channels))


@lru_cache
def content(sound: Sound) -> bytes:
    """The bytes of a sound; of one that is missing or a folder there are none."""
    if sound.seconds:
        out = io.BytesIO()
        soundfile.write(out, signal(sound.seconds, sound.channels, sound.rate), sound.rate, sound.subtype, format=sound.form)
        return out.getvalue()
    whole = bytearray(content(GOOD[0]))
    if sound.name in ("3 Hz", "no channel"):
        offset, form, values = {"3 Hz": (24, "<II", (3, 6)), "no channel": (22, "<H", (0,))}[sound.name]
        struct.pack_into(form, whole, offset, *values)
    cut = {"header alone": 44, "cut in its header": 30, "truncated": 9001, "empty": 0, "missing": 0, "folder": 0}.get(sound.name)
    other = {"text": b"RIFF is not what this file begins with\n" * 40, "junk": np.random.default_rng(1).bytes(5000)}
    return bytes(other.get(sound.name, whole))[:cut]


def write_sound(sound: Sound, path: Path) -> None:
    if sound.name == "folder":
        path.mkdir(exist_ok=True)
    elif sound.name != "missing":
        path.write_bytes(content(sound))


sounds = st.sampled_from(GOOD * 4 + BAD_SOUNDS)


# Texts and files

# Accented letters whose Latin-1 bytes in a row are never UTF-8, and what tears a line where it is split carelessly.
letters = st.text(st.sampled_from("aZ _;,'\"\té\xf1ß[]|"), max_size=14)
texts = st.one_of(letters, st.sampled_from(["I _____ think", "___", "_", "a___1___2.0___3.0___b", "caf\xe9 ; au, lait", "", " ", "1___2"]))
encodings = st.sampled_from(["utf-8", "utf-8-sig", "latin-1"])
endings = st.sampled_from(["\n", "\r\n", "\r"])


def tidied(text: str) -> str | None:
    text = " ".join(text.split())
    return (text.lower() if text.isupper() else text) or None


@dataclass
class Form:
    """How text files are written: encoding, line ends, blank lines between the lines."""

    encoding: str
    ending: str
    blank: bool

    def write(self, path: Path, lines: list[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [part for line in lines for part in ([line, "", "  "] if self.blank else [line])]
        path.write_bytes("".join(line + self.ending for line in lines).encode(self.encoding))


forms = st.builds(Form, encodings, endings, st.booleans())


# CMU-MOSEI

NAMES = ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"]
SHAPES = ["no features", "no intervals", "neither", "six columns", "an interval short", "an interval more", "flat", "text", "no group"]


@dataclass
class Segment:
    """A labelled segment and its transcript line, which may be written once, twice, torn, or not at all."""

    start: float
    end: float
    scores: list[float]
    text: str
    line: str

    @property
    def sound(self) -> bool:
        """Labels and line can be used, and the times are numbers."""
        numbers = np.isfinite([self.start, self.end, *self.scores]).all()
        return bool(self.line in ("once", "twice") and numbers and abs(self.scores[0]) <= 3 and min(self.scores[1:]) >= 0)


@dataclass
class Video:
    id: str
    fold: str  # train, valid, test or none
    segments: list[Segment]
    sound: Sound
    shape: str  # "" where its groups in the .csd are whole

    @property
    def rows(self) -> int:
        """Labelled segments as far as the file tells of them; a video whose groups tell nothing is one row."""
        count = len(self.segments) + (self.shape == "an interval more")
        has_length = self.shape not in ("neither", "no group")
        return count if has_length and (count or self.shape in ("", "an interval short")) else 1


times = st.one_of(st.floats(-0.5, 1.2), st.sampled_from([0.0, -0.49, 0.1, 0.5, 1.0, 50.0, -1e9, NAN, INF, -INF]))
thirds = st.sampled_from([0.0, 0.0, 1 / 3, 2.0, 3.0, 4.0])
good_scores = st.tuples(st.sampled_from([-3.0, 0.0, 2.5]), *[thirds] * 6).map(list)
bad_scores = st.lists(st.sampled_from([NAN, INF, -1.0, 7.0, 0.0]), min_size=7, max_size=7)


@st.composite
def segments(draw) -> Segment:
    fine = st.tuples(st.floats(-0.3, 0.3), st.floats(0.4, 1.5))
    start, end = draw(st.one_of(fine, fine, st.tuples(times, times)))
    scores = draw(st.one_of(good_scores, good_scores, good_scores, bad_scores))
    return Segment(start, end, scores, draw(texts), draw(st.sampled_from(["once", "once", "once", "twice", "torn", "none"])))


video_ids = st.one_of(
    st.text(st.sampled_from("aB01-_"), min_size=1, max_size=5), st.sampled_from(["126872", "-3g5yACwYnA", "_q7DM8", "___"])
)


@st.composite
def mosei_trees(draw) -> tuple[list[Video], Form]:
    shapes, folds = st.sampled_from([""] * 30 + SHAPES), st.sampled_from(["train", "valid", "test", "train", "none"])
    ids = draw(st.lists(video_ids, min_size=1, max_size=3, unique=True))
    return [Video(id, draw(folds), draw(st.lists(segments(), max_size=4)), draw(sounds), draw(shapes)) for id in ids], draw(forms)


def write_mosei(root: Path, videos: list[Video], form: Form) -> Path:
    audio = root / "Raw/Audio/Full/WAV_16000"
    audio.mkdir(parents=True)
    (root / "Raw/Transcript/Segmented/Combined").mkdir(parents=True)
    for video in videos:
        write_sound(video.sound, audio / f"{video.id}.wav")
        form.write(root / f"Raw/Transcript/Segmented/Combined/{video.id}.txt", _transcript(video))
    for fold in ("train", "valid", "test"):
        form.write(root / f"folds/{fold}_videos.txt", [video.id for video in videos if video.fold == fold])
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "w", libver="latest") as file:
        file["All Labels/metadata/dimension names"] = [json.dumps(NAMES)]
        file.create_group("All Labels/data")
        for video in videos:
            _write_labels(file, video)
    return root


def _transcript(video: Video) -> list[str]:
    """Lines in another order than the labels, each with its clip's number."""
    lines = []
    for clip, segment in reversed(list(enumerate(video.segments))):
        head = f"{video.id}___{clip}___{segment.start!r}"
        whole = [f"{head}___{segment.end!r}___{segment.text}"]
        lines += {"once": whole, "twice": whole * 2, "torn": [head], "none": []}[segment.line]
    return lines


def _write_labels(file: h5py.File, video: Video) -> None:
    intervals = np.array([(segment.start, segment.end) for segment in video.segments], float).reshape(-1, 2)
    scores = np.array([segment.scores for segment in video.segments], np.float32).reshape(-1, 7)
    if video.shape == "no group":
        file[f"All Labels/data/{video.id}"] = intervals
        return
    group = file.create_group(f"All Labels/data/{video.id}")
    if video.shape not in ("no intervals", "neither"):
        less = {"an interval short": intervals[1:], "an interval more": np.vstack([intervals, [[0, 1]]])}
        group["intervals"] = less.get(video.shape, intervals)
    if video.shape not in ("no features", "neither"):
        group["features"] = {
            "six columns": scores[:, :6],
            "flat": scores[:, 0],
            "text": np.array([b"x"] * len(scores), "S1").reshape(-1, 1),
        }.get(video.shape, scores)
