"""What stages depend on: computed settings and code, the files of a corpus, and what `dvc.yaml` lists."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from pipeline import code, paths, settings, state
from pipeline.stage import checkpoints

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TRAINING = {"calp@small", "pretrain@small", "head@msp-small"}


def stage(name: str) -> dict:
    entry = STAGES[name]
    return entry.get("do", entry)


# dvc.yaml


def test_every_stage_of_dvc_has_settings_and_code_and_the_other_way_round():
    assert set(STAGES) == {"check", *state.STAGES}


@pytest.mark.parametrize("name", list(state.STAGES))
def test_a_stage_is_repeated_over_the_same_names_in_dvc(name):
    entry, over = STAGES[name], state.STAGES[name].over
    repeated = entry.get("foreach") or next(iter(entry.get("matrix", {}).values()), None)
    assert repeated == (over and f"${{{over}}}")


@pytest.mark.parametrize("name", list(state.STAGES))
def test_a_stage_depends_on_its_state(name):
    file = paths.state(state.address(name, "NAME" if state.STAGES[name].over else "")).as_posix()
    listed = [re.sub(r"\$\{(key|item.corpus)\}", "NAME", dep) for dep in stage(name)["deps"]]
    assert file in listed
    assert not [dep for dep in listed if dep.endswith(".py")]


@pytest.mark.parametrize("name", list(state.STAGES))
def test_a_stage_for_a_gpu_takes_its_limit_in_dvc(name):
    assert state.STAGES[name].gpu == (stage(name).get("meta", {}).get("limit") == "gpu")


def test_paths_are_those_of_dvc():
    outs = {out if isinstance(out, str) else next(iter(out)) for name in STAGES for out in stage(name)["outs"]}
    key, corpus, model = "${key}", "${item.corpus}", "${item.model}"
    expected = {
        paths.STATE,
        paths.fingerprint(key),
        paths.utterances(key).parent,
        paths.segments(key).parent,
        paths.ingest_report(key),
        paths.texts(key),
        paths.features(key),
        paths.calp(key),
        paths.encoded(key),
        paths.pretrained(key),
        paths.heads(corpus, model),
        paths.baselines(corpus),
        paths.evaluation(corpus),
        paths.model(corpus, model),
        paths.transfer(key),
    }
    assert {path.as_posix() for path in expected} <= outs


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_have_every_section_that_dvc_names(recipe):
    settings.load(recipe)
    sections = set(re.findall(r"foreach: \$\{(\w+)\}|corpus: \$\{(\w+)\}", (ROOT / "dvc.yaml").read_text()))
    assert {name for pair in sections for name in pair if name} <= set(yaml.safe_load(recipe.read_text()))


def test_embedded_default_is_the_demo_recipe():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "recipes/demo.yaml").read_text()


# Digests of code


def test_comments_docstrings_and_line_breaks_do_not_count():
    plain = "def f(x):\n    return x + 1\n"
    commented = '"""Text."""\n\n\n# why\ndef f(x):  # what\n    """Text."""\n    return (\n        x + 1\n    )\n'
    field = "class A:\n    x: int = 1\n"
    assert code.digest(plain) == code.digest(commented) != code.digest(plain.replace("1", "2"))
    assert code.digest(field) == code.digest(field + '    """What x is."""\n') != code.digest(field.replace("1", "2"))
    assert code.digest('x = "text"\n') != code.digest('x = "other"\n')


def test_what_is_imported_counts_through_other_modules_and_in_functions():
    modules = code.modules("pipeline.stages.features")
    assert {"pipeline.stages.features", "calm.audio.logmel", "calm.audio.decoding"} <= set(modules)
    assert "calm.audio.headers" not in modules
    assert "calm.corpora.ravdess" not in modules
    assert "calm.corpora.ravdess" in code.modules("pipeline.stages.ingest", ["calm.corpora.ravdess"])
    assert "calm.models.front_ends" in code.modules("pipeline.stages.calp")


def test_what_trains_does_not_reach_metrics_tables_or_cards():
    for name in ("synthesise", "ingest", "transcribe", "features", "calp", "embed", "pretrain", "head", "baselines"):
        reached = set(code.modules(f"pipeline.stages.{name}"))
        apart = [module for module in reached if module.startswith(("pipeline.report", "pipeline.evaluation", "pipeline.paper"))]
        assert not apart and not reached & {"calm.evaluation.metrics", "pipeline.model_card", "calm.inference.onnx_export"}, name


def test_no_stage_reaches_what_is_left_out():
    for name in state.STAGES:
        assert not [
            module for module in code.modules(f"pipeline.stages.{name}") if module.startswith(code.LEFT_OUT) and "stages" not in module
        ]


# Settings that a stage sees


def test_a_stage_sees_no_other_settings_than_its_own():
    seen = state.visible(settings.load(ROOT / "params.yaml"), "calp", "small")
    assert seen.calp.epochs == 24 and seen.seeds == [1] and seen.pretraining == ["mosei", "msp"]
    with pytest.raises(AttributeError, match="the stage calp does not see the setting 'pretrain'"):
        seen.pretrain  # noqa: B018


def test_a_models_own_values_are_in_place():
    plain = settings.load(ROOT / "params.yaml")
    changed = plain.model_copy(update={"models": {"small": plain.models["small"].model_copy(update={"calp": {"epochs": 3}})}})
    assert state.visible(changed, "calp", "small").calp.epochs == 3
    assert state.state(changed, "pretrain", "small") == state.state(plain, "pretrain", "small")
    renamed = plain.model_copy(update={"models": {"small": plain.models["small"].model_copy(update={"lm": "other", "stands_for": "tiny"})}})
    assert state.state(renamed, "calp", "small") == state.state(plain, "calp", "small")
    assert state.state(renamed, "evaluate", "msp") != state.state(plain, "evaluate", "msp")


def test_a_models_seed_is_that_of_its_pretraining_alone():
    plain = settings.load(ROOT / "params.yaml")
    changed = plain.model_copy(update={"models": {"small": plain.models["small"].model_copy(update={"seed": 7})}})
    assert state.visible(changed, "calp", "small").seeds == state.visible(changed, "pretrain", "small").seeds == [7]
    assert state.visible(changed, "head", "msp-small").seeds == [1, 2, 3]
    for stage, name in (("embed", "small"), ("head", "msp-small"), ("release", "msp-small")):  # these follow from the data
        assert state.state(changed, stage, name) == state.state(plain, stage, name)
    entry = plain.heads["msp-small"].model_copy(update={"seeds": [5, 6]})
    changed = plain.model_copy(update={"heads": plain.heads | {"msp-small": entry}})
    assert state.visible(changed, "head", "msp-small").seeds == [5, 6] and state.visible(changed, "release", "msp-small").seeds == [5]


def test_another_seed_is_no_matter_of_pretraining():
    plain = settings.load(ROOT / "params.yaml")
    more = plain.model_copy(update={"seeds": [1, 2, 3, 4]})
    different = [
        state.address(name, each)
        for name, each, _ in state.addresses(plain)
        if state.state(plain, name, each) != state.state(more, name, each)
    ]
    assert different == ["head@mosei-small", "head@msp-small", "report"]


# A project that was rebuilt


def test_nothing_changed_where_nothing_was_edited(project):
    assert project.changed() == set()


def test_a_changed_default_reruns_the_stages_that_use_it(project):
    project.edit("pipeline/settings/models.py", ("warmup: Share = 0.1", "warmup: Share = 0.2"))
    assert project.changed() == TRAINING | {"report"}


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        (
            "calm/evaluation/metrics.py",
            "return _mean(counts.recall)",
            "return _mean(counts.recall) + 0",
            {"evaluate@msp", "release@msp-small", "report"},
        ),
        ("calm/data/masking.py", ".round()", ".ceil()", {"calp@small", "pretrain@small", "head@msp-small", "release@msp-small"}),
        ("calm/evaluation/retrieval.py", "<= 1e-6", "<= 1e-5", {"calp@small"}),
        ("calm/synthesis/plan.py", "0.5", "0.51", {"synthesise@msp"}),
        ("pipeline/heads/training.py", "512", "511", {"head@msp-small"}),
    ],
)
def test_changed_code_reruns_the_stages_that_use_it(project, file, old, new, stages):
    project.edit(file, (old, new))
    assert project.changed() == stages


def test_comments_docstrings_reports_and_cards_retrain_nothing(project):
    project.edit("calm/training/loop.py", ('"""', '"""Other words. '), ("\nimport ", "\n# a comment\nimport "))
    assert project.changed() == set()
    with (project.folder / "pipeline/report/figures.py").open("a") as file:
        file.write("\n\nEXTRA = 1\n")
    assert project.changed() == {"report"}
    with (project.folder / "pipeline/model_card.py").open("a") as file:
        file.write("\n\nEXTRA = 1\n")
    assert project.changed() == {"report", "release@msp-small"}


def test_settings_that_never_change_a_result_rerun_nothing(project):
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["features"]["workers"] = 1
    params["calp"]["checkpoint_minutes"] = 3
    params["flows"] = {"retries": 0}
    project.write(params)
    assert project.changed() == set()


def test_a_changed_file_behind_a_link_reruns_the_stages_that_read_it(project, tmp_path):
    """A corpus whose folder is a link, beside the synthetic one: its texts concern `ingest` and `transcribe`, its audio `features` too."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (project.folder / "data/raw/msp-synthetic/Audios").rename(elsewhere / "Audios")
    (project.folder / "data/raw/msp-synthetic").rename(project.folder / "data/raw/real")
    (project.folder / "data/raw/real/Audios").symlink_to(elsewhere / "Audios")
    (project.folder / "data/raw/real/Labels").rename(elsewhere / "Labels")
    (project.folder / "data/raw/real/Labels").symlink_to(elsewhere / "Labels")
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["synthetic"] = {}
    params["corpora"]["msp"] = {"format": "msp_podcast", "path": "data/raw/real", "synthetic": True}
    project.write(params)
    done = project.run("dvc", "repro", "ingest@msp", "transcribe@msp", "features@msp")
    assert done.returncode == 0, done.stderr
    ours = {"ingest@msp", "transcribe@msp", "features@msp", "baselines@msp"}
    before = project.changed() & ours - {"baselines@msp"}
    assert before == set()
    labels = next(path for path in sorted((elsewhere / "Labels").iterdir()) if path.is_file())
    labels.write_bytes(labels.read_bytes() + b"\n")
    assert project.changed() & ours - {"baselines@msp"} == {"ingest@msp", "transcribe@msp"}
    audio = next(path for path in sorted((elsewhere / "Audios").iterdir()) if path.is_file())
    os.utime(audio, (1, 1))
    assert project.changed() & ours == ours


def test_a_stage_refuses_code_that_changed_since_the_check(project):
    """An edit while `dvc repro` runs must not be filed under the code of before."""
    project.edit("pipeline/heads/training.py", ("512", "511"))
    project.environment["DVC_STAGE"] = "head@msp-small"
    stopped = project.run("python", "-m", "pipeline.stages", "head", "msp-small")
    assert stopped.returncode == 1 and "head@msp-small: its settings or its code changed after the stage `check`" in stopped.stderr


# Checkpoints


def test_checkpoints_are_those_of_their_settings_code_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.bin").write_text("1")
    plain = settings.load(ROOT / "params.yaml")

    def left(given: settings.Settings) -> list[str]:
        with pytest.raises(RuntimeError), checkpoints(given, "calp", "small", tmp_path / "data.bin") as folder:
            names = sorted(path.name for path in folder.iterdir())
            (folder / "checkpoint").touch()
            raise RuntimeError
        return names

    assert left(plain) == [] and left(plain) == ["checkpoint"]
    other = plain.model_copy(update={"calp": plain.calp.model_copy(update={"alpha": 0.5})})
    assert left(other) == [] and left(plain) == []  # those of the other settings were removed
    slow = plain.model_copy(update={"calp": plain.calp.model_copy(update={"checkpoint_minutes": 1})})
    assert left(slow) == ["checkpoint"]
    monkeypatch.setattr(code, "modules", lambda name, also=(): {name: "edited"})
    assert left(plain) == [] and left(plain) == ["checkpoint"]
    (tmp_path / "data.bin").write_text("12")
    assert left(plain) == []
    with checkpoints(plain, "calp", "small") as folder:
        assert folder.exists()
    assert not paths.work("calp@small").exists()


def test_state_is_plain_data():
    plain = settings.load(ROOT / "params.yaml")
    for name, each, _ in state.addresses(plain):
        content = state.state(plain, name, each)
        assert json.loads(json.dumps(content)) == content and content["code"] and content["settings"]
