"""Figures of the study, in the style of `figures`. Each takes plain data and returns a matplotlib figure."""

from pipeline.report.figures import COLOURS, MARKS, WIDTH, across, modality_legend, plots
from pipeline.report.results import MODALITIES

# Colours of up to ten classes, to be told apart on white and on black. Points are drawn as a picture, so these do not follow the scheme.
PALETTE = ("#d1495b", "#3c78c8", "#e0a030", "#3f9b6c", "#8d5fb8", "#4fb3bf", "#c76f9e", "#8a8f3c", "#7d6b5d", "#9aa5b1")


def ablation(bars: dict[str, dict[str, tuple[float, float | None, float | None]]], metric: str, start: float = 0.5):
    """A panel a modality, a bar a variant with its interval. `bars`: modality -> variant's title -> mean, low, high.

    Bars begin at `start`, the value that knowing nothing gives.
    """
    plt = plots()
    sizes = [len(of) for of in bars.values()]
    figure, grid = plt.subplots(
        len(bars),
        1,
        figsize=(WIDTH, 0.55 + sum(0.24 * size + 0.28 for size in sizes)),
        layout="constrained",
        squeeze=False,
        sharex=True,
        height_ratios=sizes,
    )
    ends = [100 * end for of in bars.values() for bar in of.values() for end in bar if end is not None]
    for axes, (modality, of) in zip(grid[:, 0], bars.items(), strict=True):
        order = list(of)[::-1]
        for y, name in enumerate(order):
            mean, low, high = of[name]
            alpha = 0.9 if name in ("CALM", "CALM, frozen") else 0.5
            axes.barh(y, 100 * (mean - start), 0.62, 100 * start, color=COLOURS[modality], alpha=alpha)
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [y, y], color=COLOURS["ink"], linewidth=1.1, solid_capstyle="butt")
        axes.set_title(MODALITIES[modality])
        axes.set_yticks(range(len(order)), order)
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.set_xlim(min(100 * start, *ends) - 1, max(100 * start, *ends) + 1)
        across(axes)
    figure.supxlabel(f"{metric.replace('_', ' ')}, percent (line: 95 % interval)", fontsize=8.5, color=COLOURS["muted"])
    return figure


def label_curve(shares: dict[str, dict[int, list[float]]], metric: str, published: dict[int, float] | None = None):
    """Metric by share of the labels: a line a modality through the means, a dot a seed. `published`: share -> percent, dashed."""
    plt = plots()
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    for modality, of in shares.items():
        x, colour = sorted(of), COLOURS[modality]
        means = [100 * sum(of[share]) / len(of[share]) for share in x]
        axes.plot(x, means, MARKS[modality] + "-", color=colour, markersize=5, markeredgewidth=0)
        seeds = [(share, 100 * value) for share in x for value in of[share]]
        axes.plot(*zip(*seeds, strict=True), ".", color=colour, markersize=6.5, alpha=0.45, markeredgewidth=0)
    if published:
        axes.plot(sorted(published), [published[share] for share in sorted(published)], "--", color=COLOURS["muted"], linewidth=1.1)
    axes.set_xticks(sorted({share for of in shares.values() for share in of}))
    axes.set_xlabel("labels used, percent" + (" (dashed: the paper, audio + text)" if published else ""))
    axes.set_ylabel(f"{metric.replace('_', ' ')}, percent")
    modality_legend(figure, set(shares))
    return figure


def reliability(curves: dict[str, list[tuple[float, float, int]]]):
    """Share that was right by predicted probability, a line a modality; marks grow with the number of predictions, dashed is perfect.

    `curves`: modality -> predicted, observed and number of every bin.
    """
    plt = plots()
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    axes.plot([0, 100], [0, 100], "--", color=COLOURS["muted"], linewidth=0.9)
    for modality, bins in curves.items():
        predicted, observed, sizes = zip(*bins, strict=True)
        x, y = [100 * value for value in predicted], [100 * value for value in observed]
        axes.plot(x, y, color=COLOURS[modality], linewidth=1.2)
        area = [6 + 60 * (size / max(sizes)) ** 0.5 for size in sizes]
        axes.scatter(x, y, area, color=COLOURS[modality], marker=MARKS[modality], linewidths=0, alpha=0.85)
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("predicted probability, percent")
    axes.set_ylabel("present, percent")
    modality_legend(figure, set(curves))
    return figure


def space(vectors: dict[str, tuple], labels: list[str | None]):
    """The shared space before and after: above coloured by emotion, below by modality; two principal components of each column.

    Args:
        vectors: title of a column -> audio (utterances, d) and text (utterances, d), a row of NaN where there is no text.
        labels: the one class of every utterance; None where it has none or several: such points are grey, and behind.
    """
    from matplotlib.lines import Line2D

    from pipeline.report.shared_space import components

    plt = plots()
    figure, grid = plt.subplots(2, len(vectors), figsize=(WIDTH, 5.1), layout="constrained", squeeze=False, dpi=200)
    names = sorted({name for name in labels if name})
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)} | {None: COLOURS["line"]}
    for column, (title, (audio, text)) in enumerate(vectors.items()):
        audio, text, kept = components(audio, text)
        found = [labels, [label for label, has in zip(labels, kept, strict=True) if has]]
        above, below = grid[:, column]
        above.set_title(title)
        for part, of, mark in ((audio, found[0], MARKS["audio"]), (text, found[1], MARKS["text"])):
            for name in (None, *names):
                chosen = [row for row, label in enumerate(of) if label == name]
                style = {"marker": mark, "linewidths": 0, "rasterized": True, "alpha": 0.75 if name else 0.5}
                above.scatter(*part[chosen].T, 9, color=colours[name], **style)
        for part, modality in ((audio, "audio"), (text, "text")):
            below.scatter(*part.T, 9, color=COLOURS[modality], marker=MARKS[modality], linewidths=0, alpha=0.6, rasterized=True)
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines["bottom"].set_visible(False)
            axes.add_patch(plt.Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=COLOURS["line"], linewidth=0.8))
    dot = {"linestyle": "none", "markersize": 5, "markeredgewidth": 0, "marker": "o"}
    handles = [Line2D([], [], color=colours[name], label=name, **dot) for name in names]
    if any(label is None for label in labels):
        handles.append(Line2D([], [], color=colours[None], label="none or several", **dot))
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8)
    handles = [Line2D([], [], color=COLOURS[name], label=MODALITIES[name], **dot | {"marker": MARKS[name]}) for name in ("audio", "text")]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=8)
    return figure
