"""Two corpora of synthetic speech for the embedded default, written in the layouts of CMU-MOSEI and MSP-Podcast.

Emotion is carried partly by the words and partly by the voice; neither suffices alone, and some labels are wrong (`calm.synthesis.plan`).
Figures from these corpora show that a pipeline works, not how good a method is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calm.array_types import Floats32
from calm.corpora.errors import CorpusError
from calm.storage import replacing
from calm.synthesis import voices
from calm.synthesis.layouts import write_mosei, write_msp_podcast
from calm.synthesis.plan import Turn, plan

LEAST = 60  # utterances per corpus: fewer cannot have every class twice in every split
MARK = "SYNTHETIC.txt"  # a folder with this file was written by `make` and may be replaced
LAYOUTS = {"mosei": ("CMU-MOSEI (raw release)", write_mosei), "msp_podcast": ("MSP-Podcast", write_msp_podcast)}
README = """\
SYNTHETIC SPEECH. No human speaks here, and no human labelled it.

Made by calm.synthesis with hibari-tts {version} (Apache-2.0), in the layout of {layout}; none of that corpus's data is in it.
Emotion is carried partly by the words and partly by the voice. Figures from this corpus show that a pipeline works, not how good
a method is.

{settings}
"""


def make(
    folder: Path,
    format: str,
    utterances: int,
    speakers: int,
    label_noise: float,
    seed: int,
    workers: int | None = None,
    voices_per_recording: int = 1,
) -> float:
    """Write a corpus in the layout of `format` ("mosei" or "msp_podcast") to `folder` and return its seconds of speech.

    The same arguments give the same bytes, whatever the number of `workers` (processes; None: one per core). The corpus is written whole
    or not at all. With several `voices_per_recording`, so many speakers take turns in one: what is said and how stays the same, but the
    voice does not tell a recording from others. Raises CorpusError if `folder` has contents that were not written by this function, or
    if there are fewer than 60 utterances or fewer than three per speaker.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MARK).exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise CorpusError(f"{folder} is not a corpus of synthetic speech: move it away, or give the synthetic corpus another path")
    if utterances < LEAST:
        raise CorpusError(f"{utterances} utterances are too few to hold every class in every split: give at least {LEAST}")
    if speakers > utterances // 3:
        raise CorpusError(f"{speakers} speakers are too many for {utterances} utterances: give at most {utterances // 3}")
    layout, write = LAYOUTS[format]
    turns = plan(format, utterances, speakers, label_noise, seed, voices_per_recording)
    settings = {"format": format, "utterances": utterances, "speakers": speakers, "label_noise": label_noise, "seed": seed}
    settings |= {"voices_per_recording": voices_per_recording} if voices_per_recording > 1 else {}
    with replacing(folder) as partial:
        partial.mkdir()
        seconds = write(partial, turns, _speak(turns, folder.name, workers), np.random.default_rng([seed, 1]))
        _write_readme(partial / MARK, layout, settings | {"seconds_of_speech": round(seconds, 1)})
    return seconds


def _speak(turns: list[Turn], name: str, workers: int | None) -> Iterator[Floats32]:
    from tqdm import tqdm

    waves = voices.speak_all([turn.line for turn in turns], workers)
    yield from tqdm(waves, desc=f"speaking {name}", total=len(turns), unit="utterance", mininterval=0.5)


def _write_readme(path: Path, layout: str, settings: dict[str, Any]) -> None:
    from importlib.metadata import version

    lines = "\n".join(f"{key}: {value}" for key, value in settings.items())
    path.write_text(README.format(version=version("hibari-tts"), layout=layout, settings=lines), encoding="utf-8")
