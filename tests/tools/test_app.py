"""The page for the browser, and what is behind it."""

import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from browser import BROWSER, browsing
from made_model import CLASSES, release, speech
from matplotlib.image import imread
from typer.testing import CliRunner

from calm import cli
from calm.audio import pauses
from calm.audio.decoding import AudioError
from calm.inference.recordings import Segment
from calm.inference.torch_classifier import Predictor
from calm.tools import examples, guard
from calm.tools.analysis import Analyser, Analysis, analysis_html, fault, timeline_html
from calm.tools.app import live, results, served
from calm.tools.live import Heard
from calm.tools.timeline import draw, timeline

THRESHOLDS = [0.3, 0.6, 0.2]


def silently(fraction: float, step: str) -> None:
    """Nobody asks how far it is."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A released model with thresholds, and recordings; whoever is not silent speaks all the time."""
    folder = tmp_path_factory.mktemp("app")
    config = release(folder / "model") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"thresholds": {"emotion": THRESHOLDS}}))
    soundfile.write(folder / "clip.wav", speech(3), 16000)
    soundfile.write(folder / "silent.wav", np.zeros(32000), 16000)
    (folder / "wrong.wav").write_text("this is no audio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pauses, "speech", lambda samples, _: [(0.0, len(samples) / 16000)] if samples.any() else [])
        yield folder


@pytest.fixture(scope="module")
def analyser(folder):
    return Analyser(Predictor(folder / "model"))


def test_thresholds_are_those_of_the_model(analyser, tmp_path):
    assert analyser.decided(np.array([0.4, 0.9, 0.1])) == "happy, angry"  # the most probable first
    assert analyser.predictor.tuned and analyser.predictor.thresholds.tolist() == [0.3, 0.6, 0.2] and CLASSES == ["angry", "happy", "sad"]
    without = Predictor(release(tmp_path))
    assert not without.tuned and without.thresholds.tolist() == [0.5] * 3


def test_three_answers(analyser, folder):
    """Audio alone, text alone and both are what the model says of just these."""
    steps = []
    analysis = analyser.analyse(folder / "clip.wav", "  Good morning ", False, lambda fraction, step: steps.append((fraction, step)))
    samples, _ = soundfile.read(folder / "clip.wav", dtype="float32")
    (prediction,) = analysis.predictions
    expected = {"audio": ([samples], None), "text": (None, ["good morning"]), "both": ([samples], ["good morning"])}
    assert list(prediction) == list(expected) and steps == [(0, "looking for pauses"), (1, "3 of 3 s")]
    for modality, inputs in expected.items():
        np.testing.assert_allclose(prediction[modality], analyser.predictor(*inputs)[0], atol=1e-6)
    assert list(analyser.analyse(folder / "clip.wav", "", False, silently).predictions[0]) == ["audio"]
    assert list(analyser.analyse(None, "good morning", False, silently).predictions[0]) == ["text"]
    with pytest.raises(ValueError, match="There is no input"):
        analyser.analyse(None, " ", False, silently)


@pytest.mark.parametrize(
    ("modality", "inputs", "says"), [("audio", (None, "hello"), "audio alone"), ("text", ("a.wav", None), "text alone")]
)
def test_models_of_one_modality_ask_for_it(tmp_path, modality, inputs, says):
    with pytest.raises(ValueError, match=f"trained on {says}"):
        Analyser(Predictor(release(tmp_path, modality))).analyse(inputs[0] and tmp_path / inputs[0], inputs[1], False, silently)


def test_what_is_shown_of_pieces(analyser):
    """1 s of (0.9, 0.8, 0.1) and 3 s of (0.1, 0.4, 0.1) have the mean (0.3, 0.5, 0.1); the thresholds are 0.3, 0.6 and 0.2."""
    segments = [Segment(0, 1, np.empty(0), "<i>hush</i>", ["repeats"]), Segment(61, 64, np.empty(0), None)]
    analysis = Analysis(segments, [{"audio": np.array([0.9, 0.8, 0.1])}, {"audio": np.array([0.1, 0.4, 0.1])}])
    assert analysis.overall()["audio"] == pytest.approx([0.3, 0.5, 0.1])
    analysis.predictions[1]["audio"] += 1e-9  # so that 0.3 is not missed by rounding
    page = analysis_html(analyser, analysis)
    assert "From audio: <b>angry</b>" in page and page.count("✓") == 1 and "tuned on validation, for audio + text" in page
    shown = re.findall(r'<th scope="row">(\w+)</th><td>.*?>([\d.]+)[ ✓]*</span>.*?--t:([\d.]+)%.*?threshold">([\d.]+)<', page)
    assert shown == [("happy", "0.50", "60.0", "0.60"), ("angry", "0.30", "30.0", "0.30"), ("sad", "0.10", "20.0", "0.20")]
    assert "&lt;i&gt;hush" in page and "<i>" not in page and "1:01.0–1:04.0" in page
    assert "suspect: a phrase comes four times in a row" in page
    assert re.findall(r"<td>([\w ,]+)</td>", page) == ["angry, happy", "no class"]


def test_faults_name_the_file_and_not_its_place(analyser, folder):
    assert fault(AudioError("/tmp/x/<a>.wav is empty"), Path("/tmp/x/<a>.wav")).count("&lt;a&gt;.wav") == 2
    ((message, over_time),) = results(analyser, str(folder / "wrong.wav"), None, False, silently)
    assert "wrong.wav cannot be analysed" in message and str(folder) not in message and not over_time
    assert "cannot be read as audio" in message and "unreadable" not in message  # which would say it a third time
    ((message, over_time),) = results(analyser, str(folder / "silent.wav"), "hello", False, silently)
    assert "no speech" in message and not over_time


def test_the_line_stands_where_the_axis_of_time_is(analyser, folder, tmp_path):
    """Across the waveform's box, the columns of the picture that are dark from top to bottom are the ends of the axis."""
    result = timeline(folder / "clip.wav", analyser.predictor)
    for size in ((10, 6), (4.2, 5.6)):
        left, right = draw(result, tmp_path / "a.png", size=size)
        picture = imread(tmp_path / "a.png")[:, :, :3].mean(2)
        dark = np.flatnonzero((picture[int(0.2 * len(picture)) : int(0.4 * len(picture))] < 0.5).all(0)) / picture.shape[1]
        assert dark.min() == pytest.approx(left, abs=0.004) and dark.max() == pytest.approx(right, abs=0.004)
    page = timeline_html(analyser, folder / "clip.wav")
    assert page.count("data:image/png") == 2 and 'data-seconds="3.0"' in page and "gradio_api/file=/" in page


def test_a_port_that_is_taken(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(cli.app, ["app", "--model", str(folder / "model"), "--port", str(port)])
    assert done.exit_code == 2 and f"127.0.0.1:{port} is not available" in done.stderr and "--port" in done.stderr


def test_an_analysis_has_an_end(analyser, folder):
    with pytest.raises(ValueError, match="After 0 s, the most that an analysis may take, it was at 0 of 3 s"):
        Analyser(analyser.predictor, seconds=0).analyse(folder / "clip.wav", None, False, silently)


def test_a_live_answer_is_of_the_last_seconds(analyser, folder, tmp_path):
    """However long the microphone is open, and however long a block is, 3 s and a few answers are kept."""
    heard, samples = Heard(), np.concatenate([speech(0.5, seed) for seed in range(14)])
    for number in range(14):
        soundfile.write(tmp_path / "block.wav", samples[8000 * number : 8000 * (number + 1)], 16000, subtype="FLOAT")
        heard = heard.listen(tmp_path / "block.wav", analyser.predictor)
    np.testing.assert_array_equal(heard.samples, samples[-48000:])
    assert heard.seconds == 7 and [at for at, _ in heard.answers] == [second / 2 for second in range(3, 15)]
    np.testing.assert_allclose(heard.answers[-1][1], analyser.predictor([samples[-48000:]], None)[0], atol=1e-6)
    soundfile.write(tmp_path / "long.wav", np.zeros(10 * 16000), 16000)
    silent = heard.listen(tmp_path / "long.wav", analyser.predictor)
    assert len(silent.samples) == 48000 and silent.seconds == 17 and silent.answers[-1] == (17, None)
    page, unheard = live(analyser, folder / "wrong.wav", silent)
    assert "wrong.wav cannot be analysed" in page and unheard is silent


def test_sound_that_does_not_come_in_is_told(analyser, tmp_path, monkeypatch):
    """Of 5 blocks of half a second that arrive in 4.5 s, 2 s are missing; in a pause nothing is."""
    heard, block, now = Heard(), tmp_path / "block.wav", iter([100.0, 101.0, 102.0, 103.0, 104.0, 200.0, 201.0])
    monkeypatch.setattr("calm.tools.live.time", SimpleNamespace(monotonic=lambda: next(now)))
    soundfile.write(block, speech(0.5, 1), 16000)
    behind, pages = [], []
    for number in range(7):
        page, heard = live(analyser, block, heard.paused() if number == 5 else heard)
        behind.append(heard.behind)
        pages.append("s of sound are missing" in page)
    assert behind == [0, 0.5, 1, 1.5, 2, 2, 2.5] and pages == [False] * 4 + [True] * 3 and "2 s of sound are missing" in page


def test_clips_to_try(folder, tmp_path):
    assert [path.name for path in examples.of_folder(folder)] == ["clip.wav", "silent.wav", "wrong.wav"]
    with pytest.raises(ValueError, match="has no audio files to offer"):
        examples.of_folder(tmp_path)


# Served


@pytest.fixture(scope="module")
def address(analyser):
    """Where the page is served from here; uploads have at most 2 MB, and three clips of synthetic speech are offered."""
    with served(analyser, port=0, most=2_000_000) as (address, serve, stop):
        thread = threading.Thread(target=serve)
        thread.start()
        yield address
        stop()
        thread.join()


def upload(address: str, content: bytes, name: str = "clip.wav", **headers: str) -> httpx.Response:
    files = {"files": (name, content, "application/octet-stream")}
    return httpx.post(f"{address}/gradio_api/upload", files=files, headers=headers, timeout=30)


def analysed(address: str, path: str) -> str:
    """What the server says of a file that a client names."""
    data = [None, {"path": path, "meta": {"_type": "gradio.FileData"}}, "", False]
    event = httpx.post(f"{address}/gradio_api/call/analyse", json={"data": data}, timeout=30).json()["event_id"]
    return httpx.get(f"{address}/gradio_api/call/analyse/{event}", timeout=60).text


class Microphone:
    """A client of the live microphone, block by block, as Gradio's page is."""

    def __init__(self, address: str, session: str):
        self.client, self.session, self.event = httpx.Client(base_url=f"{address}/gradio_api", timeout=30), session, ""
        config = httpx.get(f"{address}/config").json()
        self.function = next(own["id"] for own in config["dependencies"] if own["api_name"] == "listen")

    def send(self, path: str) -> httpx.Response:
        """A block that was uploaded; the first one opens the stream."""
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, "is_stream": True}
        body = {"data": [file, None], "fn_index": self.function, "session_hash": self.session, "event_id": self.event or None}
        answer = self.client.post(f"stream/{self.event}" if self.event else "queue/join", json=body)
        self.event = self.event or answer.json()["event_id"]
        return answer

    def messages(self) -> Iterator[dict]:
        """What the server says, as it says it."""
        with self.client.stream("GET", f"queue/data?session_hash={self.session}") as stream:
            yield from (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))


def block(samples: np.ndarray) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, samples, 16000, format="WAV", subtype="PCM_16")
    return written.getvalue()


def test_answers_come_while_one_speaks(address, analyser):
    """Each block is answered before the next one is sent, its file is gone, and silence is no speech."""
    microphone, said, paths = Microphone(address, "one"), [], []
    blocks = [speech(0.5, 1), speech(0.5, 2), speech(0.5, 3), *3 * [np.zeros(16000)]]
    for message in microphone_messages(microphone, address, blocks, paths):
        said.append(re.search(r"<b>(.*?)</b>.*?<li><span>([\d:.]+)</span>", message).groups())
    assert [at for _, at in said] == ["0:00.5", "0:01.0", "0:01.5", "0:02.5", "0:03.5", "0:04.5"]
    first, last = said[0][0], said[-1][0]
    assert first == analyser.decided(analyser.predictor([soundfile.read(io.BytesIO(block(blocks[0])), dtype="float32")[0]], None)[0])
    assert last == "no speech" and not any(Path(path).exists() for path in paths)


def microphone_messages(microphone: Microphone, address: str, blocks: list[np.ndarray], paths: list[str]) -> Iterator[str]:
    """HTML of the answer to every block, each sent after the answer to the one before."""
    waiting = iter(blocks)

    def send() -> bool:
        samples = next(waiting, None)
        if samples is not None:
            paths.append(upload(address, block(samples), "audio.wav").json()[0])
            microphone.send(paths[-1]).raise_for_status()
        return samples is not None

    send()
    for message in microphone.messages():
        if message["msg"] == "process_streaming":
            yield message["output"]["data"][0]
            if not send():
                return


def test_the_live_microphone_is_guarded_too(address, folder):
    """No file of the server, none of the clips to try is removed, no page elsewhere, no large body."""
    microphone = Microphone(address, "two")
    microphone.send(str(folder / "clip.wav"))
    (end,) = [message for message in microphone.messages() if message["msg"] == "process_completed"]
    assert not end["success"] and (folder / "clip.wav").exists() and str(folder) not in json.dumps(end)
    offered = Path(upload(address, block(speech(1))).json()[0]).parents[1] / "synthetic speech, sad.wav"
    assert offered.exists()
    other = Microphone(address, "three")
    other.send(str(offered))
    next(message for message in other.messages() if message["msg"] in ("process_streaming", "process_completed"))
    assert offered.exists()
    for path in ("queue/join", f"stream/{other.event}", f"stream/{other.event}/close"):
        assert httpx.post(f"{address}/gradio_api/{path}", headers={"origin": "http://evil.example"}).status_code == 403, path
        with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as large:
            large.sendall(f"POST /gradio_api/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1100000\r\n\r\n".encode())
            assert b" 413 " in large.recv(100), path
    microphone.client.post(f"stream/{other.event}/close")


def test_a_client_reads_its_own_uploads_alone(address, folder):
    """Neither a file of the server, nor one that lies at another address, which the server would have to ask for."""
    own = upload(address, (folder / "clip.wav").read_bytes()).json()[0]
    assert "event: complete" in analysed(address, own) and "From audio" in analysed(address, own)
    for path in (str(folder / "clip.wav"), "/etc/passwd", own + "/../../../../etc/passwd", f"{address}/gradio_api/file={own}"):
        said = analysed(address, path)
        assert "event: error" in said and "From audio" not in said and "cannot be analysed" not in said, path
        assert httpx.get(f"{address}/gradio_api/file={path}").status_code >= 400


def test_pages_elsewhere_reach_nothing(address, folder):
    """Not under a name that was made to point here, nor by a form or a script, of another site or of another port."""
    content, port = (folder / "clip.wav").read_bytes(), urlsplit(address).port
    assert httpx.get(address).status_code == 200 and upload(address, content, origin=address).status_code == 200
    assert httpx.get(address, headers={"host": f"localhost:{port}"}).status_code == 200
    for name in ("evil.example", f"evil.example:{port}", "", "localhost.evil.example", "[::1"):
        assert httpx.get(address, headers={"host": name}).status_code in (400, 421), name
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}"):
        # Without a body: the server answers by the headers alone, and may close the connection before a body is sent.
        assert httpx.post(f"{address}/gradio_api/upload", headers={"origin": origin}).status_code == 403, origin
    assert httpx.get(f"{address}/config", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert httpx.get(address, headers=link).status_code == 200 and httpx.post(address, headers=link).status_code == 403


def test_requests_have_a_size_and_a_time(address, monkeypatch):
    for path, body in (("upload", 3_100_000), ("call/analyse", 1_100_000), ("call/analyse", None)):
        length = "Transfer-Encoding: chunked" if body is None else f"Content-Length: {body}"
        with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as large:
            large.sendall(f"POST /gradio_api/{path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
            if body is None:
                large.sendall(b"".join(b"186a0\r\n" + b"0" * 100_000 + b"\r\n" for _ in range(11)))
            assert b" 413 " in large.recv(100), (path, body)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as slow:
        slow.sendall(b"POST /gradio_api/call/analyse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(100)
    monkeypatch.setattr(guard, "STORES", 0)
    assert upload(address, b"0").status_code == 507


# In a browser


@pytest.fixture(scope="module")
def page(address, tmp_path_factory):
    """A browser's tab that shows the page."""
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome is installed")
    with browsing(tmp_path_factory.mktemp("browser")) as tab:
        tab.address = address
        yield tab


def listened(tab, file: Path, width: int, text: str = "") -> str:
    """Load the page anew, give it a file and a text, and wait for what it says."""
    tab.width(width)
    tab.open(tab.address)
    tab.until("document.querySelector('#file input[type=file]') && document.querySelector('#analyse')")
    tab.upload("#file input[type=file]", file)
    tab.until(f"document.querySelector('#file').innerText.includes('{file.stem}')")
    tab.value("document.querySelector('#text textarea').focus()")
    tab.call("Input.insertText", text=text)
    tab.value("document.querySelector('#analyse').click()")
    tab.until("document.querySelector('#result :is(.result, .fault)')")
    return tab.value("document.querySelector('#result').innerText")


@pytest.mark.parametrize("width", [1300, 400])
def test_a_recording_with_a_text(page, analyser, folder, width):
    """Numbers are the model's; the line follows the audio; the page fits its width; no other machine is asked for anything."""
    message = listened(page, folder / "clip.wav", width, "good morning")
    (prediction,) = analyser.analyse(folder / "clip.wav", "good morning", False, silently).predictions
    assert f"From audio + text: {analyser.decided(prediction['both'])}" in message
    numbers = [f"{prediction[modality][row]:.2f}" for row in np.argsort(-prediction["both"], kind="stable") for modality in prediction]
    cells = page.value("[...document.querySelectorAll('.probabilities td:not(.threshold) span')].map(cell => cell.innerText.split(' ')[0])")
    assert cells == numbers
    page.until("(box => box.top >= 0 && box.top < innerHeight / 2)(document.querySelector('#result').getBoundingClientRect())")
    page.until("document.querySelector('.calm-timeline audio')?.readyState > 0")
    visible = "[...document.querySelectorAll('.calm-picture')].find(picture => picture.offsetWidth)"
    assert page.value("document.querySelector('.calm-timeline audio').duration") == pytest.approx(3, abs=0.01)
    left, right = (page.value(f"+{visible}.dataset.{side}") for side in ("left", "right"))
    page.value("document.querySelector('.calm-timeline audio').currentTime = 1.5")
    page.until(f"Math.abs(parseFloat({visible}.querySelector('i').style.left) - {50 * (left + right)}) < 0.1")
    scrolled, inner, picture = page.value(f"[document.documentElement.scrollWidth, innerWidth, {visible}.offsetWidth]")
    assert inner == width and scrolled <= width and 300 < picture < width
    assert {urlsplit(url).hostname for url in page.requested() if not url.startswith(("data:", "blob:"))} == {"127.0.0.1"}
    assert not page.faults()


@pytest.mark.parametrize(("name", "says"), [("wrong.wav", "wrong.wav cannot be analysed"), ("silent.wav", "no speech")])
def test_recordings_that_tell_nothing(page, folder, name, says):
    message = listened(page, folder / name, 400)
    assert says in message and "gradio" not in message and not page.value("document.querySelector('.calm-timeline')")
