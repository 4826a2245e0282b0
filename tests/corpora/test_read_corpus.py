"""The registry: every format is there, options are checked before the corpus is touched, faults are one sentence."""

import subprocess
import sys

import pytest

from calm.corpora import FORMATS, check_options, read_corpus, reader
from calm.corpora.utterances import CorpusError


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
    code = "import sys, calm.corpora; print([m for m in sys.modules if m in ('torch', 'h5py', 'soundfile', 'av', 'calm.corpora.mosei')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_unreadable_file_is_one_clear_sentence(tmp_path):
    (tmp_path / "corpus.csv").mkdir()
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus("manifest", tmp_path / "corpus.csv")
