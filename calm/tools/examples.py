"""Clips that the page offers to try: those of a folder, or synthetic speech made for it."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from calm.corpora.files import AUDIO, walk

MOST = 12
STYLES = ("happy", "anger", "sad")  # of `calm.synthesis.voices`


def of_folder(folder: Path) -> list[Path]:
    """The first audio files of a folder, by name. Raises ValueError if there are none."""
    if not (found := list(walk(folder, *AUDIO))[:MOST]):
        raise ValueError(f"{folder} has no audio files to offer: name a folder of files that end in {', '.join(AUDIO)}")
    return found


def synthetic(folder: Path) -> list[Path]:
    """Write a sentence in each style by three voices; none where the part of the installation that speaks is missing."""
    if find_spec("hibari") is None:
        return []
    import soundfile

    from calm.synthesis import sentences, voices

    rng, clips = np.random.default_rng(3), []
    for number, style in enumerate(STYLES):
        voice = voices.draw_speaker(number, rng).voice + voices.perform(voices.STYLES[style], 1.3, rng)
        line = voices.Line(sentences.write(style, "own", rng), voice, (3, number))
        clips.append(folder / f"synthetic speech, {style}.wav")
        soundfile.write(clips[-1], voices.speak(line), voices.SAMPLE_RATE)
    return clips
