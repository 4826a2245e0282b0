"""Linear probes of speakers and labels."""

import numpy as np
import pytest

from calm.evaluation.probes import label_probe, speaker_probe


def told(classes: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose first dimensions tell the class, and noise; the classes."""
    rng, answers = np.random.default_rng(seed), np.repeat(np.arange(classes), each)
    return np.concatenate([8 * np.eye(classes)[answers], rng.normal(size=(len(answers), 3))], 1), answers


def test_speakers_that_vectors_tell_are_read():
    vectors, speakers = told(5, 8)
    names = [f"s{number}" for number in speakers]
    assert speaker_probe(vectors, names) == {"balanced_accuracy": 1.0, "chance": 0.2, "n": 20, "classes": 5}
    assert speaker_probe(vectors[:, 5:], names)["balanced_accuracy"] < 0.6


def test_speakers_with_too_few_utterances_or_no_name_are_left_out():
    vectors, speakers = told(3, 4)
    names: list = [f"s{number}" for number in speakers]
    names[0], names[4] = None, float("nan")  # the first and the second speaker keep three
    assert speaker_probe(vectors, names) is None


def test_labels_are_tested_on_the_held_out():
    vectors, classes = told(4, 10)
    train = np.tile([True] * 6 + [False] * 4, 4)
    result = label_probe(vectors, np.eye(4, dtype=bool)[classes], train)
    assert result == {"balanced_accuracy": 1.0, "chance": 0.25, "n": 16, "classes": 4}
    vectors[~train] = vectors[~train][::-1]  # every test vector is now of another class
    assert label_probe(vectors, np.eye(4, dtype=bool)[classes], train)["balanced_accuracy"] == 0


def test_several_labels_at_once_are_means_of_two_classes_each():
    vectors, classes = told(2, 20)
    targets = np.stack([classes == 1, np.arange(40) % 2 == 0, np.zeros(40, bool)], 1)
    targets[:5, 1] = targets[:5, 0] = False
    train = np.arange(40) % 4 < 2
    result, second = label_probe(vectors, targets, train), label_probe(vectors, targets[:, 1:2], train)
    assert result["chance"] == 0.5 and result["classes"] == 2 and result["n"] == 20  # the third class never occurs
    assert result["balanced_accuracy"] == pytest.approx((1 + second["balanced_accuracy"]) / 2)


def test_nothing_to_learn_is_none():
    vectors, classes = told(2, 6)
    assert label_probe(vectors, np.ones((12, 1), bool), classes == 0) is None
    assert label_probe(vectors, np.eye(2, dtype=bool)[classes], np.ones(12, bool)) is None
