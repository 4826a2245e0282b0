"""The page of all settings is that of the settings as they are."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter

from pipeline import settings, settings_table

PAGE = Path(__file__).parents[2] / "docs/settings.md"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == settings_table.page(), "python -m pipeline.settings_table > docs/settings.md"


def test_every_field_of_every_section_has_a_line():
    """Counted from the classes themselves: a field of any section is the last part of some key."""
    keys = set(re.findall(r"^\| `([\w.<>]+)` \|", PAGE.read_text(), re.MULTILINE))
    last = {key.removesuffix(".<name>").rpartition(".")[2] for key in keys}
    sections = [kind for kind in vars(settings).values() if isinstance(kind, type) and issubclass(kind, settings.Section)]
    inner = {"Settings", "Section"}
    for section in (section for section in sections if section.__name__ not in inner):
        assert set(section.model_fields) - {"augment"} <= last, section
    assert {"calp.augment.speed", "head.augment.speed", "ingest.cut.pause", "corpora.<name>.format", "seeds"} <= keys


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Annotated[float, Field(ge=0, lt=0.5)], "number ≥ 0 and < 0.5"),
        (settings.Positive | None, "integer > 0 or null"),
        (Literal["a", "b"], "`a`, `b`"),
        (Literal["a"], "`a`"),
        (list[Literal["a", "b"]], "list of `a`, `b`"),
        (Annotated[list[int], Field(min_length=1)], "list of integer, 1 at least"),
        (tuple[int, bool], "[integer, true or false]"),
        (dict[Literal["a", "b"], settings.Positive], "mapping, `a`, `b`: integer > 0"),
        (Path, "path"),
    ],
)
def test_allowed_values_in_words(kind, said):
    assert settings_table.allowed(TypeAdapter(kind).json_schema()) == said


def test_what_is_said_comes_from_the_comment_beside_the_field(tmp_path):
    assert settings_table.comments(settings.Calp)["batch"] == "utterances a step"  # of the class above it
    assert settings_table.comments(settings.Calp)["alpha"].startswith("weight of the audio-language term")
    (tmp_path / "some.py").write_text('class A:\n    # above\n    x: int = (\n        1  # first\n    )  # second\n    y: str = "# no"\n')
    assert settings_table._written(tmp_path / "some.py") == {"A": {"x": "above first second", "y": ""}}
