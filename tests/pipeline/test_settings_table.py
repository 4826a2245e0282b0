"""docs/settings.md lists all settings as they are in the code."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter

from pipeline import settings, settings_table

PAGE = Path(__file__).parents[2] / "docs/settings.md"
SECTIONS = {kind for kind in vars(settings).values() if isinstance(kind, type) and issubclass(kind, settings.Section)}


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == settings_table.page(), "python -m pipeline.settings_table > docs/settings.md"


def test_every_field_of_every_section_has_a_line():
    """Counted from the classes: each field of a section is the last part of some key."""
    keys = set(re.findall(r"^\| `([\w.<>]+)` \|", PAGE.read_text(), re.MULTILINE))
    last = {key.removesuffix(".<name>").rpartition(".")[2] for key in keys}
    for section in SECTIONS - {settings.Settings}:
        assert set(section.model_fields) - {"augment"} <= last, section
    assert {"calp.augment.speed", "head.augment.speed", "ingest.cut.pause", "corpora.<name>.format", "seeds"} <= keys


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Annotated[float, Field(ge=0, lt=0.5)], "number ≥ 0 and < 0.5"),
        (settings.Positive | None, "integer > 0 or null"),
        (Literal["a", "b"], "`a`, `b`"),
        (Literal["a"], "`a`"),
        (list[Literal["a", "b"]], "list of `a`, `b`"),
        (Annotated[list[int], Field(min_length=1)], "list of integer, at least 1"),
        (tuple[int, bool], "[integer, true or false]"),
        (dict[Literal["a", "b"], settings.Positive], "mapping, `a`, `b`: integer > 0"),
        (Path, "path"),
    ],
)
def test_allowed_values_in_words(kind, words):
    assert settings_table.allowed(TypeAdapter(kind).json_schema()) == words


def test_every_section_and_setting_is_described():
    settings_part = PAGE.read_text(encoding="utf-8").partition("## `corpora.<name>.options`")[0]
    rows = re.findall(r"^\| `.*\|(.*)\|$", settings_part, re.MULTILINE)
    sections = re.findall(r"^## .*\n\n(.*)$", settings_part, re.MULTILINE)
    assert len(rows) > 100 and all(text.strip() for text in rows)
    assert len(sections) > 10 and all(text.strip() for text in sections)


def test_descriptions_come_from_the_docstrings_of_fields():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert "| `calp.batch` | integer > 0 | required | Utterances per step. |" in lines  # of the class that `Calp` extends
    assert "Masked pretraining of the multimodal transformer (4.5, equation 3)." in lines
