"""MSP-Podcast: file names and formats of all releases, the kinds of labels, and the consensus compared with the votes."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calm.corpora import CorpusError, read_corpus
from calm.corpora.msp_votes import CLASSES, CODES, PRIMARY, SECONDARY, Answer, answer, parse, plurality, present

HEAD = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
ROWS = {  # file: code, speaker, gender, set, workers' (primary, secondary)
    "MSP-PODCAST_0001_0008.wav": ("A", "27", "Female", "Train", [("Angry", "Angry,Annoyed"), ("Angry", "Angry"), ("Sad", "Sad,Amused")]),
    "MSP-PODCAST_0001_0009_0001.wav": ("X", "27", "Female", "Train", [("Happy", "Happy"), ("Neutral", "Neutral,Concerned")]),
    "MSP-PODCAST_0002_0001.wav": ("H", "3", "Male", "Development", [("Happy", "Excited")]),
    "MSP-PODCAST_0002_0002.wav": ("O", "3", "Male", "Development", [("Other-bored; very", "Other-bored, a bit;Confused")]),
    "MSP-PODCAST_0003_0001.wav": ("N", "Unknown", "Unknown", "Test1", [("Neutral", "Neutral")]),
    "MSP-PODCAST_0004_0001.wav": ("F", "5", "Male", "Test2", [("Fear", "Fear")]),
}


def worker(number: int, primary: str, secondary: str) -> str:
    return f"WORKER{number:08d}; {primary}; {secondary}; A:4.000000; V:3.000000; D:5.000000;"


def labels_txt() -> str:
    blocks = []
    for file, (code, _, _, _, workers) in ROWS.items():
        lines = [worker(number, *emotions) for number, emotions in enumerate(workers)]
        blocks.append("\n".join([f"{file}; {code}; A:4.000000; V:3.000000; D:5.000000;", *lines]) + "\n")
    return "\n".join(blocks)


def consensus_csv(ending="\n") -> str:
    rows = (f"{file},{code},4.0,3,5,{speaker},{gender},{name}" for file, (code, speaker, gender, name, _) in ROWS.items())
    return (HEAD + "\n".join(rows) + "\n").replace("\n", ending)


def consensus_json(listed=False) -> str:
    keys = ("EmoClass", "SpkrID", "Gender", "Split_Set")
    rows = {file: dict(zip(keys, row[:4], strict=True)) | {"EmoAct": "4", "EmoVal": 3.0, "EmoDom": 5} for file, row in ROWS.items()}
    return json.dumps({file: [row] if listed else row for file, row in rows.items()})


def detailed(form: str) -> str:
    rows = [(file, number, *emotions) for file, row in ROWS.items() for number, emotions in enumerate(row[4])]
    if form == "EmoDetail":
        return "FileName,EmoDetail\n" + "".join(f'{file},"{worker(number, *emotions)}"\n' for file, number, *emotions in rows)
    if form == "columns":
        return "FileName,WorkerID,EmoClass_Major,EmoClass_Second\n" + "".join(f'{f},WORKER{n},{p},"{s}"\n' for f, n, p, s in rows)
    nested = {file: {} for file in ROWS}
    for file, number, primary, secondary in rows:
        nested[file][f"WORKER{number}"] = {"EmoClass_Major": primary, "EmoClass_Second": secondary}
    return json.dumps(nested)


def write(root: Path, files: dict[str, str], folder="Labels") -> Path:
    (root / "Audios").mkdir(parents=True)
    (root / folder).mkdir()
    for name, text in files.items():
        path = root / name if "/" in name or name in ("Partitions.txt", "Speaker_ids.txt") else root / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.mark.parametrize(
    ("folder", "consensus"),
    [
        ("Labels", {"labels_consensus.csv": consensus_csv()}),
        ("labels", {"labels_concensus.csv": "\ufeff" + consensus_csv("\r\n")}),
        ("label", {"labels_concensus.json": consensus_json()}),
        ("Labels", {"labels_consensus.json": consensus_json(listed=True)}),
    ],
)
def test_every_spelling(tmp_path, folder, consensus):
    corpus = read_corpus("msp_podcast", write(tmp_path, consensus | {"labels.txt": labels_txt()}, folder))
    rows = {row.id: row for row in corpus.utterances}
    assert {name: (row.split, row.labels) for name, row in rows.items()} == {
        "MSP-PODCAST_0001_0008": ("train", ["angry"]),
        "MSP-PODCAST_0001_0009_0001": ("train", None),
        "MSP-PODCAST_0002_0001": ("validation", ["happy"]),
        "MSP-PODCAST_0003_0001": ("test", ["neutral"]),
    }
    first = rows["MSP-PODCAST_0001_0008"]
    assert (first.speaker, first.gender, first.text, first.audio) == ("27", "female", None, tmp_path / "Audios/MSP-PODCAST_0001_0008.wav")
    assert (first.extra["activation"], first.extra["valence"], first.extra["dominance"]) == (4, 3, 5)
    assert (first.extra["votes_angry"], first.extra["votes_sad"], first.extra["votes_happy"]) == (2, 1, 0)
    assert (rows["MSP-PODCAST_0003_0001"].speaker, rows["MSP-PODCAST_0003_0001"].gender) == ("", None)
    assert {(row.id, row.reason, row.fault) for row in corpus.dropped} == {
        ("MSP-PODCAST_0002_0002", "no class and not in train", False),
        ("MSP-PODCAST_0004_0001", "test set not asked for", False),
    }
    assert corpus.one_hot and corpus.classes == tuple(CODES.values()) and "".join(CODES) == "ASHUFDCN"
    assert corpus.checks["rows without a label, kept in train only"] == {"no agreement (X), train": 1, "other (O), validation": 1}
    assert corpus.checks["consensus recomputed from the votes"] == {"compared": 6, "different": []}
    assert corpus.checks["speaker unknown"] == 1


@pytest.mark.parametrize(
    "votes",
    [
        {"labels.txt": labels_txt()},
        {"labels_detailed.csv": detailed("EmoDetail")},
        {"labels_detailed.csv": detailed("columns")},
        {"labels_detailed.json": detailed("json")},
    ],
)
def test_all_and_votes_are_multi_hot(tmp_path, votes):
    root = write(tmp_path, {"labels_consensus.csv": consensus_csv()} | votes)
    named = {row.id: row.labels for row in read_corpus("msp_podcast", root, labels="all", test=["Test1", "Test2"]).utterances}
    assert named["MSP-PODCAST_0001_0008"] == ["angry", "sad", "happy"]  # amused counts for happy
    assert named["MSP-PODCAST_0001_0009_0001"] == ["happy", "neutral"]  # no agreement, and yet two classes
    assert named["MSP-PODCAST_0002_0002"] == []  # other and confused count for none
    assert named["MSP-PODCAST_0004_0001"] == ["fear"]
    named = {row.id: row.labels for row in read_corpus("msp_podcast", root, labels="votes").utterances}
    assert named["MSP-PODCAST_0001_0008"] == ["angry", "sad"]
    corpus = read_corpus("msp_podcast", root, labels="all", min_workers=2)
    assert {row.id: row.labels for row in corpus.utterances}["MSP-PODCAST_0001_0008"] == ["angry"] and not corpus.one_hot


def test_labels_txt_alone_with_partitions_and_speakers(tmp_path):
    partitions = (
        "".join(f"{row[3]}; {file}\n" for file, row in ROWS.items())
        + "Train; MSP-PODCAST_0009_0001.wav\nTest3; MSP-PODCAST_0009_0002.wav\n"
    )
    speakers = "Speaker_27; Female\nSpeaker_3; Male\n\nMSP-PODCAST_0001_0008.wav; 27\nMSP-PODCAST_0002_0001.wav; Speaker_3\n"
    files = {"labels.txt": labels_txt(), "Partitions.txt": partitions, "Speaker_ids.txt": speakers}
    corpus = read_corpus("msp_podcast", write(tmp_path, files))
    rows = {row.id: row for row in corpus.utterances}
    assert (rows["MSP-PODCAST_0001_0008"].speaker, rows["MSP-PODCAST_0001_0008"].gender) == ("27", "female")
    assert (rows["MSP-PODCAST_0002_0001"].speaker, rows["MSP-PODCAST_0002_0001"].gender) == ("3", "male")
    assert rows["MSP-PODCAST_0009_0001"].labels is None and rows["MSP-PODCAST_0009_0001"].split == "train"
    assert len(corpus.utterances) + len(corpus.dropped) == len(ROWS) + 2


def test_transcripts_are_optional(tmp_path):
    texts = {
        "Transcripts/MSP-PODCAST_0001_0008.txt": "So  [inaudible 00:04:08] I\nSAID",
        "Transcripts/MSP-PODCAST_0003_0001.txt": "[noise]",
    }
    root = write(tmp_path, {"labels_consensus.csv": consensus_csv()} | texts)
    assert {row.text for row in read_corpus("msp_podcast", root).utterances} == {None}
    corpus = read_corpus("msp_podcast", root, transcripts=True)
    assert {row.id: row.text for row in corpus.utterances if row.text} == {"MSP-PODCAST_0001_0008": "So I SAID"}
    assert corpus.corrections["note in brackets cut from a transcript"] == 2
    assert corpus.corrections["transcript missing: to be transcribed"] == 2


def test_bad_rows_are_dropped_and_named(tmp_path):
    bad = ["a.wav,Q,4,4,4,1,Male,Train", "b.wav,N,9,4,4,1,Male,Train", "c.wav,N,nan,4,4,1,Male,Train", "d.wav,N,,4,4,1,Male,Train"]
    bad += ["e.wav,N,4,4,4,1,Male,NA", "f.wav,N,4,4,4,1,Male,Test9", "g.wav,N,4,4,4,1,Male,Train,what", "h.wav,N", ",N,4,4,4,1,Male,Train"]
    text = HEAD + "\n".join([*bad, 'good.wav,N,4,4,4,"1","Male",Train', "good.wav,N,4,4,4,1,Male,Train"])
    corpus = read_corpus("msp_podcast", write(tmp_path, {"labels_consensus.csv": text}))
    assert Counter(row.reason for row in corpus.dropped) == {
        "label outside its range": 2,
        "label is not a number": 2,
        "in no partition": 1,
        "unknown partition": 1,
        "label row does not parse": 3,
    }
    assert [row.id for row in corpus.utterances] == ["good", "good"]  # ingest drops the second


def test_partitions_of_both_files_are_compared(tmp_path):
    text = "FileName,EmoClass,Split_Set\na.wav,N,Train\nb.wav,H,Test1\nc.wav,S,Train\n"
    partitions = "TRAIN; a.wav\nTrain; b.wav\n"
    corpus = read_corpus("msp_podcast", write(tmp_path, {"labels_consensus.csv": text, "Partitions.txt": partitions}))
    assert corpus.checks["partition differs from Partitions.txt"] == ["b.wav"] and corpus.checks["speaker unknown"] == 3
    assert [(row.id, row.split) for row in corpus.utterances] == [("a", "train"), ("b", "test"), ("c", "train")]  # as the labels say


def test_a_file_in_two_partitions_is_in_none(tmp_path):
    text = "Train; a.wav\r\nTest1; a.wav\r\nTrain; b.wav\r\ntrain; b.wav\r\n; c.wav\r\nTrain; d\r\nTrain e.wav\r\n"
    files = {"labels_consensus.csv": "FileName,EmoClass\na.wav,N\nb.wav,H\n", "Partitions.txt": text, "Speaker_ids.txt": "Speaker_1 Male"}
    corpus = read_corpus("msp_podcast", write(tmp_path, files))
    assert [(row.id, row.split) for row in corpus.utterances] == [("b", "train")]
    dropped = [(row.id, row.reason, row.detail) for row in corpus.dropped]
    assert dropped == [("a", "unknown partition", "Train and Test1"), ("c", "in no partition", "")]
    assert corpus.checks["lines of Partitions.txt that do not parse"] == ["Train; d", "Train e.wav"]
    assert corpus.checks["lines of Speaker_ids.txt that do not parse"] == ["Speaker_1 Male"]


def test_a_broken_row_loses_no_other_row(tmp_path):
    """An unclosed quote, and a file that is in the JSON twice; the partition list does not bring a broken row back."""
    text = HEAD + 'a.wav,"N,4,4,4,1,Male,Train\nb.wav,N,4,4,4,1,Male,Train\nc.wav,"N",4,4,4,1,Male,Train\n'
    root = write(tmp_path / "csv", {"labels_consensus.csv": text, "Partitions.txt": "Train; a.wav"})
    corpus = read_corpus("msp_podcast", root)
    assert [row.id for row in corpus.utterances] == ["b", "c"]
    assert [(row.id, row.reason) for row in corpus.dropped] == [("a", "label row does not parse")]
    row = '{"EmoClass": "N", "Split_Set": "Train"}'
    text = f'{{"a.wav": {row}, "b.wav": null, "c.wav": [], "/": {row}, "a.wav": {row}}}'
    corpus = read_corpus("msp_podcast", write(tmp_path / "json", {"labels_consensus.json": text}))
    assert [row.id for row in corpus.utterances] == ["a", "a"]  # ingest drops the second
    assert [row.id for row in corpus.dropped] == ["b", "c", "labels_consensus.json row 4"]


def test_answers_below_a_broken_first_line_count_for_no_other_file(tmp_path):
    """And a repeated block counts once."""
    text = labels_txt().replace("MSP-PODCAST_0001_0009_0001.wav; X; A:4.0", "MSP-PODCAST_0001_0009_0001.wav; X; \n")
    corpus = read_corpus("msp_podcast", write(tmp_path, {"labels_consensus.csv": consensus_csv(), "labels.txt": text + "\n" + text}))
    rows = {row.id: row.extra for row in corpus.utterances}
    assert [rows["MSP-PODCAST_0001_0008"][f"votes_{name}"] for name in ("angry", "sad", "happy", "neutral")] == [2, 1, 0, 0]
    assert "votes_happy" not in rows["MSP-PODCAST_0001_0009_0001"]
    assert len(corpus.checks["answers that do not parse"]) == 2 * 4  # the line in two parts, and two answers
    assert corpus.corrections["repeated answer counted once"] == 7
    partitions = "".join(f"Train; {file}\n" for file in ROWS)
    corpus = read_corpus("msp_podcast", write(tmp_path / "alone", {"labels.txt": text, "Partitions.txt": partitions}))
    reasons = Counter((row.id, row.reason) for row in corpus.dropped)
    assert reasons["MSP-PODCAST_0001_0009_0001", "label row does not parse"] == 1


def test_workers_without_a_name_may_answer_alike(tmp_path):
    answers = "FileName,EmoClass_Major,EmoClass_Second\n" + "a.wav,Happy,Happy\n" * 3
    files = {"labels_consensus.csv": HEAD + "a.wav,H,4,4,4,1,Male,Train\n", "labels_detailed.csv": answers}
    assert read_corpus("msp_podcast", write(tmp_path, files)).utterances[0].extra["votes_happy"] == 3


@pytest.mark.parametrize("labels", ["primary", "votes", "all"])
def test_soft_labels_are_shares_of_the_workers(tmp_path, labels):
    root = write(tmp_path, {"labels_consensus.csv": consensus_csv(), "labels.txt": labels_txt()})
    assert not any(key.startswith("target_") for row in read_corpus("msp_podcast", root, labels=labels).utterances for key in row.extra)
    rows = {row.id: row for row in read_corpus("msp_podcast", root, labels=labels, soft=True).utterances}
    first = {name: rows["MSP-PODCAST_0001_0008"].extra[f"target_{name}"] for name in CLASSES}
    # Two said angry, one sad; who said sad also named amused, which counts for happy. Annoyed beside angry is angry once.
    happy = 1 / 3 if labels == "all" else 0
    assert first == dict.fromkeys(CLASSES, 0) | {"angry": 2 / 3, "sad": 1 / 3, "happy": happy}
    undecided = rows["MSP-PODCAST_0001_0009_0001"]
    assert (undecided.extra["target_happy"], undecided.extra["target_neutral"]) == (0.5, 0.5)
    assert undecided.labels == (None if labels == "primary" else ["happy", "neutral"])


def test_answers_that_do_not_parse_and_disagreement_are_reported(tmp_path):
    text = (
        labels_txt().replace("WORKER00000002; Sad;", "WORKER00000002; Blue;").replace("0001_0008.wav; A;", "0001_0008.wav; S;")
        + "half a line\n"
    )
    corpus = read_corpus(
        "msp_podcast", write(tmp_path, {"labels_consensus.csv": consensus_csv().replace("_0008.wav,A", "_0008.wav,S"), "labels.txt": text})
    )
    assert len(corpus.checks["answers that do not parse"]) == 2
    assert corpus.checks["consensus recomputed from the votes"]["different"] == ["MSP-PODCAST_0001_0008.wav: published S, votes A"]


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        ({}, {}, "labels_consensus.csv"),
        ({"labels_consensus.csv": "a,b\n1,2\n"}, {}, "no row with a FileName"),
        ({"labels_consensus.csv": ""}, {}, "no row with a FileName"),
        ({"labels_consensus.json": "[1]"}, {}, "does not parse"),
        ({"labels_consensus.json": '{"a.wav": '}, {}, "does not parse"),
        ({"labels_consensus.json": "[" * 100_000}, {}, "does not parse"),
        ({"labels_consensus.csv": consensus_csv()}, {"soft": True}, "soft: true needs the workers' answers"),
        ({"labels_consensus.csv": consensus_csv()}, {"labels": "all"}, "needs the workers' answers"),
        ({"labels_consensus.csv": consensus_csv()}, {"transcripts": True}, "has no Transcripts"),
        ({"labels_consensus.csv": consensus_csv(), "labels_detailed.json": "[]"}, {}, "labels_detailed in .* does not parse"),
    ],
)
def test_another_layout_is_one_clear_sentence(tmp_path, files, options, says):
    with pytest.raises(CorpusError, match=says):
        read_corpus("msp_podcast", write(tmp_path, files), **options)


def test_the_table_of_secondary_emotions():
    assert len(SECONDARY) == 17 and set(SECONDARY.values()) - {None} == set(CLASSES)
    assert all(SECONDARY[name] == name.lower() for name in PRIMARY) and set(PRIMARY.values()) == set(CODES)


def test_parse_keeps_free_text_out():
    assert parse(worker(1, "Other-well; sort of, hm", "Other-a;b,Frustrated")) == Answer("Other", ("Frustrated",))
    assert parse("WORKER1; Happy; ; A:1; V:2; D:3") == Answer("Happy", ())
    assert parse("") is None and parse("WORKER1; Happy") is None and answer("Cheerful", "Happy") is None


@given(st.lists(st.sampled_from([*PRIMARY, "Other"]), max_size=9))
def test_plurality_is_the_single_most_frequent_vote(names):
    code = plurality([Answer(name, ()) for name in names])
    counts = sorted(Counter(names).values(), reverse=True)
    tied = not counts or (len(counts) > 1 and counts[0] == counts[1])
    assert (code == "X") == tied
    if not tied:
        assert {"O": "Other"}.get(code, CODES.get(code, "").capitalize()) == Counter(names).most_common(1)[0][0]
    assert present([Answer(name, ()) for name in names], False, 1) == [name for name in CLASSES if name.capitalize() in names]


@pytest.mark.parametrize("form", ["csv", "json", "txt"])
def test_real_annotation_in_this_format(tmp_path, form):
    """5427 annotated files of a related corpus: the published counts, and every consensus agrees with the votes."""
    if not os.environ.get("CALM_CORPORA"):
        pytest.skip("CALM_CORPORA is not set: no real labels")
    real = Path(os.environ["CALM_CORPORA"]) / "labels/msp_format"
    with (real / "labels_consensus.csv").open() as file:
        names = [row["FileName"] for row in csv.DictReader(file)]
    root = write(tmp_path, {"Partitions.txt": "".join(f"Train; {name}\n" for name in names)})
    wanted = {
        "csv": ["labels_consensus.csv", "labels_detailed.csv"],
        "json": ["labels_consensus.json", "labels.txt"],
        "txt": ["labels.txt"],
    }
    for name in wanted[form]:
        shutil.copy(real / name, root / "Labels")
    corpus = read_corpus("msp_podcast", root)
    assert not corpus.dropped and not corpus.checks["answers that do not parse"]
    codes = Counter(row.extra["consensus"] for row in corpus.utterances)
    assert codes == {"N": 3492, "X": 916, "H": 345, "A": 293, "S": 284, "O": 47, "U": 33, "C": 10, "F": 6, "D": 1} and codes.total() == 5427
    labelled = Counter(row.labels[0] for row in corpus.utterances if row.labels)
    assert labelled == {name: codes[code] for code, name in CODES.items()}
    assert corpus.checks["consensus recomputed from the votes"] == {"compared": 5427, "different": []}
