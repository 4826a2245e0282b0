"""The page in a browser, where one is installed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
PROBE = """<script>addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("svg, .tabs > figure:first-of-type table")].map(e => e.getBoundingClientRect());
  const small = boxes.filter(box => box.width < 150 || box.height < 60).length;
  parent.postMessage(JSON.stringify([document.documentElement.scrollWidth, innerWidth, small, boxes.length]), "*");
})</script>"""


def measured(text: str, folder: Path, width: int) -> tuple[int, int, int, int]:
    """A page in a window of so many pixels: the width it scrolls over, the window's, how many boxes are too small to see, of how many.

    Fails where something is logged to the console.
    """
    (folder / "page.html").write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    frame = f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'  # windows are never narrower than 500
    page = folder / "frame.html"
    page.write_text(f"<title>nothing</title><script>onmessage = e => document.title = e.data</script>{frame}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--window-size=1400,900"]
    command = [BROWSER, *options, "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return tuple(json.loads(re.search(r"<title>(\[.*?\])</title>", done.stdout)[1]))
