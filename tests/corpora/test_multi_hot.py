"""Labels to targets."""

import pytest

from calm.corpora.utterances import multi_hot


def test_multi_hot_by_hand():
    targets = multi_hot([["sad"], [], ["happy", "sad"]], ("happy", "sad"))
    assert targets.tolist() == [[False, True], [False, False], [True, True]]
    assert targets.dtype == bool
    assert multi_hot([], ("happy", "sad")).shape == (0, 2)


def test_unknown_and_missing_classes_are_refused():
    with pytest.raises(ValueError, match="label 'angry' is not one of the classes happy, sad"):
        multi_hot([["angry"]], ("happy", "sad"))
    with pytest.raises(ValueError, match="2 utterances have no class or several"):
        multi_hot([["sad"], [], ["happy", "sad"]], ("happy", "sad"), one_hot=True)
