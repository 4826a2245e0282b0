"""What belongs to each format's layout: which part is for what, and what is not to be had without it."""

import glob
import inspect
from dataclasses import dataclass
from pathlib import Path

from calm.corpora import mosei, reader


@dataclass(frozen=True)
class Part:
    """A file or folder below the corpus. Any of `names` will do: patterns, the first the usual name, with options in braces."""

    names: tuple[str, ...]
    what: str
    without: str = ""  # what is lost; "": the corpus cannot be used


LAYOUTS: dict[str, tuple[Part, ...]] = {
    "mosei": (
        Part((mosei.LABELS,), "scores of the six emotions"),
        Part((mosei.AUDIO,), "whole-video WAVs"),
        Part((mosei.TRANSCRIPTS,), "segmented transcripts: texts, and the clips' numbers"),
        *(Part((f"{{folds}}/{name}",), f"videos of the official {split} fold, one a line") for split, name in mosei.FOLDS.items()),
    ),
    "msp_podcast": (
        Part(("Audios", "Audio"), "a WAV a turn"),
        Part(
            ("Labels/labels_consensus.csv", "[Ll]abel*/labels_con[cs]ensus.*", "[Ll]abel*/labels.txt"),
            "the consensus: classes, attributes, sets",
        ),
        Part(
            ("Labels/labels.txt", "[Ll]abel*/labels.txt", "[Ll]abel*/labels_detailed.*"),
            "every worker's answers",
            "no lists of all emotions and no votes: labels: primary only",
        ),
        Part(("Transcripts",), "texts", "every row is transcribed; transcripts: true is refused"),
        Part(("Partitions.txt",), "the set of every file", "only files whose set the consensus tells are used"),
        Part(("Speaker_ids.txt",), "speakers and their genders", "only those that the consensus tells are known"),
    ),
    "ravdess": tuple(
        Part((f"**/Actor_{actor:02d}", f"**/03-01-*-{actor:02d}.*"), "the clips of one of 24 actors", "no split can have this actor")
        for actor in range(1, 25)
    ),
    "crema_d": (
        Part(("AudioWAV",), "the clips", "they are looked for everywhere below the folder"),
        Part(("VideoDemographics.csv",), "the actors' genders", "genders are unknown"),
    ),
    "librispeech": (
        Part(("**/*.trans.txt",), "texts", "every row is transcribed"),
        Part(("**/SPEAKERS.TXT",), "the readers' genders", "genders are unknown"),
    ),
    "manifest": (),  # one file; its columns are told by the rows that lack them
}


def missing(format: str, path: Path, options: dict) -> list[dict]:
    """Parts that are not there, those first without which the corpus cannot be used: name, what, without, required."""
    parameters = inspect.signature(reader(format)).parameters.values()
    values = {parameter.name: parameter.default for parameter in parameters} | options
    absent = [part for part in LAYOUTS[format] if not any(_found(path, name.format(**values)) for name in part.names)]
    absent.sort(key=lambda part: bool(part.without))
    return [
        {
            "name": part.names[0].format(**values).removeprefix("**/"),
            "what": part.what,
            "without": part.without,
            "required": not part.without,
        }
        for part in absent
    ]


def _found(path: Path, pattern: str) -> bool:
    # Not Path.glob: that refuses absolute patterns and, unlike the readers, does not follow links.
    return next(glob.iglob(str(Path(glob.escape(str(path))) / pattern), recursive=True), None) is not None  # noqa: PTH207
