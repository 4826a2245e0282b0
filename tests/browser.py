"""A headless Chromium that tests drive over its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from websockets.sync.client import connect

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOGS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
MEASURES = """
  const boxes = [...document.querySelectorAll("svg, .tabs > figure:first-of-type table")].map(e => e.getBoundingClientRect());
  const small = boxes.filter(box => box.width < 150 || box.height < 60).length;
  return [document.documentElement.scrollWidth, innerWidth, small, boxes.length];
"""


class Tab:
    """One page; `events` are all events of the browser so far."""

    def __init__(self, socket):
        self.socket, self.events, self.last = socket, [], 0

    def call(self, method: str, **params) -> dict:
        """Result of a method of the protocol."""
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == self.last:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def value(self, expression: str):
        """Value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 30) -> None:
        """Wait for an expression to be true."""
        end = time.monotonic() + seconds
        while not self.value(f"!!({expression})"):
            assert time.monotonic() < end, f"{expression} after {seconds} s; the page says: {self.value('document.body.innerText')}"
            time.sleep(0.05)

    def open(self, address: str) -> None:
        """Load a page in the tab."""
        self.value("window.old = true")
        self.call("Page.navigate", url=address)
        self.until("!window.old && document.readyState === 'complete'")

    def width(self, pixels: int) -> None:
        """Set the width of the window; a narrow one is a phone's."""
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=900, deviceScaleFactor=1, mobile=pixels < 600)

    def upload(self, selector: str, file: Path) -> None:
        """Give a file to an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def requested(self) -> list[str]:
        """Addresses requested so far."""
        return [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]

    def console(self) -> list[dict]:
        """What was written to the console so far, exceptions too."""
        return [event["params"] for event in self.events if event["method"] in LOGS]

    def faults(self) -> list[str]:
        """Exceptions and errors on the console so far; no warnings."""
        levels = [(params, params.get("entry", params).get("level", params.get("type", "error"))) for params in self.console()]
        return [json.dumps(params)[:500] for params, level in levels if level in ("error", "assert")]


@contextmanager
def browsing(folder: Path):
    """A tab of a new browser whose profile is kept in a folder."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    quiet = ["--no-first-run", "--disable-background-networking", "--autoplay-policy=no-user-gesture-required"]
    process = subprocess.Popen([BROWSER, *options, *quiet, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, end = folder / "DevToolsActivePort", time.monotonic() + 30
        while not (port_file.exists() and port_file.read_text().strip()):
            assert process.poll() is None and time.monotonic() < end, "the browser does not start"
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list"
        with urllib.request.urlopen(address) as answer:
            (page,) = [target for target in json.load(answer) if target["type"] == "page"]
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
                tab.call(f"{domain}.enable")
            yield tab
    finally:
        process.terminate()
        process.wait()


def asked(text: str, folder: Path, width: int, actions: str):
    """Open a page in a window of a width in pixels, and return what the actions, in JavaScript, return.

    Fails if the page, or an action, writes anything to the console.
    """
    (folder / "page.html").write_text(text, encoding="utf-8")
    with browsing(folder / "profile") as tab:
        tab.width(width)
        tab.open((folder / "page.html").as_uri())
        answer = tab.value(f"(() => {{{actions}}})()")
        tab.value("new Promise(done => setTimeout(done, 200))")  # what was begun may fail late
        assert not tab.console(), tab.console()
    return answer


def measured(text: str, folder: Path, width: int) -> tuple[int, int, int, int]:
    """Open a page in a window of a width in pixels.

    Returns its scroll width, the window's width, the number of pictures and tables that are too small to see, and their total number.
    """
    return tuple(asked(text, folder, width, MEASURES))
