"""Every reader of foreign files on damaged input: it answers, or raises its own error in a sentence, within seconds.

    python -m tests.fuzz --inputs 1000000 --seed 1

Each input is a small sound corpus, recording or settings file of which one file is changed at random: bits, lengths, repeated and moved
pieces, and pieces that have torn readers before. Faults are written to `--faults` once for each place in the code, with the input.
"""

import argparse
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from calm.audio import riff
from calm.audio.decoding import AudioError
from calm.audio.headers import read_header
from calm.corpora import CorpusError, read_corpus
from calm.corpora.utterances import SPLITS

ROOT = Path(__file__).parents[1]
MOST_SECONDS = 20.0  # for one input
ROUND = 200  # inputs of a reader before the next one
PIECES = [
    b"nan",
    b"inf",
    b"Infinity",
    b"-1",
    b"1e400",
    b"1_0",
    b"9" * 400,
    b"null",
    b"true",
    b"=1+1",
    b"../",
    b"/",
    b"%",
    b":",
    b"&x",
    b"*x",
]
PIECES += [b'"', b"'", b",", b";", b"\t", b"\r", b"\r\n", b"\n\n", b"{", b"}", b"[" * 3000, b"!!python/name:os", b"data", b"fmt "]
PIECES += [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xe9",
    b"\xf0\x9f\x98\x80",
    b"\x1a",
    b"\xff" * 4,
    b"\0" * 4,
    b"\x7f\xff\xff\xff",
]
Tree = dict[str, bytes]  # a file's content by its name


@dataclass(frozen=True)
class Target:
    """A reader, and the sound input that is damaged."""

    name: str
    tree: Tree
    read: Callable[[Path], None]
    error: type[Exception]
    share: int = 100  # of the inputs, in percent of the others' number


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four random changes."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, other = draw.randint(0, len(changed)), draw.randint(0, len(changed))
        piece = changed[other : other + draw.choice((1, 4, 30, 200))]
        match draw.randint(0, 6):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << draw.randint(0, 7)
            case 1:
                del changed[place : place + draw.choice((1, 2, 8, 100))]
            case 2:
                changed[place:place] = draw.choice(PIECES)
            case 3:
                changed[place : place + draw.choice((1, 4, 12))] = draw.choice(PIECES)
            case 4:
                changed[place:place] = piece
            case 5:
                changed[place : place + len(piece)] = piece
            case 6 if draw.random() < 0.2:
                del changed[place:]
    return bytes(changed)


def corpus(format: str, name: str = "", **options: object) -> Callable[[Path], None]:
    """Reads a corpus; what it keeps and drops has what later stages rely on."""

    def read(folder: Path) -> None:
        found = read_corpus(format, folder / name, **options)
        for row in found.utterances:
            assert row.id and row.split in SPLITS and row.start >= 0 and (row.end is None or row.end == row.end), row
            assert row.labels is None or set(row.labels) <= set(found.classes), row
            f"{row.id}{row.text}{row.speaker}".encode()
        assert all(row.id and row.reason for row in found.dropped), found.dropped
        json.dumps(found.checks)

    return read


def header(folder: Path) -> None:
    (file,) = folder.iterdir()
    found = read_header(file)
    assert bool(found.fault) != (found.seconds > 0), found


def riff_chunks(folder: Path) -> None:
    (file,) = folder.iterdir()
    riff.check(file)


def settings(folder: Path) -> None:
    from pipeline.settings import load

    load(folder / "params.yaml")


def sound(form: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.random.default_rng(0).uniform(-0.5, 0.5, 1000), 16000, format=form)
    return out.getvalue()


def lines(*rows: object) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def tables() -> Iterator[Target]:
    rows = [{"audio": f"{name}.wav", "start": 0, "end": 1.5, "text": "Hi, né", "speaker": name, "labels": ["sad"]} for name in "abc"]
    head = list(rows[0])
    for mark, name in ((",", "t.csv"), (";", "u.csv"), ("\t", "t.tsv")):
        body = [mark.join(['"Hi, né"' if key == "text" else "sad" if key == "labels" else str(row[key]) for key in head]) for row in rows]
        yield Target(f"table {name}", {name: lines(mark.join(head), *body)}, corpus("manifest", name), CorpusError)
    yield Target("table .jsonl", {"t.jsonl": lines(*rows)}, corpus("manifest", "t.jsonl"), CorpusError)
    yield Target("table .json", {"t.json": json.dumps(rows).encode()}, corpus("manifest", "t.json"), CorpusError)


def emobox() -> Target:
    rows = [{"key": key, "dataset": "made", "wav": f"x/{key}.wav", "emo": "joy", "speaker": key, "length": 2.0} for key in "abc"]
    tree = {"metadata/made.jsonl": lines(*rows), "metadata/label_map.json": b'{"joy": "Happy", "rage": "Angry"}'}
    for fold, test in enumerate("abc", 1):
        tree[f"metadata/fold_{fold}/made_test_fold_{fold}.jsonl"] = lines(*(row for row in rows if row["key"] == test))
        tree[f"metadata/fold_{fold}/made_train_fold_{fold}.jsonl"] = lines(*(row for row in rows if row["key"] != test))
    return Target(
        "emobox", tree | {f"audio/x/{key}.wav": b"" for key in "abc"}, corpus("emobox", "audio", metadata="../metadata"), CorpusError
    )


def msp_podcast() -> Iterator[Target]:
    files = [f"MSP-PODCAST_0001_{number:04d}.wav" for number in range(3)]
    answer = "WORKER00000001; Angry; Angry,Annoyed; A:4.000000; V:3.000000; D:5.000000;"
    blocks = lines(*(f"{file}; A; A:4.000000; V:3.000000; D:5.000000;\n{answer}\n" for file in files))
    consensus = lines("FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set", *(f"{file},A,4,3,5,2,Male,Train" for file in files))
    nested = {file: {"WORKER1": {"EmoClass_Major": "Angry", "EmoClass_Second": "Angry,Sad"}} for file in files}
    audio = {f"Audios/{file}": b"" for file in files}
    more = {"Speaker_ids.txt": lines(*(f"{file}; 2" for file in files)), "Transcripts/MSP-PODCAST_0001_0000.txt": b"Hello there.\n"}
    workers = lines("FileName,EmoDetail", *(f'{file},"{answer}"' for file in files))
    forms = {
        "csv": {"Labels/labels_consensus.csv": consensus, "Labels/labels_detailed.csv": workers},
        "json": {"Labels/labels_consensus.csv": consensus, "Labels/labels_detailed.json": json.dumps(nested).encode()},
        "txt": {"Labels/labels.txt": blocks, "Partitions.txt": lines(*(f"Train; {file}" for file in files))},
    }
    for form, labels in forms.items():
        yield Target(f"msp_podcast, {form}", audio | more | labels, corpus("msp_podcast"), CorpusError)


def others() -> Iterator[Target]:
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    sets = {f"{part}_sent_emo.csv": lines(head, '1,"It’s, well",Ross,joy,positive,0,3,1,1,x,y') for part in ("train", "dev", "test")}
    yield Target("meld", sets, corpus("meld"), CorpusError)
    iemocap = {}
    for session in range(1, 6):
        scene = f"Ses0{session}F_impro01"
        rows = f"[6.2901 - 8.2357]\t{scene}_F000\texc\t[2.5000, 3.0000, 1.5000]\nC-E2:\tNeutral;\t()\n".encode()
        iemocap[f"Session{session}/dialog/EmoEvaluation/{scene}.txt"] = b"% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + rows
        iemocap[f"Session{session}/dialog/transcriptions/{scene}.txt"] = f"{scene}_F000 [006.2901-008.2357]: Excuse me.\n".encode()
    yield Target("iemocap", iemocap, corpus("iemocap"), CorpusError)
    libri = {"s/1/7/1-7.trans.txt": b"1-7-0000 NORTHANGER ABBEY\n", "s/1/7/1-7-0000.flac": b"", "SPEAKERS.TXT": b"1 | F | s | 25 | A\n"}
    yield Target("librispeech", libri, corpus("librispeech"), CorpusError)
    crema = {"AudioWAV/1001_IEO_ANG_XX.wav": b"", "VideoDemographics.csv": b"ActorID,Age,Sex\n1001,51,Male\n"}
    yield Target("crema_d", crema, corpus("crema_d"), CorpusError)


def recordings() -> Iterator[Target]:
    for form in ("WAV", "RF64", "FLAC", "OGG", "MP3", "CAF", "AIFF"):
        yield Target(f"header of {form}", {f"a.{form.lower()}": sound(form)}, header, AudioError)
    for form in ("WAV", "RF64", "WAVEX"):
        yield Target(f"chunks of {form}", {"a.wav": sound(form)}, riff_chunks, AudioError)


def targets() -> list[Target]:
    recipe = (ROOT / "recipes/demo.yaml").read_bytes()
    return [
        *tables(),
        emobox(),
        *msp_podcast(),
        *others(),
        *recordings(),
        Target("settings", {"params.yaml": recipe}, settings, ValueError, 10),
    ]


@contextmanager
def written(tree: Tree) -> Iterator[Path]:
    """The files of a tree, in memory where the system has such a folder."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        for file, content in tree.items():
            path = Path(name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(name)


def attempt(target: Target, folder: Path, file: str, content: bytes) -> str | None:
    """What was wrong with the answer to one damaged file, with the place in the code; None: nothing."""
    path, begin = folder / file, time.monotonic()
    path.write_bytes(content)
    try:
        target.read(folder)
    except target.error as error:
        if not str(error).strip():
            return f"{type(error).__name__} without a sentence"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:200]}"
    finally:
        path.write_bytes(target.tree[file])
    return f"took {time.monotonic() - begin:.0f} s" if time.monotonic() - begin > MOST_SECONDS else None


def fuzz(target: Target, inputs: int, draw: random.Random, faults: Path | None = None) -> Counter[str]:
    """Damages the files of a target `inputs` times. Returns the faults, with how often each was found."""
    found: Counter[str] = Counter()
    files = [name for name, content in target.tree.items() if content]
    with written(target.tree) as folder:
        target.read(folder)  # the sound input is read
        for _ in range(inputs):
            file = draw.choice(files)
            content = damaged(target.tree[file], draw)
            if (fault := attempt(target, folder, file, content)) is None:
                continue
            kind = fault.partition(": ")[0]
            if kind not in found and faults:
                faults.mkdir(parents=True, exist_ok=True)
                (faults / f"{target.name}-{len(found)}-{Path(file).name}".replace(" ", "_")).write_bytes(content)
                print(f"{target.name}, {file}: {fault}", flush=True)
            found[kind] += 1
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--inputs", type=int, default=100_000, help="of all readers together")
    options.add_argument("--seconds", type=float, default=float("inf"), help="after which no further round begins")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--only", default="", help="readers whose name has this")
    options.add_argument("--faults", type=Path, default=Path("fuzz"))
    chosen = options.parse_args()
    readers = [target for target in targets() if chosen.only in target.name]
    draws = [random.Random(f"{chosen.seed} {target.name}") for target in readers]
    done: Counter[str] = Counter()
    found: dict[str, Counter[str]] = {target.name: Counter() for target in readers}
    begin = time.monotonic()
    while done.total() < chosen.inputs and time.monotonic() - begin < chosen.seconds:
        for target, draw in zip(readers, draws, strict=True):
            inputs = min(ROUND * target.share // 100, max(0, chosen.inputs - done.total()))
            found[target.name] += fuzz(target, inputs, draw, chosen.faults)
            done[target.name] += inputs
        print(f"{done.total()} inputs after {time.monotonic() - begin:.0f} s", file=sys.stderr)
    for target in readers:
        print(f"{target.name}: {done[target.name]} inputs, {len(found[target.name])} faults", *found[target.name], sep="\n  ")
    print(f"{done.total()} inputs in {time.monotonic() - begin:.0f} s, {sum(map(len, found.values()))} faults, seed {chosen.seed}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
