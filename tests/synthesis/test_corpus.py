"""Corpora of synthetic speech: real layouts, equal bytes for equal seeds, disjoint speakers, and every class in every split."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from calm.corpora import CorpusError, read_corpus
from calm.corpora.utterances import SPLITS
from calm.synthesis import corpus, layouts, sentences, voices
from calm.synthesis.plan import MOSEI_SHARES, MSP_SHARES, plan, quotas, split_sizes

SMALL = {"utterances": 60, "speakers": 20, "label_noise": 0.1, "seed": 5}


@pytest.fixture(scope="module")
def msp(tmp_path_factory) -> Path:
    """A corpus with real synthesis, by two processes."""
    folder = tmp_path_factory.mktemp("raw") / "msp"
    corpus.make(folder, "msp_podcast", **SMALL, workers=2)
    return folder


@pytest.fixture
def hum(monkeypatch):
    """Replaces the synthesis: every line becomes a hum as long as its text."""

    def waves(lines, workers=None):
        for line in lines:
            yield 0.1 * np.sin(np.arange(1600 * len(line.text) // 5, dtype=np.float32) / 20)

    monkeypatch.setattr(voices, "speak_all", waves)


@pytest.fixture
def mosei(tmp_path, hum) -> Path:
    corpus.make(tmp_path / "mosei", "mosei", **SMALL)
    return tmp_path / "mosei"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the plan ---


@pytest.mark.parametrize("format", ["mosei", "msp_podcast"])
@pytest.mark.parametrize("size", [(60, 20), (61, 20), (360, 30), (400, 60)])
def test_every_class_in_every_split_and_no_speaker_in_two(format, size):
    turns = plan(format, *size, 0.08, 1)
    assert [turn.index for turn in turns] == list(range(size[0]))
    assert len({turn.line.text for turn in turns}) == size[0]
    for split in SPLITS:
        labels = [turn.label for turn in turns if turn.split == split]
        classes = Counter(labels if format == "msp_podcast" else (name for label in labels for name in label))
        wanted = set("ASHUFDCN") if format == "msp_podcast" else {name for label in MOSEI_SHARES for name in label}
        assert all(classes[name] >= (2 if size[0] < 100 else 3) for name in wanted), (split, classes)
    pairs = {(turn.speaker.number, turn.split) for turn in turns}
    assert len(pairs) == len({number for number, _ in pairs}) == size[1]


def test_the_most_common_codes_and_the_share_of_wrong_labels():
    turns = plan("msp_podcast", 400, 30, 0.1, 3)
    counts = Counter(turn.label for turn in turns)
    assert {code for code, _ in counts.most_common(4)} == set("NHAS") and 0 < counts["O"] < counts["X"] < counts["C"]
    names = {"A": "anger", "S": "sad", "H": "happy", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt"}
    wrong = [turn for turn in turns if turn.label != "X" and turn.performed != ((names[turn.label],) if turn.label in names else ())]
    assert 0.08 <= len(wrong) / len(turns) <= 0.11
    clean = plan("mosei", 100, 20, 0.0, 3)
    assert all(set(turn.performed) == set(turn.label) for turn in clean)


def test_quotas_and_sizes_add_up():
    assert quotas({"a": 0.6, "b": 0.3, "c": 0.1}, 10, {"a": 0, "b": 0, "c": 2}) == {"a": 6, "b": 2, "c": 2}
    assert sum(quotas(MSP_SHARES, 54, dict.fromkeys(MSP_SHARES, 0)).values()) == 54
    assert split_sizes(360, 18) == {"train": 216, "validation": 54, "test": 90}


def test_most_sentences_of_test_are_not_in_another_corpus_of_the_same_kind():
    rng = np.random.default_rng(0)
    seen = {sentences.write("anger", "own", rng) for _ in range(40)}
    assert sum(sentences.write("anger", "own", rng) in seen for _ in range(40)) < 8


@pytest.mark.parametrize("emotion", [*sentences.OWN, "neutral"])
@pytest.mark.parametrize("cue", sentences.CUES)
def test_sentences_are_short_and_whole(emotion, cue):
    for text in (sentences.write(emotion, cue, np.random.default_rng(seed)) for seed in range(40)):
        assert 4 <= len(text.split()) <= 9 and text[0].isupper() and text.endswith(".") and "{" not in text and "  " not in text


def test_an_unknown_cue_is_refused():
    with pytest.raises(ValueError, match="own, shared, none"):
        sentences.write("sad", "loud", np.random.default_rng(0))


# --- the voice ---


def test_voices_add_and_scale():
    assert voices.Voice(pitch=2, gain=1) * 0.5 + voices.Voice(tilt=3) == voices.Voice(pitch=1, gain=0.5, tilt=3)


def test_gain_rate_and_tilt_move_the_sound_as_set():
    line = voices.Line("They told me about the phone call yesterday.", voices.Voice(), (1,))
    plain, loud, slow, dull = (
        voices.speak(replace(line, voice=voice))
        for voice in (voices.Voice(), voices.Voice(gain=6), voices.Voice(rate=-0.5), voices.Voice(tilt=-20))
    )
    np.testing.assert_array_equal(plain, voices.speak(line))
    assert 20 * np.log10(np.sqrt(np.square(loud).mean() / np.square(plain).mean())) == pytest.approx(6, abs=0.3)
    assert 1.2 < len(slow) / len(plain) < 1.6
    assert brightness(dull) < 0.8 * brightness(plain)


def brightness(wave: np.ndarray) -> float:
    """Centre of gravity of the spectrum, in Hz."""
    power = np.square(np.abs(np.fft.rfft(wave)))
    return float((np.fft.rfftfreq(len(wave), 1 / voices.SAMPLE_RATE) * power).sum() / power.sum())


def test_pitch_moves_mean_and_range_and_leaves_unvoiced_frames():
    f0 = np.array([0, 200, 220, 240, 0, 180, 200], np.float32)
    higher = voices._pitch(f0, voices.Voice(pitch=12))
    np.testing.assert_allclose(higher, 2 * f0, rtol=1e-5)
    flat = voices._pitch(f0, voices.Voice(range=-10))
    assert flat[0] == flat[4] == 0 and np.ptp(flat[f0 > 0]) < 1
    assert (voices._pitch(f0, voices.Voice(pitch=-60))[f0 > 0] >= 55).all()


def test_limiter_leaves_quiet_sound_alone_and_bends_peaks():
    wave = np.linspace(-3, 3, 601, dtype=np.float32)
    bent = voices.limit(wave)
    quiet = np.abs(wave) <= 0.7
    np.testing.assert_array_equal(bent[quiet], wave[quiet])
    assert np.abs(bent).max() <= 0.97 and (np.diff(bent) >= 0).all()


# --- in MSP-Podcast's layout ---


def test_msp_podcast_reads_as_the_real_one(msp):
    corpus = read_corpus("msp_podcast", msp)
    assert corpus.checks["consensus recomputed from the votes"] == {"compared": 60, "different": []}
    assert not corpus.checks["answers that do not parse"] and not corpus.checks["partition differs from Partitions.txt"]
    assert not corpus.dropped and corpus.checks["speaker unknown"] == 0
    for split in SPLITS:
        counts = Counter(name for row in corpus.utterances if row.split == split and row.labels for name in row.labels)
        assert len(counts) == 8 and min(counts.values()) >= 2
    assert {row.gender for row in corpus.utterances} == {"female", "male"}
    assert all(row.text is None for row in corpus.utterances)


def test_msp_podcast_is_audible_pcm_and_says_what_it_is(msp):
    names = sorted(path.name for path in (msp / "Audios").iterdir())
    assert len(names) == 60 and names[0].startswith("MSP-PODCAST_0001_")
    for name in names:
        info = soundfile.info(msp / "Audios" / name)
        wave = soundfile.read(msp / "Audios" / name)[0]
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.9 < info.duration < 6
        assert np.sqrt(np.square(wave).mean()) > 0.004 and np.abs(wave).max() < 0.99
    assert "SYNTHETIC SPEECH" in (msp / "SYNTHETIC.txt").read_text() and "seed: 5" in (msp / "SYNTHETIC.txt").read_text()
    assert not list(msp.parent.glob(".*"))


def test_the_reference_holds_the_words_of_every_turn(msp):
    rows = [json.loads(line) for line in (msp / "reference.jsonl").read_text().splitlines()]
    names = [line.split("; ")[1] for line in (msp / "Partitions.txt").read_text().splitlines()]
    assert [f"{row['id']}.wav" for row in rows] == names
    assert [row["text"] for row in rows] == [turn.line.text for turn in plan("msp_podcast", **SMALL)]


def test_same_bytes_with_one_process_as_with_two(msp, tmp_path):
    corpus.make(tmp_path / "msp", "msp_podcast", **SMALL, workers=1)
    assert contents(tmp_path / "msp") == contents(msp)


@pytest.mark.parametrize("code", [*"ASHUFDCN", "X", "O"])
def test_the_plurality_of_the_votes_is_the_consensus(code):
    for seed in range(200):
        votes = Counter(layouts.draw_votes(code, np.random.default_rng(seed))).most_common()
        assert sum(count for _, count in votes) == 5
        tied = len(votes) > 1 and votes[0][1] == votes[1][1]
        assert tied if code == "X" else (not tied and votes[0][0] == code)


# --- in CMU-MOSEI's layout ---


def test_mosei_reads_as_the_real_one(mosei):
    corpus = read_corpus("mosei", mosei)
    turns = plan("mosei", **SMALL)
    assert not corpus.dropped and not +corpus.corrections and not corpus.checks["videos of a fold without labels"]
    read = {row.text: (row.split, set(row.labels)) for row in corpus.utterances}
    assert read == {turn.line.text: (turn.split, set(turn.label)) for turn in turns}
    assert any(not row.labels for row in corpus.utterances) and any(len(row.labels) == 2 for row in corpus.utterances)
    speakers = {row.speaker.rsplit("-", 1)[0]: row.split for row in corpus.utterances}
    assert len({(row.speaker.rsplit("-", 1)[0], row.split) for row in corpus.utterances}) == len(speakers) == 20


def test_mosei_has_whole_videos_with_pauses_and_scores_in_thirds(mosei):
    import h5py

    order = []
    with h5py.File(mosei / "CMU_MOSEI_Labels.csd") as file:
        for video, group in file["All Labels/data"].items():
            scores, intervals = group["features"][()], group["intervals"][()]
            order.append(intervals[:, 0])
            intervals = intervals[np.argsort(intervals[:, 0])]
            info = soundfile.info(mosei / f"Raw/Audio/Full/WAV_16000/{video}.wav")
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert (intervals[1:, 0] - intervals[:-1, 1] >= 0.299).all() and intervals[-1, 1] + 0.299 <= info.duration
            assert scores.shape == (len(intervals), 7) and np.abs(scores[:, 0]).max() <= 3
            assert scores[:, 1:].min() >= 0 and scores.max() <= 3
            np.testing.assert_allclose(scores * 3, np.round(scores * 3), atol=1e-5)
    assert any((np.diff(starts) < 0).any() for starts in order)


def test_the_same_seed_gives_the_same_corpus_and_another_one_another(mosei, tmp_path):
    (tmp_path / "again").mkdir()  # an empty folder is no obstacle
    corpus.make(tmp_path / "again", "mosei", **SMALL)
    corpus.make(tmp_path / "other", "mosei", **{**SMALL, "seed": 6})
    assert contents(tmp_path / "again") == contents(mosei)
    assert contents(tmp_path / "other")["CMU_MOSEI_Labels.csd"] != contents(mosei)["CMU_MOSEI_Labels.csd"]


# --- faults ---


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.wav").write_text("recorded last year")
    with pytest.raises(CorpusError, match="move it away"):
        corpus.make(tmp_path, "mosei", **SMALL)
    assert contents(tmp_path) == {"mine.wav": b"recorded last year"}


@pytest.mark.parametrize(("wrong", "message"), [({"utterances": 59}, "at least 60"), ({"speakers": 21}, "at most 20")])
def test_numbers_that_do_not_fit_are_refused(tmp_path, wrong, message):
    with pytest.raises(CorpusError, match=message):
        corpus.make(tmp_path / "mosei", "mosei", **SMALL | wrong)


def test_a_failure_leaves_no_partial_corpus_and_keeps_the_old_one(mosei, monkeypatch):
    before = contents(mosei)

    def broken(lines, workers=None):
        yield np.full(16000, 0.1, np.float32)
        raise RuntimeError("the power went")

    monkeypatch.setattr(voices, "speak_all", broken)
    for folder in (mosei, mosei.with_name("new")):
        with pytest.raises(RuntimeError):
            corpus.make(folder, "mosei", **SMALL)
    assert contents(mosei) == before and not mosei.with_name("new").exists()


def test_several_voices_take_turns_in_a_recording():
    """The same turns as with one voice a recording; every recording has its speakers of one split, mixed."""
    alone, mixed = plan("mosei", 400, 40, 0.08, 1), plan("mosei", 400, 40, 0.08, 1, voices_per_recording=2)
    assert sorted(turn.index for turn in mixed) == list(range(400))
    by_index = sorted(mixed, key=lambda turn: turn.index)
    assert [turn.line for turn in by_index] == [turn.line for turn in alone]
    recordings = {}
    for turn in mixed:
        recordings.setdefault(turn.recording, []).append(turn)
    assert {len({turn.speaker.number for turn in turns}) for turns in recordings.values()} == {2}
    assert all(len({turn.split for turn in turns}) == 1 for turns in recordings.values())
    changes = [sum(a.speaker != b.speaker for a, b in pairwise(turns)) for turns in recordings.values()]
    assert np.mean(changes) > 5  # of 19; one change only if they were not mixed
    videos = [turns for _, turns in layouts._videos(mixed, np.random.default_rng(0))]
    assert np.mean([len({turn.speaker.number for turn in video}) == 2 for video in videos]) > 0.7
