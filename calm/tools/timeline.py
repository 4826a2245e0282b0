"""Probabilities over the time of a recording, one row per block: each block is classified with its neighbours in a sliding window.

The recording is read minute by minute. Whatever its length, memory holds one minute, the acoustic tokens of the open windows, the result,
and waveform and acoustic frames at the resolution of a picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from calm.array_types import Floats32
from calm.audio import pauses
from calm.audio.decoding import AudioFile
from calm.audio.encoder_states import CONTEXT, EncoderStates, pictured
from calm.audio.features import FrameExtractor
from calm.audio.pauses import Pauses
from calm.data.batching import tensors
from calm.data.ragged import Ragged
from calm.evaluation.calibration import probabilities
from calm.inference.extractor import AcousticExtractor
from calm.inference.recordings import VAD_WINDOW, duration
from calm.inference.torch_classifier import Predictor
from calm.storage import csv_cell, replacing

MINUTE = 60.0  # seconds read at a time
MARGIN = 0.5  # seconds read on either side, so that resampling sees no edge
COLUMNS = 2000  # most columns of a picture
BATCH = 64  # windows computed together


@dataclass
class Timeline:
    """Probabilities over time, one row per block, and what a picture shows beside them."""

    classes: list[str]
    time: np.ndarray  # (blocks,) seconds: the middle of the block
    start: np.ndarray  # (blocks,) seconds: start of the block's window
    end: np.ndarray  # (blocks,) seconds: its end
    probabilities: np.ndarray  # (blocks, classes); NaN where nobody speaks in the window
    peaks: np.ndarray  # (columns,) largest absolute sample of each column of the picture
    frames: np.ndarray  # (columns, channels) mean acoustic frames, of a speech encoder log-mel in place of its states
    seconds: float  # length of the recording


def timeline(path: Path, predictor: Predictor, window: float = 3.0, text: str | None = None) -> Timeline:
    """Classify a recording over time.

    Args:
        window: length in seconds of the window around each block; at the ends of the recording it holds fewer blocks.
        text: transcript, which goes into every window; None: an empty text.

    Raises:
        AudioError: the file cannot be read. ValueError: the model was trained on text alone, or the window is shorter than a block.
    """
    if predictor.modality == "text":
        raise ValueError("this model was trained on text alone: a timeline needs one of audio")
    extractor, seconds = predictor.extractor, duration(path)
    frame, side = extractor.frame_extractor.frame_seconds, neighbours(extractor, window)
    shown = picture_frames(extractor)
    sketch, scorer = Sketch(shown.frames(round(seconds * extractor.sampling_rate)), shown.channels), Scorer(predictor, side, text)
    with tqdm(total=round(seconds), desc=Path(path).name, unit="s", delay=5) as bar:
        spoken = pauses.cut(path, seconds, Pauses(), VAD_WINDOW)
        for samples, frames in minutes(path, extractor, seconds):
            sketch.add(samples, frames if shown == extractor.frame_extractor else shown(samples), shown.hop)
            scorer.add(frames)
            bar.update(min(round(MINUTE), bar.total - bar.n))
    logits = scorer.finish()
    block = np.arange(len(logits))
    first, last = np.maximum(block - side, 0), np.minimum(block + side, len(logits) - 1)
    time = (block * extractor.block_hop + extractor.block_frames / 2) * frame
    start = first * extractor.block_hop * frame
    end = (last * extractor.block_hop + extractor.block_frames) * frame
    scores = probabilities(logits, predictor.loss)
    scores[~overlaps(start, end, spoken)] = np.nan
    return Timeline(predictor.classes, time, start, end, scores, sketch.peaks, sketch.mean(), seconds)


def neighbours(extractor: AcousticExtractor, window: float) -> int:
    """Number of blocks on either side of a block in a window of so many seconds. Raises ValueError if not even one block fits."""
    block, hop = (frames * extractor.frame_extractor.frame_seconds for frames in (extractor.block_frames, extractor.block_hop))
    if window < block:
        raise ValueError(f"a window of {window:g} s is shorter than one block of {block:g} s")
    return min(int((window - block) / (2 * hop) + 1e-9), (extractor.max_tokens // 2 - 1) // 2)


def overlaps(start: np.ndarray, end: np.ndarray, spoken: list[tuple[float, float]]) -> np.ndarray:
    """Whether each interval from `start` to `end` overlaps one of the intervals `spoken`, which are sorted and disjoint."""
    starts, ends = np.array(spoken).reshape(-1, 2).T
    following = np.searchsorted(ends, start, "right")  # the first interval that ends later
    return np.append(starts, np.inf)[following] < end


def picture_frames(extractor: AcousticExtractor) -> FrameExtractor:
    """What a picture shows: the model's own frames, but log-mel in place of a speech encoder's states."""
    frames = extractor.frame_extractor
    return pictured(extractor.sampling_rate) if isinstance(frames, EncoderStates) else frames


def minutes(path: Path, extractor: AcousticExtractor, seconds: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Samples and untrimmed acoustic frames (float16) minute by minute; joined, they are those of the whole recording.

    A speech encoder hears the second before and after each minute too.
    """
    frames, rate = extractor.frame_extractor, extractor.sampling_rate
    step = round(MINUTE * rate) // frames.hop * frames.hop  # samples
    context = round(CONTEXT * rate) // frames.hop if isinstance(frames, EncoderStates) else 0  # frames
    with AudioFile(path) as file:
        for first in range(0, round(seconds * rate), step):
            before = min(context, first // frames.hop)
            start, length = first - before * frames.hop, step + (before + context) * frames.hop + frames.window - frames.hop  # samples
            begin = max(start / rate - MARGIN, 0.0)
            heard = file.read(begin, (start + length) / rate + MARGIN, rate)[round(start - begin * rate) :][:length]
            samples = heard[before * frames.hop :][:step]
            yield samples, extractor.untrimmed(heard)[before : before + step // frames.hop]


class Scorer:
    """Classifies the windows of a stream of acoustic frames, and keeps in memory only what later windows need."""

    def __init__(self, predictor: Predictor, side: int, text: str | None):
        self.predictor, self.extractor, self.side = predictor, predictor.extractor, side
        self.text = text if predictor.needs_text else None
        # What is computed of a window as a whole needs its frames: its own statistics, and functionals.
        self.by_window = self.extractor.normalise == "utterance" or self.extractor.functionals
        self.span = max(self.extractor.block_frames, self.extractor.block_hop)
        self.frames = np.empty((0, self.extractor.channels), np.float16)  # from the first block on that is not held yet
        # Blocks from number `base` on: encoded, or their frames where windows are computed as a whole.
        self.held: list[np.ndarray] = []
        self.base = self.scored = 0
        self.logits: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        """Take the next frames, and classify the windows that are complete."""
        self.frames = np.concatenate([self.frames, frames])
        hop = self.extractor.block_hop
        if (count := 1 + (len(self.frames) - self.span) // hop) > 0:
            self._hold(self.frames[: (count - 1) * hop + self.span], count)
            self.frames = self.frames[count * hop :]
        self._score(self.base + len(self.held) - self.side)

    def finish(self) -> np.ndarray:
        """Logits of every block, (blocks, classes). A recording shorter than one block is padded with zeros to one block."""
        if not self.base + len(self.held) or len(self.frames) >= self.extractor.block_frames:
            self._hold(self.frames, 1)
        self._score(self.base + len(self.held))
        return np.concatenate(self.logits)

    def _hold(self, frames: np.ndarray, count: int) -> None:
        if not self.by_window:
            self.held += list(self.predictor.encoded_blocks(frames).cpu().numpy())[:count]
        else:
            starts = np.arange(count) * self.extractor.block_hop
            self.held += [frames[start : start + self.span] for start in starts]

    def _score(self, until: int) -> None:
        """Classify the blocks before number `until`, and drop the blocks that no later window has."""
        for first in range(self.scored, until, BATCH):
            centres = range(first, min(first + BATCH, until))
            windows = [self.held[max(c - self.side - self.base, 0) : c + self.side + 1 - self.base] for c in centres]
            self.logits.append(self._logits(windows))
        self.scored = max(self.scored, until)
        if (past := self.scored - self.side - self.base) > 0:
            self.held, self.base = self.held[past:], self.base + past

    @torch.inference_mode()
    def _logits(self, windows: list[list[np.ndarray]]) -> np.ndarray:
        if self.by_window:
            return self.predictor.logits([self._joined(window) for window in windows], [self.text] * len(windows))
        encoded, mask = tensors(*Ragged.from_rows([np.stack(window) for window in windows]).pad(np.arange(len(windows))))
        text = self.predictor.processor(text=[self.text] * len(windows))
        inputs = {**text, "encoded_blocks": encoded, "acoustic_mask": mask}
        model = self.predictor.model
        logits: Floats32 = model(**{key: value.to(model.device) for key, value in inputs.items()}).logits.float().cpu().numpy()
        return logits

    def _joined(self, blocks: list[np.ndarray]) -> np.ndarray:
        """The frames of neighbouring blocks, each once where the blocks overlap."""
        return np.concatenate([*(block[: self.extractor.block_hop] for block in blocks[:-1]), blocks[-1][: self.extractor.block_frames]])


class Sketch:
    """Waveform and acoustic frames of a recording, reduced to the columns of a picture."""

    def __init__(self, frames: int, channels: int):
        self.frames, columns = max(frames, 1), min(max(frames, 1), COLUMNS)
        self.peaks, self.sums, self.counts = np.zeros(columns, np.float32), np.zeros((columns, channels)), np.zeros(columns)
        self.seen = 0

    def add(self, samples: np.ndarray, frames: np.ndarray, hop: int) -> None:
        """Take the next samples and frames."""
        if not len(frames):
            return
        column = np.minimum((self.seen + np.arange(len(frames))) * len(self.counts) // self.frames, len(self.counts) - 1)
        np.add.at(self.sums, column, frames)
        np.add.at(self.counts, column, 1)
        column_of_sample = column[np.minimum(np.arange(len(samples)) // hop, len(column) - 1)]
        np.maximum.at(self.peaks, column_of_sample, np.abs(samples))
        self.seen += len(samples) // hop

    def mean(self) -> np.ndarray:
        """Mean frame of each column."""
        return (self.sums / np.maximum(self.counts, 1)[:, None]).astype(np.float32)


def write_csv(result: Timeline, path: Path) -> None:
    """Write a table with `time`, `start`, `end` (seconds) and one column per class, empty where nobody speaks."""
    import pandas as pd

    times = {"time": result.time, "start": result.start, "end": result.end}
    table = pd.DataFrame(times | dict(zip(map(csv_cell, result.classes), result.probabilities.T, strict=True)))
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g")


def pictures() -> list[str]:
    """File name extensions of the pictures that can be drawn."""
    from matplotlib.figure import Figure

    return sorted(Figure().canvas.get_supported_filetypes())


def draw(result: Timeline, path: Path, title: str = "", size: tuple[float, float] = (10, 6)) -> tuple[float, float]:
    """Draw the probabilities above the waveform and the acoustic frames. The file's extension sets the kind of picture.

    Args:
        size: width and height in inches; a narrow picture has the legend above.

    Returns:
        left and right end of the time axis, as fractions of the picture's width.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", {"text.parse_math": False}]):  # not the caller's style; and a label with dollar signs is a label
        figure = Figure(figsize=size, layout="constrained")
        above, wave, image = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1.5])
        for name, values in zip(result.classes, result.probabilities.T, strict=True):
            above.plot(result.time, values, label=name, marker="." if len(values) == 1 else None)
        above.set(ylabel="probability", ylim=(0, 1), title=title)
        if size[0] < 6:
            figure.legend(loc="outside upper center", ncols=3, frameon=False)
        else:
            above.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        seconds = np.linspace(0, result.seconds, len(result.peaks), endpoint=False)
        wave.fill_between(seconds, -result.peaks, result.peaks, linewidth=0, color="0.4")
        wave.set(ylabel="amplitude")
        image.imshow(result.frames.T, origin="lower", aspect="auto", extent=(0, result.seconds, 0, result.frames.shape[1]), cmap="magma")
        image.set(ylabel="channel", xlabel="seconds", xlim=(0, result.seconds))
        image.tick_params(axis="x", pad=8)  # else its first label touches that of channel 0
        figure.savefig(path, dpi=120)
    place = image.get_position()
    return place.x0, place.x1
