"""CMU-MOSEI, the raw release: whole-video WAVs, segmented transcripts, and the scores of six emotions in an HDF5 `.csd`.

```
CMU_MOSEI_Labels.csd
Raw/Audio/Full/WAV_16000/<video>.wav
Raw/Transcript/Segmented/Combined/<video>.txt      one line per segment: <video>___<clip>___<start s>___<end s>___<text>
folds/{train,valid,test}_videos.txt                ids of the official folds, one per line; not in the release, see `read_folds`
```
A row is a labelled segment. Its transcript line is the one with the same start and end, because the `.csd` is sorted neither by time
nor by clip number. Transcript lines that do not parse are listed in `checks` and are not rows. An emotion is present if its score is
above 0 (5.1); a segment without any emotion is labelled `[]`. The speaker is not annotated and taken to be the video.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from calm.array_types import Floats64
from calm.corpora.errors import CorpusError
from calm.corpora.files import lines, number, read_text, require, tidy
from calm.corpora.layout import Part
from calm.corpora.utterances import Corpus, Utterance

if TYPE_CHECKING:
    import h5py

LABELS = "CMU_MOSEI_Labels.csd"
AUDIO = "Raw/Audio/Full/WAV_16000"
TRANSCRIPTS = "Raw/Transcript/Segmented/Combined"
FOLDS = {"train": "train_videos.txt", "validation": "valid_videos.txt", "test": "test_videos.txt"}
CLASSES = ("happy", "sad", "anger", "surprise", "disgust", "fear")
TOLERANCE = 0.02  # seconds by which a start or end may differ between labels and transcript; neighbours differ by seconds
LAYOUT = (
    Part((LABELS,), "scores of the six emotions"),
    Part((AUDIO,), "whole-video WAVs"),
    Part((TRANSCRIPTS,), "segmented transcripts: texts, and the clips' numbers"),
    *(Part((f"{{folds}}/{name}",), f"videos of the official {split} fold, one per line") for split, name in FOLDS.items()),
)


@dataclass
class Line:
    """A line of a transcript: number of the clip, start and end in seconds, and the text as written."""

    clip: str
    start: float
    end: float
    text: str


def read(path: Path, *, folds: Path = Path("folds")) -> Corpus:
    """Read CMU-MOSEI. `folds` is the folder with the three lists of videos, relative to `path` unless it is absolute.

    Extra columns: `sentiment` (-3..3) and `score_<emotion>` (0..3, clamped). Raises CorpusError if the layout differs.
    """
    corpus = Corpus(classes=CLASSES)
    splits = read_folds(path / folds)
    transcripts = require(path, TRANSCRIPTS, what="transcripts")
    audio = require(path, AUDIO, what="whole-video WAVs")
    labelled, broken = set(), []
    for video, intervals, scores in read_labels(require(path, LABELS, what="labels"), corpus):
        labelled.add(video)
        split = splits.get(video)
        transcript, torn = read_transcript(transcripts / f"{video}.txt", video, corpus) if split else ([], [])
        broken += torn
        for index, ((start, end), row) in enumerate(zip(intervals.tolist(), scores.tolist(), strict=True)):
            name = f"{video}[{index}]"
            line = nearest(transcript, start, end)
            if split is None:
                corpus.drop(name, "video in no fold")
            elif line is None:
                beside = f"; {len(torn)} of its lines do not parse, the first {torn[0]}" if torn else ""
                corpus.drop(name, "no transcript line with this start and end", f"{start:.3f} to {end:.3f} s of {video}{beside}")
            elif (emotions := clamp(row, name, corpus)) is not None:
                _add(corpus, Utterance(f"{video}_{line.clip}", audio / f"{video}.wav", start, end, video, split=split), line, emotions)
    corpus.checks["videos of a fold without labels"] = sorted(set(splits) - labelled)
    corpus.checks["transcript lines that do not parse"] = broken
    return corpus


def _add(corpus: Corpus, utterance: Utterance, line: Line, row: list[float]) -> None:
    """Fill in text, labels and scores, and keep the row."""
    utterance.text = tidy(line.text)
    if utterance.text is None:
        corpus.corrections["empty transcript line: to be transcribed"] += 1
    sentiment, emotions = row[0], dict(zip(CLASSES, row[1:], strict=True))
    utterance.labels = [name for name, score in emotions.items() if score > 0]
    utterance.extra = {"sentiment": sentiment} | {f"score_{name}": score for name, score in emotions.items()}
    corpus.add(utterance)


def clamp(row: list[float], name: str, corpus: Corpus) -> list[float] | None:
    """Sentiment and the six scores, with scores above 3 set to 3. Drops the row and returns None if a value is not a number or below its
    range.
    """
    if not all(map(math.isfinite, row)):
        corpus.drop(name, "label is not a number", str(row))
        return None
    if abs(row[0]) > 3 or min(row[1:]) < 0:
        corpus.drop(name, "label outside its range", str(row))
        return None
    corpus.corrections["score above 3 set to 3"] += sum(score > 3 for score in row[1:])
    return [row[0], *(min(score, 3.0) for score in row[1:])]


def nearest(transcript: list[Line], start: float, end: float) -> Line | None:
    """The line with this start and end within TOLERANCE, or None."""
    close = [line for line in transcript if abs(line.start - start) <= TOLERANCE and abs(line.end - end) <= TOLERANCE]
    return min(close, key=lambda line: abs(line.start - start) + abs(line.end - end), default=None)


def read_transcript(path: Path, video: str, corpus: Corpus) -> tuple[list[Line], list[str]]:
    """Lines of a video's transcript (none if the file is missing), and lines that do not parse, as `<file> line <n>: <line>`."""
    if not path.is_file():
        return [], []
    transcript, broken = [], []
    for position, line in enumerate(lines(read_text(path, corpus)), 1):
        # Both the id and the text may contain "___": the id is removed first, and the rest is split three times.
        parts = line.removeprefix(f"{video}___").split("___", 3) if line.startswith(f"{video}___") else line.split("___", 4)[1:]
        start, end = (number(part) for part in (parts + ["", "", ""])[1:3])
        if len(parts) == 4 and parts[0].strip().isdecimal() and math.isfinite(start) and math.isfinite(end):
            transcript.append(Line(parts[0].strip(), start, end, parts[3]))
        else:
            broken.append(f"{video}.txt line {position}: {line[:200]}")
    return transcript, broken


def read_folds(folder: Path) -> dict[str, str]:
    """Split of every video. Raises CorpusError if a list is missing or a video is in two of them.

    The lists are `standard_train_fold`, `standard_valid_fold` and `standard_test_fold` of CMU-MultimodalSDK
    (`mmsdk/mmdatasdk/dataset/standard_datasets/CMU_MOSEI/cmu_mosei_std_folds.py`), one id per line.
    """
    splits: dict[str, str] = {}
    for split, name in FOLDS.items():
        for video in lines(read_text(require(folder, name, what="ids of the official fold, one per line"), Corpus())):
            if splits.setdefault(video.strip(), split) != split:
                raise CorpusError(f"Video {video.strip()} is in two folds of {folder}: remove it from one of them")
    return splits


def read_labels(path: Path, corpus: Corpus) -> Iterator[tuple[str, Floats64, Floats64]]:
    """For each video: its name, intervals (segments, 2) in seconds, and scores (segments, 7): sentiment, then CLASSES.

    If the groups of a video are broken, all its segments are dropped. Raises CorpusError if the file is not the `.csd` of the labels.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            columns = _columns(file, path)
            for video, group in tqdm(file["All Labels/data"].items(), desc="labels", unit="video", delay=2, leave=False):
                try:
                    intervals, scores = np.asarray(group["intervals"], float), np.asarray(group["features"], float)[:, columns]
                    if intervals.shape != (len(scores), 2):
                        raise ValueError(f"intervals {intervals.shape} and scores {scores.shape} do not fit")
                except (KeyError, ValueError, IndexError, TypeError, OSError) as error:
                    for index in range(_segments(group)):
                        corpus.drop(f"{video}[{index}]", "labels of a video do not parse", str(error))
                else:
                    yield video, intervals, scores
    except (OSError, KeyError, AttributeError, RuntimeError) as error:
        raise CorpusError(f"{path} is not the .csd of CMU-MOSEI's labels ({error}): download it again") from None


def _segments(group: "h5py.Group") -> int:
    """Number of segments of a video whose groups are broken: the length of its longer data set, or 1 if it has none."""
    datasets = [group.get(name) for name in ("intervals", "features")] if hasattr(group, "get") else []
    return max([1, *(len(data) for data in datasets if getattr(data, "shape", ()))])


def _columns(file: "h5py.File", path: Path) -> list[int]:
    """Columns of sentiment and of each class among the scores, by the names in the file."""
    try:
        names = list(map(str, json.loads(np.ravel(file["All Labels/metadata/dimension names"][()])[0])))
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise CorpusError(f"{path}: its dimension names are not a JSON list ({error}): download it again") from None
    missing = [name for name in ("sentiment", *CLASSES) if name not in names]
    if missing:
        raise CorpusError(f"{path} has no column {', '.join(missing)} (it has {', '.join(names)}): give the .csd of all labels")
    return [names.index(name) for name in ("sentiment", *CLASSES)]
