"""The picture of the stages, from DVC's own graph."""

from pathlib import Path

import pytest
import yaml

from pipeline.report import figure_style, stage_graph

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path):
    """A project of five stages: b runs for x and y after a, e needs everything, d is alone with e."""
    stages = {
        "a": {"cmd": "true", "desc": "first", "outs": ["a.txt"]},
        "b": {
            "foreach": ["x", "y"],
            "do": {"cmd": "true", "desc": "for each", "deps": ["a.txt"], "outs": ["b/${item}"]},
        },
        "c": {"cmd": "true", "deps": ["b/x"], "outs": ["c.txt"]},
        "d": {"cmd": "true", "outs": ["d.txt"]},
        "e": {"cmd": "true", "deps": ["a.txt", "b/y", "c.txt", "d.txt"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


def test_repeated_stages_are_one_and_arrows_are_direct(project):
    graph = stage_graph.read_graph(project)
    assert graph.needs == {"a": [], "b": ["a"], "c": ["b"], "d": [], "e": ["c", "d"]}  # e reaches a and b through c
    assert graph.rows == [["a"], ["b"], ["c", "d"], ["e"]]  # d stands above the only stage that needs it
    assert graph.counts == {"a": 1, "b": 2, "c": 1, "d": 1, "e": 1}
    assert graph.descriptions == {"a": "first", "b": "for each"}
    assert [path.name for path in project.iterdir()] == ["dvc.yaml"]  # reading leaves nothing behind


def test_boxes_do_not_overlap_and_arrows_point_down(project):
    graph = stage_graph.read_graph(project)
    centres = stage_graph.positions(graph, 4.0)
    assert len(set(centres.values())) == 5 and centres["c"][1] == centres["d"][1]
    assert abs(centres["c"][0] - centres["d"][0]) >= stage_graph.WIDTH
    assert all(centres[need][1] - centres[name][1] > stage_graph.HEIGHT for name, needs in graph.needs.items() for need in needs)


def test_picture_names_every_stage_and_follows_the_scheme(project, tmp_path):
    graph = stage_graph.read_graph(project)
    svg = figure_style.save(stage_graph.graph_figure(graph), "dag", tmp_path, "svg")
    assert all(f">{text}</text>" in svg for text in ("a", "b × 2", "c", "d", "e"))
    assert "var(--card)" in svg and "#1f2a33" not in svg
    file = (tmp_path / "dag.svg").read_text()
    assert "#1f2a33" in file and "var(" not in file
    figure_style.save(stage_graph.graph_figure(graph), "dag", tmp_path, "svg")
    assert (tmp_path / "dag.svg").read_text() == file


def test_stages_of_this_project():
    graph = stage_graph.read_graph(REPOSITORY)
    row = {name: number for number, names in enumerate(graph.rows) for name in names}
    assert set(row) == set(graph.needs) >= {"ingest", "calp", "head", "evaluate", "report"} and "report" in graph.rows[-1]
    assert all(row[need] < row[name] for name, needs in graph.needs.items() for need in needs)
    assert graph.needs["pretrain"] == ["embed"]  # calp is reached through embed
