"""The stages and their dependencies, read from DVC, and a picture of them."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.report.figure_style import COLOURS, pyplot

WIDTH, HEIGHT = 1.5, 0.36  # of a box, in inches
STEP_X, STEP_Y = 1.72, 0.64  # between the centres of neighbouring boxes, in inches


@dataclass
class StageGraph:
    """Stages by name; a stage that DVC repeats over corpora or models is one stage here."""

    needs: dict[str, list[str]]  # stage -> the stages that it directly needs, without those reached through another one
    rows: list[list[str]]  # each stage stands one row above the first stage that needs it
    counts: dict[str, int] = field(default_factory=dict)  # stage -> how many times it is repeated
    descriptions: dict[str, str] = field(default_factory=dict)  # stage -> its `desc` in dvc.yaml, where it has one


def read_graph(root: Path = Path()) -> StageGraph:
    """Read the graph from the DVC project in a folder: its `dvc.yaml` with the settings in `params.yaml`."""
    import networkx
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    with Repo(str(root), uninitialized=True) as repo:
        stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
        edges = [(_name(stage), _name(need)) for stage, need in repo.index.graph.edges if {stage, need} <= set(stages)]
    names = [_name(stage) for stage in stages]
    graph = networkx.DiGraph()
    graph.add_nodes_from(dict.fromkeys(names))
    graph.add_edges_from((need, stage) for stage, need in edges if need != stage)
    arrows = networkx.transitive_reduction(graph)
    return StageGraph(
        needs={name: sorted(arrows.predecessors(name)) for name in graph},
        rows=[sorted(row, key=names.index) for row in networkx.topological_generations(graph.reverse())][::-1],
        counts={name: names.count(name) for name in graph},
        descriptions={_name(stage): stage.desc for stage in stages if stage.desc},
    )


def _name(stage) -> str:
    """Name of a stage without the item that it is repeated for: "calp" of "calp@small"."""
    return stage.name.partition("@")[0]


def graph_figure(graph: StageGraph):
    """A box for each stage and an arrow to each stage from those that it needs."""
    plt = pyplot()
    size = max(len(row) for row in graph.rows) * STEP_X, len(graph.rows) * STEP_Y
    figure = plt.figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, size[0])
    axes.set_ylim(-size[1], 0)
    axes.axis("off")
    centres = positions(graph, size[0])
    for name, needs in graph.needs.items():
        for need in needs:
            _arrow(axes, centres[need], centres[name])
    for name, centre in centres.items():
        _box(axes, name, graph.counts[name], centre)
    return figure


def positions(graph: StageGraph, width: float) -> dict[str, tuple[float, float]]:
    """Centre of each box in inches: rows from top to bottom, each centred, in the order of what its stages need."""
    centres: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(graph.rows):
        means = {name: _mean([centres[need][0] for need in graph.needs[name]]) for name in row}
        for column, name in enumerate(sorted(row, key=means.get)):
            centres[name] = (width / 2 + STEP_X * (column - (len(row) - 1) / 2), -STEP_Y * (number + 0.5))
    return centres


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _arrow(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    (x1, y1), (x2, y2) = (start[0], start[1] - HEIGHT / 2), (end[0], end[1] + HEIGHT / 2)
    bend = (y1 - y2) / 2
    curve = Curve([(x1, y1), (x1, y1 - bend), (x2, y2 + bend), (x2, y2)], [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    style = {"arrowstyle": "->", "mutation_scale": 8, "color": COLOURS["other"], "linewidth": 1.1, "fill": False}
    axes.add_patch(FancyArrowPatch(path=curve, **style))


def _box(axes, name: str, count: int, centre: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = centre
    corner = (x - WIDTH / 2 + 0.06, y - HEIGHT / 2 + 0.06)
    style = {"boxstyle": "round,pad=0.06", "facecolor": COLOURS["card"], "edgecolor": COLOURS["other"], "linewidth": 0.9}
    axes.add_patch(FancyBboxPatch(corner, WIDTH - 0.12, HEIGHT - 0.12, **style))
    words = {"ha": "center", "va": "center_baseline"}
    axes.text(x, y, name if count == 1 else f"{name} × {count}", fontsize=9.5, **words)
