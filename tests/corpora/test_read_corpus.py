"""The registry of formats: options are checked before the corpus is touched, faults are one sentence, and layouts name missing parts."""

import subprocess
import sys

import pytest

from calm.corpora import FORMATS, CorpusError, check_options, module, read_corpus, reader
from calm.corpora.layout import missing


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_path(format, tmp_path):
    with pytest.raises(CorpusError, match="nowhere is missing: put or link the"):
        read_corpus(format, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("format", "options", "says"),
    [
        ("msp", {}, "no corpus format 'msp'.*msp_podcast"),
        ("mosei", {"fold": "x"}, "no option 'fold': it has folds"),
        ("msp_podcast", {"labels": "main"}, "Option 'labels' .* is 'main': .*'primary'.*default is 'primary'"),
        ("msp_podcast", {"test": ["Test4"]}, "Option 'test'"),
        ("msp_podcast", {"min_workers": 0}, "greater than or equal to 1"),
        ("ravdess", {"train": ["one"]}, "Option 'train'"),
        ("librispeech", {"validation_share": 1}, "less than 1"),
        ("manifest", {"path": "x"}, "no option 'path'"),
    ],
)
def test_wrong_options_name_what_is_allowed(format, options, says):
    with pytest.raises(CorpusError, match=says):
        check_options(format, options)


def test_options_are_converted():
    assert check_options("ravdess", {"train": [1, "2"]}) == {"train": [1, 2]}
    assert callable(reader("mosei"))


def test_the_registry_imports_no_format_and_nothing_heavy():
    heavy = {"torch", "pandas", "numpy", "pyarrow", "pydantic", "h5py", "soundfile", "av", *FORMATS.values()}
    code = f"import sys, calm.corpora; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_layout_imports_no_format():
    code = f"import sys, calm.corpora.layout; print(sorted({set(FORMATS.values())} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_a_layout_whose_names_can_be_filled_in(format, tmp_path):
    parts = missing(format, tmp_path, {})
    assert len(parts) == len(module(format).LAYOUT) and not any("{" in part["name"] for part in parts)
    required = [part["required"] for part in parts]
    assert required == sorted(required, reverse=True)


def test_a_part_is_there_under_any_of_its_names(tmp_path):
    (tmp_path / "label").mkdir()
    (tmp_path / "label/labels_concensus.json").touch()
    names = {part["name"] for part in missing("msp_podcast", tmp_path, {})}
    assert "Labels/labels_consensus.csv" not in names and {"Audios", "Partitions.txt"} <= names


def test_parts_that_options_move(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train_videos.txt").touch()
    names = {part["name"] for part in missing("mosei", tmp_path / "raw", {"folds": tmp_path / "lists"})}
    assert f"{tmp_path}/lists/train_videos.txt" not in names and f"{tmp_path}/lists/test_videos.txt" in names


def test_an_unreadable_file_is_one_clear_sentence(tmp_path):
    (tmp_path / "corpus.csv").mkdir()
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus("manifest", tmp_path / "corpus.csv")
