"""A page for the browser: a model's predictions for a recording, by modality and over time. It requests nothing from other machines."""

import base64
import html
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from calm.inference.recordings import Listener, Segment, duration, load_whisper
from calm.inference.torch_classifier import Predictor
from calm.inference.voice import NO_SPEECH
from calm.tools import examples as offered
from calm.tools.guard import Guard
from calm.tools.live import WINDOW, Heard
from calm.tools.timeline import draw, timeline

if TYPE_CHECKING:
    import gradio as gr

    from calm.asr.engines import Whisper


HERE = Path(__file__).parent
TITLES = {"audio": "audio", "text": "text", "both": "audio + text"}
SIZES = {"wide": (10, 6), "narrow": (4.2, 5.6)}  # size in inches of the timeline's picture, by the width of the window
HOUR = 3600  # seconds after which uploaded recordings are removed
MOST_MEGABYTES, MOST_SECONDS = 500, 1800  # of an upload, and of an analysis
WAITING = 16  # analyses that wait for the one that runs
LISTENING, LISTENING_SECONDS = 4, 600  # live microphones at a time, and how long they may keep the model busy
BLOCK = 0.5  # seconds of a live microphone that come in together

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
        """Names of the classes that the model decides."""
        return ", ".join(self.predictor.decided(probabilities)) or "no class"


# What the page shows


def main_modality(predictions: dict[str, Any]) -> str:
    """The modality that is shown first: both, else audio, else text."""
    return next(modality for modality in ("both", "audio", "text") if modality in predictions)


def fault(error: Exception, path: Path | None = None) -> str:
    """An error message, with the file's name in place of its temporary path."""
    message = html.escape(str(error))
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
        parts.append(f'<p class="note">The transcript is suspect: {html.escape(", ".join(flags))}.</p>')
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
    parts = [f'<p class="result">From audio, the last {WINDOW:g} s: <b>{html.escape(names[-1])}</b></p>', table]
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


# The page and its server


def results(
    analyser: Analyser, path: str | None, text: str | None, transcribe: bool, progress: ProgressCallback
) -> Iterator[tuple[str, str]]:
    """HTML of the analysis and of the timeline, first without the timeline and then with it."""
    file = Path(path) if path else None
    try:
        analysis = analyser.analyse(file, text, transcribe, progress)
        shown = analysis_html(analyser, analysis)
        yield shown, ""
        if file and analysis.segments and analyser.predictor.modality != "text":
            progress(0, "drawing the timeline")
            yield shown, timeline_html(analyser, file)
    except (ValueError, OSError) as error:
        yield fault(error, file), ""


def live(analyser: Analyser, block: Path, heard: Heard) -> tuple[str, Heard]:
    """HTML of the answer with one block of a microphone more, and what is kept of it."""
    try:
        heard = heard.listen(block, analyser.predictor)
        return live_html(analyser, heard), heard
    except (ValueError, OSError) as error:
        return fault(error, block), heard


def _remove(block: Path, uploads: set[str]) -> None:
    """Remove a block of a microphone, which nobody needs again, if it is one of the files that were uploaded."""
    if str(block) in uploads:
        uploads.discard(str(block))
        block.unlink(missing_ok=True)
        with suppress(OSError):  # another name beside it
            block.parent.rmdir()


def layout(analyser: Analyser, examples: Sequence[Path] = ()) -> "gr.Blocks":
    """The page in Gradio's elements; `examples`: clips that it offers."""
    import gradio as gr

    def analyse(
        recorded: str | None,
        dropped: str | None,
        text: str,
        transcribe: bool,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008, so Gradio finds it
    ) -> Iterator[tuple[str, str]]:
        yield from results(analyser, dropped or recorded, text, transcribe, lambda fraction, step: progress(fraction, desc=step))

    with gr.Blocks(title="CALM", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown("# CALM\nEmotions in speech and text: the probability of each class.")
        if analyser.predictor.synthetic:
            gr.Markdown("**The model was trained on synthetic speech: its predictions for people's speech mean nothing.**")
        with gr.Row(elem_classes="calm"):
            with gr.Column(scale=1, min_width=300):
                dropped = gr.File(label="A recording (any format and length)", elem_id="file", height=170)
                if examples:
                    rows, names = [[str(path)] for path in examples], [path.stem for path in examples]
                    gr.Examples(rows, [dropped], example_labels=names, label="or one of these", elem_id="examples")
                recorded = gr.Audio(
                    sources="microphone", type="filepath", label="or record one", elem_id="microphone", buttons=[], editable=False
                )
                text = gr.Textbox(label="Transcript (optional)", lines=2, elem_id="text")
                transcribe = gr.Checkbox(label="Transcribe with Whisper", elem_id="transcribe")
                start = gr.Button("Analyse", variant="primary", elem_id="analyse")
                speaking = gr.Audio(
                    streaming=True,
                    type="filepath",
                    label="or see answers while you speak",
                    elem_id="live",
                    buttons=[],
                    visible=analyser.predictor.modality != "text",
                )
            with gr.Column(scale=2, min_width=300):
                shown = gr.HTML(elem_id="result", apply_default_css=False)
                over_time = gr.HTML(elem_id="timeline", apply_default_css=False, min_height=120)
        # These run in the browser: a second call to the server could end the stream of results that the first one waits for.
        dropped.upload(None, None, recorded, js="() => null")
        recorded.stop_recording(None, None, dropped, js="() => null")
        start.click(None, None, [shown, over_time], js="() => ['', '']")
        for input in (dropped, recorded, speaking):
            input.async_move_resource_to_block_cache = _uploaded(input.async_move_resource_to_block_cache)
        start.click(analyse, [recorded, dropped, text, transcribe], [shown, over_time], show_progress_on=over_time, api_name="analyse")
        speaking.start_recording(None, None, [shown, over_time], js="() => ['', '']")
        _listens(page, analyser, speaking, shown)
    return page.queue(max_size=WAITING)


def _listens(page: "gr.Blocks", analyser: Analyser, speaking: "gr.Audio", shown: "gr.HTML") -> None:
    """Show the answer to each block of the live microphone `speaking`."""
    import gradio as gr

    def listen(block: str | None, heard: Heard | None) -> tuple[Any, Heard | None]:
        if not block or not Path(block).exists():  # a file goes by its content, and one of the same silence was removed before
            return gr.skip(), heard
        answer = live(analyser, Path(block), heard or Heard())
        _remove(Path(block), page.upload_file_set)
        return answer

    heard = gr.State(None, time_to_live=HOUR)
    limits: dict[str, Any] = {"stream_every": BLOCK, "time_limit": LISTENING_SECONDS, "concurrency_limit": LISTENING}
    speaking.stream(listen, [speaking, heard], [shown, heard], show_progress="hidden", api_name="listen", **limits)
    speaking.stop_recording(lambda: None, None, heard, show_progress="hidden")


def _uploaded(move: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Gradio's function that takes a file that a client names, without downloads: the server requests nothing from other machines."""

    async def moved(path: object, *args: object) -> Any:
        if path and urlsplit(str(path)).scheme in ("http", "https"):
            raise ValueError("only uploaded files are analysed")
        return await move(path, *args)

    return moved


def application(
    analyser: Analyser, store: Path, names: Iterable[str] = (), most: int = MOST_MEGABYTES * 10**6, examples: Sequence[Path] = ()
) -> Guard:
    """The page as an ASGI application.

    Args:
        store: folder of uploads: the only files that a client can name.
        names: further host names of the server; see `Guard`.
        most: bytes of an upload.
        examples: clips that the page offers.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    os.environ["GRADIO_TEMP_DIR"] = str(store)
    import gradio as gr
    from fastapi import FastAPI

    page = layout(analyser, examples)
    page.has_launched = True  # else Gradio lets a client name any file of this machine
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    head = f"<script>{(HERE / 'app.js').read_text(encoding='utf-8')}</script>"
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="",
        footer_links=[],
        ssr_mode=False,
        theme=gr.themes.Default(**fonts),
        css=(HERE / "app.css").read_text(encoding="utf-8"),
        head=head,
        max_file_size=most,
        show_error=False,  # what an unforeseen error says may name places of this machine
    )
    return Guard(app, names, most, store)


@contextmanager
def served(
    analyser: Analyser,
    host: str = "127.0.0.1",
    port: int = 7860,
    names: Iterable[str] = (),
    most: int = MOST_MEGABYTES * 10**6,
    examples: Path | None = None,
) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Yield the page's address, a function that serves it until it is stopped, and one that stops it. Uploads are removed at the end.

    `names` and `most` are those of `application`; `examples` is a folder of clips that the page offers, None: synthetic speech. Raises
    OSError if the port is taken, and ValueError if the folder has no clips.
    """
    import uvicorn

    with (
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening,
        tempfile.TemporaryDirectory(prefix="calm-app-") as recordings,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise OSError(f"{host}:{port} is not available ({error.strerror}): give another --port or --host") from None
        clips = offered.of_folder(examples) if examples else offered.synthetic(Path(recordings))
        app = application(analyser, Path(recordings).resolve(), names, most, clips)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2, limit_concurrency=200))
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        yield address, lambda: server.run(sockets=[listening]), lambda: setattr(server, "should_exit", True)
