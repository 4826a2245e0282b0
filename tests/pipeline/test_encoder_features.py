"""The stage `features` with a speech encoder, and what the stages after it take from its shards."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from calm.audio.decoding import read_audio
from calm.audio.encoder_states import EncoderStates, at_speed
from calm.audio.functionals import PER_CHANNEL
from calm.data.examples import load_examples
from pipeline import factory, feature_extractors, paths
from pipeline.heads import training
from pipeline.heads.conditions import Condition
from pipeline.heads.networks import Networks
from pipeline.settings import HeadRow
from pipeline.stages import features
from pipeline.state import visible
from tests.audio import encoders
from tests.pipeline import made_corpus

SPECTRAN = {"block": 25, "hop": 15, "patch": [5, 64], "stride": [5, 64], "width": 64, "layers": 1, "encoder_layers": "learned_mean"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project of 20 clips with log-mel, two layers of a small HuBERT, and copies at two speeds; computed by one process."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        encoders.folder(folder / "hubert", "hubert")
        section = {"encoder": "hubert", "layers": [1, 3], "speeds": [0.9, 1.1], "shard": 6, "workers": 1}
        head = {"functionals": "thirds", "pooling": "cls_blocks", "modalities": ["audio"], "tuning": ["frozen"], "frozen_epochs": 2}
        models = {"small": {"language_model": "minilm", "layers": 1}}
        settings = made_corpus.make(20, {"made": ("loud", "soft")}, features=section, spectran=SPECTRAN, head=head, models=models)
    return folder, settings


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made[0])


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    rows = [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    return {row["id"]: np.array(row["features"], np.float16).reshape(row["frames"], -1) for row in rows}


def test_states_lie_beside_log_mel_and_copies_are_of_all_utterances(made):
    folder, table = paths.features("made"), pd.read_parquet(paths.segments("made"))
    states, describe = rows_of(folder / "encoder"), EncoderStates.describe("hubert", [1, 3])
    assert list(states) == list(rows_of(folder)) == list(table["id"])
    for row in table.iloc[::6].itertuples():
        np.testing.assert_allclose(states[row.id], describe(read_audio(row.audio, row.start, row.end)), atol=0.01)
    for speed in (0.9, 1.1):
        copies = rows_of(folder / f"encoder/speed-{speed}")
        assert list(copies) == list(table["id"])
        changed = describe(at_speed(read_audio(table["audio"][1], 0, table["end"][1]), 16000, speed))
        np.testing.assert_allclose(copies[table["id"][1]], changed, atol=0.01)
    assert [path.name for path in sorted((folder / "encoder").glob("part-*"))] == [f"part-0000{n}.parquet" for n in range(4)]


def test_the_report_and_the_statistics_name_the_encoder(made):
    folder = paths.features("made")
    report, stats = (json.loads((folder / name).read_text()) for name in ("report.json", "encoder/stats.json"))
    assert report["kinds"] == ["log-mel", "encoder"] and report["kept"] == report["encoder"]["kept"] == 20
    assert (report["encoder"]["name"], report["encoder"]["layers"], report["encoder"]["speeds"]) == ("hubert", [1, 3], [0.9, 1.1])
    rows, table = rows_of(folder / "encoder"), pd.read_parquet(paths.segments("made"))
    assert report["encoder"]["frames"] == sum(map(len, rows.values()))
    heard = np.concatenate([rows[id].astype(np.float64) for id in table.loc[table["split"] == "train", "id"]])
    np.testing.assert_allclose(stats["mean"], heard.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(stats["std"], heard.std(0), rtol=1e-4)
    assert (stats["kind"], stats["encoder"], stats["layers"], stats["channels"], stats["hop"]) == ("encoder", "hubert", [1, 3], 128, 320)
    assert json.loads((folder / "stats.json").read_text())["kind"] == "log-mel"
    assert set(json.loads(paths.measured("features@made").read_text())["seconds_of"]) == {
        "log-mel", "encoder", "encoder/speed-0.9", "encoder/speed-1.1",
    }  # fmt: skip


def test_a_stopped_run_goes_on_and_two_processes_write_the_same_bytes(made, monkeypatch):
    """Stopped in the second shard of the copies; then by two processes."""
    folder, settings = paths.features("made"), made[1]
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    write, written = features._write, []

    def stop(work, number, *rest):
        if work.name == "speed-0.9" and number == 1:
            raise KeyboardInterrupt
        write(work, number, *rest)

    monkeypatch.setattr(features, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        features.compute(settings, "made")
    monkeypatch.setattr(features, "_write", lambda work, number, *rest: (written.append((work.name, number)), write(work, number, *rest)))
    section = settings.features.model_copy(update={"workers": 2})
    features.compute(settings.model_copy(update={"features": section}), "made")
    assert written == [*[("speed-0.9", number) for number in range(1, 4)], *[("speed-1.1", number) for number in range(4)]]
    after = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    assert set(after) == set(before)
    for name, content in before.items():
        assert after[name] == content, name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder": "/no/such"}, "params.yaml: features.encoder '/no/such' is neither a folder"),
        ({"encoder": "hubert", "layers": [9]}, r"params.yaml: features.layers are \[9\]: the encoder has the layers 0 to 3"),
    ],
)
def test_an_encoder_that_cannot_be_had_stops_before_any_work(made, changes, says):
    section = made[1].features.model_copy(update=changes)
    with pytest.raises(ValueError, match=says):
        features.kinds(section)


def test_a_worker_leaves_out_what_it_cannot_hear(tmp_path):
    """Too short for a frame, though not when it is slower; states that float16 cannot hold."""
    states = EncoderStates.describe("hubert", [1])
    worker = features.FeatureWorker(states, None, 0.9)
    file = type("File", (), {"path": "a.wav", "read": lambda *_: encoders.noise(390)})()
    assert worker._samples(file, 0, 1)[0] == "shorter than a frame" and states.frames(len(at_speed(encoders.noise(390), 16000, 0.9))) == 1
    fast = features.FeatureWorker(states, None, 1.1)
    file.read = lambda *_: encoders.noise(410)
    assert fast._samples(file, 0, 1) == ("shorter than a frame", "played at speed 1.1: a.wav, 0.000 to 1.000 s")
    with np.errstate(over="ignore"):
        assert worker._float16(np.full((1, 2), 7e4, np.float32), np.ones(3), "here")[0] == "NaN or infinity"
    assert worker._float16(np.full((1, 2), 6e4, np.float32), np.ones(3), "here").dtype == np.float16


def files() -> dict:
    return {"made": (paths.utterances("made"), paths.texts("made"), paths.frames("made", "encoder"))}


def test_examples_have_copies_where_they_are_asked_for(made):
    """Of every utterance, normalised by the statistics of the utterances themselves."""
    examples = load_examples(files(), 25, 15, copies=True)
    assert not load_examples(files(), 25, 15).copies and sorted(examples.copies) == ["speed-0.9", "speed-1.1"]
    stats = json.loads((paths.frames("made", "encoder") / "stats.json").read_text())
    stored, copies = rows_of(paths.frames("made", "encoder") / "speed-1.1"), examples.copies["speed-1.1"]
    for row, id in enumerate(examples.table["id"]):
        expected = (stored[id].astype(np.float32) - np.float32(stats["mean"])) / np.float32(stats["std"])
        np.testing.assert_allclose(copies.utterances[row], expected, atol=0.01)


def test_heads_learn_from_copies_and_see_functionals(made, tmp_path):
    """After the vectors of all rows come those of each training row at each speed. Functionals are the last of what heads see."""
    settings = visible(made[1], "head", "made")
    networks = Networks(settings, "made", "small", tmp_path)
    condition = Condition("no_pretraining_frozen", HeadRow(start="language_model"), "frozen", "audio")
    vectors, sources = training.represented(networks, condition, [1])
    train = networks.train_rows(condition)
    assert sources.tolist() == [*range(20), *train, *train] and len(vectors) == 20 + 2 * len(train)
    assert condition.functionals(settings.head) == "thirds"
    for first, speed in ((20, "speed-0.9"), (20 + len(train), "speed-1.1")):
        expected = networks.examples.copies[speed].functionals(train, "thirds")
        np.testing.assert_allclose(vectors[first : first + len(train), 0, -128 * PER_CHANNEL["thirds"] :], expected, atol=1e-5)
    of_speakers = Condition("known", HeadRow(start="language_model", normalise="speaker"), "frozen", "audio")
    known = networks.heard(of_speakers)
    assert networks.heard(of_speakers) is known and networks.heard(condition) is networks.examples
    assert not np.array_equal(known.frames.utterances[0], networks.examples.frames.utterances[0])
    own = training.represented(networks, of_speakers, [1])[0][:20, 0, -128 * PER_CHANNEL["thirds"] :]
    np.testing.assert_allclose(own, known.frames.functionals(np.arange(20), "thirds"), atol=1e-5)
    text = Condition("no_pretraining_frozen", HeadRow(start="language_model"), "frozen", "text")
    assert text.functionals(settings.head) is None and len(training.represented(networks, text, [1])[1]) == 20


def test_the_network_has_what_the_layers_need(made, tmp_path):
    """The mean of two layers of width 64; the feature extractor makes the frames that the shards hold."""
    networks = Networks(visible(made[1], "head", "made"), "made", "small", tmp_path)
    network = networks.network(Condition("calm", HeadRow(start="language_model"), "unfrozen", "audio"), 1)
    assert network.config.averaged_layers == 2 and network.config.channels == 128 and network.config.patches == (5, 1)
    assert network.calm.spectran.layer_mean.weights.shape == (2,)
    extractor = feature_extractors.extractor(made[1].for_model("small").spectran, ["made"], functionals="thirds")
    table = pd.read_parquet(paths.segments("made"))
    stored = rows_of(paths.frames("made", "encoder"))[table["id"][0]]
    np.testing.assert_allclose(extractor.frames(read_audio(table["audio"][0])), stored, atol=0.01)
    normalised = extractor.acoustic_frames([read_audio(table["audio"][0])])
    np.testing.assert_allclose(normalised.blocks_of(0), networks.examples.frames.blocks_of(0), atol=0.02)
    side_by_side = made[1].spectran.model_copy(update={"frames": "encoder", "encoder_layers": "side_by_side"})
    assert factory.averaged_layers(side_by_side, "made") == 1
    assert torch.equal(network.calm.spectran.layer_mean.weights, torch.zeros(2))
