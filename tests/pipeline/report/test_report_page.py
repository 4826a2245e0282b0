"""The report from invented outputs of the other stages; the page in a browser where one is installed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, asked, measured
from markupsafe import escape
from sample_report import HOSTILE, sample_rows, write_stage_outputs

from pipeline import paths
from pipeline.paper import VARIANTS
from pipeline.report import data_section, figures, page, result_tables, stage_graph
from pipeline.settings import Settings, load
from pipeline.stages import report

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A folder with the report on the outputs of all stages, and the settings."""
    folder = tmp_path_factory.mktemp("reported")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / "recipes" / "demo.yaml" if name == "params.yaml" else REPOSITORY / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = load()
        write_stage_outputs(folder, settings)
        report.run(settings)
    return folder, settings


def page_of(folder: Path) -> str:
    return (folder / "reports/index.html").read_text(encoding="utf-8")


def cells_of(table: str) -> list[list[str]]:
    """Texts of a table's body."""
    body = table[table.index("<tbody>") : table.index("</tbody>")]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    strip = re.compile(r'<i class="gone">.*?</i>|<[^>]+>')
    return [[strip.sub("", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_page_needs_no_network_and_is_small(reported):
    html = page_of(reported[0])
    assert len(html.encode()) < 4 * 10**6 and 'id="study"' not in html
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert not re.search(r"https?:|fetch|XMLHttp|import|innerHTML", script)
    html = "".join(re.findall(r"<style>.*?</style>|<[a-z][^<>]*>", html, flags=re.DOTALL))  # not the names of classes
    loads = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'\s>]+)|url\(([^)]+)\)|@import\s+(\S+)""", html)
    assert all(re.match(r"#|data:", next(filter(None, match))) for match in loads), loads


def test_metrics_are_those_of_the_evaluations(reported):
    folder, settings = reported
    text = (folder / "reports/metrics.json").read_text()
    written = json.loads(text)
    assert text.count("\n") == len(written) + 2 and tuple(written[0]) == result_tables.COLUMNS
    evaluated = [row for corpus in settings.targets for row in json.loads((folder / paths.evaluation(corpus) / "metrics.json").read_text())]
    as_set = [{json.dumps(row, sort_keys=True) for row in rows} for rows in (written, evaluated)]
    assert as_set[0] == as_set[1] and len(written) == len(evaluated)
    assert result_tables.sort_rows(reversed(written)) == written


@pytest.mark.parametrize("threshold", ["0.5", "tuned", "argmax"])
def test_table_shows_the_means_of_metrics_json(reported, threshold):
    folder, _ = reported
    rows = json.loads((folder / "reports/metrics.json").read_text())
    html = page_of(folder)
    names = {title: name for name, title in VARIANTS.items()}
    inputs = {"audio": "audio", "text": "text", "audio + text": "both", "–": "none"}
    section = html[html.index('id="results-msp"') :]
    number = ["tuned", "0.5", "argmax"].index(threshold)
    shown = cells_of(section.split('<figure class="table">')[1 + number])
    assert len(shown) == 15
    for title, modality, *values in shown:
        for metric, cell in zip((*result_tables.METRICS, *result_tables.EXTRA_METRICS.get(threshold, ())), values, strict=True):
            wanted = {"corpus": "msp", "split": "test", "threshold": threshold, "metric": metric}
            wanted |= {"variant": names[title], "modality": inputs[modality]}
            seeds = [row["value"] for row in rows if wanted.items() <= row.items()]
            spread = f" ± {100 * np.std(seeds, ddof=1):.1f}" if len(seeds) > 1 else ""
            assert cell == f"{100 * np.mean(seeds):.1f}{spread}"


def test_best_of_a_column_is_bold(reported):
    folder, _ = reported
    rows = json.loads((folder / "reports/metrics.json").read_text())
    table = result_tables.result_table(rows, "mosei", "tuned")
    for column in range(2, 2 + len(result_tables.METRICS)):
        marked = [row for row, c in table.bold if c == column]
        means = [row[column].mean for row in table.rows]
        assert [round(means[row], 9) for row in marked] == [round(max(means), 9)] * len(marked) != []
    lines = table.markdown().splitlines()
    assert sum("**" in line for line in lines) >= 1 and all(line.count("|") == lines[2].count("|") for line in lines[2:])


def test_csv_has_full_precision(reported):
    folder, _ = reported
    rows = json.loads((folder / "reports/metrics.json").read_text())
    lines = [line.split(",") for line in (folder / "reports/tables/mosei-test-0.5.csv").read_text().splitlines()]
    assert lines[0][2:4] == ["weighted_accuracy", "weighted_accuracy std"]
    wanted = {"corpus": "mosei", "split": "test", "threshold": "0.5", "variant": "calm", "modality": "both", "metric": "weighted_accuracy"}
    seeds = [row["value"] for row in rows if wanted.items() <= row.items()]
    line = next(line for line in lines if line[:2] == ["CALM", "audio + text"])
    assert float(line[2]) == pytest.approx(np.mean(seeds), abs=1e-12) and float(line[3]) == pytest.approx(np.std(seeds, ddof=1), abs=1e-12)


def test_synthetic_speech_says_so(reported):
    html = page_of(reported[0])
    assert "these figures show that the pipeline works, not how good the method is" in html
    assert html.count('<span class="tag">synthetic speech</span>') == 4


def test_figures_and_tables_are_written(reported):
    folder, _ = reported
    figures = {path.name for path in (folder / "reports/figures").iterdir()}
    assert {"dag.svg", "mosei-variants.png", "small-calp.png", "small-pretraining.png", "msp-small-heads.png", "retrieval.png"} <= figures
    tables = {path.name for path in (folder / "reports/tables").iterdir()}
    assert {
        "mosei-test-tuned.md",
        "msp-confusion.csv",
        "msp-test-argmax.csv",
        "retrieval.md",
        "probes.md",
        "parameters.csv",
        "data-mosei.md",
    } <= tables
    assert "parameters-paper.csv" not in tables  # of a study alone
    assert page_of(folder).count("<svg") == sum(name.endswith(".png") for name in figures) + 1


def test_only_what_is_there_is_shown(tmp_path, monkeypatch):
    """Real speech, one corpus evaluated, nothing else written: no section stands empty, no banner is shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "paper_sizes", list)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    shutil.copy(REPOSITORY / "recipes" / "demo.yaml", tmp_path / "params.yaml")
    sections = load().model_dump()
    for corpus in sections["corpora"].values():
        corpus["synthetic"] = False
    settings = Settings.model_validate(sections)
    rows = [{**row, "synthetic": False} for row in sample_rows("msp", [1])]
    (tmp_path / paths.evaluation("msp")).mkdir(parents=True)
    (tmp_path / paths.evaluation("msp") / "metrics.json").write_text(json.dumps(rows))
    report.run(settings)
    html = page_of(tmp_path)
    assert 'id="results-msp"' in html and 'id="results-mosei"' not in html
    assert "ynthetic speech" not in re.sub(r"<dl>.*?</dl>", "", html.replace(settings.title, ""), flags=re.DOTALL)
    assert all(f'id="{name}"' not in html for name in ("retrieval", "parameters", "training", "data"))
    assert not any("±" in cell for row in cells_of(html) for cell in row) and "one seed, 1." in html


def test_nothing_evaluated_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="dvc repro"):
        report.run(load(REPOSITORY / "recipes" / "demo.yaml"))


def test_print(reported):
    folder, _ = reported
    heavy = "import sys, runpy; sys.argv = ['report', '--print']; runpy.run_module('pipeline.stages.report', run_name='__main__'); "
    heavy += "assert not {'torch', 'transformers', 'matplotlib', 'mlflow', 'jinja2'} & set(sys.modules)"
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", heavy], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = json.loads((folder / "reports/metrics.json").read_text())
    both = result_tables.scores(rows, corpus="mosei", split="test", threshold="tuned")[result_tables.Key("calm", "small", "both")]
    line = next(line for line in done.stdout.splitlines() if re.match(r"CALM +audio \+ text", line))
    assert str(both["weighted_accuracy"]) in line
    assert max(map(len, done.stdout.splitlines())) <= 140
    assert "reports/index.html" in done.stdout and "mlflow ui --backend-store-uri sqlite:///mlflow.db" in done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(reported, tmp_path, width):
    """No error on the console, no sideways scrolling of the page, and every table and figure has a size."""
    scroll, inner, invisible, sizes = measured(page_of(reported[0]), tmp_path, width)
    assert inner == width and scroll <= width
    assert sizes > 10 and invisible == 0


CUT = """
  const inside = (box, card) => box.left >= card.left && box.right <= card.right && box.top >= card.top && box.bottom <= card.bottom;
  const texts = [...document.querySelectorAll(".pictures figure svg text")].filter(text => text.getBoundingClientRect().width);
  const cards = texts.map(text => [text.textContent, text.getBoundingClientRect(), text.closest("figure").getBoundingClientRect()]);
  return [texts.length, cards.filter(([, box, card]) => !inside(box, card)).map(([text]) => text)];
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_no_text_of_a_figure_leaves_its_frame(reported, tmp_path, width):
    """Nor is it cut off at the edge of the drawing."""
    count, outside = asked(page_of(reported[0]), tmp_path, width, CUT)
    assert count > 100 and not outside and "overflow:visible" in page_of(reported[0])


def test_the_page_opens_with_what_was_done_and_found(reported):
    """On msp the head with the best validation is named, and what the page's words mean is said once."""
    folder, settings = reported
    html, heads = page_of(folder), 2 * 12 * len(settings.seeds)
    top = html[: html.index("<nav>")]
    for text in (
        "how something is said with what is said",
        f"{heads} heads then learned the labels of mosei and msp",
        "72 utterances of msp",
    ):
        assert text in top
    assert [html.count(f"<dt>{word}</dt>") for word in ("frozen", "CALP", "SpecTran", "fold")] == [1, 1, 1, 0]
    rows = json.loads((folder / "reports/metrics.json").read_text())
    best = {}
    for split in ("validation", "test"):
        lines = result_tables.scores(rows, corpus="msp", split=split, threshold="tuned")
        best[split] = {key: line["weighted_accuracy"] for key, line in lines.items() if key.variant in ("calm", "calm_frozen")}
    chosen = max(best["validation"], key=lambda key: best["validation"][key].mean)
    name = "CALM (frozen, from" if chosen.variant.endswith("_frozen") else "CALM (from"
    assert f"On msp, {name} {chosen.input}) reaches {best['test'][chosen].text}\u00a0%" in top and "result-" in top
    assert "the one that does best on validation" in top


ACTIONS = """
  const rows = body => [...body.rows].map(row => row.cells[2].textContent.trim());
  const table = document.querySelector("#results-msp table"), before = rows(table.tBodies[0]);
  table.tHead.rows[0].cells[2].click();
  const sorted = rows(table.tBodies[0]);
  table.tHead.rows[0].cells[2].click(); table.tHead.rows[0].cells[2].click();
  const list = document.querySelector(".browser"), [search, is] = list.querySelectorAll("input[type=search], select");
  const all = list.querySelector("output").value, options = [...is.options].map(option => option.value);
  search.value = "onerror speaker-3<"; search.dispatchEvent(new Event("input"));
  const found = [...list.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.textContent));
  return [before, sorted, rows(table.tBodies[0]), all, options, found, document.querySelectorAll("img, b > script").length];
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_tables_sort_and_utterances_are_found(reported, tmp_path):
    """A press sorts from the highest, a third one restores the order; names like markup stay text."""
    before, sorted_rows, after, every, options, found, markup = asked(page_of(reported[0]), tmp_path, 1280, ACTIONS)
    means = [float(text.split()[0]) for text in sorted_rows]
    assert means == sorted(means, reverse=True) and after == before != sorted_rows
    assert every == "40 of 40 utterances" and options == ["", *sorted(HOSTILE), "none of them"]
    assert [row[:2] for row in found] == [["<img src=x onerror=alert(3)>", "<b>speaker-3</b>"]] and markup == 0


def test_comparisons_are_marked(reported):
    folder, _ = reported
    html = page_of(folder)
    assert "CALM (small) lies" in html and "95\u00a0% interval −1.0 to +9.0: not significant" in html
    assert "With log-mel functionals, audio gives" in html and "With eGeMAPS, audio gives" in html
    rows = [line.split(",") for line in (folder / "reports/tables/mosei-comparisons.csv").read_text().splitlines()]
    assert len(rows) == 8 and [row[-1] for row in rows[1:]].count("not significant") == 3
    assert len((folder / "reports/tables/mosei-comparisons-all.csv").read_text().splitlines()) == 29
    assert "CALM: audio + text" in html
    assert "Predicting no class at all gives accuracy 77.5 and weighted_accuracy 50.0." in html
    assert "Left out of weighted accuracy, as they have no positive or no negative here: fear." in html
    assert "eGeMAPS, audio, has no answer for 2 utterances" in html


def test_word_errors_by_speaker(reported):
    """40 speakers with 1 to 40 errors in 100 words: median 20.5, the 36th of 40 is nine tenths; and a corpus from one speaker."""
    folder, _ = reported
    html = page_of(folder).replace("\u00a0", " ")
    assert "word error rate 20.5 % over 200 utterances" in html
    assert "by speaker (40): median 20.5 %, nine of ten up to 36.0 %, worst 40.0 %" in html
    assert "likely hallucinations, kept and flagged: 1 with a phrase said four times in a row" in html
    msp = html[html.index("word error rate 1.0 % over 5 utterances") :]
    assert "<li>from one speaker</li>" in msp and "by speaker" not in msp and html.count("Word error rate by speaker: the worst 10") == 1
    shown = cells_of(html[html.index("Word error rate by speaker: the worst 10") :])
    assert shown[0] == ["s0040", "40.0", "5", "100", "40", "0", "0"] and len(shown) == 10
    lines = (folder / "reports/tables/mosei-speakers.csv").read_text().splitlines()
    assert len(lines) == 41 and not any("mute" in line for line in lines)


def test_what_is_said_of_a_speech_encoder():
    features = {"name": "/some/where/hubert", "layers": [2, 3], "frames": 1234, "channels": 768, "hop": 320, "sample_rate": 16000}
    features |= {"dropped": {"shorter than a frame": 2}, "speeds": [0.9, 1.1]}
    facts = data_section.encoder_facts(features, {"log-mel": 50.0, "encoder": 12.0, "encoder/speed-0.9": 3.0})
    assert facts == [
        "hubert, layers 2 and 3",
        "1,234 frames of 768 channels, one every 20 ms",
        "without states: 2 shorter than a frame",
        "copies at 0.9 and 1.1 times the speed",
        "computed in 15 s",
    ]
    plain = data_section.encoder_facts(features | {"layers": [2], "dropped": {}, "speeds": []}, {})
    assert plain == ["hubert, layer 2", facts[1]]
    assert ("Speech encoder", plain) in data_section.data_facts(
        {}, {"encoder": features | {"layers": [2], "dropped": {}, "speeds": []}}, None
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([], []), ([3], ["from one speaker"]), ([1, 4], ["by speaker (2): median 2.5 %, worst 4.0 %"])],
)
def test_few_speakers(counts, expected):
    by_speaker = {f"s{number}": {"words": 100, "wer": count / 100} for number, count in enumerate(counts)}
    assert data_section.speaker_facts({"by_speaker": by_speaker}) == expected


def test_curve_of_speakers_rises_to_all_of_them():
    (axes,) = figures.speakers([10.0, 0.0, 30.0, 20.0], 15.0).axes
    curve, line = axes.lines
    assert curve.get_xydata().tolist() == [[0, 0], [0, 25], [10, 50], [20, 75], [30, 100]] and list(line.get_xdata()) == [15, 15]


def test_stages_are_described_as_in_dvc_yaml(reported):
    folder, _ = reported
    html = page_of(folder)
    section = html[html.index('id="remake"') :]
    descriptions = stage_graph.read_graph(folder).descriptions
    assert all(f"<dt><code>{name}</code></dt><dd>{escape(text)}</dd>" in section for name, text in descriptions.items())
    assert section.count("<dt>") == len(descriptions) and ">evaluate × 2</text>" in section


def test_files_for_dvc(reported):
    """Weighted accuracy in percent agrees with the page; every training curve has its file."""
    folder, _ = reported
    rows = json.loads((folder / "reports/metrics.json").read_text())
    summary = json.loads((folder / "reports/summary.json").read_text())
    tuned = result_tables.scores(rows, corpus="msp", split="test", threshold="tuned")
    assert summary["msp"]["calm"]["both"] == round(100 * tuned[result_tables.Key("calm", "small", "both")]["weighted_accuracy"].mean, 2)
    assert set(summary) == {"mosei", "msp"} and summary["mosei"]["chance"] == {"none": 50.0}
    curves = {path.relative_to(folder / "reports/curves").as_posix() for path in (folder / "reports/curves").rglob("*.csv")}
    heads = {f"heads/{corpus}-small/{name}-both.csv" for corpus in ("mosei", "msp") for name in ("calm", "no_pretraining_frozen")}
    assert {"calp/small.csv", "pretraining/small.csv"} | heads <= curves and len(curves) == 2 + 2 * 12
    assert len((folder / "reports/classes.csv").read_text().splitlines()) == 1 + 3 * (6 + 4)
