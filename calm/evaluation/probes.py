"""Linear probes: how well speakers and labels can be read from vectors of utterances."""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from calm.array_types import Bools, Floats

Labels = npt.NDArray[np.str_] | npt.NDArray[np.int64] | Bools

STRENGTH = 0.01  # C of the logistic regression: few utterances, many dimensions
LEAST = 4  # utterances of a speaker, so that two train and two test


def speaker_probe(vectors: Floats, speakers: Sequence[str | None]) -> dict[str, float] | None:
    """Logistic regression that names the speaker of utterances it has not heard.

    Every second utterance of a speaker with at least four is trained on, the others are tested.

    Args:
        vectors: (utterances, width); speakers: (utterances,), None where unknown.
    Returns:
        `balanced_accuracy`, `chance`, `n` tested, `classes`; None with fewer than two such speakers.
    """
    names = np.array(["" if speaker is None or speaker != speaker else str(speaker) for speaker in speakers])  # NaN differs from itself
    rows = {name: np.flatnonzero(names == name) for name in np.unique(names) if name}
    rows = {name: own for name, own in rows.items() if len(own) >= LEAST}
    if len(rows) < 2:
        return None
    train, test = (np.concatenate([own[first::2] for own in rows.values()]) for first in (0, 1))
    predicted = _predict(vectors[train], names[train], vectors[test])
    return {"balanced_accuracy": _recall(names[test], predicted), "chance": 1 / len(rows), "n": len(test), "classes": len(rows)}


def label_probe(vectors: Floats, targets: Bools, train: Bools) -> dict[str, float] | None:
    """Logistic regression on labels: one of all classes where each utterance has exactly one, else present or absent, by class.

    Args:
        targets: bool (utterances, classes); train: bool (utterances,), the others are tested.
    Returns:
        As `speaker_probe`; None where no class is both present and absent in training and in the test.
    """
    parts = (targets[train], targets[~train])
    usable = np.all([part.any(0) & (~part).any(0) if len(part) else np.zeros(targets.shape[1], bool) for part in parts], axis=0)
    if not usable.any():
        return None
    one_hot = bool((targets.sum(1) == 1).all())
    tasks = [targets.argmax(1)] if one_hot else list(targets[:, usable].T)
    scores = [_recall(task[~train], _predict(vectors[train], task[train], vectors[~train])) for task in tasks]
    classes = len(np.unique(tasks[0][~train])) if one_hot else int(usable.sum())
    return {
        "balanced_accuracy": float(np.mean(scores)),
        "chance": 1 / classes if one_hot else 0.5,
        "n": int((~train).sum()),
        "classes": classes,
    }


def _predict(heard: Floats, answers: Labels, vectors: Floats) -> Labels:
    """Answers for vectors, by logistic regression on standardised ones, classes weighted by their rarity."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=200, tol=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found: Labels = model.fit(heard.astype(np.float64), answers).predict(vectors.astype(np.float64))
    return found


def _recall(truth: Labels, predicted: Labels) -> float:
    """Balanced accuracy: the mean over the classes of the share of their utterances that are recognised."""
    return float(np.mean([(predicted[truth == name] == name).mean() for name in np.unique(truth)]))
