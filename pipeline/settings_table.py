"""Writes `docs/settings.md`, a table of all settings, from the JSON schema of `pipeline/settings`.

Run `python -m pipeline.settings_table > docs/settings.md` after a change of the settings.
"""

import inspect
import json
from collections.abc import Iterable, Iterator
from typing import get_type_hints

from pydantic import TypeAdapter

from calm.corpora import FORMATS, reader
from pipeline.settings import Settings

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "null": "null", "object": "mapping"}
HEAD = """# Settings

All keys of `params.yaml`. An unknown key, or a value that is not allowed, stops a rebuild before any work. Keys with a default may be left
out. Numbers in parentheses are sections of the paper.

This page is written by `python -m pipeline.settings_table > docs/settings.md`, from [`pipeline/settings`](../pipeline/settings).
"""
OPTIONS = """## `corpora.<name>.options`

The docstring of `read` in `calm/corpora/<format>.py` describes each option.
"""


def page() -> str:
    """The whole page in Markdown: single settings, a table per section, and the options of the corpus formats."""
    schema = Settings.model_json_schema()
    single, sections = [], []
    for name, part in schema["properties"].items():
        key, section = _section(name, part, schema)
        if section is None:
            single.append(_row(key, part, name in schema["required"]))
        else:
            sections.append(f"## `{name}`\n\n{_text(section)}\n\n{_table(_rows(key, section, schema))}")
    return "\n".join([HEAD, _table(single), *sections, OPTIONS, _table(_options(), ("format", "option", "allowed", "default"))])


def allowed(part: dict) -> str:
    """The values that a part of a JSON schema allows, in words."""
    if "$ref" in part:
        return "mapping"
    if "anyOf" in part:
        return " or ".join(allowed(choice) for choice in part["anyOf"])
    if "enum" in part or "const" in part:
        return ", ".join(f"`{value}`" for value in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        if "prefixItems" in part:
            return f"[{', '.join(map(allowed, part['prefixItems']))}]"
        return f"list of {allowed(part['items'])}" + (f", at least {part['minItems']}" if "minItems" in part else "")
    if part.get("type") == "object" and (values := _values(part)):
        return f"mapping, {allowed(part['propertyNames']) if 'propertyNames' in part else 'name'}: {allowed(values)}"
    if part.get("format") == "path":
        return "path"
    bounds = " and ".join(f"{sign} {part[key]:g}" for key, sign in BOUNDS.items() if key in part)
    pattern = f"that matches `{part['pattern']}`" if "pattern" in part else ""
    return " ".join(filter(None, (TYPES.get(part.get("type"), "any value"), pattern, bounds)))


def _values(part: dict) -> dict | None:
    """The schema of a mapping's values, if it has one."""
    values = [part.get("additionalProperties"), *part.get("patternProperties", {}).values()]
    return next((value for value in values if isinstance(value, dict) and value), None)


def _section(key: str, part: dict, schema: dict) -> tuple[str, dict | None]:
    """The key of a setting, and the schema of its section (also where it is one of several by name, or null); else None."""
    for choice in (part, *part.get("anyOf", ())):
        for suffix, target in (("", choice), (".<name>", _values(choice) or {})):
            if "$ref" in target:
                return key + suffix, schema["$defs"][target["$ref"].rpartition("/")[2]]
    return key, None


def _rows(prefix: str, section: dict, schema: dict) -> Iterator[list[str]]:
    """A row per setting of a section, nested sections included."""
    for name, part in section["properties"].items():
        key, inner = _section(f"{prefix}.{name}", part, schema)
        if inner is None or "description" in part:
            yield _row(key, part, name in section.get("required", ()))
        if inner is not None:
            yield from _rows(key, inner, schema)


def _row(key: str, part: dict, required: bool) -> list[str]:
    return [f"`{key}`", allowed(part), "required" if required else _default(part.get("default")), _text(part)]


def _text(part: dict) -> str:
    return " ".join(part.get("description", "").split())


def _default(value: object) -> str:
    """A default as in `params.yaml`; empty for a section, whose rows have their own."""
    if isinstance(value, dict) and value:
        return ""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _options() -> Iterator[list[str]]:
    """A row per option of each corpus format, from the signature of its reader."""
    for format in FORMATS:
        read = reader(format)
        hints = get_type_hints(read, include_extras=True)
        for name, parameter in inspect.signature(read).parameters.items():
            if name != "path":
                option = TypeAdapter(hints[name])
                default = option.dump_python(parameter.default, mode="json")
                yield [f"`{format}`", f"`{name}`", allowed(option.json_schema()), _default(default)]


def _table(rows: Iterable[list[str]], columns: tuple[str, ...] = ("key", "allowed", "default", "description")) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
