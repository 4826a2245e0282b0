"""MLflow's registry: what a version serves, and when the alias moves."""

import base64
import contextlib
import getpass
import json
import socket
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from calm.audio.decoding import read_audio
from calm.cli import app
from calm.inference.loading import load_classifier
from calm.inference.onnx_classifier import Compiled
from pipeline import paths
from pipeline.execution import workers
from pipeline.tracking import registry


def decisions(right: list[bool], speakers: int = 10) -> pd.DataFrame:
    """One class, present in every second pair of utterances, and decided correctly where `right` is true."""
    targets = [number // 2 % 2 == 0 for number in range(len(right))]
    return pd.DataFrame(
        {
            "id": [f"u{number}" for number in range(len(right))],
            "speaker": [f"s{number % speakers}" for number in range(len(right))],
            "targets": [[target] for target in targets],
            "decided": [[target == is_right] for target, is_right in zip(targets, right, strict=True)],
        }
    )


def test_only_a_significantly_better_model_becomes_the_champion():
    half, most, little_more = [True, False] * 20, [True] * 38 + [False] * 2, [True] * 21 + [False] * 19
    assert registry.compare(decisions(most), decisions(half), 500, 1)[0]
    assert not registry.compare(decisions(half), decisions(most), 500, 1)[0]
    better, reason = registry.compare(decisions(little_more), decisions(half), 500, 1)
    assert not better and "on 40 validation utterances" in reason
    assert not registry.compare(decisions(half), decisions(half), 500, 1)[0]
    alone = decisions([True])  # a positive and no negative
    assert registry.compare(alone, alone, 500, 1)[1].startswith("weighted accuracy is not defined on their validation utterances")


def test_a_champion_stays_where_nothing_can_be_compared():
    """On other utterances, were they only fewer, and on other labels."""
    best, worst = decisions([True] * 40), decisions([False] * 40)
    assert registry.compare(best, worst, 100, 1)[0]
    for new, reason in (
        (best.assign(id=[f"v{number}" for number in range(40)]), "decided on other utterances: 0 of 40 are the same"),
        (best.head(30), "decided on other utterances: 30 of 30 are the same"),
        (best.assign(targets=[[not target] for (target,) in best["targets"]]), "decided on other labels"),
    ):
        better, said = registry.compare(new, worst, 100, 1)
        assert not better and reason in said


def test_decisions_are_pseudonymous(tmp_path, monkeypatch):
    """Equal ids stay equal, others cannot tell whose they are."""
    monkeypatch.chdir(tmp_path)
    new = decisions([True, False] * 5)
    first, second = registry.pseudonymous(new), registry.pseudonymous(new)
    assert first.equals(second) and first["id"].nunique() == 10 and first["speaker"].nunique() == 10
    assert not set(first["id"]) & set(new["id"]) and paths.registry_key().stat().st_mode & 0o77 == 0
    paths.registry_key().unlink()
    assert not set(registry.pseudonymous(new)["id"]) & set(first["id"])


@pytest.fixture
def champion(rebuilt):
    import mlflow

    uri = f"sqlite:///{rebuilt.folder}/mlflow.db"
    folder = registry.fetch("models:/calm-msp@champion", uri)
    mlflow.set_tracking_uri(uri)
    return folder, mlflow.pyfunc.load_model(str(folder))


def test_the_champion_gives_the_probabilities_of_its_stage(rebuilt, champion):
    """Probabilities of the registered model, from files and texts, against the logits that the stage `head` wrote."""
    folder, model = champion
    classifier = load_classifier(rebuilt.folder / "data/models/msp/small")
    assert model.predict(registry.example())["decided"].tolist() == ["no speech"]  # a tone
    inside = registry.released_model("models:/calm-msp@champion", f"sqlite:///{rebuilt.folder}/mlflow.db")
    assert (inside / "config.json").is_file()
    released = rebuilt.folder / "data/models/msp/small"
    head = json.loads((released / "release.json").read_text())
    logits = pd.read_parquet(rebuilt.folder / "data/heads/msp/small/logits.parquet")
    for key, value in head.items():
        logits = logits[logits[key] == value]
    assert set(logits["split"]) == {"validation", "test"}
    utterances = pd.read_parquet(rebuilt.folder / "data/utterances/msp/utterances.parquet").set_index("id")
    texts = pd.read_parquet(rebuilt.folder / "data/texts/msp/texts.parquet").set_index("id")["text"]
    logits = logits.head(6)
    files = [rebuilt.folder / utterances.loc[id, "audio"] for id in logits["id"]]
    rows = {"audio": [base64.b64encode(file.read_bytes()).decode() for file in files], "text": texts[logits["id"]].tolist()}
    answers = model.predict(pd.DataFrame(rows))
    probabilities = answers[classifier.classes]
    expected = 1 / (1 + np.exp(-np.stack(logits["logits"].to_list())))
    np.testing.assert_allclose(probabilities.to_numpy(), expected, atol=2e-3)  # tokens of the stage are rounded to float16
    clips = [read_audio(file, sample_rate=classifier.sample_rate) for file in files]
    assert isinstance(classifier, Compiled)  # as in `calm predict`
    np.testing.assert_allclose(classifier(clips, rows["text"]), probabilities.to_numpy(), atol=1e-6)
    assert list(answers) == [*classifier.classes, "decided", "decision"] and set(answers["decision"]) == {"tuned"}
    decided = [", ".join(classifier.decided(row)) for row in probabilities.to_numpy()]
    assert answers["decided"].tolist() == decided and any(decided)
    raw = files[0].read_bytes()
    for audio in (raw, base64.encodebytes(raw).decode(), "data:audio/wav;base64," + base64.b64encode(raw).decode()):
        answer = model.predict(pd.DataFrame({"audio": [audio], "text": rows["text"][:1]}))
        assert answer[classifier.classes].to_numpy() == pytest.approx(probabilities.to_numpy()[:1], abs=1e-6)
    with pytest.raises(Exception, match="there is no column audio_b64: the columns are audio, text, speaker"):
        model.predict(pd.DataFrame({"audio_b64": [raw], "text": ["hello"]}))


def test_a_released_model_says_nothing_of_its_makers(rebuilt, champion):
    """No place on this machine, no user, no speaker and no utterance of validation, in no file of a version or of a released folder."""
    utterances = pd.read_parquet(rebuilt.folder / "data/utterances/msp/utterances.parquet")
    private = {*utterances["id"], f"{tempfile.gettempdir()}/", str(Path.home()), f"/{getpass.getuser()}/"}  # speakers are numbers here
    for folder in (champion[0], rebuilt.folder / "data/models/msp/small"):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert {"model.onnx", "README.md", "config.json"} <= {file.name for file in files}
        for file in files:
            content = file.read_bytes()
            assert not [text for text in private if text.encode() in content], file
            assert file.suffix != ".parquet"


@contextlib.contextmanager
def serving(project, model: str):
    """Address of `mlflow models serve`, started as docs/flows.md says; its processes end with the body."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ("mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port))
    log = (project.folder / "serve.log").open("w+")
    server = project.start("env", f"MLFLOW_TRACKING_URI=sqlite:///{project.folder}/mlflow.db", *command, output=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < deadline, (project.folder / "serve.log").read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/ping").is_success:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 10)
        server.wait()
        log.close()


def test_a_server_gives_the_probabilities_of_calm_predict(rebuilt, monkeypatch, request):
    """Base64 audio with text, audio alone and text alone, in one request; and requests that cannot be used."""
    monkeypatch.chdir(rebuilt.folder)
    before = torch.get_num_threads()
    torch.set_num_threads(workers.cores())  # as a separate process has
    request.addfinalizer(lambda: torch.set_num_threads(before))
    files = pd.read_parquet("data/utterances/msp/utterances.parquet")["audio"].head(2).tolist()
    texts = ["i am so glad to see you", "leave me alone"]

    def predict(*arguments: str) -> list[dict]:
        result = CliRunner().invoke(app, ["predict", *arguments, "--model", "data/models/msp/small", "--json"])
        found = json.loads(result.stdout)["rows"]
        return [row["probabilities"] | {"decided": ", ".join(row["decided"]), "decision": row["decision"]} for row in found]

    classes = load_classifier(Path("data/models/msp/small")).classes
    expected = predict(*files, "--text", texts[0], "--text", texts[1]) + predict(files[0]) + predict("--text", texts[1])
    first, second = (base64.b64encode((rebuilt.folder / file).read_bytes()).decode() for file in files)
    rows = [[first, texts[0]], [second, texts[1]], [first, None], [None, texts[1]]]
    soundfile.write("long.wav", np.full(31 * 8000, 0.1), 8000)
    soundfile.write("silence.wav", np.zeros(16000), 16000)
    long = base64.b64encode((rebuilt.folder / "long.wav").read_bytes()).decode()
    faults = {
        "row 0: audio is not in base64": ["clip.wav", None],
        "row 0: its audio cannot be read as audio": [base64.b64encode(b"no audio").decode(), None],
        "row 0: its audio is longer than 30 s": [long, None],
        "row 0 has neither audio nor text": [None, None],
        "row 0: speaker is int, and must be a string": [None, texts[0], 7],
    }
    with serving(rebuilt, "models:/calm-msp@champion") as address:

        def ask(*rows: list) -> httpx.Response:
            columns = ["audio", "text", "speaker"][: len(rows[0])]
            return httpx.post(address, json={"dataframe_split": {"columns": columns, "data": list(rows)}}, timeout=60)

        answers = ask(*rows).raise_for_status().json()["predictions"]
        refused = {message: ask(row) for message, row in faults.items()}
        silence = base64.b64encode((rebuilt.folder / "silence.wav").read_bytes()).decode()
        known = ask([first, texts[0], "anna"], [second, None, "anna"], [second, texts[1], None]).raise_for_status().json()["predictions"]
        silent, _ = ask([silence, texts[0]], rows[0]).raise_for_status().json()["predictions"]
        (text_alone,) = httpx.post(address, json={"dataframe_records": [{"text": texts[1]}]}, timeout=60).json()["predictions"]
    assert [list(answer) for answer in answers] == [list(row) for row in expected]
    for answer, row in zip([*answers, text_alone], [*expected, expected[3]], strict=True):
        for name, value in row.items():
            assert answer[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-6)), name
    assert abs(answers[0]["happy"] - answers[2]["happy"]) > 1e-4  # the text is heard
    of_anna = predict(files[0], "--text", texts[0], "--speaker", files[0], "--speaker", files[1])
    for name, value in of_anna[0].items():
        assert known[0][name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-6)), name
    assert abs(known[0]["happy"] - answers[0]["happy"]) > 1e-5  # the speaker is known
    assert known[2] == answers[1]
    for message, answer in refused.items():
        assert answer.status_code == 400 and message in answer.text and "Traceback" not in answer.text, answer.text
    assert silent == dict.fromkeys(classes, None) | {"decided": "no speech", "decision": "no speech"}


def test_a_missing_model_is_named(rebuilt):
    with pytest.raises(ValueError, match=r"models:/calm-nothing@champion is not in MLflow's registry .* the stage `release`"):
        registry.fetch("models:/calm-nothing@champion", f"sqlite:///{rebuilt.folder}/mlflow.db")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a released model"):
        load_classifier(tmp_path)
