"""`dvc.yaml`, `params.yaml` and the recipes: what a stage lists is what its code uses."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from pipeline import paths, settings

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

# Results do not depend on these: they read the settings (DVC follows those by key), name the paths (DVC lists them), write
# files, log and register models. The readers of corpora that a stage does not use stay out by the registry.
PLUMBING = {
    "calm/__init__.py",
    "calm/corpora/__init__.py",
    "pipeline/__init__.py",
    "pipeline/stage.py",
    "pipeline/paths.py",
    "pipeline/tracking/provenance.py",
    "pipeline/tracking/registry.py",
    "pipeline/settings/__init__.py",
    "pipeline/stages/__init__.py",
    "pipeline/tracking/tracker.py",
    "pipeline/tracking/store.py",
}


def stage(name: str) -> dict:
    given = STAGES[name]
    return given.get("do", given)


def imported(file: Path) -> set[Path]:
    """Files of this project that a file imports, at its top or in its functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = ROOT / name.replace(".", "/")
            found |= {candidate for candidate in (path.with_suffix(".py"), path / "__init__.py") if candidate.is_file()}
    return found


def closure(file: Path) -> set[str]:
    """Paths of all that a file imports, itself included, through other files; plumbing is left out and not followed."""
    todo, seen = [file], set()
    while todo:
        path = todo.pop()
        name = path.relative_to(ROOT).as_posix()
        if name not in seen and name not in PLUMBING:
            seen.add(name)
            todo += imported(path)
    return seen


@pytest.mark.parametrize("name", [name for name in STAGES if name != "check"])
def test_code_that_a_stage_depends_on(name):
    module = re.match(r"python -m ([\w.]+)", stage(name)["cmd"])[1]
    expected = closure(ROOT / (module.replace(".", "/") + ".py"))
    if name == "ingest":  # the reader of the corpus's own format, and what any of the readers shares
        readers = {
            path
            for line in (ROOT / "calm/corpora/__init__.py").read_text().splitlines()
            for path in re.findall(r'"(calm\.corpora\.\w+)"', line)
        }
        for reader in readers:
            expected |= closure(ROOT / (reader.replace(".", "/") + ".py")) - {reader.replace(".", "/") + ".py"}
        expected.add("calm/corpora/${item.format}.py")
    listed = {dep for dep in stage(name)["deps"] if dep.startswith(("calm/", "pipeline/"))}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline").rglob("*.j2")} if name == "report" else set()
    assert listed == expected | templates, f"missing {sorted(expected - listed)}, too many {sorted(listed - expected)}"


@pytest.mark.parametrize("name", list(STAGES))
def test_params_exist(name):
    given = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in stage(name).get("params", []):
        value = given
        for part in re.sub(r"\.?\$\{.*?\}", "", key).split("."):
            assert part in value, key
            value = value[part]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_have_every_section_that_dvc_names(recipe):
    settings.load(recipe)
    given = yaml.safe_load(recipe.read_text())
    sections = {re.split(r"[.$]", key)[0] for name in STAGES for key in stage(name).get("params", [])}
    assert {section for section in sections if section} <= set(given)
    for key in ("train_spectran",):
        assert key in given["pretrain"]


def test_embedded_default_is_the_demo_recipe():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "recipes/demo.yaml").read_text()


def test_paths_are_those_of_dvc():
    outs = {out if isinstance(out, str) else next(iter(out)) for name in STAGES for out in stage(name)["outs"]}
    key, corpus, model = "${key}", "${item.corpus}", "${item.model}"
    expected = {
        paths.utterances(key).parent,
        paths.texts(key),
        paths.features(key),
        paths.calp(key),
        paths.encoded(key),
        paths.pretrained(key),
        paths.heads(corpus, model),
        paths.baselines(corpus),
        paths.evaluation(corpus),
    }
    assert {path.as_posix() for path in expected} <= outs


def test_every_stage_comes_after_the_check():
    """A wrong setting stops before any work: the stages without other stages' outputs wait for `check`."""
    for name in ("synthesise", "ingest"):
        assert "data/settings.ok" in stage(name)["deps"]
