"""Figures of the study. Each function takes plain data and returns a matplotlib figure."""

from pipeline.paper import MODALITIES
from pipeline.report.figure_style import COLOURS, MARKS, WIDTH, horizontal_values, modality_legend, pyplot

# Colours of up to ten classes that differ on white and on black. Points are drawn as an image, so these do not follow the scheme.
PALETTE = ("#d1495b", "#3c78c8", "#e0a030", "#3f9b6c", "#8d5fb8", "#4fb3bf", "#c76f9e", "#8a8f3c", "#7d6b5d", "#9aa5b1")


def ablation(bars: dict[str, dict[str, tuple[float, float | None, float | None]]], metric: str, start: float = 0.5):
    """A panel for each modality, in it a bar for each variant with its interval.

    Args:
        bars: modality -> the variant's title -> mean, lower and upper end of the interval.
        start: where the bars begin: the value without any knowledge of the utterance.
    """
    plt = pyplot()
    sizes = [len(by_title) for by_title in bars.values()]
    figure, grid = plt.subplots(
        len(bars),
        1,
        figsize=(WIDTH, 0.55 + sum(0.24 * size + 0.28 for size in sizes)),
        layout="constrained",
        squeeze=False,
        sharex=True,
        height_ratios=sizes,
    )
    ends = [100 * value for by_title in bars.values() for bar in by_title.values() for value in bar if value is not None]
    for axes, (modality, by_title) in zip(grid[:, 0], bars.items(), strict=True):
        order = list(by_title)[::-1]
        for y, title in enumerate(order):
            mean, low, high = by_title[title]
            alpha = 0.9 if title in ("CALM", "CALM, frozen") else 0.5
            axes.barh(y, 100 * (mean - start), 0.62, 100 * start, color=COLOURS[modality], alpha=alpha)
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [y, y], color=COLOURS["ink"], linewidth=1.1, solid_capstyle="butt")
        axes.set_title(MODALITIES[modality])
        axes.set_xlim(min(100 * start, *ends) - 1, max(100 * start, *ends) + 1)
        horizontal_values(axes, order)
    figure.supxlabel(f"{metric.replace('_', ' ')}, percent (line: 95 % interval)", fontsize=8.5, color=COLOURS["muted"])
    return figure


def label_curve(shares: dict[str, dict[int, list[float]]], metric: str, published: dict[int, float] | None = None):
    """Metric by share of the labels: a line through the means of each modality, a dot for each seed.

    Args:
        shares: modality -> percent of the labels -> value of each seed.
        published: percent of the labels -> the paper's figure in percent, dashed.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    for modality, by_share in shares.items():
        x, colour = sorted(by_share), COLOURS[modality]
        means = [100 * sum(by_share[share]) / len(by_share[share]) for share in x]
        axes.plot(x, means, MARKS[modality] + "-", color=colour, markersize=5, markeredgewidth=0)
        seeds = [(share, 100 * value) for share in x for value in by_share[share]]
        axes.plot(*zip(*seeds, strict=True), ".", color=colour, markersize=6.5, alpha=0.45, markeredgewidth=0)
    if published:
        axes.plot(sorted(published), [published[share] for share in sorted(published)], "--", color=COLOURS["muted"], linewidth=1.1)
    axes.set_xticks(sorted({share for by_share in shares.values() for share in by_share}))
    axes.set_xlabel("labels used, percent" + (" (dashed: the paper, audio + text)" if published else ""))
    axes.set_ylabel(f"{metric.replace('_', ' ')}, percent")
    modality_legend(figure, set(shares))
    return figure


def reliability(curves: dict[str, list[tuple[float, float, int]]]):
    """Observed share by predicted probability, a line for each modality; marks grow with the number of predictions; dashed: perfect.

    Args:
        curves: modality -> predicted probability, observed share and number of predictions of each bin.
    """
    plt = pyplot()
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


def shared_space(vectors: dict[str, tuple], labels: list[str | None]):
    """Two principal components of audio and text in the shared space: coloured by class above, by modality below.

    Args:
        vectors: title of a column -> audio (utterances, d) and text (utterances, d), a row of NaN where an utterance has no text.
        labels: the class of every utterance; None where it has none or several. Such points are grey and lie behind the others.
    """
    from pipeline.report.shared_embeddings import principal_components

    plt = pyplot()
    figure, grid = plt.subplots(2, len(vectors), figsize=(WIDTH, 5.1), layout="constrained", squeeze=False, dpi=200)
    names = sorted({label for label in labels if label})
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)} | {None: COLOURS["line"]}
    for column, (title, (audio, text)) in enumerate(vectors.items()):
        audio, text, has_text = principal_components(audio, text)
        text_labels = [label for label, present in zip(labels, has_text, strict=True) if present]
        above, below = grid[:, column]
        above.set_title(title)
        for points, point_labels, mark in ((audio, labels, MARKS["audio"]), (text, text_labels, MARKS["text"])):
            for name in (None, *names):
                chosen = [row for row, label in enumerate(point_labels) if label == name]
                style = {"marker": mark, "linewidths": 0, "rasterized": True, "alpha": 0.75 if name else 0.5}
                above.scatter(*points[chosen].T, 9, color=colours[name], **style)
        for points, modality in ((audio, "audio"), (text, "text")):
            below.scatter(*points.T, 9, color=COLOURS[modality], marker=MARKS[modality], linewidths=0, alpha=0.6, rasterized=True)
        for axes in (above, below):
            _framed_without_ticks(axes)
    _class_and_modality_legends(figure, colours if None in labels else {name: colours[name] for name in names})
    return figure


def _framed_without_ticks(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    rectangle = pyplot().Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=COLOURS["line"], linewidth=0.8)
    axes.add_patch(rectangle)


def _class_and_modality_legends(figure, colours: dict[str | None, str]) -> None:
    from matplotlib.lines import Line2D

    def dot(colour: str, label: str, mark: str = "o") -> Line2D:
        return Line2D([], [], color=colour, label=label, linestyle="none", markersize=5, markeredgewidth=0, marker=mark)

    if colours:
        handles = [dot(colour, name or "none or several") for name, colour in colours.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8)
    handles = [dot(COLOURS[name], MODALITIES[name], MARKS[name]) for name in ("audio", "text")]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=8)
