"""A page for the browser that shows what a model predicts for a recording, and its server. It requests nothing from other machines."""

import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from calm.tools import examples as offered
from calm.tools.analysis import Analyser, ProgressCallback, analysis_html, fault, live_html, timeline_html
from calm.tools.guard import Guard
from calm.tools.live import Heard, remove

if TYPE_CHECKING:
    import gradio as gr


HERE = Path(__file__).parent
HOUR = 3600  # seconds after which uploaded recordings are removed
MOST_MEGABYTES = 500  # of an upload
WAITING = 16  # analyses that wait for the one that runs
LISTENING, LISTENING_SECONDS = 4, 600  # live microphones at a time, and how long they may keep the model busy
BLOCK = 0.5  # seconds of a live microphone that come in together


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
            with gr.Column(scale=2, min_width=300, elem_id="answer"):
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
        remove(Path(block), page.upload_file_set)
        return answer

    heard = gr.State(None, time_to_live=HOUR)
    limits: dict[str, Any] = {"stream_every": BLOCK, "time_limit": LISTENING_SECONDS, "concurrency_limit": LISTENING}
    speaking.stream(listen, [speaking, heard], [shown, heard], show_progress="hidden", api_name="listen", **limits)
    speaking.pause_recording(lambda heard: heard and heard.paused(), heard, heard, show_progress="hidden")
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
