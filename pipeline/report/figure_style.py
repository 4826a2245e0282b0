"""Style of the report's figures, and how they are written: PNG files, and SVG that follows the colour scheme of the page."""

import re
import textwrap
from pathlib import Path

from pipeline.paper import MODALITIES

# Colours by role. The page has a CSS variable of the same name for each, so that figures follow its light or dark scheme.
COLOURS = {
    "ink": "#1f2a33",
    "muted": "#66727d",
    "line": "#d9dee3",
    "audio": "#c07a2b",
    "text": "#5b6bb0",
    "both": "#23857a",
    "other": "#8b96a1",
    "card": "#fefefe",
}
MARKS = {"audio": "o", "text": "s", "both": "D"}
WIDTH = 4.2  # inches: a phone shows them as wide as its screen, with letters of 10 px; two fit a desktop's
LABEL = 36  # characters of a line of a label; longer labels have two
STYLE = {
    "font.size": 8.5,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label with dollar signs is a label
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "xtick.major.pad": 6,  # no label of one axis touches the first of the other
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
}


def pyplot():
    """Pyplot in the style of the page. No window is opened."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(STYLE)
    return plt


def save(figure, name: str, folder: Path, file_format: str = "png") -> str:
    """Write the figure as a file on white; returns the same figure as SVG for the page, with CSS variables as colours."""
    plt = pyplot()
    plt.rcParams["svg.hashsalt"] = name  # equal figures have equal ids, and so equal files
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    figure.savefig(folder / f"{name}.{file_format}", dpi=150, facecolor="white", metadata=metadata[file_format])
    figure.set_layout_engine("none")  # the layout is done; a second time would cost as much as the drawing
    partial = folder / f".{name}.svg"
    figure.savefig(partial, transparent=True, metadata=metadata["svg"])
    plt.close(figure)
    text = partial.read_text(encoding="utf-8")
    partial.unlink()
    return themed(text, name)


def picture(title: str, figure, name: str, folder: Path, note: str = "") -> dict:
    """A figure with its title and note for the page. Writes it as PNG to the folder."""
    return {"title": title, "svg": save(figure, name, folder), "note": note}


def themed(svg: str, name: str) -> str:
    """An SVG file as an element of the page: without prologue, with ids of its own, and with the page's colours and font."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"font: (?:(bold|\d+) )?([\d.]+px) [^;\"]*", _font_without_family, svg)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg).replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return re.sub(r">\s+<", "><", svg).strip()


def _font_without_family(match: re.Match) -> str:
    weight, size = match.groups()
    return f"font-size: {size}" + (f"; font-weight: {weight}" if weight else "")


def horizontal_values(axes, labels: list[str], metric: str = "") -> None:
    """Axes with one line for each label from bottom to top, and percentages from left to right."""
    from matplotlib.ticker import MaxNLocator

    axes.set_yticks(range(len(labels)), [textwrap.fill(label, LABEL) for label in labels])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]))
    if metric:
        axes.set_xlabel(f"{metric.replace('_', ' ')}, percent")


def whole_epochs(axes) -> None:
    """Axes of a training curve: ticks at whole epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def modality_legend(figure, modalities: set[str]) -> None:
    """Legend above the axes with the mark of every modality that is shown."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[name], marker=MARKS[name], linestyle="none", markersize=5.5, markeredgewidth=0, label=title)
        for name, title in MODALITIES.items()
        if name in modalities
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8)
