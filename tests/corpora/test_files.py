"""What all readers of corpora share: texts and numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calm.corpora.files import number, tidy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  So  I\tSAID\n", "So I SAID"),
        ("NORTHANGER ABBEY", "northanger abbey"),  # no casing to keep
        ("I'M 20.", "i'm 20."),
        ("20 times", "20 times"),
        ("ÉTÉ", "été"),
        ("22", "22"),
        (" \n", None),
        ("", None),
        (None, None),
    ],
)
def test_tidy(text, expected):
    assert tidy(text) == expected


@given(st.text())
def test_tidy_changes_nothing_but_space_and_upper_case(text):
    tidied = tidy(text)
    assert tidy(tidied) == tidied
    assert (tidied or "").lower() == " ".join(text.split()).lower()


@pytest.mark.parametrize(("value", "expected"), [("1.5", 1.5), (3, 3), ("-1", -1), ("1e3", 1000)])
def test_numbers(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize("value", ["1_0", "x", "", None, [1], 10**400])
def test_other_values_are_nan(value):
    assert math.isnan(number(value))
