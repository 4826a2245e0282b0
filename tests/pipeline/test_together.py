"""Answers of several heads together."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipeline.settings import Heads
from pipeline.stages.head import averaged


def rows(variant: str, answers: dict[str, list[float]], **more) -> pd.DataFrame:
    return pd.DataFrame([{"id": id, "split": "test", "logits": np.float32(own), "variant": variant, **more} for id, own in answers.items()])


def test_means_by_hand():
    """Of log-probabilities 1/4, 3/4 and 3/4, 1/4 the odds are even; of logits, the mean. What one variant lacks is left out."""
    both = {"modality": "audio", "seed": 1, "fold": 2}
    table = pd.concat(
        [
            rows("a", {"x": [5.0, 5 + np.log(3)], "y": [0.0, 0.0]}, **both),
            rows("b", {"x": [np.log(3) - 2, -2.0], "z": [0.0, 0.0]}, **both),
            rows("b", {"y": [1.0, 0.0]}, **both | {"seed": 2}),
            rows("c", {"x": [9.0, 9.0]}, **both),
        ]
    )
    found = averaged(table, "ab", ["a", "b"], "softmax")
    assert found.drop(columns="logits").to_dict("records") == [{"id": "x", "split": "test", "variant": "ab", **both}]
    np.testing.assert_allclose(found["logits"][0], [np.log(3**0.5 / 4)] * 2, rtol=1e-6)
    np.testing.assert_allclose(averaged(table, "ab", ["a", "b"], "bce")["logits"][0], [(3 + np.log(3)) / 2, (3 + np.log(3)) / 2], rtol=1e-6)
    assert averaged(table, "ac", ["b", "d"], "bce").empty


def test_variants_are_rows():
    with pytest.raises(ValidationError, match="together.all: 'x' is none of its rows \\(calm, no_pretraining\\)"):
        Heads(corpus="a", model="b", together={"all": ["calm_frozen", "x"]})
    with pytest.raises(ValidationError, match="'calm' is a row already"):
        Heads(corpus="a", model="b", together={"calm": ["calm", "no_pretraining"]})
