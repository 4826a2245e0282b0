"""Baselines: functionals and failures on artificial audio, the regression on artificial features, both on a little real speech."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from calm.audio.decoding import read_audio
from calm.audio.logmel import LogMel
from calm.evaluation import baselines, metrics, thresholds
from calm.evaluation.regression import fit_logistic

CORPORA = Path(os.environ.get("CALM_CORPORA", "/nowhere"))


def sound(path: Path, seconds: float = 1.0, pitch: float = 150, rate: int = 16000) -> str:
    """A buzz with harmonics, as a voice has them."""
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.1 * sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 9)), rate)
    return str(path)


def test_egemaps_names_what_fails(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF and then nothing")
    paths = [sound(tmp_path / "low.wav"), tmp_path / "missing.wav", sound(tmp_path / "short.wav", 0.01), tmp_path / "broken.wav"]
    paths.append(sound(tmp_path / "high.wav", pitch=300, rate=44100))
    extracted = baselines.egemaps([(str(path), 0.0, None) for path in paths], workers=1)
    assert extracted.values.shape == (5, 88)
    assert extracted.good.tolist() == [True, False, False, False, True]
    assert sorted(extracted.failed) == [1, 2, 3]
    assert "does not exist" in extracted.failed[1]
    assert "too short" in extracted.failed[2]
    low, high = extracted.values[[0, 4], 0]  # F0semitoneFrom27.5Hz_sma3nz_amean
    assert low == pytest.approx(12 * np.log2(150 / 27.5), abs=0.5)
    assert high - low == pytest.approx(12, abs=0.5)  # an octave


def test_egemaps_of_an_interval_and_of_loud_audio(tmp_path):
    path = sound(tmp_path / "voice.wav", 2)
    samples, rate = soundfile.read(path)
    soundfile.write(tmp_path / "part.wav", samples[8000:24000], rate)
    soundfile.write(tmp_path / "loud.wav", samples * 20, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "clipped.wav", np.clip(samples * 20, -1, 1 - 2**-15), rate, subtype="FLOAT")
    segments = [(path, 0.5, 1.5), *((str(tmp_path / name), None, None) for name in ("part.wav", "loud.wav", "clipped.wav"))]
    values = baselines.egemaps(segments, workers=1).values
    np.testing.assert_allclose(values[0], values[1], rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(values[2], values[3])  # a peak above 1 does not wrap around


def test_egemaps_in_processes_keeps_the_order(tmp_path, capfd):
    paths = [sound(tmp_path / f"{pitch}.wav", 0.4, pitch) for pitch in range(100, 340, 15)] + [str(tmp_path / "gone.wav")]
    extracted = baselines.egemaps([(path, None, None) for path in paths], workers=2)
    assert "Traceback" not in capfd.readouterr().err  # of a worker's threads
    assert list(extracted.failed) == [16]
    assert (np.diff(extracted.values[:16, 0]) > 0).all()


def test_egemaps_continues_from_saved_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "PART", 2)
    paths = [sound(tmp_path / f"{pitch}.wav", 0.3, pitch) for pitch in (120, 160, 200)]
    segments, work = [(path, None, None) for path in [paths[0], str(tmp_path / "gone.wav"), *paths[1:]]], tmp_path / "work"
    work.mkdir()
    first = baselines.egemaps(segments, 1, work)
    for path in paths[:1]:
        Path(path).unlink()  # its part is saved already
    (work / "egemaps-2.npz").unlink()
    second = baselines.egemaps(segments, 1, work)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.failed == second.failed == {1: f"AudioError: {tmp_path}/gone.wav does not exist"}


def test_no_utterances():
    assert baselines.egemaps([]).values.shape == (0, 88)


def test_functionals_by_hand():
    logmel = np.tile(np.arange(8.0)[:, None], (1, 30)).astype(np.float32)  # frame t has t in every band
    values = baselines.functionals(logmel).reshape(-1)
    bands = values[: 9 * 30].reshape(9, 30)[:, 0]
    # mean, spread, quantiles at the ranks 0, 2, 4, 5, 7 (the nearest of 0.35, 1.75, 3.5, 5.25, 6.65), mean |slope|, its spread
    np.testing.assert_allclose(bands, [3.5, np.std(np.arange(8)), 0, 2, 4, 5, 7, 1, 0], atol=1e-6)
    assert values.shape == (9 * (30 + baselines.CEPSTRUM),)
    first = values[9 * 30 :].reshape(9, baselines.CEPSTRUM)[0]
    np.testing.assert_allclose(first, [3.5 * np.sqrt(30), *[0] * (baselines.CEPSTRUM - 1)], atol=1e-4)  # a flat spectrum


def test_functionals_of_speech_only():
    draw = np.random.default_rng(0)
    speech, silence = draw.normal(0, 1, (80, 64)), np.full((60, 64), -20.0)
    whole = np.concatenate([silence, speech, silence]).astype(np.float32)
    more = np.concatenate([silence, silence, speech, silence]).astype(np.float32)
    np.testing.assert_allclose(baselines.functionals(whole), baselines.functionals(more), atol=1e-5)
    assert np.isfinite(baselines.functionals(speech[:1].astype(np.float32))).all()


def shards(folder: Path, logmels: dict[str, np.ndarray], size: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    names = list(logmels)
    for number, first in enumerate(range(0, len(names), size)):
        some = {name: logmels[name] for name in names[first : first + size]}
        rows = [pa.array(value.astype(np.float16).ravel()) for value in some.values()]
        offsets = pa.array(np.cumsum([0, *map(len, rows)]), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, pa.concat_arrays(rows))
        table = {"id": list(some), "frames": [len(value) for value in some.values()], "features": lists}
        pq.write_table(pa.table(table), folder / f"part-{number:05d}.parquet")
    return folder


def test_logmel_functionals_from_shards(tmp_path):
    draw = np.random.default_rng(0)
    logmels = {f"u{n}": draw.normal(size=(60 + n, 64)).astype(np.float16) for n in range(5)} | {"nan": np.full((60, 64), np.nan)}
    folder = shards(tmp_path / "features", logmels | {"empty": np.zeros((0, 64))})
    extracted = baselines.logmel_functionals(folder, ["u3", "absent", "u0", "nan", "empty"])
    assert extracted.good.tolist() == [True, False, True, False, False]
    np.testing.assert_array_equal(extracted.values[0], baselines.functionals(logmels["u3"].astype(np.float32)))
    assert extracted.failed[1] == "it has no log-mel frames"
    assert "NaN" in extracted.failed[3]
    with pytest.raises(FileNotFoundError, match="run the stage features"):
        baselines.logmel_functionals(tmp_path / "nothing", ["u0"])


def separable(rows: int = 600, classes: int = 4, one_hot: bool = True, seed: int = 0):
    """Features with 12 values of which the first ones depend on the classes."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, classes, rows)
    targets = label[:, None] == np.arange(classes) if one_hot else draw.random((rows, classes)) < 0.3
    features = draw.normal(size=(rows, 12)).astype(np.float32)
    features[:, :classes] += 1.5 * targets
    split = np.repeat(["train", "validation", "test"], [rows // 2, rows // 4, rows - rows // 2 - rows // 4])
    return baselines.Extracted(features * 50 + 1000), targets, split == "train", split == "validation", split == "test"


def shard(folder: Path, rows: dict[str, np.ndarray]) -> None:
    """One shard as `features` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = [values.astype(np.float16).ravel() for values in rows.values()]
    columns = {"id": list(rows), "frames": [len(values) for values in rows.values()], "features": pa.array(lists, pa.list_(pa.float16()))}
    pq.write_table(pa.table(columns), folder / "part-00000.parquet")


def test_encoder_functionals_from_shards_with_copies(tmp_path):
    """Two channels; a copy of one utterance at another speed; one utterance without states."""
    rows = {"a": np.array([[0, 5], [2, 5], [4, 5]]), "b": np.array([[1, 1]])}
    shard(tmp_path, rows)
    shard(tmp_path / "speed-1.1", {"a": np.array([[8, 0], [10, 0]])})
    extracted = baselines.encoder_functionals(tmp_path, ["b", "gone", "a"])
    assert extracted.values.shape == (3, 10) and extracted.failed == {1: "it has no encoder frames"}
    np.testing.assert_allclose(extracted.values[2], [2, 5, (8 / 3) ** 0.5, 0, 0, 5, 2, 5, 4, 5], rtol=1e-6)
    np.testing.assert_allclose(extracted.values[0], [1, 1, 0, 0, 1, 1, 1, 1, 1, 1])
    (copies,) = extracted.copies
    assert np.isnan(copies[:2]).all()
    np.testing.assert_allclose(copies[2], [9, 0, 1, 0, 8, 0, 8, 0, 10, 0])  # rank 0.5 is 0, the even number
    with pytest.raises(FileNotFoundError, match="has no encoder frames"):
        baselines.encoder_functionals(tmp_path / "speed-1.1" / "none", ["a"])


def test_functionals_of_known_speakers_by_hand():
    """Speaker x has 1 and 3, mean 2 and deviation 1; y has 5 alone; the row without functionals says nothing of its speaker."""
    values = np.array([[1.0], [3], [5], [np.nan]], np.float32)
    extracted = baselines.Extracted(values, {3: "empty"}, [values + 2])
    known = baselines.of_known_speakers(extracted, ["x", "x", "y", "x"])
    np.testing.assert_array_equal(known.values, [[-1], [1], [0], [np.nan]])
    np.testing.assert_array_equal(known.copies[0], [[1], [3], [2], [np.nan]])
    assert known.failed == extracted.failed and extracted.values[0] == 1
    unnamed = baselines.of_known_speakers(extracted, ["", None, "", ""]).values[:3, 0]
    np.testing.assert_allclose(unnamed, (np.array([1, 3, 5]) - 3) / np.sqrt(8 / 3), rtol=1e-6)


def test_the_regression_learns_from_copies_of_training_utterances_alone():
    """Two classes that copies alone tell apart: training values are all equal, and copies lie where the test utterances do."""
    values = np.array([[0.0], [0], [0], [0], [-1], [1]], np.float32) + np.array([[1e-3], [-1e-3], [1e-3], [-1e-3], [0], [0]], np.float32)
    targets = np.eye(2, dtype=bool)[[0, 0, 1, 1, 0, 1]]
    train, validation = np.arange(6) < 4, np.arange(6) >= 4
    copies = np.array([[-1], [-1], [1], [1], [1], [-1]], np.float32)  # of the held-out utterances the wrong way round
    with_copies = baselines.regress(baselines.Extracted(values, copies=[copies]), targets, train, validation, one_hot=True)
    assert with_copies.probabilities[4, 0] > 0.9 and with_copies.probabilities[5, 1] > 0.9
    copies[:2] = np.nan
    heard, sources = baselines._standardised(baselines.Extracted(values, copies=[copies]), train)[1:]
    assert sources.tolist() == [0, 1, 2, 3, 2, 3] and len(heard) == 6
    without = baselines.regress(baselines.Extracted(values), targets, train, validation, one_hot=True)
    assert abs(without.probabilities[4, 0] - 0.5) < abs(with_copies.probabilities[4, 0] - 0.5)


@pytest.mark.parametrize("one_hot", [True, False])
def test_a_refit_answers_test_alone(one_hot):
    """Validation keeps the answers of the fit on training; test has those of a fit on both, with the chosen strength and the same scale."""
    features, targets, train, validation, test = separable(one_hot=one_hot)
    once = baselines.regress(features, targets, train, validation, one_hot)
    again = baselines.regress(features, targets, train, validation, one_hot, refit=True)
    assert again.strength == once.strength and again.validation_auc == once.validation_auc
    np.testing.assert_array_equal(again.probabilities[~test], once.probabilities[~test])
    both = train | validation
    inputs = (features.values - features.values[train].mean(0)) / features.values[train].std(0)
    expected = fit_logistic(inputs[both], targets[both], one_hot, once.strength).probabilities(inputs[test])
    np.testing.assert_allclose(again.probabilities[test], expected, atol=0.01)
    assert np.abs(again.probabilities[test] - once.probabilities[test]).max() > 0.02


@pytest.mark.parametrize("one_hot", [True, False])
def test_regression_learns(one_hot):
    features, targets, train, validation, test = separable(one_hot=one_hot)
    fitted = baselines.regress(features, targets, train, validation, one_hot)
    assert metrics.auc_macro(targets[test], fitted.probabilities[test]) > 0.8
    assert fitted.strength == max(fitted.validation_auc, key=fitted.validation_auc.get)
    assert list(fitted.validation_auc) == list(baselines.STRENGTHS)
    assert (fitted.without_features, fitted.unconverged, fitted.constant) == (0, 0, [])
    assert np.allclose(fitted.probabilities.sum(axis=1), 1) == one_hot
    again = baselines.regress(features, targets, train, validation, one_hot)
    np.testing.assert_array_equal(fitted.probabilities, again.probabilities)


def test_regression_does_not_see_validation_labels_or_test():
    features, targets, train, validation, test = separable()
    first = baselines.regress(features, targets, train, validation, True, strengths=[0.1])
    changed = targets.copy()
    changed[~train] = np.roll(changed[~train], 1, axis=1)
    features.values[test] += 5
    second = baselines.regress(features, changed, train, validation, True, strengths=[0.1])
    np.testing.assert_array_equal(first.probabilities[validation], second.probabilities[validation])


@pytest.mark.parametrize("one_hot", [True, False])
def test_utterances_without_features_get_the_prior(one_hot):
    features, targets, train, validation, _ = separable(one_hot=one_hot)
    features.values[[3, 400, 599]] = np.nan
    fitted = baselines.regress(features, targets, train, validation, one_hot)
    assert fitted.without_features == 3
    np.testing.assert_allclose(fitted.probabilities[[3, 400, 599]], np.tile(targets[train].mean(0), (3, 1)))
    assert np.isfinite(fitted.probabilities).all()


@pytest.mark.parametrize("one_hot", [True, False])
def test_class_that_training_lacks_keeps_its_prior(one_hot):
    features, targets, train, validation, test = separable(one_hot=one_hot)
    targets[train, 0] |= targets[train, 1]
    targets[train, 1] = False
    fitted = baselines.regress(features, targets, train, validation, one_hot)
    assert fitted.constant == [1]
    assert (fitted.probabilities[:, 1] == 0).all()
    assert metrics.auc_macro(targets[test][:, [0, 2, 3]], fitted.probabilities[test][:, [0, 2, 3]]) > 0.6


def test_two_classes_and_no_validation():
    features, targets, train, _, test = separable(classes=2)
    fitted = baselines.regress(features, targets, train, np.zeros(len(targets), bool), True)
    assert fitted.strength == 0.1
    assert metrics.score("balanced_accuracy", targets[test], thresholds.likeliest(fitted.probabilities[test])) > 0.8


def test_only_one_class_to_learn():
    features, targets, train, validation, _ = separable()
    targets[:] = [True, False, False, False]
    fitted = baselines.regress(features, targets, train, validation, True)
    assert fitted.strength is None
    assert (fitted.probabilities == [1, 0, 0, 0]).all()


def test_strength_is_the_one_with_the_best_validation_auc():
    features, targets, train, validation, _ = separable(one_hot=False)
    fitted = baselines.regress(features, targets, train, validation, one_hot=False)
    assert fitted.validation_auc[fitted.strength] == metrics.auc_macro(targets[validation], fitted.probabilities[validation])


def test_log_odds():
    odds = baselines.log_odds(np.array([0.5, 0.0, 1.0, 0.25]))
    assert odds.dtype == np.float32
    np.testing.assert_allclose(odds, [0, -16.118, 16.118, -np.log(3)], atol=1e-3)


@pytest.mark.skipif(not (CORPORA / "ravdess").is_dir(), reason="CALM_CORPORA names no folder with ravdess")
def test_real_speech_angry_against_calm(tmp_path):
    """Four actors to train on, two to test: both kinds of functionals tell shouting from calm speech."""
    files = [file for actor in (1, 2, 3, 4, 17, 18) for file in sorted((CORPORA / "ravdess" / f"Actor_{actor:02d}").glob("*.flac"))]
    files = [file for file in files if file.stem.split("-")[2] in ("02", "05") and file.stem.split("-")[5] == "01"]
    angry = np.array([file.stem.split("-")[2] == "05" for file in files])
    train = np.array([int(file.stem[-2:]) < 10 for file in files])
    targets = np.stack([~angry, angry], axis=1)
    logmel = LogMel()
    folder = shards(tmp_path / "features", {file.stem: logmel(read_audio(file)) for file in files}, 16)
    names, segments = [file.stem for file in files], [(str(file), None, None) for file in files]
    for extracted in (baselines.egemaps(segments), baselines.logmel_functionals(folder, names)):
        assert extracted.good.all()
        fitted = baselines.regress(extracted, targets, train, ~train, True, strengths=[0.01])
        assert metrics.score("weighted_accuracy", targets[~train], thresholds.likeliest(fitted.probabilities[~train])) > 0.8
