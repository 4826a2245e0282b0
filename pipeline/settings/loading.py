"""Reading of `params.yaml`, with a line for each fault."""

import sys
from pathlib import Path

import yaml
from pydantic import ValidationError

from pipeline.settings.settings import Settings
from pipeline.uris import masked


class SettingsError(ValueError):
    """`params.yaml` is wrong. Each line names a key, its value and what is allowed."""


class _Loader(yaml.SafeLoader):
    """As the safe loader, but of two equal keys it does not drop the first without a word."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge other mappings into one. Raises YAMLError for a key that is there twice in itself."""
        if not hasattr(node, "checked"):  # it may be merged into others, with what was merged into it
            node.checked = True
            own = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := next((value for tag, value in own if own.count((tag, value)) > 1), None):
                raise yaml.YAMLError(f"the key '{twice}' is there twice, in the section that begins in line {node.start_mark.line + 1}")
        super().flatten_mapping(node)


def load(path: Path = Path("params.yaml")) -> Settings:
    """Read and check all settings. Raises SettingsError with a line for each wrong key."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # noqa: S506, a safe one
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing: copy one of recipes/*.yaml to it") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that does not exist, other bytes than UTF-8, endless brackets
        raise SettingsError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} has no settings: copy one of recipes/*.yaml to it")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(path, fault) for fault in error.errors())) from None


def load_or_exit() -> Settings:
    """The settings, for a stage's `main`. With faults: prints them to stderr and exits with status 1."""
    try:
        return load()
    except SettingsError as error:
        sys.exit(f"{error}\nNothing was run.")


def _line(path: Path, fault: dict) -> str:
    """A fault as pydantic reports it, in one line."""
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{path}: {key}: there is no such setting"
    if fault["type"] == "missing":
        return f"{path}: {key} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if isinstance(fault["input"], dict):  # of a whole section: the message names the value
        return f"{path}: {key + ': ' if key else ''}{message}"
    return f"{path}: {key} is {masked(repr(fault['input']))}: {message[0].lower()}{message[1:]}"
