"""Probabilities over the time of a recording, at the rate of the blocks: each block is scored with its neighbours in a sliding window.

The recording is read by the minute. Whatever its length, no more than that and the acoustic tokens of one window are in memory, beside
the result and a picture's worth of its waveform and log-mel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from calm.audio import pauses
from calm.audio.decoding import AudioFile
from calm.audio.pauses import Pauses
from calm.data.batching import tensors
from calm.data.ragged import Ragged
from calm.inference.classifier import probabilities
from calm.inference.recordings import LOOK, length
from calm.inference.torch_classifier import Predictor

MINUTE = 60.0  # seconds that are read at once
MARGIN = 0.5  # seconds read on either side, so that resampling sees no edge
COLUMNS = 2000  # of the picture, at most
BATCH = 64  # windows


@dataclass
class Timeline:
    """One row a block."""

    classes: list[str]
    time: np.ndarray  # (blocks,) seconds: the middle of the block
    start: np.ndarray  # (blocks,) seconds: where the block's window begins, and ends
    end: np.ndarray
    probabilities: np.ndarray  # (blocks, classes); NaN where nobody speaks in the window
    peaks: np.ndarray  # (columns,) loudest sample of each of the picture's columns
    logmel: np.ndarray  # (columns, mels) mean log-mel
    seconds: float  # of the recording


def timeline(path: Path, predictor: Predictor, window: float = 3.0, text: str | None = None) -> Timeline:
    """Score a recording over time.

    Args:
        window: seconds of the blocks that are scored together, around each block; at the ends there are fewer.
        text: what is said; it goes into every window. None: an empty one.

    Raises:
        AudioError: a file that cannot be read. ValueError: a model of text alone, or a window shorter than a block.
    """
    if predictor.modality == "text":
        raise ValueError("this model was trained on text alone: a timeline needs one of audio")
    extractor, seconds = predictor.extractor, length(path)
    frame, side = extractor.frame_extractor.frame_seconds, neighbours(extractor, window)
    sketch, scorer = (
        Sketch(extractor.frame_extractor.frames(round(seconds * extractor.sampling_rate)), extractor.channels),
        Scorer(predictor, side, text),
    )
    with tqdm(total=round(seconds), desc=Path(path).name, unit="s", delay=5) as bar:
        spoken = pauses.cut(path, seconds, Pauses(), LOOK)
        for samples, frames in minutes(path, extractor, seconds):
            sketch.add(samples, frames, extractor.frame_extractor.hop)
            scorer.add(frames)
            bar.update(min(round(MINUTE), bar.total - bar.n))
    logits = scorer.ended()
    block = np.arange(len(logits))
    first, last = np.maximum(block - side, 0), np.minimum(block + side, len(logits) - 1)
    time = (block * extractor.block_hop + extractor.block_frames / 2) * frame
    start = first * extractor.block_hop * frame
    end = (last * extractor.block_hop + extractor.block_frames) * frame
    found = probabilities(logits)
    found[~overlaps(start, end, spoken)] = np.nan
    return Timeline(predictor.classes, time, start, end, found, sketch.peaks, sketch.mean(), seconds)


def neighbours(extractor, window: float) -> int:
    """How many blocks on either side of each lie in a window of so many seconds. Raises ValueError where not even the block itself does."""
    block, hop = (frames * extractor.frame_extractor.frame_seconds for frames in (extractor.block_frames, extractor.block_hop))
    if window < block:
        raise ValueError(f"a window of {window:g} s is shorter than one block of {block:g} s")
    return min(int((window - block) / (2 * hop) + 1e-9), (extractor.max_tokens // 2 - 1) // 2)


def overlaps(start: np.ndarray, end: np.ndarray, spoken: list[tuple[float, float]]) -> np.ndarray:
    """Whether any of the stretches (in order, apart from each other) lies, in part, between each start and end."""
    starts, ends = np.array(spoken).reshape(-1, 2).T
    following = np.searchsorted(ends, start, "right")  # the first stretch that ends later
    return np.append(starts, np.inf)[following] < end


def minutes(path: Path, extractor, seconds: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Samples and log-mel frames (as `extractor.frames` has them, untrimmed) minute by minute; put together they are those of the whole."""
    logmel, rate = extractor.frame_extractor, extractor.sampling_rate
    step = round(MINUTE * rate) // logmel.hop * logmel.hop  # samples
    with AudioFile(path) as file:
        for first in range(0, round(seconds * rate), step):
            begin, end = max(first / rate - MARGIN, 0.0), (first + step + logmel.window) / rate + MARGIN
            samples = file.read(begin, end, rate)[round(first - begin * rate) :][: step + logmel.window - logmel.hop]
            yield samples[:step], logmel(samples).astype(np.float16)


class Scorer:
    """Takes log-mel as it comes, and keeps what the windows that are not scored yet will need."""

    def __init__(self, predictor: Predictor, side: int, text: str | None):
        self.predictor, self.extractor, self.side = predictor, predictor.extractor, side
        self.text = text if predictor.needs_text else None
        self.span = max(self.extractor.block_frames, self.extractor.block_hop)
        self.frames = np.empty((0, self.extractor.channels), np.float16)  # from the next block on that has no token yet
        self.held: list[np.ndarray] = []  # of each block from `base` on: its encoding, or where utterances are normalised its own log-mel
        self.base = self.scored = 0
        self.logits: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        """The next frames; scores the windows that are whole."""
        self.frames = np.concatenate([self.frames, frames])
        hop = self.extractor.block_hop
        if (count := 1 + (len(self.frames) - self.span) // hop) > 0:
            self._hold(self.frames[: (count - 1) * hop + self.span], count)
            self.frames = self.frames[count * hop :]
        self._score(self.base + len(self.held) - self.side)

    def ended(self) -> np.ndarray:
        """Logits of every block, (blocks, classes); of what is shorter than one block, its one block filled up with zeros."""
        if not self.base + len(self.held) or len(self.frames) >= self.extractor.block_frames:
            self._hold(self.frames, 1)
        self._score(self.base + len(self.held))
        return np.concatenate(self.logits)

    def _hold(self, frames: np.ndarray, count: int) -> None:
        if self.extractor.normalise == "corpus":
            self.held += list(self.predictor.encoded_blocks(frames).cpu().numpy())[:count]
        else:
            starts = np.arange(count) * self.extractor.block_hop
            self.held += [frames[start : start + self.span] for start in starts]

    def _score(self, until: int) -> None:
        """Score the blocks before `until`, and forget what no later window has."""
        for first in range(self.scored, until, BATCH):
            centres = range(first, min(first + BATCH, until))
            windows = [self.held[max(c - self.side - self.base, 0) : c + self.side + 1 - self.base] for c in centres]
            self.logits.append(self._logits(windows))
        self.scored = max(self.scored, until)
        if (past := self.scored - self.side - self.base) > 0:
            self.held, self.base = self.held[past:], self.base + past

    @torch.inference_mode()
    def _logits(self, windows: list[list[np.ndarray]]) -> np.ndarray:
        if self.extractor.normalise == "utterance":
            return self.predictor.logits([self._joined(window) for window in windows], [self.text] * len(windows))
        encoded, mask = tensors(*Ragged.of([np.stack(window) for window in windows]).pad(np.arange(len(windows))))
        text = self.predictor.processor(text=[self.text] * len(windows))
        inputs = {**text, "encoded_blocks": encoded, "acoustic_mask": mask}
        model = self.predictor.model
        return model(**{key: value.to(model.device) for key, value in inputs.items()}).logits.float().cpu().numpy()

    def _joined(self, blocks: list[np.ndarray]) -> np.ndarray:
        """The frames of neighbouring blocks, which overlap, or lie apart."""
        return np.concatenate([*(block[: self.extractor.block_hop] for block in blocks[:-1]), blocks[-1][: self.extractor.block_frames]])


class Sketch:
    """A recording in as many columns as a picture shows."""

    def __init__(self, frames: int, mels: int):
        self.frames, columns = max(frames, 1), min(max(frames, 1), COLUMNS)
        self.peaks, self.sums, self.counts = np.zeros(columns, np.float32), np.zeros((columns, mels)), np.zeros(columns)
        self.seen = 0

    def add(self, samples: np.ndarray, frames: np.ndarray, hop: int) -> None:
        """The next samples and frames."""
        if not len(frames):
            return
        column = np.minimum((self.seen + np.arange(len(frames))) * len(self.counts) // self.frames, len(self.counts) - 1)
        np.add.at(self.sums, column, frames)
        np.add.at(self.counts, column, 1)
        at = column[np.minimum(np.arange(len(samples)) // hop, len(column) - 1)]
        np.maximum.at(self.peaks, at, np.abs(samples))
        self.seen += len(frames)

    def mean(self) -> np.ndarray:
        """Mean log-mel of each column."""
        return (self.sums / np.maximum(self.counts, 1)[:, None]).astype(np.float32)


def write_csv(found: Timeline, path: Path) -> None:
    """`time`, `start`, `end` (seconds) and a column a class; empty where nobody speaks. Written whole or not at all."""
    import pandas as pd

    table = pd.DataFrame(
        {"time": found.time, "start": found.start, "end": found.end} | dict(zip(found.classes, found.probabilities.T, strict=True))
    )
    partial = Path(path).with_name(f".{Path(path).name}.partial")
    table.to_csv(partial, index=False, float_format="%.6g")
    partial.replace(path)


def pictures() -> list[str]:
    """Kinds of pictures that can be drawn, as their files' names end."""
    from matplotlib.figure import Figure

    return sorted(Figure().canvas.get_supported_filetypes())


def draw(found: Timeline, path: Path, title: str = "", size: tuple[float, float] = (10, 6)) -> tuple[float, float]:
    """Probabilities above the waveform and the log-mel, as a picture of the kind that the file's name ends with.

    Args:
        size: width and height in inches; where it is narrow, the names of the classes stand above.

    Returns:
        where the axis of time begins and ends, as shares of the picture's width.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context("default"):  # whatever style the program that calls has set
        figure = Figure(figsize=size, layout="constrained")
        above, wave, mel = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1.5])
        for name, values in zip(found.classes, found.probabilities.T, strict=True):
            above.plot(found.time, values, label=name, marker="." if len(values) == 1 else None)
        above.set(ylabel="probability", ylim=(0, 1), title=title)
        if size[0] < 6:
            figure.legend(loc="outside upper center", ncols=3, frameon=False)
        else:
            above.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        at = np.linspace(0, found.seconds, len(found.peaks), endpoint=False)
        wave.fill_between(at, -found.peaks, found.peaks, linewidth=0, color="0.4")
        wave.set(ylabel="amplitude")
        mel.imshow(found.logmel.T, origin="lower", aspect="auto", extent=(0, found.seconds, 0, found.logmel.shape[1]), cmap="magma")
        mel.set(ylabel="mel band", xlabel="seconds", xlim=(0, found.seconds))
        figure.savefig(path, dpi=120)
    place = mel.get_position()
    return place.x0, place.x1
