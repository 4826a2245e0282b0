"""Figures of results, training, retrieval and data. Each function takes plain data and returns a matplotlib figure."""

import textwrap

import numpy as np

from pipeline.paper import MODALITIES, VARIANTS
from pipeline.report.figure_style import COLOURS, MARKS, WIDTH, horizontal_values, modality_legend, pyplot, whole_epochs
from pipeline.report.result_tables import LEADING, Key, overview
from pipeline.report.table import Score

DASHED = {"color": COLOURS["muted"], "linewidth": 0.8, "linestyle": (0, (4, 3))}  # reference lines


def variants(lines: dict[Key, dict[str, Score]], values: dict[Key, list[float]], metric: str, uninformed: float | None = None):
    """One line for each variant: the mean of each modality as a mark, its seeds as dots.

    `uninformed` is the value without any knowledge of the utterance, shown as a dashed line.
    """
    plt = pyplot()
    shown = overview(key.variant for key in lines)
    lines = {key: line for key, line in lines.items() if key.variant in shown}
    several_models = len({key.lm for key in lines if key.lm}) > 1
    titles = {key: key.full_title if several_models else key.title for key in lines}
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
    if uninformed is not None:
        axes.axvline(100 * uninformed, **DASHED)
    horizontal_values(axes, order, LEADING.get(metric, metric))
    modality_legend(figure, {key.modality for key in lines})
    return figure


def classes(scores: dict[str, dict[str, float]], metric: str):
    """One line for each class: the mean of each modality. `scores` maps modality -> class -> value."""
    plt = pyplot()
    order = list(dict.fromkeys(name for by_class in scores.values() for name in by_class))[::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.85 + 0.25 * len(order)), layout="constrained")
    for y, name in enumerate(order):
        values = [100 * by_class[name] for by_class in scores.values() if name in by_class]
        axes.plot([min(values), max(values)], [y, y], color=COLOURS["line"], linewidth=2, solid_capstyle="round", zorder=1)
    for modality, by_class in scores.items():
        points = [(100 * by_class[name], y) for y, name in enumerate(order) if name in by_class]
        colour = COLOURS.get(modality, COLOURS["other"])
        if points:
            axes.plot(*zip(*points, strict=True), MARKS.get(modality, "o"), color=colour, markersize=5.5, markeredgewidth=0)
    horizontal_values(axes, order, metric)
    modality_legend(figure, set(scores))
    return figure


def losses(curve: list[dict], panels: dict[str, dict[str, str]]):
    """Training curves by epoch. `panels` maps a panel's title -> name of a line -> key in the curve; lines without a value are left out."""
    plt = pyplot()
    known = {key for entry in curve for key, value in entry.items() if value is not None}
    panels = {title: {name: key for name, key in lines.items() if key in known} for title, lines in panels.items()}
    panels = {title: lines for title, lines in panels.items() if lines}
    figure, grid = plt.subplots(1, len(panels), figsize=(WIDTH, 2.0), layout="constrained", squeeze=False)
    for axes, (title, lines) in zip(grid[0], panels.items(), strict=True):
        for number, (name, key) in enumerate(lines.items()):
            points = [(entry["epoch"], entry[key]) for entry in curve if entry.get(key) is not None]
            colour = COLOURS[("other", "both", "audio")[number % 3]] if len(lines) > 1 else COLOURS["both"]
            axes.plot(*zip(*points, strict=True), color=colour, label=name)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        if len(lines) > 1:
            axes.legend(fontsize=8)
        whole_epochs(axes)
    return figure


def heads(curves: list[dict]):
    """Validation loss of the heads: a panel for each variant of the overview, a line for each modality, with the range of its seeds."""
    plt = pyplot()
    order = overview(curve["variant"] for curve in curves)
    rows = (len(order) + 1) // 2
    figure, grid = plt.subplots(rows, 2 if len(order) > 1 else 1, figsize=(WIDTH, 0.35 + 1.55 * rows), layout="constrained", squeeze=False)
    for axes, name in zip(grid.flat, order, strict=False):
        for modality in MODALITIES:
            by_seed = [_validation(curve["curve"]) for curve in curves if (curve["variant"], curve["modality"]) == (name, modality)]
            if by_seed := [losses for losses in by_seed if losses]:
                _mean_and_range(axes, by_seed, COLOURS[modality])
        axes.set_title(textwrap.fill(VARIANTS.get(name, name), 24))
        whole_epochs(axes)
    for axes in grid.flat[len(order) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", fontsize=8.5, color=COLOURS["muted"])
    modality_legend(figure, {curve["modality"] for curve in curves})
    return figure


def _validation(curve: list[dict]) -> dict[int, float]:
    return {entry["epoch"]: entry["validation_loss"] for entry in curve if entry.get("validation_loss") is not None}


def _mean_and_range(axes, by_seed: list[dict[int, float]], colour: str) -> None:
    epochs = sorted(set.intersection(*(set(curve) for curve in by_seed)))
    values = [[curve[epoch] for curve in by_seed] for epoch in epochs]
    axes.plot(epochs, [sum(seeds) / len(seeds) for seeds in values], color=colour)
    axes.fill_between(epochs, [min(seeds) for seeds in values], [max(seeds) for seeds in values], color=colour, alpha=0.18, linewidth=0)


def retrieval(rows: list[dict]):
    """Recall at 1, 5 and 10 (filled) and what chance gives (hollow): a line for each corpus and pair."""
    plt = pyplot()
    several_models = len({row["model"] for row in rows}) > 1
    titles = [f"{row['corpus']}: {row['pair']}" + (f" ({row['model']})" if several_models else "") for row in rows][::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.34 * len(rows)), layout="constrained")
    for y, row in enumerate(rows[::-1]):
        for rank, role, mark in ((1, "audio", "o"), (5, "text", "s"), (10, "both", "D")):
            style = {"color": COLOURS[role], "markersize": 5.5, "linestyle": "none", "marker": mark}
            label = f"first {rank}" if y == 0 else None
            axes.plot(100 * row[f"recall_at_{rank}"], y + 0.12, markeredgewidth=0, label=label, **style)
            axes.plot(100 * row[f"chance_recall_at_{rank}"], y - 0.18, markerfacecolor="none", markeredgewidth=1, **style)
    horizontal_values(axes, titles)
    axes.set_xlabel("recall, percent (hollow: chance)")
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


def labels(shares: dict[str, dict[str, float]]):
    """Share of the utterances of each split that have a class. `shares` maps split -> class -> share."""
    plt = pyplot()
    order = list(dict.fromkeys(name for by_class in shares.values() for name in by_class))[::-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.85 + 0.3 * len(order)), layout="constrained")
    height = 0.8 / len(shares)
    for number, (split, by_class) in enumerate(shares.items()):
        places = [y + 0.4 - height * (number + 0.5) for y in range(len(order))]
        colour = COLOURS[("both", "audio", "text")[number % 3]]
        axes.barh(places, [100 * by_class.get(name, 0) for name in order], height * 0.86, color=colour, label=split)
    horizontal_values(axes, order)
    axes.set_xlabel("utterances with the class, percent")
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, handlelength=0.9)
    return figure


def durations(seconds: dict[str, list[float]]):
    """Histogram of the utterances' durations. `seconds` maps split -> seconds of every utterance."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 2.2), layout="constrained")
    edges = np.linspace(0, max(1.0, float(np.quantile(np.concatenate(list(seconds.values())), 0.99))), 31)
    colours = [COLOURS[name] for name in ("both", "audio", "text")][: len(seconds)]
    clipped = [np.minimum(values, edges[-1]) for values in seconds.values()]  # the last bar holds the longest hundredth
    axes.hist(clipped, edges, stacked=True, color=colours, label=list(seconds))
    axes.set_xlabel("seconds")
    axes.set_ylabel("utterances")
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, handlelength=0.9)
    return figure


def speakers(rates: list[float], overall: float):
    """Share of the speakers whose word error rate is at most x, both in percent; dashed: the rate over all words."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 1.9), layout="constrained")
    rates = sorted(rates)
    axes.step([0, *rates], [100 * rank / len(rates) for rank in range(len(rates) + 1)], where="post", color=COLOURS["both"])
    axes.axvline(overall, **DASHED)
    axes.set_xlim(0, 1.03 * max(1.0, overall, float(np.quantile(rates, 0.99))))  # a looping transcript can exceed 100 %
    axes.set_ylim(0, 104)
    axes.set_yticks([0, 50, 100])
    axes.set_xlabel("word error rate, percent (dashed: over all words)")
    axes.set_ylabel("speakers, percent")
    return figure


def label_pairs(counts):
    """Counts of utterances that have both classes, shaded by size. `counts`: data frame (classes, classes)."""
    return _matrix(counts, counts.to_numpy() / max(1, int(counts.to_numpy().max())), "both")


def confusion(counts):
    """Counts of utterances by what they are (rows) and what was answered (columns), shaded by the share of the row.

    `counts`: data frame (classes, classes).
    """
    return _matrix(counts, counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True).clip(min=1), "audio")


def _matrix(counts, shades, elsewhere: str):
    """A square for every count. `shades`: 0..1 as `counts`; `elsewhere`: colour off the diagonal."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.34 * len(counts)), layout="constrained")
    axes.grid(False)
    for (y, x), shade in np.ndenumerate(shades):
        style = {"facecolor": COLOURS["both" if x == y else elsewhere], "alpha": 0.85 * shade, "linewidth": 0}
        axes.add_patch(plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **style))
        axes.text(x, y, f"{counts.iat[y, x]:,}", ha="center", va="center", fontsize=8, color=COLOURS["ink"])
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_xticks(range(len(counts)), list(counts.columns), rotation=30, ha="right")
    axes.set_yticks(range(len(counts)), list(counts.index))
    axes.spines["bottom"].set_visible(False)
    return figure


def headlines(results):
    """Accuracy of each corpus: the head that stands for it, and the best baseline; dashed: knowing nothing. See `Headline`."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 0.75 + 0.55 * len(results)), layout="constrained")
    for y, result in enumerate(results[::-1]):
        marks = [(result.score, result.key, 10)] + ([(result.baseline[1], result.baseline[0], -11)] if result.baseline else [])
        axes.plot([100 * score.mean for score, *_ in marks], [y] * len(marks), color=COLOURS["line"], linewidth=2, zorder=1)
        for score, key, above in marks:
            role = key.modality if key is result.key and key.modality in MARKS else "other"
            axes.plot(100 * score.mean, y, MARKS.get(role, "o"), color=COLOURS[role], markersize=6.5, markeredgewidth=0)
            style = {"xytext": (0, above), "textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8}
            text = f"{key.title}, {key.input}: {score.text}" if key is result.key else f"{key.title}: {score.text}"
            axes.annotate(text, (100 * score.mean, y), **style)
        axes.plot([100 * result.uninformed] * 2, [y - 0.4, y + 0.4], **DASHED)
    metrics = {LEADING[result.metric] for result in results}
    horizontal_values(axes, [result.corpus for result in results[::-1]], " or ".join(sorted(metrics)))
    shown = [100 * score.mean for result in results for score in (result.score, (result.baseline or (None, result.score))[1])]
    shown += [100 * result.uninformed for result in results]
    axes.set_xlim(min(shown) - 5, max(shown) + 9)
    return figure


def logmel(values, hop_ms: float):
    """Log-mel (frames, mels) as an image, low bands at the bottom."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 1.5), layout="constrained")
    axes.grid(False)
    seconds = len(values) * hop_ms / 1000
    top = float(values.max())
    style = {"origin": "lower", "aspect": "auto", "cmap": "magma", "interpolation": "nearest"}
    axes.imshow(values.T, extent=(0, seconds, 0, values.shape[1]), vmin=top - 12, vmax=top, **style)  # 12 nepers of power: 52 dB
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel band")
    return figure
