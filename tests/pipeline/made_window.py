"""Measurements of a page in a headless browser, if one is installed."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TELL = """<script>addEventListener("load", () => {
  const tell = value => parent.postMessage(JSON.stringify(value).replaceAll("<", "\\\\u003c"), "*");
  ACTIONS
})</script>"""
MEASURES = """
  const boxes = [...document.querySelectorAll("svg, .tabs > figure:first-of-type table")].map(e => e.getBoundingClientRect());
  const small = boxes.filter(box => box.width < 150 || box.height < 60).length;
  tell([document.documentElement.scrollWidth, innerWidth, small, boxes.length]);
"""


def measured(text: str, folder: Path, width: int) -> tuple[int, int, int, int]:
    """Open a page in a window of a width in pixels.

    Returns its scroll width, the window's width, the number of pictures and tables that are too small to see, and their total number.
    """
    return tuple(asked(text, folder, width, MEASURES))


def asked(text: str, folder: Path, width: int, actions: str):
    """Open a page in a window of a width in pixels, and return what the actions, in JavaScript, tell by `tell(value)`.

    Fails if the page logs anything to the console.
    """
    (folder / "page.html").write_text(text.replace("</body>", TELL.replace("ACTIONS", actions) + "</body>"), encoding="utf-8")
    frame = (
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'  # a window itself is never narrower than 500 px
    )
    page = folder / "frame.html"
    page.write_text(f"<title>nothing</title><script>onmessage = e => document.title = e.data</script>{frame}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--window-size=1400,900"]
    command = [BROWSER, *options, "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in process.stderr, process.stderr
    return json.loads(html.unescape(re.search(r"<title>(\[.*?\])</title>", process.stdout)[1]))
