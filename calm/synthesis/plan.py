"""The plan of a corpus of synthetic speech: who says what, how, in which split and under which label."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np

from calm.corpora.utterances import SPLITS
from calm.synthesis import sentences, voices

Label = tuple[str, ...] | str
Key = TypeVar("Key")

SPLIT_SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
LEAST_IN_SPLIT = 18  # least utterances in validation and in test, so that every class can occur twice in each

# Share of each label. MOSEI's labels are sets of emotions, () without any; MSP's are codes of one emotion, where X is "no agreement"
# (two emotions at once) and O an emotion other than the eight.
MOSEI_SHARES: dict[Label, float] = {
    (): 0.11,
    ("happy",): 0.185,
    ("sad",): 0.13,
    ("anger",): 0.10,
    ("surprise",): 0.09,
    ("disgust",): 0.085,
    ("fear",): 0.085,
    ("happy", "surprise"): 0.05,
    ("anger", "disgust"): 0.05,
    ("sad", "fear"): 0.04,
    ("sad", "anger"): 0.03,
    ("fear", "surprise"): 0.03,
    ("sad", "disgust"): 0.015,
}
MSP_SHARES: dict[Label, float] = {
    **{"N": 0.205, "H": 0.17, "A": 0.14, "S": 0.13, "U": 0.08, "F": 0.08, "D": 0.08, "C": 0.07},
    **{"X": 0.03, "O": 0.015},
}
MSP_EMOTIONS: dict[str, tuple[str, ...]] = {
    **{"N": (), "H": ("happy",), "A": ("anger",), "S": ("sad",), "U": ("surprise",), "F": ("fear",), "D": ("disgust",), "C": ("contempt",)},
    "O": (),
}
# What expresses a single emotion: (cue of the words, whether the voice does, share). "shared" words express only the valence.
CUES = (("own", True, 0.55), ("own", False, 0.15), ("shared", True, 0.15), ("none", True, 0.15))


@dataclass(frozen=True)
class Turn:
    """One planned utterance. `label` is a key of the shares above, `performed` the emotions that are actually expressed."""

    index: int
    split: str
    speaker: voices.Speaker
    label: Label
    performed: tuple[str, ...]
    strength: float
    line: voices.Line
    recording: int  # number of the first speaker of those that are recorded together


def plan(format: str, utterances: int, speakers: int, label_noise: float, seed: int, voices_per_recording: int = 1) -> list[Turn]:
    """All utterances of a corpus without their sound.

    Turns of a speaker are consecutive; with several voices a recording, so many speakers of one split take turns at random.
    """
    shares = {"mosei": MOSEI_SHARES, "msp_podcast": MSP_SHARES}[format]
    least = {label: label not in ("X", "O") and (1 if format == "mosei" else 2) for label in shares}
    rng = np.random.default_rng([seed, 0])
    sizes = split_sizes(utterances, LEAST_IN_SPLIT)
    turns: list[Turn] = []
    texts: set[str] = set()
    first = 0
    for split, heads in split_sizes(speakers, 3).items():
        cast = [voices.draw_speaker(number, rng) for number in range(first + 1, first + heads + 1)]
        labels = [label for label, count in quotas(shares, sizes[split], least).items() for _ in range(count)]
        noisy = rng.permutation(len(labels)) < round(label_noise * len(labels))
        who = np.sort(np.arange(len(labels)) % heads)
        for position, pick in enumerate(rng.permutation(len(labels))):
            performed = _performed(labels[pick], shares, bool(noisy[pick]), rng)
            head = int(who[position])
            recording = cast[head - head % voices_per_recording].number
            turns.append(_turn(len(turns), split, cast[head], labels[pick], performed, seed, texts, rng, recording))
        first += heads
    return turns if voices_per_recording == 1 else _mixed(turns, np.random.default_rng([seed, 3]))


def _mixed(turns: list[Turn], rng: np.random.Generator) -> list[Turn]:
    """The turns of each recording in random order."""
    groups = [list(group) for _, group in groupby(turns, key=lambda turn: turn.recording)]
    return [group[index] for group in groups for index in rng.permutation(len(group))]


def split_sizes(total: int, least: int) -> dict[str, int]:
    """Number of `total` in each of SPLITS by SPLIT_SHARES, but at least `least` in validation and in test."""
    validation, test = (max(least, round(SPLIT_SHARES[split] * total)) for split in SPLITS[1:])
    return {"train": total - validation - test, "validation": validation, "test": test}


def quotas(shares: Mapping[Key, float], total: int, least: Mapping[Key, int]) -> dict[Key, int]:
    """Counts by label that add up to `total`: `least` of each, then one more at a time of the label that is furthest below its share."""
    counts = {label: int(least[label]) for label in shares}
    for _ in range(total - sum(counts.values())):
        lacking = max(shares, key=lambda label: shares[label] * total - counts[label])
        counts[lacking] += 1
    return counts


def emotions_of(label: Label, rng: np.random.Generator) -> tuple[str, ...]:
    """The emotions of a label; for "X" any two."""
    if label == "X":
        return tuple(str(name) for name in rng.choice(list(sentences.OWN), 2, replace=False))
    return MSP_EMOTIONS[label] if isinstance(label, str) else label


def _performed(label: Label, shares: Mapping[Label, float], noisy: bool, rng: np.random.Generator) -> tuple[str, ...]:
    """The emotions to express: those of the label, or of another label if this one is to be wrong."""
    if noisy:
        others = [other for other in shares if other not in (label, "X", "O")]
        weights = np.array([shares[other] for other in others])
        label = others[rng.choice(len(others), p=weights / weights.sum())]
    return emotions_of(label, rng)


def _turn(
    index: int,
    split: str,
    speaker: voices.Speaker,
    label: Label,
    performed: tuple[str, ...],
    seed: int,
    texts: set[str],
    rng: np.random.Generator,
    recording: int,
) -> Turn:
    strength = rng.uniform(1.0, 1.6)
    worded, cue, style = _cues(performed, rng)
    text = _new_text(worded, cue, texts, rng)
    voice = speaker.voice + voices.perform(style, strength, rng)
    return Turn(index, split, speaker, label, performed, strength, voices.Line(text, voice, (seed, 2, index)), recording)


def _cues(performed: tuple[str, ...], rng: np.random.Generator) -> tuple[str, str, voices.Voice]:
    """The emotion of the words, their cue, and the style of the voice."""
    neutral = voices.STYLES["neutral"]
    if not performed:
        return "neutral", "none", neutral
    if len(performed) == 1:
        cue, voiced, _ = CUES[rng.choice(len(CUES), p=[share for *_, share in CUES])]
        return performed[0], cue, voices.STYLES[performed[0]] if voiced else neutral
    worded, other = (performed[i] for i in rng.permutation(2))  # the words express one emotion, the voice mostly the other
    mixture = voices.STYLES[worded] * 0.3 + voices.STYLES[other] * 0.7
    return worded, "own" if rng.random() < 0.8 else "shared", mixture


def _new_text(emotion: str, cue: str, texts: set[str], rng: np.random.Generator) -> str:
    """A sentence that is not in `texts` yet; it is added."""
    while (text := sentences.write(emotion, cue, rng)) in texts:
        pass
    texts.add(text)
    return text
