"""A page for the browser: what a model says of a recording, by modality and over time. It asks for nothing outside this machine."""

import base64
import html
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from calm.inference.recordings import NO_SPEECH, Listener, Piece, length, load_whisper
from calm.inference.torch_classifier import Predictor
from calm.tools.timeline import draw, timeline

HERE = Path(__file__).parent
TITLES = {"audio": "audio", "text": "text", "both": "audio + text"}
SIZES = {"wide": (10, 6), "narrow": (4.2, 5.6)}  # inches of the timeline's picture, by the window's width
HOUR = 3600  # seconds: recordings that were given to the page are removed after that time
CONTENT = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"  # the browser is to ask no other machine, whatever the page says

Told = Callable[[float, str], object]  # how far the work is (0..1), and what it is


@dataclass
class Heard:
    """What the model says of the pieces of a recording, or of a text alone."""

    pieces: list[Piece] = field(default_factory=list)
    answers: list[dict[str, np.ndarray]] = field(default_factory=list)  # of each piece: by modality, (classes,)

    def overall(self) -> dict[str, np.ndarray]:
        """By modality, the mean over the pieces that have it, each weighted by its length."""
        found = {}
        for modality in TITLES:
            has = [
                (piece.end - piece.start, one[modality]) for piece, one in zip(self.pieces, self.answers, strict=True) if modality in one
            ]
            if has:
                lengths, values = zip(*has, strict=True)
                found[modality] = np.average(values, axis=0, weights=lengths)
        return found


class Desk:
    """A released model with the thresholds that belong to its folder; Whisper comes when it is first asked for."""

    def __init__(self, predictor: Predictor, whisper: str = "tiny.en"):
        self.predictor, self.whisper, self.engine = predictor, whisper, None

    def hear(self, path: Path | None, text: str | None, transcribe: bool, told: Told) -> Heard:
        """Answers of a recording, of a text, or of both; no pieces where nobody speaks.

        Args:
            text: what is said; it goes before `transcribe`.

        Raises:
            ValueError: nothing to answer was given, or the model cannot use it. AudioError: a file that cannot be read.
        """
        modality, text = self.predictor.modality, (text or "").strip() or None
        if path is None and text is None:
            raise ValueError("There is nothing to listen to: record something, drop a file, or write a text.")
        if path is None and modality == "audio":
            raise ValueError("This model was trained on audio alone: record something, or drop a file.")
        if modality == "text" and not (text or transcribe):
            raise ValueError("This model was trained on text alone: write what is said, or have it transcribed.")
        if path is None:
            return Heard([Piece(0, 1, np.empty(0), text)], [{"text": self.predictor(None, [text])[0]}])
        heard, seconds = Heard(), length(path)
        told(0, "looking for pauses")
        for piece in self._listener(transcribe and text is None)(path, text):
            if answers := self.answers(piece):
                heard.answers.append(answers)
                heard.pieces.append(replace(piece, samples=np.empty(0, np.float32)))  # only one's samples are in memory
            told(min(piece.end / seconds, 1), f"{piece.end:.0f} of {seconds:.0f} s")
        return heard

    def _listener(self, transcribe: bool) -> Listener:
        if transcribe and self.engine is None:
            self.engine = load_whisper(self.whisper)
        return Listener(self.predictor.sample_rate, self.engine if transcribe else None)

    def answers(self, piece: Piece) -> dict[str, np.ndarray]:
        """What the model says of audio alone, of text alone and of both, as far as it was trained on them and there is a text."""
        modality, found = self.predictor.modality, {}
        if modality != "text":
            (found["audio"],) = self.predictor([piece.samples], None)
        if modality != "audio" and piece.text:
            (found["text"],) = self.predictor(None, [piece.text])
        if modality == "both" and piece.text:
            (found["both"],) = self.predictor([piece.samples], [piece.text])
        return found

    def decided(self, probabilities: np.ndarray) -> str:
        """Names of the classes at or above their thresholds."""
        names = [
            name for name, is_there in zip(self.predictor.classes, probabilities >= self.predictor.thresholds, strict=True) if is_there
        ]
        return ", ".join(names) or "no class"


# What the page shows


def main_of(answers: dict) -> str:
    """The modality of the fullest of several answers."""
    return next(modality for modality in ("both", "audio", "text") if modality in answers)


def fault(error: Exception, path: Path | None = None) -> str:
    """What went wrong, with the file's own name in place of where it was put."""
    said = html.escape(str(error))
    if path is not None:
        name = html.escape(path.name)
        said = f"<b>{name} cannot be listened to.</b> {said.replace(html.escape(str(path)), name)}"
    return f'<p class="fault" role="alert">{said}</p>'


def answer_html(desk: Desk, heard: Heard) -> str:
    """The classes that are decided, a table of the probabilities by modality, and where a recording was cut a table of its pieces."""
    if not heard.pieces:
        return f'<p class="said"><b>{NO_SPEECH}</b>: nobody speaks in this recording, so there is no emotion to tell.</p>'
    overall = heard.overall()
    main = main_of(overall)
    parts = [f'<p class="said">From {TITLES[main]}: <b>{html.escape(desk.decided(overall[main]))}</b></p>', _table(desk, overall, main)]
    if len(heard.pieces) > 1:
        parts += ['<p class="note">Means over the pieces, weighted by their lengths. The pieces:</p>', _pieces(desk, heard)]
    elif heard.pieces[0].text:
        parts.append(f'<p class="note">Text: “{html.escape(heard.pieces[0].text)}”</p>')
    flags = sorted({flag for piece in heard.pieces for flag in piece.flags})
    if flags:
        parts.append(f'<p class="note">The transcript is suspect: {html.escape(", ".join(flags))}.</p>')
    where = (
        f"tuned on validation, for {TITLES[desk.predictor.modality]}"
        if desk.predictor.tuned
        else "0.5, as the model has none that were tuned"
    )
    parts.append(f'<p class="note">The mark on a bar is the class’s threshold ({where}). The probabilities do not sum to 1.</p>')
    return f"<div>{''.join(parts)}</div>"


def _table(desk: Desk, overall: dict[str, np.ndarray], main: str) -> str:
    """A row a class, the likeliest first; a column a modality, and the threshold."""
    titles = [*(TITLES[modality] for modality in overall), "threshold"]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    rows = []
    for index in np.argsort(-overall[main], kind="stable"):
        threshold = desk.predictor.thresholds[index]
        cells = "".join(f"<td>{_bar(values[index], threshold)}</td>" for values in overall.values())
        name = html.escape(desk.predictor.classes[index])
        rows.append(f'<tr><th scope="row">{name}</th>{cells}<td class="threshold">{threshold:.2f}</td></tr>')
    return f'<table class="answers"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _bar(probability: float, threshold: float) -> str:
    kind, mark = (' class="decided"', " ✓") if probability >= threshold else ("", "")
    place = f"--p:{100 * probability:.1f}%;--t:{100 * threshold:.1f}%"
    return f'<span{kind}>{probability:.2f}{mark}</span><div class="bar" style="{place}"></div>'


def _pieces(desk: Desk, heard: Heard) -> str:
    """A row a piece: when, what is decided, and what is said."""
    rows = []
    for piece, answers in zip(heard.pieces, heard.answers, strict=True):
        decided = desk.decided(answers[main_of(answers)])
        when = f'<button data-at="{piece.start:.2f}">{_clock(piece.start)}–{_clock(piece.end)}</button>'
        rows.append(f'<tr><td>{when}</td><td>{html.escape(decided)}</td><td class="said">{html.escape(piece.text or "")}</td></tr>')
    return f'<div class="scrolled"><table class="pieces"><tbody>{"".join(rows)}</tbody></table></div>'


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def timeline_html(desk: Desk, path: Path) -> str:
    """The recording to play, above the probabilities over its time, from audio alone. Raises as `calm.tools.timeline.timeline` does."""
    found, pictures = timeline(path, desk.predictor), []
    with tempfile.TemporaryDirectory(prefix="calm-") as folder:
        for name, size in SIZES.items():
            left, right = draw(found, Path(folder) / f"{name}.png", size=size)
            picture = base64.b64encode((Path(folder) / f"{name}.png").read_bytes()).decode()
            data = f'data-seconds="{found.seconds}" data-left="{left:.5f}" data-right="{right:.5f}" style="--left:{left:.5f}"'
            image = f'<img alt="Probabilities, waveform and log-mel over time" src="data:image/png;base64,{picture}">'
            pictures.append(f'<div class="calm-picture {name}" {data}>{image}<i></i></div>')
    audio = f'<audio controls preload="metadata" src="gradio_api/file={quote(str(path))}"></audio>'
    silent = '<p class="note" hidden>This browser cannot play files of this kind.</p>'
    note = '<p class="note">From audio alone, in windows of 3 s; a click on the picture plays from there.</p>'
    return f'<div class="calm-timeline">{audio}{silent}{"".join(pictures)}{note}</div>'


# The page and its server


def answered(desk: Desk, path: str | None, text: str | None, transcribe: bool, told: Told) -> Iterator[tuple[str, str]]:
    """What the page shows, first without and then with the timeline."""
    file = Path(path) if path else None
    try:
        heard = desk.hear(file, text, transcribe, told)
        said = answer_html(desk, heard)
        yield said, ""
        if file and heard.pieces and desk.predictor.modality != "text":
            told(0, "drawing it over time")
            yield said, timeline_html(desk, file)
    except (ValueError, OSError) as error:
        yield fault(error, file), ""


def blocks(desk: Desk):
    """The page as Gradio has it."""
    import gradio as gr

    def listen(recorded, dropped, text, transcribe, progress=gr.Progress(track_tqdm=True)):  # noqa: B008, so Gradio finds it
        yield from answered(desk, dropped or recorded, text, transcribe, lambda share, what: progress(share, desc=what))

    with gr.Blocks(title="CALM", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown("# CALM\nWhich emotions are heard and read: the probability of each class.")
        if desk.predictor.synthetic:
            gr.Markdown("**The model was trained on synthetic speech: what it says of people's means nothing.**")
        with gr.Row(elem_classes="calm"):
            with gr.Column(scale=1, min_width=300):
                dropped = gr.File(label="A recording (any format and length)", elem_id="file", height=170)
                recorded = gr.Audio(
                    sources="microphone", type="filepath", label="or record one", elem_id="microphone", buttons=[], editable=False
                )
                text = gr.Textbox(label="What is said (optional)", lines=2, elem_id="text")
                transcribe = gr.Checkbox(label="Have Whisper say what is said", elem_id="transcribe")
                start = gr.Button("Listen", variant="primary", elem_id="listen")
            with gr.Column(scale=2, min_width=300):
                said = gr.HTML(elem_id="answer", apply_default_css=False)
                over_time = gr.HTML(elem_id="timeline", apply_default_css=False, min_height=120)
        # In the browser alone: a second call to the server could end the stream of answers that the first one waits for.
        dropped.upload(None, None, recorded, js="() => null")
        recorded.stop_recording(None, None, dropped, js="() => null")
        start.click(None, None, [said, over_time], js="() => ['', '']")
        start.click(listen, [recorded, dropped, text, transcribe], [said, over_time], show_progress_on=over_time, api_name="listen")
    return page


def application(desk: Desk):
    """The page as an ASGI application, which forbids the browser to ask other machines."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported
    import gradio as gr
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def _alone(request, call_next):
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT
        return response

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    head = f"<script>{(HERE / 'app.js').read_text(encoding='utf-8')}</script>"
    return gr.mount_gradio_app(
        app,
        blocks(desk),
        path="",
        footer_links=[],
        ssr_mode=False,
        theme=gr.themes.Default(**fonts),
        css=(HERE / "app.css").read_text(encoding="utf-8"),
        head=head,
        show_error=True,
    )


@contextmanager
def served(desk: Desk, host: str = "127.0.0.1", port: int = 7860) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """The page's address, what serves it until it is stopped, and what stops it; what was given to it is removed in the end.

    Raises OSError where the port is taken.
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
            raise OSError(f"{host}:{port} cannot be listened on ({error.strerror}): give another --port or --host") from None
        os.environ["GRADIO_TEMP_DIR"] = recordings
        server = uvicorn.Server(uvicorn.Config(application(desk), log_level="error", timeout_graceful_shutdown=2))
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        yield address, lambda: server.run(sockets=[listening]), lambda: setattr(server, "should_exit", True)
