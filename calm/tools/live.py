"""Answers while somebody speaks: of the last seconds of a microphone, each time that a block of audio comes in."""

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calm.audio.decoding import AudioFile
from calm.inference.classifier import Classifier
from calm.inference.recordings import classify_samples

WINDOW = 3.0  # seconds that an answer is of, as in the timeline
ANSWERS = 12  # that are kept
BEHIND = 2.0  # seconds of missing sound from which it is said


@dataclass
class Heard:
    """What is kept of a microphone: its last seconds and the last answers, however long it is open."""

    samples: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))  # (samples,) at the model's rate, of WINDOW at most
    seconds: float = 0.0  # since it was opened
    answers: list[tuple[float, np.ndarray | None]] = field(default_factory=list)  # at which second, and probabilities; None: no speech
    began: float | None = None  # when its first sound was, by `time.monotonic`; None: before the first block, and after a pause
    behind: float = 0.0  # seconds of sound that are missing, or not in yet

    def listen(self, block: Path, classifier: Classifier) -> "Heard":
        """With one block more, an audio file, and the answer to the last seconds with it. Raises AudioError."""
        rate, window = classifier.sample_rate, min(WINDOW, classifier.extractor.longest or WINDOW)
        with AudioFile(block) as file:
            length = file.facts.frames / file.facts.rate
            new = file.read(max(0, length - window), None, rate)  # no more, however long the file is
        samples, seconds, now = np.concatenate([self.samples, new])[-round(window * rate) :], self.seconds + length, time.monotonic()
        began = now - seconds - self.behind if self.began is None else self.began
        answers = [*self.answers, (seconds, classify_samples(classifier, samples))][-ANSWERS:]
        return Heard(samples, seconds, answers, began, max(0.0, now - began - seconds))

    def paused(self) -> "Heard":
        """The same for a microphone that is paused: what is not recorded then is not missing."""
        return replace(self, began=None)


def remove(block: Path, uploads: set[str]) -> None:
    """Remove a block, which nobody needs again, if it is one of the files that were uploaded."""
    if str(block) in uploads:
        uploads.discard(str(block))
        block.unlink(missing_ok=True)
        with suppress(OSError):  # another name beside it
            block.parent.rmdir()
