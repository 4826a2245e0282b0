"""docs/notebook.ipynb runs from top to bottom, and is stored without outputs."""

import json
import shutil
from pathlib import Path

import matplotlib
import pandas as pd
import soundfile
from made_model import CLASSES, release, speech

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def test_from_a_folder_of_clips_to_a_plot(tmp_path, monkeypatch, capsys):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    release(Path("data/models/msp/small"), modality="audio")
    Path("clips/more").mkdir(parents=True)
    for number in (3, 4, 5):  # voices that are heard as speech
        soundfile.write(f"clips/clip-{number}.wav", speech(1.5, number), 16000)
    shutil.move("clips/clip-5.wav", "clips/more/clip-5.wav")
    Path("clips/torn.wav").write_bytes(b"RIFF")
    Path("clips/readme.txt").write_text("no audio")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    names = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), f"notebook, {cell['id']}", "exec"), names)
    matplotlib.pyplot.close("all")
    said = capsys.readouterr().out
    assert "heard: 3 clips, in 3 pieces" in said and "torn.wav: " in said and "readme" not in said
    table = pd.read_parquet("clips.parquet")
    assert set(CLASSES) <= set(table) and len(table) == 3 and Path("clips.png").stat().st_size > 5000
