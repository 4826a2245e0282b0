"""What every section of the settings shares: strict models, common types of values, and markers that code can read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
ANY = TypeAdapter(Any)


class Section(BaseModel):
    """A part of `params.yaml`. Unknown keys are errors, and the docstring below a field is its description in docs/settings.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunTime:
    """Marks a field that changes how a stage runs, but never its result: `Annotated[int, RunTime()]`."""


@dataclass(frozen=True)
class Overrides:
    """Marks a dict that holds values for some fields of another section: `Annotated[dict, Overrides(Head)]`.

    Args:
        section: the section whose fields are overridden.
        by_name: the dict holds such a dict for each of several names.
    """

    section: type[Section]
    by_name: bool = False


def run_time_fields(section: type[Section]) -> set[str]:
    """Names of a section's fields that never change a result."""
    return {name for name, field in section.model_fields.items() if _marker(field.metadata, RunTime)}


def results_only(section: Section) -> dict:
    """The values of a section that a result can depend on, defaults included, as plain JSON data.

    Fields marked `RunTime` are left out, also in nested sections, in dicts of sections, and in dicts marked `Overrides`.
    """
    fields, left_out = type(section).model_fields, run_time_fields(type(section))
    return {name: _plain(value, fields[name].metadata) for name, value in section if name not in left_out}


def _plain(value: object, metadata: Iterable = ()) -> object:
    """A field's value as plain JSON data without run-time fields."""
    if overrides := _marker(metadata, Overrides):
        left_out = run_time_fields(overrides.section)
        if overrides.by_name:
            return {name: _without(changes, left_out) for name, changes in value.items()}
        return _without(value, left_out)
    if isinstance(value, Section):
        return results_only(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return ANY.dump_python(value, mode="json")


def _without(changes: dict, left_out: set[str]) -> dict:
    return {key: ANY.dump_python(value, mode="json") for key, value in changes.items() if key not in left_out}


def _marker(metadata: Iterable, kind: type) -> object | None:
    return next((item for item in metadata if isinstance(item, kind)), None)
