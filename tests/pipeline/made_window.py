"""Measurements of a page in a headless browser, if one is installed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("svg, .tabs > figure:first-of-type table")].map(e => e.getBoundingClientRect());
  const small = boxes.filter(box => box.width < 150 || box.height < 60).length;
  parent.postMessage(JSON.stringify([document.documentElement.scrollWidth, innerWidth, small, boxes.length]), "*");
})</script>"""


def measured(text: str, folder: Path, width: int) -> tuple[int, int, int, int]:
    """Open a page in a window of a width in pixels.

    Returns its scroll width, the window's width, the number of pictures and tables that are too small to see, and their total number.
    Fails if the page logs anything to the console.
    """
    (folder / "page.html").write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    frame = (
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'  # a window itself is never narrower than 500 px
    )
    page = folder / "frame.html"
    page.write_text(f"<title>nothing</title><script>onmessage = e => document.title = e.data</script>{frame}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--window-size=1400,900"]
    command = [BROWSER, *options, "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in process.stderr, process.stderr
    return tuple(json.loads(re.search(r"<title>(\[.*?\])</title>", process.stdout)[1]))
