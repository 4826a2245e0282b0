"""The `calm` command, as it is typed."""

import gc
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from made_model import CLASSES, release, speech
from typer.testing import CliRunner

from calm.audio import packaged
from calm.audio.decoding import read_audio
from calm.cli import app
from calm.corpora import FORMATS
from calm.inference.torch_classifier import Predictor
from calm.tools import console, doctor, inspection, needs

CORPORA = os.environ.get("CALM_CORPORA")


def calm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """A table of so few rows that only its counts are of interest."""
    monkeypatch.setattr(inspection, "unfit", lambda corpus: [])
    soundfile.write(tmp_path / "a.wav", np.full(32000, 0.1), 16000)
    rows = ["a.wav,0,1,hello,s1,train,x", "a.wav,1,2,,s2,test,y", "gone.wav,0,1,,s1,train,x", "gone.wav,1,2,,s1,train,x"]
    (tmp_path / "mine.csv").write_text("\n".join(["audio,start,end,text,speaker,split,labels", *rows]))
    return tmp_path / "mine.csv"


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(needs, "SECONDS", 0.05)


def test_faults_are_named_and_the_exit_code_tells_of_them(manifest, tmp_path):
    done = calm("corpus", "check", manifest, "--format", "manifest", "--faults", tmp_path / "faults.jsonl")
    assert done.exit_code == 1, done.output
    assert "2 of 4 rows can be used" in done.output and "FAULT missing audio: 2 rows" in done.output and "gone[0-1]: " in done.output
    assert "to be transcribed: 1 rows" in done.output and "ingest would refuse it: 2 of 4 rows (50.0%) cannot be used" in done.output
    listed = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in listed] == [("gone[0-1]", "missing audio"), ("gone[1-2]", "missing audio")]


def test_the_result_for_programs(manifest):
    """Each row is 1 s: 1 + (16000 - 400) // 160 = 98 frames of 64 values, and 1 + (98 - 50) // 30 = 2 blocks of 768; in 2 bytes each."""
    result = json.loads(calm("corpus", "check", manifest, "--format", "manifest", "--json").output)
    assert (result["read"], result["kept"], result["to_transcribe"]["rows"]) == (4, 2, 1)
    assert result["faults"]["missing audio"]["rows"] == 2 and result["splits"]["train"]["labels"]["x"] == 1
    stages = {stage["stage"]: stage for stage in result["needs"]["stages"]}
    assert list(stages) == ["features", "encoder states", "transcription", "acoustic tokens", "training"]
    assert stages["features"]["megabytes"] == 0.025 and stages["acoustic tokens"]["megabytes"] == 0.006
    assert stages["transcription"]["how"].startswith("1 windows") and "CALP, 2 blocks" in stages["training"]["how"]
    assert result["needs"]["megabytes"] == pytest.approx(2 * 0.031) and result["needs"]["enough"]
    assert min(stages[name]["seconds"] for name in ("features", "acoustic tokens", "training")) > 0


@pytest.fixture
def measured(monkeypatch):
    """A machine of 10 blocks/s in training and 100 without gradients."""
    monkeypatch.setattr(needs, "block_rates", lambda: (10.0, 100.0))


@pytest.fixture
def without_whisper(monkeypatch):
    monkeypatch.setattr(packaged, "WEIGHTS", {})


@pytest.mark.usefixtures("measured", "without_whisper")
def test_seconds_are_those_measured_times_the_amount(manifest):
    """The two rows have 4 blocks; an epoch is the pair of the one row of the training split."""
    result = json.loads(calm("corpus", "check", manifest, "--format", "manifest", "--json").output)
    stages = {stage["stage"]: stage for stage in result["needs"]["stages"]}
    assert stages["acoustic tokens"]["seconds"] == pytest.approx(0.04) and stages["training"]["seconds"] == pytest.approx(0.2)
    states = stages["encoder states"]  # 49 frames of each of two rows: 384 channels, 2 bytes
    assert (states["seconds"], states["megabytes"]) == (None, None) and "only with features.encoder: 0.077 MB a layer" in states["how"]
    assert stages["transcription"]["seconds"] is None and "not installed" in stages["transcription"]["how"]


@pytest.mark.usefixtures("measured", "without_whisper")
def test_too_little_disk_is_a_fault(manifest, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "gone.wav", np.full(32000, 0.1), 16000)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda folder: SimpleNamespace(free=60_000))
    done = calm("corpus", "check", manifest, "--format", "manifest")
    assert done.exit_code == 1 and "FAULT not enough disk: 0.1 MB" in done.output and "4 of 4 rows" in done.output


@pytest.mark.usefixtures("measured", "without_whisper")
def test_long_recordings_are_faults_only_where_they_are_not_cut(tmp_path):
    """130 s without a text are cut to pieces of 20 s, 7 windows for Whisper; with a text they are too long."""
    soundfile.write(tmp_path / "a.wav", np.full(130 * 8000, 0.1), 8000)
    soundfile.write(tmp_path / "b.wav", np.full(130 * 8000, 0.1), 8000)
    (tmp_path / "mine.csv").write_text("audio,text,speaker,split\na.wav,,s1,train\nb.wav,hello,s2,train\n")
    result = json.loads(calm("corpus", "check", tmp_path / "mine.csv", "--format", "manifest", "--json").output)
    assert result["to_cut"] == {"rows": 1, "hours": 0.036} and result["faults"]["too long"]["rows"] == 1
    assert result["absent_columns"] == ["text", "labels"] and result["needs"]["stages"][2]["how"].startswith("7 windows")


@pytest.mark.usefixtures("measured", "without_whisper")
def test_parts_of_the_layout_that_are_not_there(tmp_path):
    """Of MSP-Podcast only what it cannot be read without; a clip that no row names."""
    for name in ("Audios", "labels"):
        (tmp_path / name).mkdir()
    for name in ("a.wav", "b.wav", "spare.wav"):
        soundfile.write(tmp_path / "Audios" / name, np.full(16000, 0.1), 16000)
    rows = ["a.wav,A,4,4,4,1,Male,Train", "b.wav,H,4,4,4,2,Female,Test1"]
    head = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    (tmp_path / "labels/labels_concensus.csv").write_text("\n".join([head, *rows]))
    result = json.loads(calm("corpus", "check", tmp_path, "--format", "msp", "--json").output)
    absent = {part["name"]: part["required"] for part in result["missing"]}
    assert absent == dict.fromkeys(["Labels/labels.txt", "Transcripts", "Partitions.txt", "Speaker_ids.txt"], False)
    assert result["unused_audio"] == {"files": 1, "first": [str(tmp_path / "Audios/spare.wav")]} and not result["faults"]


def test_required_parts_are_all_named(tmp_path):
    """The reader stops at the first; a person wants the list."""
    (tmp_path / "Raw/Audio/Full/WAV_16000").mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train_videos.txt").write_text("v1\n")
    done = calm("corpus", "check", tmp_path, "--format", "mosei", "--option", "folds=lists")
    named = [line.split()[1] for line in done.output.splitlines() if "MISSING" in line]
    expected = ["CMU_MOSEI_Labels.csd", "Raw/Transcript/Segmented/Combined", "lists/valid_videos.txt", "lists/test_videos.txt"]
    assert done.exit_code == 2 and named == expected


def test_help_loads_no_heavy_library():
    heavy = {"torch", "transformers", "scipy", "numpy", "pandas", "pyarrow"}
    code = f"import sys, calm.cli; sys.exit(str({heavy} & set(sys.modules) or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stderr.strip() == b""


def test_a_model_in_use_loads_nothing_for_nothing():
    unused = {"pandas", "sklearn", "matplotlib", "mlflow", "datasets", "torchvision"}
    modules = "calm.inference.recordings, calm.inference.loading, calm.inference.onnx_classifier"
    code = f"import sys, {modules}; sys.exit(str({unused} & set(sys.modules) or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stderr.strip() == b""


def test_help_names_the_formats_and_gives_examples():
    shown = " ".join(calm("corpus", "check", "--help").output.replace("│", " ").split())
    assert all(re.search(rf"\b{format}\b", shown) for format in FORMATS)
    for name in ("predict", "timeline", "embed", "search", "app", "doctor"):
        assert f"calm {name}" in calm(name, "--help").output


@pytest.mark.usefixtures("measured", "without_whisper")
def test_no_fault_no_exit_code(tmp_path, manifest):
    soundfile.write(tmp_path / "gone.wav", np.full(32000, 0.1), 16000)
    done = calm("corpus", "check", manifest, "--format", "manifest", "--option", 'classes=["x", "y"]')
    assert done.exit_code == 0 and "4 of 4 rows" in done.output


@pytest.mark.usefixtures("measured", "without_whisper")
def test_what_cannot_be_trained_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(32000, 0.1), 16000)
    (tmp_path / "mine.csv").write_text("audio,emotion,text\na.wav,x,hello\n")
    done = calm("corpus", "check", tmp_path / "mine.csv", "--format", "manifest")
    assert done.exit_code == 2 and "NOT FOR TRAINING: the table has a column 'emotion' and none called 'labels': rename it" in done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "--format", "mosei"], "nowhere is missing"),
        (["mine.csv", "--format", "tapes"], "There is no corpus format 'tapes': choose one of mosei"),
        (["mine.csv", "--format", "msp"], "mine.csv"),
        (["mine.csv", "--format", "manifest", "--option", "tset=1"], "has no option 'tset'"),
        (["mine.csv", "--format", "manifest", "--option", "seed"], "is not NAME=VALUE"),
    ],
)
def test_a_corpus_that_cannot_be_used(manifest, monkeypatch, arguments, expected):
    monkeypatch.chdir(manifest.parent)
    done = calm("corpus", "check", *arguments)
    assert done.exit_code == 2 and expected in " ".join(done.output.split())


@pytest.mark.usefixtures("measured")
@pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")
def test_real_speech():
    result = json.loads(calm("corpus", "check", Path(CORPORA) / "ravdess", "--format", "ravdess", "--json").stdout)
    assert (result["kept"], result["faults"], result["splits"]["test"]["speakers"]) == (1200, {}, 4)


# A model in use

real = pytest.mark.skipif(not CORPORA, reason="CALM_CORPORA is not set: no real speech")


@pytest.fixture
def clip():
    return Path(CORPORA, "ravdess", "Actor_03", "03-01-01-01-01-01-03.flac")


def test_predict_from_text_alone(released):
    done = calm("predict", "--model", released, "--text", "hello there", "--text", "go away", "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 0 and "gets no audio" in done.stderr and result["classes"] == CLASSES and not result["synthetic"]
    assert [row["text"] for row in result["rows"]] == ["hello there", "go away"] and list(result["rows"][0]["probabilities"]) == CLASSES
    assert len(calm("predict", "--model", released, "--text", "hello there").stdout.splitlines()) == 1 and gc.isenabled()


@real
def test_predict_goes_on_after_a_file_that_cannot_be_read(released, clip, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    done = calm("predict", tmp_path / "gone.wav", tmp_path / "silence.wav", clip, "--model", released)
    lines = done.stdout.splitlines()
    assert done.exit_code == 1 and f"missing audio: {tmp_path / 'gone.wav'}" in done.stderr
    assert (
        lines[0] == f"{tmp_path / 'silence.wav'}: no speech"
        and lines[1].startswith(f"{clip} 0.00-")
        and all(n in lines[1] for n in CLASSES)
    )
    assert calm("predict", clip, "--model", released, "--text", "kids are talking by the door").exit_code == 0


@real
@pytest.mark.skipif(not packaged.packaged("tiny.en"), reason="the package with Whisper tiny.en is not installed")
@pytest.mark.parametrize("command", ["predict", "embed"])
def test_a_name_that_is_not_utf_8_is_written_with_its_bytes_as_escapes(released, clip, tmp_path, command):
    (tmp_path / "clips").mkdir()
    named = os.fsencode(tmp_path / "clips") + b"/caf\xe9.wav"
    Path(os.fsdecode(named)).write_bytes(Path(clip).read_bytes())
    done = calm(command, tmp_path / "clips", "--model", released, "-o", tmp_path / "out.parquet")
    assert done.exit_code == 0, done.output
    assert pd.read_parquet(tmp_path / "out.parquet")["file"].str.endswith("caf\\udce9.wav").all()


def test_predict_transcribes(released, clip):
    (row,) = json.loads(calm("predict", clip, "--model", released, "--transcribe", "--json").stdout)["rows"]
    (expected,) = json.loads(calm("predict", clip, "--model", released, "--text", row["text"], "--json").stdout)["rows"]
    assert row["text"].startswith("Kids are talking") and row["probabilities"] == pytest.approx(expected["probabilities"])


@real
@pytest.mark.parametrize("with_graph", [False, True])
def test_a_speaker_is_known_by_recordings(clip, tmp_path, with_graph):
    """By the graph as by torch; silence alone tells nothing, and a model that normalises by utterance says so."""
    model = release(tmp_path / "model", "audio", with_graph, {"modality": "audio"})
    known = calm("predict", clip, "--model", model, "--speaker", clip, "--json")
    new = calm("predict", clip, "--model", model, "--json")
    answers = [list(json.loads(done.stdout)["rows"][0]["probabilities"].values()) for done in (known, new)]
    predictor = Predictor(model)
    samples = read_audio(clip, sample_rate=16000)
    assert answers[0] == pytest.approx(predictor.for_speaker([samples])([samples], None)[0].tolist(), abs=1e-5)
    assert np.abs(np.subtract(*answers)).max() > 1e-4 and answers[1] == pytest.approx(predictor([samples], None)[0].tolist(), abs=1e-5)
    assert json.loads(known.stdout)["speaker_seconds"] == round(len(samples) / 16000, 1) and "speaker_seconds" not in json.loads(new.stdout)
    assert "the speaker is known by" in calm("predict", clip, "--model", model, "--speaker", clip).stderr
    line = calm("timeline", clip, "--model", model, "--speaker", clip, "-o", tmp_path / "out.csv")
    assert line.exit_code == 0 and "the speaker is known by" in line.stdout
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    silent = calm("predict", clip, "--model", model, "--speaker", tmp_path / "silence.wav")
    assert silent.exit_code == 2 and "nobody speaks in the speaker's recordings" in silent.stderr
    other = calm("predict", clip, "--model", release(tmp_path / "other", "audio", normalise="utterance"), "--speaker", clip)
    assert other.exit_code == 2 and "normalises every utterance by its own frames" in other.stderr


@real
def test_timeline_writes_a_table_and_a_picture(released, clip, tmp_path):
    done = calm("timeline", clip, "--model", released, "-o", tmp_path / "out.csv", "--picture", tmp_path / "out.png", "--json")
    table = pd.read_csv(tmp_path / "out.csv")
    assert done.exit_code == 0 and json.loads(done.stdout)["rows"] == len(table) and list(table) == ["time", "start", "end", *CLASSES]
    assert table["time"][0] == 0.25 and table["end"][0] == 1.7 and table[CLASSES].notna().all(axis=None)
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


@real
def test_embed_writes_vectors(released, clip, tmp_path):
    done = calm(
        "embed", clip, tmp_path / "gone.wav", "--model", released, "-o", tmp_path / "out.parquet", "--text", "kids", "--text", "none"
    )
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert done.exit_code == 1 and "missing audio" in done.stderr and done.stdout.endswith("2 rows, 1 files not read\n")
    assert table["blocks"][0][0].shape == table["text_vector"][0].shape == (64,) and table["utterance"][0].shape == (320,)
    assert table["fault"][1].startswith("missing audio") and table["utterance"][1] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "--model", "MODEL"], "neither files nor --text"),
        (["predict", "a.wav", "--model", "nowhere", "--text", "x"], "nowhere is no released model: give --model a folder or an archive"),
        (["predict", "a.wav", "b.wav", "--model", "MODEL", "--text", "x"], "2 files and 1 texts"),
        (["predict", "a.wav", "--model", "MODEL", "--text", "x", "--transcribe"], "leave one of them out"),
        (["predict", "a.wav", "--model", "MODEL", "--device", "abacus"], "--device abacus: "),
        (["predict", "a.wav", "--model", "MODEL", "--transcribe", "--whisper", "nowhere.pt"], "'nowhere.pt' is not a folder"),
        (["timeline", "a.wav", "--model", "MODEL", "-o", "gone/a.csv"], "gone does not exist: make the folder first"),
        (["timeline", "a.wav", "--model", "MODEL", "-o", "a.csv"], "missing audio: a.wav"),
        (["timeline", "a.wav", "--model", "MODEL", "-o", "a.csv", "--window", "0.1"], "shorter than one block"),
        (["timeline", "a.wav", "--model", "MODEL", "-o", "a.csv", "--picture", "a.doc"], "a.doc: the extension of a picture"),
    ],
)
def test_nothing_is_done_where_the_options_are_wrong(released, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "timeline" and "--window" in arguments:
        soundfile.write("a.wav", speech(1), 16000)
    done = calm(*[str(released) if argument == "MODEL" else argument for argument in arguments])
    assert done.exit_code == 2 and says in done.stderr and not (tmp_path / "a.csv").exists(), done.output


@pytest.mark.parametrize(("modality", "says"), [("text", "give --text or --transcribe"), ("audio", "name audio files")])
def test_a_model_of_one_modality(tmp_path, modality, says):
    inputs = ["a.wav"] if modality == "text" else ["--text", "hello"]
    done = calm("predict", *inputs, "--model", release(tmp_path, modality))
    assert done.exit_code == 2 and says in done.stderr


def test_doctor_finds_what_this_environment_has(monkeypatch, tmp_path):
    """What tests run in has every package; a database that is there answers, a port that nobody listens on does not."""
    sqlite3.connect(tmp_path / "runs.db").close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@127.0.0.1:9/api")
    done = calm("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert [name for name, finding in findings.items() if finding["fault"]] == ["Prefect"] and done.exit_code == 1
    assert findings["MLflow"]["state"].endswith("answers") and "secret" not in findings["Prefect"]["state"]
    assert "as published" in findings["MiniLM"]["state"] and findings["torch"]["state"] == metadata.version("torch")


def test_doctor_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy>=9000", "no-such-thing>=1", 'no-such-test; extra == "test"'])
    monkeypatch.setattr(doctor, "weights", lambda: iter([]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = calm("doctor")
    faults = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAULT")]
    assert faults == ["numpy", "no-such-thing"] and "pip install 'no-such-thing>=1'" in done.stdout and done.exit_code == 1


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("sqlite:///FOLDER/new.db", ""),
        ("sqlite:///FOLDER/no/new.db", "does not exist"),
        ("sqlite:///FOLDER/text", "not a database"),
        ("ftp:", "neither"),
    ],
)
def test_databases_in_files(tmp_path, address, fault):
    (tmp_path / "text").write_text("this is no database, however long it goes on for")
    result = doctor.unanswered(address.replace("FOLDER", str(tmp_path)), "/health")
    assert fault in result and bool(fault) == bool(result)


@pytest.mark.parametrize(("status", "fault"), [(200, ""), (500, "500")])
def test_servers(status, fault):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        result = doctor.unanswered(f"http://127.0.0.1:{server.server_port}/api", "/health")
    assert fault in result and bool(fault) == bool(result)


def test_names_do_not_command_the_terminal(capsys):
    console.say("a\x1b[2J\x07.wav:\t\x9b1m\nno speech", err=True)
    assert capsys.readouterr().err == "a\\x1b[2J\\x07.wav:\t\\x9b1m\nno speech\n"
