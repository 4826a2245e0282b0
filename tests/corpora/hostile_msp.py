"""Corpora in the layout of MSP-Podcast with all faults that a release or a copy of it may have."""

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from hostile import Form, Sound, forms, sounds, write_sound
from hypothesis import strategies as st

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
