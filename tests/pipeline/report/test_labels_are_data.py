"""Labels that a browser, a spreadsheet or a figure would run are text, wherever the report writes them."""

import csv
import json
import shutil
from pathlib import Path

from sample_report import write_stage_outputs

from pipeline.report.table import Score, Table
from pipeline.settings import load
from pipeline.stages import report

REPOSITORY = Path(__file__).parents[3]
HOSTILE = {"happy": "<img src=x onerror=alert(1)>", "fear": r"a$\foo$b", "sad": '=HYPERLINK("http://x")'}


def replaced(value: object) -> object:
    """JSON with hostile labels in place of some classes."""
    if isinstance(value, dict):
        return {HOSTILE.get(key, key): replaced(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item) for item in value]
    if not isinstance(value, str):
        return value
    metric, slash, label = value.rpartition("/")  # weighted_accuracy/happy
    return f"{metric}{slash}{HOSTILE.get(label, label)}"


def test_hostile_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "recipes/demo.yaml", "params.yaml")
    shutil.copy(REPOSITORY / "dvc.yaml", "dvc.yaml")
    write_stage_outputs(tmp_path, settings := load())
    for file in Path("data").rglob("*.json"):
        file.write_text(json.dumps(replaced(json.loads(file.read_text()))))
    report.run(settings)
    page = Path("reports/index.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x" in page and r"a$\foo$b" in page
    cells = [cell for file in Path("reports").rglob("*.csv") for row in csv.reader(file.open(encoding="utf-8")) for cell in row]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells) and not any(cell.startswith("=") for cell in cells)


def test_cells_of_tables():
    table = Table("a", "A", ["name|", "=x"], [["@SUM(1)\n| b |<script>", Score(-0.5, None, 1)], ["-2", None]])
    assert list(csv.reader(table.csv().splitlines(keepends=True)))[1:] == [["'@SUM(1)\n| b |<script>", "-0.5", ""], ["-2", "", ""]]
    assert table.csv().splitlines()[0] == "name|,'=x,'=x std"
    assert r"| @SUM(1) \| b \|&lt;script> |" in table.markdown() and r"| name\| |" in table.markdown()
