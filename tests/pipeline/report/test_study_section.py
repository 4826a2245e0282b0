"""The page's section on the study, from invented results; and the shared space that it draws."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import BROWSER, measured
from sample_report import write_stage_outputs
from sample_study import write_study

from pipeline import paths
from pipeline.report import figures, page, shared_embeddings, study_figures, study_section
from pipeline.settings import load
from pipeline.stages import report

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A folder with the report of a study on one corpus."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    shutil.copy(REPOSITORY / "recipes" / "demo.yaml", folder / "params.yaml")
    settings = load(REPOSITORY / "recipes" / "demo.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(page, "paper_sizes", list)
        patch.setattr(study_section, "language_model_sizes", lambda _: {"small": "tiny", "large": "base"})
        patch.setattr(study_section, "transfer_names", lambda _: ["there"])
        write_stage_outputs(folder, settings)
        shutil.rmtree(folder / paths.evaluation("msp"))
        write_study(folder, settings, ["mosei"])
        report.run(settings)
    return folder


def page_of(folder: Path) -> str:
    return (folder / "reports/index.html").read_text(encoding="utf-8")


def test_contents_lead_to_every_table_and_figure(reported):
    html = page_of(reported)
    section = html[html.index('<section id="study"') : html.index("</section>", html.index('<section id="study"'))]
    links = re.findall(r'href="#([^"]+)"', section[: section.index("</ul>")])
    numbers = {f"study-mosei-table-{number}" for number in (1, 2, 5, 7, 9, 11)}
    drawn = {f"study-mosei-{kind}" for kind in ("ablation-small", "ablation-large", "labels-small", "reliability-small", "space-small")}
    more = {f"study-mosei-{kind}" for kind in ("claims", "groups", "transfer", "calibration")} | {"study-table-4", "study-masked-losses"}
    assert numbers | drawn | more <= set(links)
    assert all(section.count(f' id="{name}"') == 1 for name in links)
    assert section.count("<h4 id=") == len(numbers | more)
    assert "<strong class=" in section and "the spread over seeds is that of heads alone, of one pretraining" in section


def test_every_figure_names_its_commands(reported):
    html = page_of(reported)
    noted = re.findall(r'<figure id="(study-[^"]+)">.*?</svg><p class="note">(.*?)</p>', html, re.DOTALL)
    assert len(noted) == 7
    for name, note in noted:
        stage = "calp@small" if "space" in name else "evaluate@mosei"
        assert f"<code>dvc repro --force --single-item report</code>; its numbers by <code>dvc repro {stage}</code>." in note
        assert (reported / f"reports/figures/{name}.png").exists()


def test_tables_are_written_at_both_thresholds(reported):
    names = {path.name for path in (reported / "reports/tables").glob("study-*")}
    numbers = {f"study-mosei-table-{n}-{t}.{end}" for n in (1, 2, 5, 7, 9, 11) for t in ("tuned", "0.5") for end in ("md", "csv")}
    assert numbers <= names and {"study-table-4.csv", "study-masked-losses.md", "study-mosei-groups-0.5.csv"} <= names
    lines = (reported / "reports/tables/study-mosei-table-9-tuned.csv").read_text().splitlines()
    assert lines[1].startswith("20 % of the labels,small,audio + text,") and ",70.8," in lines[1]
    assert "| patch 10 x 16, stride 5 x 8 | small |" in (reported / "reports/tables/study-mosei-table-11-0.5.md").read_text()


def test_page_stays_small_and_needs_no_network(reported):
    html = page_of(reported)
    loads = re.findall(
        r"""(?:src|href|data)\s*=\s*["']?([^"'\s>]+)|url\(([^)]+)\)""", re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    )
    assert all(re.match(r"#|data:", next(filter(None, match))) for match in loads) and len(html.encode()) < 3 * 2**20


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [400, 1280])
def test_in_a_browser(reported, tmp_path, width):
    scroll, inner, invisible, sizes = measured(page_of(reported), tmp_path, width)
    assert inner == width and scroll <= width and sizes > 20 and invisible == 0


def test_head_curves_leave_out_label_shares_and_patches():
    """Panels are those of the overview."""
    curve = [{"epoch": 1, "validation_loss": 1.0}]
    curves = [{"variant": name, "modality": "both", "curve": curve} for name in ("calm", "labels_20", "patch_2x64")]
    assert [axes.get_title("left") for axes in figures.heads(curves).axes] == ["CALM"]
    assert len(figures.heads(curves[1:]).axes) == 2  # of a model that has no other


def test_components_and_cosines():
    """Audio along the first axis far from text: that is the first component. Own texts alike, others at right angles."""
    audio, text = np.array([[10.0, 1.0], [10.0, -1.0]]), np.array([[-10.0, 1.0], [np.nan, np.nan]])
    a, t, kept = shared_embeddings.principal_components(audio, text)
    assert a.shape == (2, 2) and t.shape == (1, 2) and kept.tolist() == [True, False]
    assert abs(a[0, 0] - t[0, 0]) == pytest.approx(20, rel=0.02) and abs(a[0, 1] - a[1, 1]) == pytest.approx(2, rel=0.02)
    assert shared_embeddings.mean_cosines(np.eye(2), np.eye(2)) == (1.0, 0.0) and shared_embeddings.mean_cosines(np.eye(2), text) is None
    vectors = {"before": (np.eye(2), -np.eye(2)), "after": (np.eye(2), np.eye(2))}
    sentence = shared_embeddings.cosine_sentence(vectors)
    assert sentence.endswith("other texts: before −1.00 and 0.00; after 1.00 and 0.00.")


def test_space_file(tmp_path):
    texts = [None if number == 1 else [0.0, 2.0] for number in range(1001)]
    rows = [{"id": f"u{n:04}", "corpus": "c" if n else "other", "audio_before": [3.0, 4.0], "text_before": t} for n, t in enumerate(texts)]
    pd.DataFrame([{**row, "audio_after": [1.0, 0.0], "text_after": row["text_before"]} for row in rows]).to_parquet(tmp_path / "s.parquet")
    frame = shared_embeddings.read_embeddings(tmp_path / "s.parquet", "c")
    few = shared_embeddings.thinned(frame)
    assert (
        len(frame) == 1000 and len(few) == shared_embeddings.POINTS and few["id"].is_unique and shared_embeddings.thinned(few).equals(few)
    )
    audio, text = shared_embeddings.unit_vectors(few)["before CALP"]
    assert audio[0].tolist() == pytest.approx([0.6, 0.8]) and np.isnan(text[0]).all() and text[1].tolist() == [0, 1]
    assert (
        shared_embeddings.read_embeddings(tmp_path / "s.parquet", "d") is None
        and shared_embeddings.read_embeddings(tmp_path / "none", "c") is None
    )


def test_points_have_the_colour_of_their_only_label():
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "labels": [["sad"], ["sad", "happy"], [], None]})
    labels = shared_embeddings.single_labels(pd.Series(["a", "b", "c", "d", "e"]), table)
    assert labels == ["sad", None, None, None, None]
    vectors = {"before": (np.random.default_rng(1).normal(size=(5, 3)), np.random.default_rng(2).normal(size=(5, 3)))}
    figure = study_figures.shared_space(vectors, labels)
    above, below = figure.axes
    assert [len(points.get_offsets()) for points in above.collections] == [4, 1, 4, 1] and len(below.collections) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sad", "none or several"]
