"""Corpora in the layouts of CMU-MOSEI and MSP-Podcast with all faults that a release or a copy of it may have.

Each strategy draws a description, and each `write_*` writes it to disk. Expected results are computed from the description, never from
the files.
"""

import csv
import io
import json
import struct
from collections import Counter
from dataclasses import dataclass, replace
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


# MSP-Podcast

CODES = {"A": "angry", "S": "sad", "H": "happy", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt", "N": "neutral"}
SETS = {"Train": "train", "Development": "validation", "Validation": "validation", "Test1": "test"}
PRIMARY = ["Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral"]
HEAD = ["FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set"]


@dataclass
class Turn:
    """A file of the consensus; its row may be written once, twice, short of cells or with cells too many."""

    file: str
    code: str
    attributes: tuple[str, str, str]
    speaker: str
    gender: str
    part: str
    row: str
    answers: list[tuple[str, str]]  # primary, secondary; an answer without a primary is torn
    sound: Sound

    @property
    def fit(self) -> bool:
        """The row can be used, label and set included, so that only the audio may drop it."""
        numbers = all(value in ("1", "4.2", "7.000000") for value in self.attributes)
        labelled = self.code in CODES or (self.code in ("O", "X") and self.part == "Train")
        return self.row in ("once", "twice") and numbers and labelled and self.part in SETS

    @property
    def votes(self) -> Counter:
        """Primary votes by class; those for Other under "other"."""
        names = [primary.partition("-")[0].lower() for primary, _ in self.answers]
        return Counter(name for name in names if name.capitalize() in (*PRIMARY, "Other"))


@dataclass
class Release:
    """How an MSP-Podcast lies on disk."""

    folder: str
    consensus: str  # csv, json, txt
    spelling: str
    detailed: str  # none, txt, EmoDetail, columns, json
    noise: bool
    partitions: list[tuple[str, str]]  # set and file of Partitions.txt
    form: Form

    def torn(self, turn: Turn) -> bool:
        """The first line of the turn's block of `labels.txt` is torn, so that nobody knows whose answers follow."""
        return self.consensus == "txt" and turn.row in ("short", "long")


files = st.one_of(
    st.integers(1, 9).map(lambda n: f"MSP-PODCAST_0001_000{n}.wav"),
    st.sampled_from(["MSP-PODCAST_0001_0001_0002.wav", "-1.wav", "_.wav", "123.wav", "a b.wav", "caf\xe9.wav", "X.WAV", ".wav"]),
)
attributes = st.sampled_from(["1", "4.2", "7.000000"] * 5 + ["", "nan", "inf", "-1", "8", "1_0", "four"])
answers = st.tuples(
    st.sampled_from([*PRIMARY, *PRIMARY, "Other", "Other-so; so, caf\xe9", "Blue", ""]),
    st.sampled_from(["Angry,Annoyed", "Happy", "", "Other-hm; a;Confused", "Concerned,Fear"]),
)
turns = st.builds(
    Turn,
    files,
    st.sampled_from([*CODES, *CODES, "O", "X", "Q", "", "a"]),
    st.tuples(attributes, attributes, attributes),
    st.sampled_from(["27", "Speaker_3", "Unknown", "", "caf\xe9", 'a, "b"']),
    st.sampled_from(["Female", "Male", "Unknown", "", "x"]),
    st.sampled_from(["Train", "Development", "Validation", "Test1"] * 4 + ["Test2", "Test9", "NA", ""]),
    st.sampled_from(["once"] * 6 + ["twice", "short", "long"]),
    st.lists(answers, max_size=5),
    sounds,
)


@st.composite
def msp_trees(draw) -> tuple[list[Turn], Release]:
    """Turns of different files, of which one at least has a row that parses, and the release."""
    rows = draw(st.lists(turns, min_size=1, max_size=6, unique_by=lambda turn: turn.file))
    rows[0] = replace(rows[0], row="once", code=rows[0].code or "N", attributes=("4.2", "1", "7.000000"))
    consensus = draw(st.sampled_from(["csv", "csv", "json", "txt"]))
    detailed = draw(st.sampled_from(["none", "txt", "EmoDetail", "columns", "json"]))
    names = st.one_of(st.sampled_from([turn.file for turn in rows]), st.just("MSP-PODCAST_0009_0009.wav"), st.just("new.wav"))
    parts = st.sampled_from(["Train", "train", "Development", "Test1", "Test3", "Holdout", ""])
    listed = [("Train", turn.file) for turn in rows if consensus == "txt"] + draw(st.lists(st.tuples(parts, names), max_size=4))
    release = Release(
        draw(st.sampled_from(["Labels", "labels", "label"])),
        consensus,
        draw(st.sampled_from(["consensus", "concensus"])),
        "txt" if consensus == "txt" else detailed,
        draw(st.booleans()),
        listed,
        draw(forms),
    )
    return [_as_text(turn) for turn in rows] if consensus == "txt" else rows, release


def _as_text(turn: Turn) -> Turn:
    """`labels.txt` has no set, speaker or gender, and its codes are capital letters."""
    return replace(turn, part="", speaker="", gender="", code=turn.code if turn.code.isupper() else "Q")


def msp_rows(rows: list[Turn], release: Release) -> int:
    """Rows that were written: those of the consensus, noise included, and files that only the partition list has."""
    count = sum(2 if turn.row == "twice" else 1 for turn in rows)
    noise = release.noise and release.consensus != "json"
    return count + noise + len({file for _, file in release.partitions} - {turn.file for turn in rows})


def write_msp(root: Path, rows: list[Turn], release: Release) -> Path:
    (root / "Audios").mkdir(parents=True)
    for turn in rows:
        write_sound(turn.sound, root / "Audios" / turn.file)
    folder, form = root / release.folder, release.form
    if release.consensus == "csv":
        form.write(folder / f"labels_{release.spelling}.csv", _consensus(rows, release.noise))
    elif release.consensus == "json":
        form.write(folder / f"labels_{release.spelling}.json", ["{", *_members(rows), "}"])
    if release.detailed == "txt":
        form.write(folder / "labels.txt", _blocks(rows, release))
    elif release.detailed in ("EmoDetail", "columns"):
        form.write(folder / "labels_detailed.csv", _detailed(rows, release.detailed))
    elif release.detailed == "json":
        workers = {t.file: {f"W{n}": {"EmoClass_Major": p, "EmoClass_Second": s} for n, (p, s) in enumerate(t.answers)} for t in rows}
        form.write(folder / "labels_detailed.json", [json.dumps(workers)])
    if release.partitions:
        form.write(root / "Partitions.txt", [f"{part}; {file}" for part, file in release.partitions] + ["half a line"] * release.noise)
    return root


def quoted(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def _consensus(rows: list[Turn], noise: bool) -> list[str]:
    lines = [",".join(HEAD)]
    for turn in rows:
        cells = [turn.file, turn.code, *turn.attributes, turn.speaker, turn.gender, turn.part]
        line = quoted({"short": cells[:2], "long": [*cells, "what"]}.get(turn.row, cells))
        lines += [line, line] if turn.row == "twice" else [line]
    return [*lines, ";;; ;"] if noise else lines


def _members(rows: list[Turn]) -> list[str]:
    members = []
    for turn in rows:
        cells = [turn.code, *turn.attributes, turn.speaker, turn.gender, turn.part]
        row = {"short": None, "long": [1, 2]}.get(turn.row, dict(zip(HEAD[1:], cells, strict=True)))
        member = f"{json.dumps(turn.file)}: {json.dumps(row, ensure_ascii=False)}"
        members += [member, member] if turn.row == "twice" else [member]
    return [member + "," for member in members[:-1]] + members[-1:]


def worker(number: int, primary: str, secondary: str) -> str:
    """A line of `labels.txt`; without a primary emotion it is torn."""
    return f"WORKER{number:08d}; {primary}; {secondary}; A:4.000000; V:3.000000; D:5.000000;" if primary else f"WORKER{number:08d}; "


def _blocks(rows: list[Turn], release: Release) -> list[str]:
    """Blocks of `labels.txt`, parted by an empty line. Where it is the consensus too, a row may be torn and a block stand twice."""
    lines = []
    for turn in rows:
        act, val, dom = turn.attributes
        head = f"{turn.file}; {turn.code if turn.code.isupper() else 'Q'}; A:{act}; V:{val}; D:{dom};"
        block = [
            head[: len(turn.file) + 5] if release.torn(turn) else head,
            *(worker(n, *answer) for n, answer in enumerate(turn.answers)),
            "",
        ]
        lines += block * 2 if turn.row == "twice" else block
    return [*lines, "; ;;"] if release.noise else lines


def _detailed(rows: list[Turn], form: str) -> list[str]:
    answered = [(turn, n, *answer) for turn in rows for _ in range(1 + (turn.row == "twice")) for n, answer in enumerate(turn.answers)]
    if form == "EmoDetail":
        return ["FileName,EmoDetail", *(quoted([turn.file, worker(n, *answer)]) for turn, n, *answer in answered)]
    return ["FileName,WorkerID,EmoClass_Major,EmoClass_Second", *(quoted([turn.file, f"W{n}", p, s]) for turn, n, p, s in answered)]
