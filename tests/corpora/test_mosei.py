"""CMU-MOSEI: transcripts and labels are joined by time, known faults are corrected or reported, and the official counts come out."""

import csv
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calm.corpora import CorpusError, read_corpus

NAMES = ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"]
NEUTRAL = [0.0] * 7


def write(root: Path, labels: dict, transcripts: dict[str, str | bytes], folds: dict[str, list[str]], names=NAMES) -> Path:
    """A raw CMU-MOSEI: labels by video as rows (start, end, seven scores), transcripts as file contents."""
    (root / "Raw/Audio/Full/WAV_16000").mkdir(parents=True)
    texts = root / "Raw/Transcript/Segmented/Combined"
    texts.mkdir(parents=True)
    for video, text in transcripts.items():
        (texts / f"{video}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "folds").mkdir()
    for fold in ("train", "valid", "test"):
        (root / f"folds/{fold}_videos.txt").write_text("\n".join(folds.get(fold, [])))
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "w", libver="latest") as file:
        for video, rows in labels.items():
            file[f"All Labels/data/{video}/intervals"] = np.array([row[0] for row in rows], float).reshape(-1, 2)
            file[f"All Labels/data/{video}/features"] = np.array([row[1] for row in rows], np.float32).reshape(-1, 7)
        file["All Labels/metadata/dimension names"] = [json.dumps(names)]
    return root


def reasons(corpus) -> dict:
    return dict(Counter(row.reason for row in corpus.dropped))


def test_joins_by_time_and_not_by_order(tmp_path):
    labels = {"v": [((9.0, 12.0), [1, 0, 2, 0, 0, 0, 0]), ((0.5, 4.0), [0, 1 / 3, 0, 0, 0, 0, 3])]}
    transcript = "v___0___0.5000001___4.0___FIRST one\nv___1___4.0___8.0___unlabelled\nv___2___9.0___12.0___and THE last\n"
    corpus = read_corpus("mosei", write(tmp_path, labels, {"v": transcript}, {"valid": ["v"]}))
    last, first = corpus.utterances
    assert (first.id, first.text, first.labels, first.start, first.end) == ("v_0", "FIRST one", ["happy", "fear"], 0.5, 4.0)
    assert (last.id, last.text, last.labels) == ("v_2", "and THE last", ["sad"])
    assert last.extra["sentiment"] == 1 and last.extra["score_sad"] == 2
    assert {row.split for row in corpus.utterances} == {"validation"} and last.speaker == "v"
    assert last.audio == tmp_path / "Raw/Audio/Full/WAV_16000/v.wav"
    assert not corpus.one_hot and not corpus.dropped


def test_no_emotion_is_an_empty_label_and_not_the_first_class(tmp_path):
    corpus = read_corpus("mosei", write(tmp_path, {"v": [((0, 2), NEUTRAL)]}, {"v": "v___0___0___2___so\n"}, {"train": ["v"]}))
    assert corpus.utterances[0].labels == []


def test_clamps_negative_starts_and_scores_above_three(tmp_path):
    labels = {"v": [((-0.49, 2.0), [0, 4, 0, 0, 0, 3.3, 0])]}
    corpus = read_corpus("mosei", write(tmp_path, labels, {"v": "v___0___-0.49___2.0___so\n"}, {"train": ["v"]}))
    row = corpus.utterances[0]
    assert row.start == 0 and row.labels == ["happy", "disgust"] and row.extra["score_happy"] == 3
    assert corpus.corrections == {"negative start set to 0": 1, "score above 3 set to 3": 2}


@pytest.mark.parametrize("video", ["-3g5yACwYnA", "_q7DM8WkzAQ", "126872", "a_", "a___b", "__"])
def test_odd_ids_and_underscores_in_the_text(tmp_path, video):
    text = f"{video}___3___1.0___2.5___I _____ think ___ SO_\n"
    corpus = read_corpus("mosei", write(tmp_path, {video: [((1.0, 2.5), NEUTRAL)]}, {video: text}, {"test": [video]}))
    assert [(row.id, row.text) for row in corpus.utterances] == [(f"{video}_3", "I _____ think ___ SO_")]


def test_windows_1252_is_read_and_counted(tmp_path):
    text = "v___0___0___2___caf\xe9 \x85 au lait\n".encode("latin-1")
    corpus = read_corpus("mosei", write(tmp_path, {"v": [((0, 2), NEUTRAL)]}, {"v": text}, {"train": ["v"]}))
    assert corpus.utterances[0].text == "café … au lait"
    assert corpus.corrections["file read as Windows-1252"] == 1


def test_one_line_in_latin_1_leaves_the_others_as_they_are(tmp_path):
    text = "v___0___0___2___naïve\n".encode() + "v___1___2___4___café\n".encode("latin-1")
    corpus = read_corpus("mosei", write(tmp_path, {"v": [((0, 2), NEUTRAL), ((2, 4), NEUTRAL)]}, {"v": text}, {"train": ["v"]}))
    assert [row.text for row in corpus.utterances] == ["naïve", "café"]


def test_unusable_segments_are_dropped_and_named(tmp_path):
    nan, low, high = [np.nan] + NEUTRAL[1:], [0, -1, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0]
    labels = {
        "v": [((0, 2), nan), ((2, 4), low), ((4, 6), high), ((6, 8), NEUTRAL), ((50, 60), NEUTRAL), ((np.nan, 9), NEUTRAL)],
        "stray": [((0, 1), NEUTRAL)],
        "silent": [((0, 1), NEUTRAL)],
    }
    transcript = "\ufeffv___0___0___2___a\nv___1___2___4___b\nv___2___4___6___c\nv___3___6___8___\nv___four___8___9___d\n\nnonsense\n"
    root = write(tmp_path, labels, {"v": transcript}, {"train": ["v", "silent", "gone"]})
    corpus = read_corpus("mosei", root)
    assert reasons(corpus) == {
        "label is not a number": 1,
        "label outside its range": 2,
        "no transcript line with this start and end": 3,
        "video in no fold": 1,
    }
    assert corpus.checks["transcript lines that do not parse"] == ["v.txt line 5: v___four___8___9___d", "v.txt line 6: nonsense"]
    assert [(row.id, row.text) for row in corpus.utterances] == [("v_3", None)]
    assert corpus.corrections["empty transcript line: to be transcribed"] == 1
    assert corpus.checks["videos of a fold without labels"] == ["gone"]
    assert {row.id for row in corpus.dropped} == {*(f"v[{n}]" for n in (0, 1, 2, 4, 5)), "stray[0]", "silent[0]"}
    assert "2 of its lines do not parse, the first v.txt line 5" in next(row.detail for row in corpus.dropped if row.id == "v[4]")


def test_a_video_whose_groups_are_broken_is_dropped(tmp_path):
    root = write(
        tmp_path, {"v": [((0, 2), NEUTRAL)], "w": [((0, 2), NEUTRAL)] * 2, "x": []}, {"v": "v___0___0___2___a\n"}, {"train": ["v", "w"]}
    )
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "a") as file:
        del file["All Labels/data/w/intervals"]
    corpus = read_corpus("mosei", root)
    assert [row.id for row in corpus.utterances] == ["v_0"]
    assert [(row.id, row.reason) for row in corpus.dropped] == [(f"w[{n}]", "labels of a video do not parse") for n in (0, 1)]


def test_columns_are_found_by_name(tmp_path):
    names = ["fear", "sentiment", "happy", "sad", "anger", "surprise", "disgust"]
    root = write(tmp_path, {"v": [((0, 2), [1, -2, 0, 0, 0, 0, 0])]}, {"v": "v___0___0___2___a\n"}, {"train": ["v"]}, names)
    row = read_corpus("mosei", root).utterances[0]
    assert row.labels == ["fear"] and row.extra["sentiment"] == -2


def replace(root: Path, name: str, content: list) -> None:
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "a") as file:
        del file[f"All Labels/{name}"]
        file[f"All Labels/{name}"] = content


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda root: (root / "folds/valid_videos.txt").unlink(), "valid_videos.txt"),
        (lambda root: (root / "folds/valid_videos.txt").write_text("v"), "Video v is in two folds"),
        (lambda root: (root / "CMU_MOSEI_Labels.csd").write_bytes(b""), "not the .csd"),
        (lambda root: (root / "CMU_MOSEI_Labels.csd").unlink(), "has no CMU_MOSEI_Labels.csd"),
        (lambda root: h5py.File(root / "CMU_MOSEI_Labels.csd", "w").close(), "not the .csd"),
        (lambda root: replace(root, "metadata/dimension names", []), "dimension names are not a JSON list"),
        (lambda root: replace(root, "metadata/dimension names", [3.5]), "dimension names are not a JSON list"),
        (lambda root: replace(root, "metadata/dimension names", ["sentiment, happy"]), "dimension names are not a JSON list"),
        (lambda root: replace(root, "metadata/dimension names", ['["sentiment", 1]']), "no column happy, sad.*it has sentiment, 1"),
        (lambda root: replace(root, "data", [1.0]), "not the .csd"),
        (lambda root: (root / "Raw/Audio/Full/WAV_16000").rmdir(), "has no Raw/Audio/Full/WAV_16000"),
    ],
)
def test_another_layout_is_one_clear_sentence(tmp_path, broken, says):
    root = write(tmp_path, {"v": [((0, 2), NEUTRAL)]}, {"v": "v___0___0___2___a\n"}, {"train": ["v"]})
    broken(root)
    with pytest.raises(CorpusError, match=says) as error:
        read_corpus("mosei", root)
    assert "\n" not in str(error.value)


def test_folds_may_lie_elsewhere(tmp_path):
    root = write(tmp_path / "raw", {"v": [((0, 2), NEUTRAL)]}, {"v": "v___0___0___2___a\n"}, {"train": ["v"]})
    (root / "folds").rename(tmp_path / "mine")
    assert len(read_corpus("mosei", root, folds=str(tmp_path / "mine")).utterances) == 1


ids = st.text(st.sampled_from("abAB019-_"), min_size=1, max_size=6)
times = st.one_of(st.floats(-1, 120), st.sampled_from([float("nan"), float("inf"), -1e9]))
scores = st.lists(st.one_of(st.floats(-1, 5, width=32), st.just(float("nan"))), min_size=7, max_size=7)
words = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(ids, st.lists(st.tuples(times, times, scores, words), max_size=4), min_size=1, max_size=3), st.randoms())
def test_every_labelled_segment_is_kept_or_named_once(videos, random):
    """Whatever the ids, times, scores and texts are: no crash, no row lost, and what is kept is sound."""
    with tempfile.TemporaryDirectory() as folder:
        labels = {video: [((start, end), row) for start, end, row, _ in rows] for video, rows in videos.items()}
        transcripts = {
            video: "".join(f"{video}___{clip}___{start!r}___{end!r}___{text}\n" for clip, (start, end, _, text) in enumerate(rows))
            for video, rows in videos.items()
        }
        folds = {video: random.choice(["train", "valid", "test", "none"]) for video in videos}
        members = {fold: [video for video in videos if folds[video] == fold] for fold in ("train", "valid", "test")}
        corpus = read_corpus("mosei", write(Path(folder), labels, transcripts, members))
    assert len(corpus.utterances) + len(corpus.dropped) == sum(map(len, videos.values()))
    for row in corpus.utterances:
        assert row.start >= 0 and np.isfinite([row.start, row.end]).all()
        assert all(0 <= row.extra[f"score_{name}"] <= 3 for name in corpus.classes)
        assert row.labels == [name for name in corpus.classes if row.extra[f"score_{name}"] > 0]
        assert row.text is None or (row.text and row.text == " ".join(row.text.split()) and not row.text.isupper())


def test_official_folds_and_segments(tmp_path):
    """With the real intervals and folds: 16,327 / 1,871 / 4,662 segments, 34.2 / 4.1 / 10.1 h, 223 negative starts."""
    if not os.environ.get("CALM_CORPORA"):
        pytest.skip("CALM_CORPORA is not set: no real labels")
    real = Path(os.environ["CALM_CORPORA"]) / "labels/mosei_folds"
    labels, transcripts = {}, {}
    with (real / "segments.csv").open() as file:
        for row in csv.DictReader(file):
            labels.setdefault(row["video"], []).append(((float(row["start"]), float(row["end"])), NEUTRAL))
            line = f"{row['video']}___{row['csd_index']}___{row['start']}___{row['end']}___x\n"
            transcripts[row["video"]] = line + transcripts.get(row["video"], "")  # in another order than the labels
    folds = {fold: (real / f"{fold}_videos.txt").read_text().split() for fold in ("train", "valid", "test")}
    corpus = read_corpus("mosei", write(tmp_path, labels, transcripts, folds))
    rows, seconds = Counter(), Counter()
    for row in corpus.utterances:
        rows[row.split] += 1
        seconds[row.split] += row.end - row.start
    assert rows == {"train": 16327, "validation": 1871, "test": 4662}
    assert {split: round(value / 3600, 1) for split, value in seconds.items()} == {"train": 34.2, "validation": 4.1, "test": 10.1}
    assert corpus.corrections["negative start set to 0"] == 223
    assert len({row.id.rpartition("[")[0] for row in corpus.dropped}) == 68 and set(reasons(corpus)) == {"video in no fold"}
    assert len(corpus.checks["videos of a fold without labels"]) == 2
