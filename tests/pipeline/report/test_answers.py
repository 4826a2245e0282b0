"""What one head answered: confusions, the order by how wrong, room for sound; and files that spreadsheets open."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline import paths
from pipeline.report import answers
from pipeline.report.answers_section import matrix
from pipeline.report.result_tables import Key
from pipeline.report.sounds import Sounds, both_ends
from pipeline.report.table import Table

KEY = Key("calm", "small", "audio")
ONE = [(["x"], ["x"], [0.9, 0.1]), (["x"], ["y"], [0.2, 0.8]), (["y"], ["x"], [0.6, 0.4]), (["y"], ["y"], [0.3, 0.7])]
SEVERAL = [(["x", "y"], ["x"], [0.9, 0.4]), ([], ["y"], [0.2, 0.8]), (["y"], ["y"], [0.3, 0.7])]


def answered(folder, monkeypatch, rows, decision="tuned"):
    """Answers from rows of labels, answer and probabilities of the classes x and y."""
    monkeypatch.chdir(folder)
    place = {"split": "test", "speaker": "s", "variant": "calm", "lm": "small", "modality": "audio", "seed": 1}
    names = ("labels", "decided_tuned", "probabilities")
    table = [{"id": f"u{number}", **place, **dict(zip(names, row, strict=True))} for number, row in enumerate(rows)]
    paths.evaluation("c").mkdir(parents=True)
    stored = pa.Table.from_pylist(table).replace_schema_metadata({"classes": "x\ny"})
    pq.write_table(stored, paths.evaluation("c") / "predictions.parquet")
    return answers.read("c", KEY, 1, decision)


def test_one_class_each(tmp_path, monkeypatch):
    found = answered(tmp_path, monkeypatch, ONE)
    assert found.one_hot and list(found.table["id"]) == ["u1", "u2", "u3", "u0"]
    assert found.table["probability"].tolist() == pytest.approx([0.2, 0.4, 0.7, 0.9])
    assert answers.confusion(found).to_dict("split")["data"] == [[1, 1], [1, 1]]
    assert answers.read("c", KEY, 2, "tuned") is None and answers.read("c", KEY, 1, "argmax") is None


def test_several_classes_or_none(tmp_path, monkeypatch):
    found = answered(tmp_path, monkeypatch, SEVERAL)
    assert not found.one_hot and list(found.table["id"]) == ["u1", "u0", "u2"]
    assert found.table["probability"].tolist() == pytest.approx([(0.8 + 0.2) / 2, (0.9 + 0.4) / 2, 0.7])
    counts = answers.confusion(found)
    assert list(counts) == ["x", "y", "none of them"] and counts.to_numpy().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_the_matrix_says_where_utterances_count_more_than_once(tmp_path, monkeypatch):
    """Also where each has one class, but some are answered with two."""
    for number, (rows, several) in enumerate([(ONE, False), (SEVERAL, True), ([*ONE[1:], (["x"], ["x", "y"], [0.9, 0.8])], True)]):
        (tmp_path / str(number)).mkdir()
        found = answered(tmp_path / str(number), monkeypatch, rows)
        assert found.one_hot == (rows != SEVERAL)
        assert ("counts once for each" in matrix(found, tmp_path)["picture"]["note"]) == several


def test_sound_fits_into_its_room(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.01 * np.sin(np.arange(32000)), 16000)
    row = next(pd.DataFrame({"audio": [str(tmp_path / "a.wav")], "start": [0.0], "end": [2.0]}).itertuples())
    sounds = Sounds(20000)
    first = sounds.of(row, 16000)
    assert first.startswith("data:audio/mpeg;base64,") and sounds.room == 20000 - len(first)
    assert Sounds(len(first) - 1).of(row, 16000) is None
    assert sounds.of(row._replace(audio=str(tmp_path / "none.wav")), 16000) is None
    assert sounds.of(row._replace(end=30.0), 16000) is None
    assert both_ends(5) == [0, 4, 1, 3, 2] and both_ends(4) == [0, 3, 1, 2] and both_ends(0) == []


def test_no_cell_of_a_file_is_a_formula():
    cells = ['=HYPERLINK("x")', "@SUM(1)", "+1+cmd|' /C calc'!A0", "-", "-1.5", "+0.4", "+1.0 to +9.0", "+1.0 to −2.0", "1e-5", "plain"]
    lines = Table("t", "t", ["=name"], [[cell] for cell in cells]).csv().splitlines()
    assert lines[0] == "'=name" and [line.strip('"').startswith("'") for line in lines[1:]] == [True] * 4 + [False] * 6


def test_numbers_of_a_file_are_read_by_programs():
    """A label that looks like one stays as it is, and so does an interval."""
    table = Table(
        "t", "t", ["label", "difference", "size", "interval"], [["1,000", "−0.3", "1,234,567", "−1.0 to +2.0"], ["b", "+5.0", "7", "1,2"]]
    )
    assert table.csv().splitlines()[1:] == ['"1,000",-0.3,1234567,−1.0 to +2.0', 'b,+5.0,7,"1,2"']
