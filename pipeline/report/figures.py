"""Figures of the report. Each function returns a matplotlib figure about 460 px wide, so that it fits a phone and two fit a screen."""

import re
from pathlib import Path

from pipeline.report.results import MODALITIES, VARIANTS, Key, overview

# Colours by role. In the page each becomes a CSS variable of the same name, so that figures follow the dark scheme.
COLOURS = {
    "ink": "#1f2a33",
    "muted": "#66727d",
    "line": "#d9dee3",
    "audio": "#c07a2b",
    "text": "#5b6bb0",
    "both": "#23857a",
    "other": "#8b96a1",
}
MARKS = {"audio": "o", "text": "s", "both": "D"}
WIDTH = 4.6  # inches, at 100 px each


def plots():
    """Pyplot, set to the style of the page; no window is opened."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 8.5,
            "svg.fonttype": "none",
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
    )
    return plt


def save(figure, name: str, folder: Path) -> str:
    """Write `<name>.png`; returns the same figure as SVG for the page, its colours as CSS variables."""
    plt = plots()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=150, facecolor="white", metadata={"Software": None})
    figure.set_layout_engine("none")  # it is laid out; a second time would cost as much as the drawing
    plt.rcParams["svg.hashsalt"] = name
    partial = folder / f".{name}.svg"
    figure.savefig(partial, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = partial.read_text(encoding="utf-8")
    partial.unlink()
    return themed(text, name)


def picture(title: str, figure, name: str, folder: Path, note: str = "") -> dict:
    """A figure with its title and note for the page, written as PNG and kept as SVG."""
    return {"title": title, "svg": save(figure, name, folder), "note": note}


def themed(svg: str, name: str) -> str:
    """An SVG file as an element of the page: no prologue, ids of its own, colours and font of the page."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg).replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return re.sub(r">\s+<", "><", svg).strip()


def variants(lines: dict[Key, dict], values: dict[Key, list[float]], metric: str, never: float | None = None):
    """One line a variant: the mean of each modality as a mark, its seeds as dots. `never`: the value that knowing nothing gives."""
    plt = plots()
    shown = overview(key.variant for key in lines)
    lines = {key: line for key, line in lines.items() if key.variant in shown}
    models = len({key.lm for key in lines if key.lm}) > 1
    titles = {key: key.title + (f" ({key.lm})" if models and key.lm else "") for key in lines}
    order = list(dict.fromkeys(titles.values()))[::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.85 + 0.27 * len(order)), layout="constrained")
    for key, line in lines.items():
        if metric not in line:
            continue
        y, modality = order.index(titles[key]), key.modality if key.modality in MARKS else "other"
        offset = {"audio": 0.18, "text": 0.0, "both": -0.18}.get(modality, 0.0)
        seeds = [100 * value for value in values[key]]
        axes.plot(seeds, [y + offset] * len(seeds), ".", color=COLOURS[modality], markersize=4, alpha=0.45, markeredgewidth=0)
        axes.plot(100 * line[metric].mean, y + offset, MARKS.get(modality, "o"), color=COLOURS[modality], markersize=5.5, markeredgewidth=0)
    if never is not None:
        axes.axvline(100 * never, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(f"{metric.replace('_', ' ')}, percent")
    across(axes)
    modality_legend(figure, {key.modality for key in lines})
    return figure


def classes(scores: dict[str, dict[str, float]], metric: str):
    """One line a class: the mean of each modality. `scores` maps modality -> class -> value."""
    plt = plots()
    order = list(dict.fromkeys(name for of in scores.values() for name in of))[::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.85 + 0.25 * len(order)), layout="constrained")
    for y, name in enumerate(order):
        found = [100 * of[name] for of in scores.values() if name in of]
        axes.plot([min(found), max(found)], [y, y], color=COLOURS["line"], linewidth=2, solid_capstyle="round", zorder=1)
    for modality, of in scores.items():
        x, y = [100 * of[name] for name in order if name in of], [y for y, name in enumerate(order) if name in of]
        axes.plot(x, y, MARKS.get(modality, "o"), color=COLOURS.get(modality, COLOURS["other"]), markersize=5.5, markeredgewidth=0)
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(f"{metric.replace('_', ' ')}, percent")
    across(axes)
    modality_legend(figure, set(scores))
    return figure


def losses(curve: list[dict], panels: dict[str, dict[str, str]]):
    """A panel a loss. `panels` maps a panel's title -> name of a line -> key in the curve's entries; what has no value is left out."""
    plt = plots()
    kept = {title: {name: key for name, key in of.items() if any(e.get(key) is not None for e in curve)} for title, of in panels.items()}
    panels = {title: lines for title, lines in kept.items() if lines}
    figure, all_axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.0), layout="constrained", squeeze=False)
    for axes, (title, lines) in zip(all_axes[0], panels.items(), strict=True):
        for number, (name, key) in enumerate(lines.items()):
            found = [(entry["epoch"], entry[key]) for entry in curve if entry.get(key) is not None]
            colour = COLOURS[("other", "both", "audio")[number % 3]] if len(lines) > 1 else COLOURS["both"]
            axes.plot(*zip(*found, strict=True), color=colour, label=name)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        if len(lines) > 1:
            axes.legend(fontsize=8)
        _whole_epochs(axes)
    return figure


def heads(curves: list[dict]):
    """Validation loss of the heads: a panel a variant of the overview, a line a modality, with the spread over seeds."""
    plt = plots()
    order = overview(curve["variant"] for curve in curves)
    rows = (len(order) + 1) // 2
    figure, grid = plt.subplots(rows, 2 if len(order) > 1 else 1, figsize=(WIDTH, 0.35 + 1.55 * rows), layout="constrained", squeeze=False)
    for axes, name in zip(grid.flat, order, strict=False):
        for modality in MODALITIES:
            of = [curve["curve"] for curve in curves if curve["variant"] == name and curve["modality"] == modality]
            if of := [found for curve in of if (found := _validation(curve))]:
                _spread(axes, of, COLOURS[modality])
        axes.set_title(VARIANTS.get(name, name))
        _whole_epochs(axes)
    for axes in grid.flat[len(order) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", fontsize=8.5, color=COLOURS["muted"])
    modality_legend(figure, {curve["modality"] for curve in curves})
    return figure


def _validation(curve: list[dict]) -> dict[int, float]:
    return {entry["epoch"]: entry["validation_loss"] for entry in curve if entry.get("validation_loss") is not None}


def _spread(axes, curves: list[dict[int, float]], colour: str) -> None:
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in epochs]
    axes.plot(epochs, [sum(found) / len(found) for found in values], color=colour)
    axes.fill_between(epochs, [min(found) for found in values], [max(found) for found in values], color=colour, alpha=0.18, linewidth=0)


def retrieval(rows: list[dict]):
    """Recall at 1, 5 and 10 (filled) beside what chance gives (hollow), a line a corpus and pair."""
    plt = plots()
    several = len({row["model"] for row in rows}) > 1
    titles = [f"{row['corpus']}: {row['pair']}" + (f" ({row['model']})" if several else "") for row in rows][::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.34 * len(rows)), layout="constrained")
    for y, row in enumerate(rows[::-1]):
        for at, role, mark in ((1, "audio", "o"), (5, "text", "s"), (10, "both", "D")):
            style = {"color": COLOURS[role], "markersize": 5.5, "linestyle": "none", "marker": mark}
            label = f"first {at}" if y == 0 else None
            axes.plot(100 * row[f"recall_at_{at}"], y + 0.12, markeredgewidth=0, label=label, **style)
            axes.plot(100 * row[f"chance_recall_at_{at}"], y - 0.18, markerfacecolor="none", markeredgewidth=1, **style)
    axes.set_yticks(range(len(rows)), titles)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("recall, percent (hollow: chance)")
    across(axes)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


def labels(shares: dict[str, dict[str, float]]):
    """Share of the rows of each split that have a class. `shares` maps split -> class -> share."""
    plt = plots()
    order = list(dict.fromkeys(name for of in shares.values() for name in of))[::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.85 + 0.3 * len(order)), layout="constrained")
    height = 0.8 / len(shares)
    for number, (split, of) in enumerate(shares.items()):
        places = [y + 0.4 - height * (number + 0.5) for y in range(len(order))]
        colour = COLOURS[("both", "audio", "text")[number % 3]]
        axes.barh(places, [100 * of.get(name, 0) for name in order], height * 0.86, color=colour, label=split)
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_xlabel("rows with the class, percent")
    across(axes)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, handlelength=0.9)
    return figure


def durations(seconds: dict[str, list[float]]):
    """How long the utterances of each split are. `seconds` maps split -> seconds of every utterance."""
    import numpy as np

    plt = plots()
    figure, axes = plt.subplots(figsize=(WIDTH, 2.2), layout="constrained")
    every = [value for of in seconds.values() for value in of]
    edges = np.linspace(0, max(1.0, float(np.quantile(every, 0.99))), 31)
    colours = [COLOURS[name] for name in ("both", "audio", "text")][: len(seconds)]
    clipped = [np.minimum(of, edges[-1]) for of in seconds.values()]  # the longest hundredth is in the last bar
    axes.hist(clipped, edges, stacked=True, color=colours, label=list(seconds))
    axes.set_xlabel("seconds")
    axes.set_ylabel("utterances")
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, handlelength=0.9)
    return figure


def speakers(rates: list[float], overall: float):
    """Share of the speakers whose word error rate is at most x, both in percent; the line is the rate over all words."""
    import numpy as np

    plt = plots()
    figure, axes = plt.subplots(figsize=(WIDTH, 1.9), layout="constrained")
    found = sorted(rates)
    axes.step([0, *found], [100 * rank / len(found) for rank in range(len(found) + 1)], where="post", color=COLOURS["both"])
    axes.axvline(overall, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1.03 * max(1.0, overall, float(np.quantile(found, 0.99))))  # one loop can make more words than were said
    axes.set_ylim(0, 104)
    axes.set_yticks([0, 50, 100])
    axes.set_xlabel("word error rate, percent (dashed: over all words)")
    axes.set_ylabel("speakers, percent")
    return figure


def together(counts):
    """Counts of rows that have both classes, as a table with shades. `counts`: data frame (classes, classes)."""
    plt = plots()
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.34 * len(counts)), layout="constrained")
    axes.grid(False)
    largest = max(1, int(counts.to_numpy().max()))
    for y, row in enumerate(counts.to_numpy()):
        for x, value in enumerate(row):
            share = 0.85 * value / largest
            axes.add_patch(plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=COLOURS["both"], alpha=share, linewidth=0))
            axes.text(x, y, f"{value:,}", ha="center", va="center", fontsize=8, color=COLOURS["ink"])
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_xticks(range(len(counts)), list(counts.columns), rotation=30, ha="right")
    axes.set_yticks(range(len(counts)), list(counts.index))
    axes.spines["bottom"].set_visible(False)
    return figure


def logmel(values, hop_ms: float):
    """Log-mel (frames, mels) as a picture, low bands below."""
    plt = plots()
    figure, axes = plt.subplots(figsize=(WIDTH, 1.5), layout="constrained")
    axes.grid(False)
    seconds = len(values) * hop_ms / 1000
    top = float(values.max())
    shown = {"origin": "lower", "aspect": "auto", "cmap": "magma", "interpolation": "nearest"}
    axes.imshow(values.T, extent=(0, seconds, 0, values.shape[1]), vmin=top - 12, vmax=top, **shown)  # 12 nepers of power: 52 dB
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel band")
    return figure


def modality_legend(figure, modalities: set[str]) -> None:
    """Above the axes: the mark of every modality that there is."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[name], marker=MARKS[name], linestyle="none", markersize=5.5, markeredgewidth=0, label=title)
        for name, title in MODALITIES.items()
        if name in modalities
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8)


def across(axes) -> None:
    """Of a figure whose values run across: whole percents, and no lines along the names."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]))


def _whole_epochs(axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
