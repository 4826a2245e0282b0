"""What the page shows of a recording: a model's predictions by modality and by segment, and over time, as HTML."""

import base64
import html
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from calm.asr.transcripts import FLAGS
from calm.inference.recordings import Listener, Segment, duration, load_whisper
from calm.inference.torch_classifier import Predictor
from calm.inference.voice import NO_SPEECH
from calm.tools.live import BEHIND, WINDOW, Heard
from calm.tools.timeline import draw, timeline

if TYPE_CHECKING:
    from calm.asr.engines import Whisper

TITLES = {"audio": "audio", "text": "text", "both": "audio + text"}
SIZES = {"wide": (10, 6), "narrow": (4.2, 5.6)}  # size in inches of the timeline's picture, by the width of the window
MOST_SECONDS = 1800  # of an analysis

ProgressCallback = Callable[[float, str], object]  # fraction of the work that is done, and what is being done


@dataclass
class Analysis:
    """Predictions for the segments of a recording, or for a text alone."""

    segments: list[Segment] = field(default_factory=list)  # without their samples
    predictions: list[dict[str, np.ndarray]] = field(default_factory=list)  # per segment: probabilities (classes,) by modality

    def overall(self) -> dict[str, np.ndarray]:
        """Probabilities by modality: the mean over the segments that have the modality, weighted by their lengths."""
        means = {}
        for modality in TITLES:
            weighted = [
                (segment.end - segment.start, prediction[modality])
                for segment, prediction in zip(self.segments, self.predictions, strict=True)
                if modality in prediction
            ]
            if weighted:
                lengths, values = zip(*weighted, strict=True)
                means[modality] = np.average(values, axis=0, weights=lengths)
        return means


class Analyser:
    """A released model, and a Whisper engine that is loaded when it is first needed.

    Args:
        seconds: that an analysis may take.
    """

    def __init__(self, predictor: Predictor, whisper: str = "tiny.en", seconds: float = MOST_SECONDS):
        self.predictor, self.whisper, self.seconds = predictor, whisper, seconds
        self.engine: Whisper | None = None

    def analyse(self, path: Path | None, text: str | None, transcribe: bool, progress: ProgressCallback) -> Analysis:
        """Predictions for a recording, a text, or both; no segments if nobody speaks.

        Args:
            text: transcript; if there is one, `transcribe` is ignored.

        Raises:
            ValueError: there is no input, or none that the model was trained on. AudioError: the file cannot be read.
        """
        modality, text = self.predictor.modality, (text or "").strip() or None
        if path is None and text is None:
            raise ValueError("There is no input: record something, drop a file, or write a text.")
        if path is None and modality == "audio":
            raise ValueError("This model was trained on audio alone: record something, or drop a file.")
        if modality == "text" and not (text or transcribe):
            raise ValueError("This model was trained on text alone: write a text, or have the recording transcribed.")
        if path is None:
            return Analysis([Segment(0, 1, np.empty(0), text)], [{"text": self.predictor(None, [text])[0]}])
        analysis, seconds, until = Analysis(), duration(path), time.monotonic() + self.seconds
        progress(0, "looking for pauses")
        for segment in self._listener(transcribe and text is None)(path, text):
            if time.monotonic() > until:
                at = f"{segment.start:.0f} of {seconds:.0f} s"
                raise ValueError(f"After {self.seconds:g} s, the most that an analysis may take, it was at {at}: give a shorter part.")
            if prediction := self.predict(segment):
                analysis.predictions.append(prediction)
                analysis.segments.append(replace(segment, samples=np.empty(0, np.float32)))  # keep one segment's samples in memory
            progress(min(segment.end / seconds, 1), f"{segment.end:.0f} of {seconds:.0f} s")
        return analysis

    def _listener(self, transcribe: bool) -> Listener:
        if transcribe and self.engine is None:
            self.engine = load_whisper(self.whisper)
        return Listener.of(self.predictor, self.engine if transcribe else None)

    def predict(self, segment: Segment) -> dict[str, np.ndarray]:
        """Probabilities from audio alone, text alone and both: those that the model was trained for and the segment has."""
        modality, predictions = self.predictor.modality, {}
        if modality != "text":
            (predictions["audio"],) = self.predictor([segment.samples], None)
        if modality != "audio" and segment.text:
            (predictions["text"],) = self.predictor(None, [segment.text])
        if modality == "both" and segment.text:
            (predictions["both"],) = self.predictor([segment.samples], [segment.text])
        return predictions

    def decided(self, probabilities: np.ndarray) -> str:
        """Names of the classes that the model decides, the most probable first."""
        by_class = dict(zip(self.predictor.classes, probabilities, strict=True))
        return ", ".join(sorted(self.predictor.decided(probabilities), key=lambda name: -by_class[name])) or "no class"


# What the page shows


def main_modality(predictions: dict[str, Any]) -> str:
    """The modality that is shown first: both, else audio, else text."""
    return next(modality for modality in ("both", "audio", "text") if modality in predictions)


def fault(error: Exception, path: Path | None = None) -> str:
    """An error message, with the file's name in place of its temporary path."""
    message = html.escape(str(error).removeprefix(f"{getattr(error, 'fault', '')}: "))  # the sentence says it again
    if path is not None:
        name = html.escape(path.name)
        message = f"<b>{name} cannot be analysed.</b> {message.replace(html.escape(str(path)), name)}"
    return f'<p class="fault" role="alert">{message}</p>'


def analysis_html(analyser: Analyser, analysis: Analysis) -> str:
    """The classes that are decided, a table of the probabilities by modality, and a table of the segments if there are several."""
    if not analysis.segments:
        return f'<p class="result"><b>{NO_SPEECH}</b>: nobody speaks in this recording, so there is no emotion to predict.</p>'
    overall = analysis.overall()
    main = main_modality(overall)
    decided = html.escape(analyser.decided(overall[main]))
    parts = [f'<p class="result">From {TITLES[main]}: <b>{decided}</b></p>', _table(analyser, overall, main)]
    if len(analysis.segments) > 1:
        parts += ['<p class="note">Means over the segments, weighted by their lengths. The segments:</p>', _segments(analyser, analysis)]
    elif analysis.segments[0].text:
        parts.append(f'<p class="note">Text: “{html.escape(analysis.segments[0].text)}”</p>')
    flags = sorted({flag for segment in analysis.segments for flag in segment.flags})
    if flags:
        reasons = "; ".join(FLAGS[flag] for flag in flags)
        parts.append(f'<p class="note">The transcript is suspect: {html.escape(reasons)}.</p>')
    parts.append(f'<p class="note">{_decision(analyser.predictor)}</p>')
    return f"<div>{''.join(parts)}</div>"


def _decision(predictor: Predictor) -> str:
    """By what the classes are decided, and how the probabilities are to be read."""
    sum_to_one = "sum to 1" if predictor.loss == "softmax" else "do not sum to 1"
    if predictor.argmax:
        return f"Decided is the likeliest class (argmax). The probabilities {sum_to_one}."
    source = f"tuned on validation, for {TITLES[predictor.modality]}" if predictor.tuned else "0.5, as the model has no tuned thresholds"
    return f"The mark on a bar is the class’s threshold ({source}). The probabilities {sum_to_one}."


def _table(analyser: Analyser, overall: dict[str, np.ndarray], main: str) -> str:
    """One row per class, the most probable first; one column per modality, and the threshold, unless the likeliest class is decided."""
    predictor = analyser.predictor
    titles = [*(TITLES[modality] for modality in overall), *([] if predictor.argmax else ["threshold"])]
    decided = {modality: predictor.decided(values) for modality, values in overall.items()}
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    rows = []
    for index in np.argsort(-overall[main], kind="stable"):
        threshold, name = None if predictor.argmax else predictor.thresholds[index], predictor.classes[index]
        cells = "".join(f"<td>{_bar(values[index], name in decided[modality], threshold)}</td>" for modality, values in overall.items())
        cells += "" if threshold is None else f'<td class="threshold">{threshold:.2f}</td>'
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return f'<table class="probabilities"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _bar(probability: float, decided: bool, threshold: float | None) -> str:
    kind, mark = (' class="decided"', " ✓") if decided else ("", "")
    bar, place = ("bar unmarked", "") if threshold is None else ("bar", f";--t:{100 * threshold:.1f}%")
    return f'<span{kind}>{probability:.2f}{mark}</span><div class="{bar}" style="--p:{100 * probability:.1f}%{place}"></div>'


def live_html(analyser: Analyser, heard: Heard) -> str:
    """The answer to a microphone's last seconds, and those before it, the newest first."""
    names = ["no speech" if answer is None else analyser.decided(answer) for _, answer in heard.answers]
    _, answer = heard.answers[-1]
    table = "" if answer is None else _table(analyser, {"audio": answer}, "audio")
    before = [f"<li><span>{_clock(at)}</span> {html.escape(name)}</li>" for (at, _), name in zip(heard.answers, names, strict=True)]
    late = f'<p class="note">{heard.behind:.0f} s of sound are missing, or come late: the connection or the computer is too slow.</p>'
    parts = [f'<p class="result">From audio, the last {WINDOW:g} s: <b>{html.escape(names[-1])}</b></p>', table]
    parts += [late] if heard.behind >= BEHIND else []
    return f'<div>{"".join(parts)}<ol class="live">{"".join(reversed(before))}</ol></div>'


def _segments(analyser: Analyser, analysis: Analysis) -> str:
    """One row per segment: its time, the classes that are decided, and its text."""
    rows = []
    for segment, prediction in zip(analysis.segments, analysis.predictions, strict=True):
        decided = analyser.decided(prediction[main_modality(prediction)])
        time = f'<button data-at="{segment.start:.2f}">{_clock(segment.start)}–{_clock(segment.end)}</button>'
        rows.append(f'<tr><td>{time}</td><td>{html.escape(decided)}</td><td class="result">{html.escape(segment.text or "")}</td></tr>')
    return f'<div class="scrolled"><table class="segments"><tbody>{"".join(rows)}</tbody></table></div>'


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def timeline_html(analyser: Analyser, path: Path) -> str:
    """A player for the recording, above the probabilities over time from audio alone. Raises like `calm.tools.timeline.timeline`."""
    result, pictures = timeline(path, analyser.predictor), []
    with tempfile.TemporaryDirectory(prefix="calm-") as folder:
        for name, size in SIZES.items():
            left, right = draw(result, Path(folder) / f"{name}.png", size=size)
            picture = base64.b64encode((Path(folder) / f"{name}.png").read_bytes()).decode()
            data = f'data-seconds="{result.seconds}" data-left="{left:.5f}" data-right="{right:.5f}" style="--left:{left:.5f}"'
            image = f'<img alt="Probabilities, waveform and log-mel over time" src="data:image/png;base64,{picture}">'
            pictures.append(f'<div class="calm-picture {name}" {data}>{image}<i></i></div>')
    audio = f'<audio controls preload="metadata" src="gradio_api/file={quote(str(path))}"></audio>'
    silent = '<p class="note" hidden>This browser cannot play files of this kind.</p>'
    note = '<p class="note">From audio alone, in windows of 3 s; a click on the picture plays from there.</p>'
    return f'<div class="calm-timeline">{audio}{silent}{"".join(pictures)}{note}</div>'
