"""Write the corpora of synthetic speech in the layouts of CMU-MOSEI and MSP-Podcast: audio, annotation, splits."""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from calm.array_types import Floats32, Floats64, Ints
from calm.synthesis.plan import Turn
from calm.synthesis.voices import SAMPLE_RATE

# --- CMU-MOSEI ---------------------------------------------------------------------------------------------------------------------

MOSEI_COLUMNS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
MOSEI_FOLDS = {"train": "train_videos.txt", "validation": "valid_videos.txt", "test": "test_videos.txt"}
VALENCE = {"happy": 1.6, "surprise": 0.4, "sad": -1.3, "anger": -1.5, "disgust": -1.6, "fear": -1.1}
PAUSE = (0.3, 0.8)  # seconds between the utterances of a video


def write_mosei(folder: Path, turns: Sequence[Turn], waves: Iterable[Floats32], rng: np.random.Generator) -> float:
    """Write videos of 3-6 utterances, segmented transcripts, the CSD of scores, and the folds. Returns the seconds of speech."""
    audio, transcripts, folds = (folder / name for name in ("Raw/Audio/Full/WAV_16000", "Raw/Transcript/Segmented/Combined", "folds"))
    for path in (audio, transcripts, folds):
        path.mkdir(parents=True)
    heard, seconds = iter(waves), 0.0
    labels: dict[str, tuple[Floats32, Floats64]] = {}
    members: dict[str, list[str]] = {split: [] for split in MOSEI_FOLDS}
    for video, part in _videos(turns, rng):
        sound, intervals = _concatenate([next(heard) for _ in part], rng)
        _write_wav(audio / f"{video}.wav", sound, part[0].speaker.noise, rng)
        spoken = enumerate(zip(part, intervals, strict=True))
        lines = (f"{video}___{clip}___{start:.3f}___{end:.3f}___{turn.line.text}\n" for clip, (turn, (start, end)) in spoken)
        (transcripts / f"{video}.txt").write_text("".join(lines), encoding="utf-8")
        shuffled = rng.permutation(len(part))  # as in the real file, intervals are not sorted by time
        labels[video] = np.stack([_scores(turn, rng) for turn in part])[shuffled], np.array(intervals)[shuffled]
        members[part[0].split].append(video)
        seconds += sum(end - start for start, end in intervals)
    for split, name in MOSEI_FOLDS.items():
        (folds / name).write_text("".join(f"{video}\n" for video in members[split]), encoding="utf-8")
    _write_csd(folder / "CMU_MOSEI_Labels.csd", labels)
    return seconds


def _videos(turns: Sequence[Turn], rng: np.random.Generator) -> Iterable[tuple[str, list[Turn]]]:
    """Group the turns recorded together into videos of 3-6; yields the id, from the numbers of (first) speaker and video, and the turns."""
    for number, group in groupby(turns, key=lambda turn: turn.recording):
        rest, count = list(group), 0
        while rest:
            size = int(rng.integers(3, 7))
            size = len(rest) if len(rest) - size < 3 else size
            count += 1
            yield f"synthetic-{number:03d}-{count}", rest[:size]
            rest = rest[size:]


def _concatenate(waves: list[Floats32], rng: np.random.Generator) -> tuple[Floats32, list[tuple[float, float]]]:
    """One recording with pauses before, between and after the utterances, and the start and end of each in seconds (three decimals)."""
    pieces, intervals, at = [], [], 0
    for wave in waves:
        pause = _milliseconds(rng.uniform(*PAUSE))
        wave = np.pad(wave, (0, -len(wave) % _milliseconds(0.001)))  # whole milliseconds, the precision of the transcripts
        pieces += [np.zeros(pause, np.float32), wave]
        intervals.append(((at + pause) / SAMPLE_RATE, (at + pause + len(wave)) / SAMPLE_RATE))
        at += pause + len(wave)
    pieces.append(np.zeros(_milliseconds(rng.uniform(*PAUSE)), np.float32))
    return np.concatenate(pieces), intervals


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000) * SAMPLE_RATE // 1000


def _scores(turn: Turn, rng: np.random.Generator) -> Floats32:
    """Sentiment -3..3 and six emotions 0..3, in thirds like the mean of three raters; the emotions of the label are above 0."""
    felt = {name: _thirds(turn.strength * rng.uniform(0.7, 1.8), 1 / 3, 3) for name in turn.label}
    sentiment = _thirds(turn.strength * sum(VALENCE[name] for name in felt) / max(1, len(felt)) + rng.normal(0, 0.4), -3, 3)
    return np.array([sentiment, *(felt.get(name, 0.0) for name in MOSEI_COLUMNS[1:])], np.float32)


def _thirds(value: float, low: float, high: float) -> float:
    return round(min(high, max(low, value)) * 3) / 3


def _write_csd(path: Path, labels: dict[str, tuple[Floats32, Floats64]]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        root = file.create_group("All Labels")
        for video, (features, intervals) in labels.items():
            group = root.create_group(f"data/{video}")
            group.create_dataset("features", data=features)
            group.create_dataset("intervals", data=intervals)
        metadata = {"dimension names": list(MOSEI_COLUMNS), "root name": "All Labels", "description": "synthetic speech, no human's labels"}
        for key, value in metadata.items():
            root.create_dataset(f"metadata/{key}", data=[json.dumps(value)], dtype=h5py.string_dtype())


# --- MSP-Podcast -------------------------------------------------------------------------------------------------------------------

MSP_SPLITS = {"train": "Train", "validation": "Development", "test": "Test1"}
MSP_NAMES = {
    **{"A": "Angry", "S": "Sad", "H": "Happy", "U": "Surprise", "F": "Fear", "D": "Disgust", "C": "Contempt"},
    **{"N": "Neutral", "O": "Other"},
}
MSP_SECONDARY = {
    **{"A": ("Annoyed", "Frustrated"), "S": ("Depressed", "Disappointed"), "H": ("Amused", "Excited"), "U": ("Excited", "Confused")},
    **{"F": ("Concerned", "Confused"), "D": ("Annoyed", "Disappointed"), "C": ("Annoyed", "Disgust")},
    **{"N": ("Concerned",), "O": ("Confused",)},
}
MSP_CONFUSED = {"A": "DCNF", "S": "NFD", "H": "UN", "U": "HFN", "F": "USN", "D": "CAS", "C": "DAN", "N": "SHC", "O": "NUS"}
MSP_ATTRIBUTES = {  # arousal, valence, dominance on 1..7
    **{"A": (5.8, 2.2, 5.6), "S": (2.4, 2.2, 2.8), "H": (5.2, 5.9, 4.8), "U": (5.4, 4.8, 4.0), "F": (5.2, 2.4, 2.4)},
    **{"D": (4.0, 2.1, 4.6), "C": (3.6, 2.8, 5.4), "N": (3.6, 4.1, 4.2), "O": (4.0, 4.0, 3.8)},
}
MAJORITIES = ((3, 0.35), (4, 0.35), (5, 0.2), (2, 0.1))  # number of the five workers that vote for the consensus, and its share


def write_msp_podcast(folder: Path, turns: Sequence[Turn], waves: Iterable[Floats32], rng: np.random.Generator) -> float:
    """Write a WAV per turn, labels with the votes of five workers, partitions and, beside the layout, `reference.jsonl` with the texts.

    Returns the seconds of speech.
    """
    audio, labels = folder / "Audios", folder / "Labels"
    audio.mkdir(parents=True)
    labels.mkdir()
    names, seconds, blocks, rows = _names(turns, rng), 0.0, [], ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    for turn, name, wave in zip(turns, names, waves, strict=True):
        _write_wav(audio / name, wave, turn.speaker.noise, rng)
        seconds += len(wave) / SAMPLE_RATE
        label = str(turn.label)  # a code, in this corpus
        votes = draw_votes(label, rng)
        attributes = np.array([_attributes(vote, rng) for vote in votes])
        blocks.append(_annotation(name, label, votes, attributes, rng))
        mean = ",".join(str(round(float(value), 6)) for value in attributes.mean(axis=0))
        rows.append(f"{name},{label},{mean},{turn.speaker.number},{turn.speaker.gender.capitalize()},{MSP_SPLITS[turn.split]}")
    (labels / "labels.txt").write_text("\n".join(blocks), encoding="utf-8")
    (labels / "labels_consensus.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    partitions = (f"{MSP_SPLITS[turn.split]}; {name}\n" for turn, name in zip(turns, names, strict=True))
    (folder / "Partitions.txt").write_text("".join(partitions), encoding="utf-8")
    spoken = (json.dumps({"id": Path(name).stem, "text": turn.line.text}) + "\n" for turn, name in zip(turns, names, strict=True))
    (folder / "reference.jsonl").write_text("".join(spoken), encoding="utf-8")
    return seconds


def _names(turns: Sequence[Turn], rng: np.random.Generator) -> list[str]:
    """File names with the numbers of podcast (one per recording) and turn. They have gaps, as in the release, for turns not annotated."""
    names, podcast, number = [], 0, 0
    for turn in turns:
        if turn.recording != podcast:
            podcast, number = turn.recording, 0
        number += int(rng.integers(1, 9))
        names.append(f"MSP-PODCAST_{podcast:04d}_{number:04d}.wav")
    return names


def draw_votes(label: str, rng: np.random.Generator) -> list[str]:
    """Codes of five workers' primary emotions. Their plurality is `label`; for "X" there is none."""
    if label == "X":
        codes = [str(code) for code in rng.permutation(list("ASHUFDCN"))[:3]]
        votes = [codes[0], codes[0], codes[1], codes[1], codes[2]]
        return [votes[i] for i in rng.permutation(5)]
    sizes, shares = zip(*MAJORITIES, strict=True)
    count = int(rng.choice(sizes, p=shares))
    pool = list(MSP_CONFUSED[label])
    if count == 2:  # the other three must all differ, and few labels have three neighbours
        pool = list(dict.fromkeys(pool + [code for code in "NSHA" if code != label]))[:3]
        others = pool
    else:
        others = [pool[rng.integers(len(pool))] for _ in range(5 - count)]
    votes = [label] * count + others
    return [votes[i] for i in rng.permutation(5)]


def _attributes(vote: str, rng: np.random.Generator) -> list[int]:
    return [int(np.clip(round(rng.normal(centre, 0.8)), 1, 7)) for centre in MSP_ATTRIBUTES[vote]]


def _annotation(name: str, label: str, votes: list[str], attributes: Ints, rng: np.random.Generator) -> str:
    """The block of one file in labels.txt: the consensus, a line per worker, an empty line."""
    lines = [f"{name}; {label}; {_avd(attributes.mean(axis=0))}"]
    workers = rng.choice(60, len(votes), replace=False)
    for worker, vote, values in zip(workers, votes, attributes, strict=True):
        primary = "Other-Confused" if vote == "O" else MSP_NAMES[vote]
        felt = [secondary for secondary in MSP_SECONDARY[vote] if rng.random() < 0.4]
        own = [] if vote == "O" else [primary]
        lines.append(f"WORKER{14300 + worker:08d}; {primary}; {','.join(own + felt) or 'Other-Confused'}; {_avd(values)}")
    return "\n".join(lines) + "\n"


def _avd(values: Ints | Floats64) -> str:
    return " ".join(f"{axis}:{float(value):.6f};" for axis, value in zip("AVD", values, strict=True))


# --- both --------------------------------------------------------------------------------------------------------------------------


def _write_wav(path: Path, wave: Floats32, noise_db: float, rng: np.random.Generator) -> None:
    """Write 16 kHz mono PCM16 with background noise, so that no frame is digital silence."""
    import soundfile

    background = rng.standard_normal(len(wave), dtype=np.float32) * np.float32(10 ** (noise_db / 20))
    soundfile.write(path, np.clip(wave + background, -1, 1), SAMPLE_RATE, subtype="PCM_16")
