"""What makes a model's inputs: the same of new audio as of the features, for a search too."""

import numpy as np
import pytest
from made_corpus import make
from made_model import calp

from calm.audio.decoding import read_audio
from calm.tools import search
from pipeline import feature_extractors


def test_statistics_of_two_corpora_by_hand():
    """1 frame at 0 and 3 frames of mean 4 and deviation 2: mean 3; squares 0 and 3 x (4 + 16) = 60, so 60 / 4 - 9 = 6."""
    stats = [{"mean": [0.0], "std": [0.0], "frames": 1}, {"mean": [4.0], "std": [2.0], "frames": 3}]
    statistics = feature_extractors.pooled(stats)
    assert statistics["mean"] == [3.0] and statistics["std"] == pytest.approx([6**0.5])


def test_a_corpus_is_searched_as_its_audio(tmp_path, monkeypatch):
    """The vectors of the log-mel that `features` wrote are those of the audio files under the extractor that `calp` saves."""
    monkeypatch.chdir(tmp_path)
    settings = make(6, features={"workers": 1})
    stats = feature_extractors.extractor(settings.spectran, ["made"])
    encoder = search.CalpEncoder(calp(tmp_path / "data/calp/small", mean=stats.mean, std=stats.std))
    assert search.models() == [search.DATA / "calp/small"]
    sources = search.Sources.from_names(["made", "./audio-made/0.wav"])
    assert sources.corpora == ["made"] and [path.name for path in sources.files] == ["0.wav"]
    rows = list(search.corpus_rows(encoder, "made"))
    assert [row["id"] for row in rows] == [f"u{index}" for index in range(6)] and rows[4]["text"] == "number 4"
    for row in rows:
        assert row["end"] - row["start"] == pytest.approx(1 + int(row["id"][1:]) % 4 / 2)
        np.testing.assert_allclose(row["blocks"], encoder.embed_samples(read_audio(row["file"])), atol=2e-3)
    hit = search.rank(iter(rows), search.unit(rows[3]["blocks"].astype(np.float32).mean(0)), 1, encoder.extractor).hits[0]
    assert (hit.id, hit.file, hit.text) == ("u3", "audio-made/3.wav", "number 3") and hit.cosine == pytest.approx(1, abs=1e-3)
    other = search.CalpEncoder(calp(tmp_path / "other", hop_ms=20))
    with pytest.raises(ValueError, match="the features of made have hop_ms 10, the model 20: run the stage `features` again"):
        next(search.corpus_rows(other, "made"))
