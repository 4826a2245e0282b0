"""`docs/settings.md`: every setting of `params.yaml`, from the types of `pipeline/settings.py` and the comments beside its fields.

Run `python -m pipeline.settings_table > docs/settings.md` after a change of the settings; a test tells when that was forgotten.
"""

import ast
import inspect
import io
import json
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_type_hints

from pydantic import TypeAdapter

from calm.corpora import FORMATS, reader
from pipeline import settings

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "null": "null", "object": "mapping"}
HEAD = """# Settings

All of `params.yaml`. A value that is not allowed, and a key that is not here, stop a rebuild before any work. What has a default may be
left out. Numbers in parentheses, or alone, are sections of the paper.

This page is written by `python -m pipeline.settings_table > docs/settings.md`, from [`pipeline/settings.py`](../pipeline/settings.py).
"""


def page() -> str:
    """The whole page, in Markdown."""
    schema = settings.Settings.model_json_schema()
    parts, top = [HEAD], []
    for name, of in schema["properties"].items():
        key, section = _section(name, of, schema)
        if section is None:
            top.append(_row(key, of, name in schema["required"], comments(settings.Settings).get(name, "")))
        else:
            said = [f"{text}\n" for text in (_about(section), comments(settings.Settings).get(name)) if text]
            parts.append("\n".join([f"## `{name}`\n", *said, _table(_rows(key, section, schema))]))
    return "\n".join([parts[0], _table(top), *parts[1:], _options()])


def _about(section: type) -> str:
    """A section's own docstring."""
    return inspect.cleandoc(section.__doc__ or "")


def _section(name: str, of: dict, schema: dict) -> tuple[str, type | None]:
    """Key of a setting, and the section that it is or that each of its names has; None where it is a plain value."""
    for one in (of, *of.get("anyOf", ())):
        if "$ref" in one:
            return name, _class(one)
        for inner in (one.get("additionalProperties"), *one.get("patternProperties", {}).values()):
            if isinstance(inner, dict) and "$ref" in inner:
                return f"{name}.<name>", _class(inner)
    return name, None


def _class(of: dict) -> type:
    """The class of `pipeline.settings` that a part of the schema stands for."""
    return getattr(settings, of["$ref"].rpartition("/")[2])


def _rows(prefix: str, section: type, schema: dict) -> Iterator[list[str]]:
    """A line a setting of a section, those of the sections in it too."""
    part = schema["$defs"][section.__name__]
    for name, of in part["properties"].items():
        key, inner = _section(f"{prefix}.{name}", of, schema)
        said, needed = comments(section).get(name, ""), name in part.get("required", ())
        if inner is None or "anyOf" in of or said:  # a section that may be left out, or of which something is said
            yield _row(key, of, needed, said or _about(inner))
        if inner is not None:
            yield from _rows(key, inner, schema)


def _row(key: str, of: dict, needed: bool, said: str) -> list[str]:
    return [f"`{key}`", allowed(of), "required" if needed else _default(of.get("default")), said]


def _default(value: object) -> str:
    """A default as `params.yaml` would have it; that of a whole section is told by its own lines."""
    if isinstance(value, dict) and value:
        return ""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def allowed(of: dict) -> str:
    """The values that a part of a JSON schema lets through, in words."""
    if "$ref" in of:
        return "mapping"
    if "anyOf" in of:
        return " or ".join(allowed(one) for one in of["anyOf"])
    if "enum" in of or "const" in of:
        return ", ".join(f"`{value}`" for value in of.get("enum", [of.get("const")]))
    if of.get("type") == "array":
        if "prefixItems" in of:
            return f"[{', '.join(allowed(one) for one in of['prefixItems'])}]"
        least = f", {of['minItems']} at least" if "minItems" in of else ""
        return f"list of {allowed(of['items'])}{least}" if of.get("items") else "list"
    if of.get("type") == "object":
        inner = next((one for one in (of.get("additionalProperties"), *of.get("patternProperties", {}).values()) if one), None)
        keys = allowed(of["propertyNames"]) if "propertyNames" in of else "name"
        return f"mapping, {keys}: {allowed(inner)}" if isinstance(inner, dict) else "mapping"
    if of.get("format") == "path":
        return "path"
    bounds = " and ".join(f"{sign} {of[key]:g}" for key, sign in BOUNDS.items() if key in of)
    pattern = f" that matches `{of['pattern']}`" if "pattern" in of else ""
    return f"{TYPES.get(of.get('type'), 'any value')}{pattern}{' ' if bounds else ''}{bounds}"


@cache
def comments(section: type) -> dict[str, str]:
    """What the comment beside each field of a section says, those of the classes that it extends too."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if base.__module__ == settings.__name__:
            found |= _written(Path(settings.__file__)).get(base.__name__, {})
    return found


@cache
def _written(file: Path) -> dict[str, dict[str, str]]:
    """Comments by class and field, of a file."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    beside = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(text).body:
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)] if isinstance(node, ast.ClassDef) else []
        for field in fields:
            first = field.lineno
            while first - 1 in beside and lines[first - 2].lstrip().startswith("#"):
                first -= 1  # a comment that has lines of its own above the field
            said = [beside[line] for line in range(first, field.end_lineno + 1) if line in beside]
            found.setdefault(node.name, {})[field.target.id] = " ".join(said)
    return found


def _options() -> str:
    """The options of every format of a corpus, from the signature of its reader."""
    rows = []
    for format in FORMATS:
        read = reader(format)
        hints = get_type_hints(read, include_extras=True)
        for name, parameter in inspect.signature(read).parameters.items():
            if name != "path":
                default = TypeAdapter(hints[name]).dump_python(parameter.default, mode="json")
                rows.append([f"`{format}`", f"`{name}`", allowed(TypeAdapter(hints[name]).json_schema()), _default(default)])
    head = "## `corpora.<name>.options`\n\nWhat each does stands in the docstring of `read` in `calm/corpora/<format>.py`.\n"
    return f"{head}\n{_table(rows, ('format', 'option', 'allowed', 'default'))}"


def _table(rows: Iterator[list[str]] | list[list[str]], columns: tuple[str, ...] = ("key", "allowed", "default", "what")) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
