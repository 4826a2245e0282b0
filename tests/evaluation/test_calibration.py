"""Calibration error and reliability diagram by hand."""

import numpy as np
import pytest

from calm.evaluation import calibration
from calm.evaluation.calibration import expected_calibration_error, reliability_diagram


def test_reliability_diagram_by_hand():
    targets = np.array([[1, 0], [0, 0], [1, 1]], bool)
    probabilities = np.array([[0.92, 0.05], [0.94, 0.0], [1.0, 0.55]])
    rows = reliability_diagram(targets, probabilities)
    assert [(row["low"], row["n"]) for row in rows] == [(0.0, 2), (0.5, 1), (0.9, 3)]
    assert rows[2]["predicted"] == pytest.approx(2.86 / 3)
    assert rows[2]["observed"] == pytest.approx(2 / 3)


def test_calibration_error_by_hand():
    targets = np.array([[1], [0], [1], [1]], bool)
    probabilities = np.array([[0.92], [0.94], [0.31], [1.0]])
    # bin 0.9 to 1: three, mean 2.86 / 3, positive 2 / 3; bin 0.3 to 0.4: one, 0.31 against 1
    assert expected_calibration_error(targets, probabilities) == pytest.approx(3 / 4 * (2.86 / 3 - 2 / 3) + 1 / 4 * 0.69)
    assert expected_calibration_error(targets, targets.astype(float)) == 0


def test_probabilities_outside_0_and_1_are_refused():
    targets = np.zeros((3, 2), bool)
    for probabilities in (np.full((3, 2), 1.5), np.full((3, 2), np.nan), np.zeros((3, 1))):
        with pytest.raises(ValueError, match="within 0 and 1"):
            expected_calibration_error(targets, probabilities)


def test_probabilities_of_a_softmax_sum_to_1_and_never_overflow():
    logits = np.array([[0.0, np.log(3)], [1000, 1000], [-1000, 0]])
    np.testing.assert_allclose(calibration.probabilities(logits, "softmax"), [[0.25, 0.75], [0.5, 0.5], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(calibration.probabilities(logits)[0], [0.5, 0.75])
    assert np.isfinite(calibration.probabilities(logits)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(temperature):
    """Labels are drawn from softmax(z), and the model says temperature * z: dividing by the temperature makes it calibrated."""
    draw = np.random.default_rng(0)
    true = 1.5 * draw.normal(size=(20000, 4))
    shares = calibration.probabilities(true, "softmax")
    targets = (shares.cumsum(axis=1) > draw.random((len(shares), 1))).argmax(axis=1)[:, None] == np.arange(4)
    assert calibration.fit_temperature(targets, temperature * true) == pytest.approx(temperature, rel=0.03)
