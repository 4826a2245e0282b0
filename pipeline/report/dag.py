"""A picture of the stages, read from `dvc.yaml`: an SVG that follows the light or dark scheme of whoever shows it."""

import re
from html import escape
from pathlib import Path

import yaml

WIDE, HIGH, GAP_X, GAP_Y, MARGIN = 150, 38, 24, 30, 8
STYLE = """.dag{color:#1f2a33;font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.dag rect{fill:#fff;stroke:#b9c2ca}.dag path{fill:none;stroke:#8b96a1;stroke-width:1.3}.dag text{fill:currentColor;text-anchor:middle}
.dag .name{font-size:13px;font-weight:600}.dag .each{font-size:10.5px;opacity:.65}
@media (prefers-color-scheme:dark){.dag{color:#e4e8eb}.dag rect{fill:#1d2429;stroke:#4b565f}}"""


def stages(path: Path) -> dict[str, dict]:
    """Stages of `dvc.yaml` in their order: what each is repeated over, and the stages it directly needs."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    parts = {name: spec.get("do", spec) for name, spec in given.items()}
    outs = {name: [_pattern(item) for item in spec.get("outs", [])] for name, spec in parts.items()}
    deps = {name: [_pattern(item) for item in spec.get("deps", [])] for name, spec in parts.items()}
    needs = {
        name: {other for other in parts if other != name and any(_meets(dep, out) for dep in deps[name] for out in outs[other])}
        for name in parts
    }
    return {name: {"each": _each(given[name]), "needs": needs[name] - _further(needs, name)} for name in parts}


def _pattern(item: str | dict) -> str:
    """A path with its templates as stars."""
    path = item if isinstance(item, str) else next(iter(item))
    return re.sub(r"\$\{[^}]*\}", "*", path).rstrip("/")


def _meets(dep: str, out: str) -> bool:
    """Whether one path is, or lies in, the other."""
    if "*" in (dep, out):
        return dep == out
    pairs = zip(dep.split("/"), out.split("/"), strict=False)
    return all(a == b or "*" in (a, b) for a, b in pairs)


def _each(spec: dict) -> str:
    """What a stage is repeated over, in the singular: "corpus, model"."""
    names = {
        "corpora": "corpus",
        "targets": "corpus",
        "synthetic": "corpus",
        "models": "model",
        "heads": "heads",
        "transfer": "pair of corpora",
    }
    over = spec["matrix"].values() if "matrix" in spec else [spec["foreach"]] if "foreach" in spec else []
    words = [str(item).strip("${}") for item in over]
    return " × ".join(names.get(word, word) for word in words)


def _further(needs: dict[str, set[str]], name: str) -> set[str]:
    """What a stage also reaches through another one: arrows that the picture leaves out."""
    found: set[str] = set()
    waiting = [other for need in needs[name] for other in needs[need]]
    while waiting:
        if (other := waiting.pop()) not in found:
            found.add(other)
            waiting += needs[other]
    return found


def rows(of: dict[str, dict]) -> list[list[str]]:
    """Stages by row, each as far down as what needs it allows."""
    after = {name: [other for other in of if name in of[other]["needs"]] for name in of}
    height: dict[str, int] = {}
    for name in reversed(list(of)):
        height[name] = 1 + max((height[other] for other in after[name]), default=-1)
    most = max(height.values())
    return [[name for name in of if height[name] == most - level] for level in range(most + 1)]


def svg(path: Path, alone: bool = True) -> str:
    """The picture. `alone`: as a file of its own, with its style; else as an element of a page that has STYLE."""
    of = stages(path)
    table = rows(of)
    width = max(len(row) for row in table) * (WIDE + GAP_X) - GAP_X + 2 * MARGIN
    height = len(table) * (HIGH + GAP_Y) - GAP_Y + 2 * MARGIN
    place = {}
    for y, row in enumerate(table):
        left = (width - len(row) * (WIDE + GAP_X) + GAP_X) / 2
        place |= {name: (left + x * (WIDE + GAP_X), MARGIN + y * (HIGH + GAP_Y)) for x, name in enumerate(row)}
    parts = [_arrow(place[need], place[name]) for name in of for need in sorted(of[name]["needs"])]
    parts += [_box(name, of[name]["each"], *place[name]) for name in of]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="dag" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="The stages">'
    style = f"<style>{STYLE}</style>" if alone else ""
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return f'{head}{style}<defs>{tip}<path d="M1 1 7 4 1 7"/></marker></defs>{"".join(parts)}</svg>\n'


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1, x2, y2 = start[0] + WIDE / 2, start[1] + HIGH, end[0] + WIDE / 2, end[1]
    bend = (y2 - y1) / 2
    return f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2 - 1:g}" marker-end="url(#tip)"/>'


def _box(name: str, each: str, x: float, y: float) -> str:
    middle = x + WIDE / 2
    text = f'<text class="name" x="{middle:g}" y="{y + (17 if each else 23):g}">{escape(name)}</text>'
    if each:
        text += f'<text class="each" x="{middle:g}" y="{y + 30:g}">each {escape(each)}</text>'
    return f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="6"/>{text}'
