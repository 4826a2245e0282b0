"""Settings are typed and checked: an error names the key, its value and what is allowed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from calm.audio.pauses import Pauses
from calm.corpora.limits import Limits
from pipeline import settings

DEMO = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())


def load_error(tmp_path, *keys, value):
    """Message of the error that the embedded default raises with one value changed."""
    values = yaml.safe_load(yaml.safe_dump(DEMO))
    section = values
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    section[keys[-1]] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(settings.SettingsError) as error:
        settings.load(file)
    return str(error.value)


@pytest.mark.parametrize(
    ("keys", "value", "parts"),
    [
        (("calp", "learning_rate"), 2, ["calp.learning_rate is 2", "less than 1"]),
        (("calp", "alpha"), -1, ["calp.alpha is -1", "greater than or equal to 0"]),
        (("transcribe", "engine"), "kaldi", ["transcribe.engine is 'kaldi'", "faster-whisper", "openai-whisper"]),
        (("head", "epoch"), 3, ["head.epoch: there is no such setting"]),
        (("head", "modalities"), ["video"], ["head.modalities.0 is 'video'", "audio"]),
        (("flows", "timezone"), "Europe/Berlinn", ["flows.timezone is 'Europe/Berlinn'", "write Europe/Berlin"]),
        (("flows", "prefect_port"), 70000, ["flows.prefect_port is 70000", "less than 65536"]),
        (("flows", "inbox"), "", ["flows.inbox", "it is the project's own folder"]),
        (("flows", "rebuild"), "nightly", ["flows.rebuild is 'nightly'", "it has 1 fields: write cron's five"]),
        (("flows", "study"), "0 2 * * * *", ["flows.study is '0 2 * * * *'", "it has 6 fields"]),
        (("flows", "score_new"), "61 * * * *", ["flows.score_new is '61 * * * *'", "bad minute"]),
        (("flows", "rebuild"), "0 2 * * 5L", ["5L is unknown to Prefect"]),
        (("seeds",), [], ["seeds is []", "at least 1"]),
        (("seeds",), [1, 1], ["seeds", "different"]),
        (("targets",), ["iemocap"], ["targets: 'iemocap' is not one of corpora (mosei, msp)"]),
        (("heads", "msp-small", "model"), "huge", ["heads.msp-small.model: 'huge' is not one of models (small)"]),
        (("heads", "msp-small", "corpus"), "iemocap", ["heads.msp-small.corpus: 'iemocap' is not one of targets (mosei, msp)"]),
        (("heads", "msp-small", "corpus"), "mosei", ["the row 'calm' of small on mosei occurs 2 times with seed 1"]),
        (("heads", "msp-small", "seeds"), [4, 4], ["heads.msp-small.seeds must be different"]),
        (("heads", "msp-small", "rows"), {}, ["heads.msp-small.rows", "at least 1"]),
        (("heads", "msp-small", "rows"), {"calm_frozen": {}}, ["'calm_frozen': names in _frozen are reserved for frozen heads"]),
        (("heads", "msp-small", "rows"), {"calm": {"pooling": "frames"}}, ["pooling: frames is learned", "set the row's modalities"]),
        (("heads", "msp-small", "rows"), {"calm": {"labels": 0}}, ["heads.msp-small.rows.calm.labels is 0"]),
        (
            ("heads", "msp-small", "rows"),
            {"peer": {"network": "cnn", "modalities": ["audio"]}},
            ["'cnn' is trained whole", "remove modalities"],
        ),
        (("targets",), ["mosei"], ["heads.msp-small.corpus: 'msp' is not one of targets (mosei)"]),
        (("heads",), {"mosei-small": {"corpus": "mosei", "model": "small"}}, ["heads: no entry has corpus msp"]),
        (
            ("heads", "mosei-small", "rows"),
            {"peer": {"network": "cnn"}},
            ["heads.mosei-small: release is true, but no row has network 'calm'"],
        ),
        (("head_of",), {"iemocap": {"epochs": 1}}, ["head_of: 'iemocap' is not one of targets (mosei, msp)"]),
        (("head_of",), {"msp": {"dropout": 2}}, ["head_of.msp.dropout is 2"]),
        (
            ("transfer",),
            {"x": {"trained": "mosei-small", "tested": "a"}},
            ["transfer.x.tested: 'a' is not one of heads (mosei-small, msp-small)"],
        ),
        (
            ("heads", "msp-small", "rows"),
            {"calm": {"normalise": "speaker"}},
            ["normalise: pretraining hears frames by spectran.normalise", "set the row's start: language_model"],
        ),
        (
            ("heads", "msp-small", "rows"),
            {"calm": {}, "mine": {"start": "language_model", "normalise": "speaker"}},
            ["'mine': names in _known are those of rows with normalise: speaker or tested_speaker"],
        ),
        (
            ("heads", "msp-small", "rows"),
            {"calm": {"by_speaker_too": True}},
            ["by_speaker_too: pretraining hears frames by spectran.normalise", "set the row's start: language_model"],
        ),
        (
            ("heads", "msp-small", "rows"),
            {"calm": {}, "a": {"start": "language_model", "by_speaker_too": True}},
            ["row a: by_speaker_too averages logistic regressions: set head.frozen_fit: logistic, and tuning: [frozen]"],
        ),
        (
            ("heads", "msp-small", "rows"),
            {"calm": {}, "a_known": {"start": "language_model", "normalise": "speaker", "by_speaker_too": True}},
            ["row a_known: by_speaker_too adds heads by the speaker to those by the corpus"],
        ),
        (("transfer",), {"x": {"trained": "msp-small", "tested": "msp-small"}}, ["are of the same corpus"]),
        (("models", "small", "calp"), {"alpha": -1}, ["models.small.calp.alpha is -1"]),
        (("models", "small", "pretrain"), {"epoch": 1}, ["models.small.pretrain.epoch"]),
        (("models", "small", "spectran"), {"patch": [10, 65]}, ["models.small.spectran.patch is [10, 65]", "features.mels, 64"]),
        (("models", "small", "spectran"), {"patch": [60, 16]}, ["models.small.spectran", "spectran.block, 50"]),
        (("models", "small", "pretrain_on"), "all", ["models.small.pretrain_on: 'all' is not one of corpora"]),
        (
            ("models", "small", "pretrain_on"),
            "none",
            ["heads.mosei-small.rows.calm: model 'small' is not pretrained (pretrain_on: none)", "start: language_model"],
        ),
        (
            ("corpora", "msp", "folds"),
            5,
            ["heads.msp-small: model 'small' is pretrained on msp, whose speakers are tested in folds", "models.small.pretrain_on", "none"],
        ),
        (("corpora", "msp", "folds"), 1, ["corpora.msp.folds", "is 1"]),
        (("corpora", "none"), DEMO["corpora"]["msp"], ["corpora: 'none' stands for no corpus"]),
        (
            ("corpora", "msp", "format"),
            "savee",
            ["corpora.msp.format is 'savee': there is no corpus format 'savee': choose one of mosei, "],
        ),
        (("corpora", "msp", "path"), "data/raw/msp", ["synthetic.msp: corpora has no 'msp' with its path, data/raw/msp-synthetic"]),
        (("synthetic", "iemocap"), DEMO["synthetic"]["msp"], ["synthetic.iemocap: corpora has no 'iemocap' with its path"]),
        (("corpora", "msp", "options"), {"labels": "some"}, ["corpora.msp", "some"]),
        (("spectran", "patch"), [60, 16], ["patch", "block"]),
        (("spectran", "width"), 100, ["spectran.width is 100", "64"]),
        (("spectran", "pooling"), "max", ["spectran.pooling is 'max'", "'bands'"]),
        (("head", "pooling"), "mean", ["head.pooling is 'mean'", "'cls_blocks'"]),
        (("head", "frozen_copies"), 2, ["frozen_copies needs an augmentation, but augment changes nothing"]),
        (("head", "first"), "body", ["head.first is 'body'", "'head'"]),
        (("head", "optimiser"), "adam", ["optimiser is adam, but weight_decay is 0.01: set weight_decay: 0"]),
        (("pretrain", "schedule"), "constant", ["schedule is constant, but warmup is 0.1: set warmup: 0"]),
        (("features", "high_hz"), 9000, ["high_hz", "8000"]),
        (("tracking",), {"uri": "http://ann:S3@host"}, ["tracking.uri is 'http://ann:***@host': a password stands in it", "environment"]),
        (("flows",), {"mlflow_database": "postgresql://a:b@h/m"}, ["flows.mlflow_database is 'postgresql://a:***@h/m': a password"]),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(tmp_path, keys, value, parts):
    message = load_error(tmp_path, *keys, value=value)
    for part in parts:
        assert part in message, message


def test_folds_go_with_pretraining_on_others_and_are_no_test_split_for_a_transfer(tmp_path):
    given = yaml.safe_load(yaml.safe_dump(DEMO))
    given["corpora"]["msp"]["folds"] = "given"
    given["models"]["other"] = {"language_model": "minilm", "pretrain_on": "mosei"}
    given["heads"]["msp-small"]["model"] = "other"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given))
    assert settings.load(tmp_path / "params.yaml").pretraining_corpora("other") == ["mosei"]
    given["transfer"] = {"x": {"trained": "mosei-small", "tested": "msp-small"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(settings.SettingsError, match="transfer.x: the corpus of 'msp-small' has folds"):
        settings.load(tmp_path / "params.yaml")


def test_missing_section_and_file(tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({key: value for key, value in DEMO.items() if key != "calp"}))
    with pytest.raises(settings.SettingsError, match="calp is missing"):
        settings.load(tmp_path / "params.yaml")
    with pytest.raises(settings.SettingsError, match="copy one of recipes"):
        settings.load(tmp_path / "none.yaml")
    (tmp_path / "params.yaml").write_text("seeds: [1\n")
    with pytest.raises(settings.SettingsError, match="not YAML"):
        settings.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(settings.SettingsError, match="has no settings"):
        settings.load(tmp_path / "params.yaml")


ENCODER = {"encoder": "whisper-tiny.en", "layers": [2, 3]}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"features": {"layers": []}}, "features.layers"),
        ({"features": {"layers": [-1]}}, "features.layers.0 is -1"),
        ({"features": {"speeds": [3]}}, "features.speeds.0 is 3"),
        ({"features": ENCODER, "head": {"augment": {"gain_db": 3}}}, "head.augment of mosei: gain_db would change the states"),
        (
            {"features": ENCODER, "calp": {"augment": {"warp": 0.1, "gain_db": 1}}},
            "calp.augment of the model small: gain_db and warp would",
        ),
        ({"features": ENCODER, "head_of": {"msp": {"augment": {"warp": 0.1}}}}, "head.augment of msp: warp would change"),
        ({"spectran": {"frames": "encoder"}}, "models.small.spectran.frames is encoder, but features.encoder names none"),
        ({"spectran": {"encoder_layers": "learned_mean"}}, "encoder_layers is learned_mean, which needs an encoder's frames"),
        ({"features": {"encoder": "x"}, "spectran": {"encoder_layers": "learned_mean"}}, "with several features.layers"),
        ({"head": {"train_encoder": True}}, "head of mosei: train_encoder is true, but no model of it has spectran.frames: encoder"),
        ({"features": ENCODER | {"layers": [3, 1]}, "head": {"train_encoder": True}}, "features.layers is [3, 1]"),
        (
            {"features": ENCODER | {"layers": [2]}, "head_of": {"msp": {"train_encoder": True}}},
            "head of msp: train_encoder trains the blocks",
        ),
        ({"features": ENCODER, "spectran": {"normalise": "utterance"}, "head": {"train_encoder": True}}, "set spectran.normalise: corpus"),
        ({"calp": {"train_encoder": True}}, "calp of the model small: train_encoder is true, but its spectran.frames is log-mel"),
        ({"features": {"encoder": "x"}, "calp": {"train_encoder": True}}, "calp of the model small: train_encoder trains the blocks"),
        (
            {"features": ENCODER, "calp": {"train_encoder": True, "augment": {"mel_masks": 1}}},
            "augment masks blocks, which train_encoder makes anew",
        ),
        ({"features": ENCODER, "head": {"average_speeds": True}}, "head of mosei: average_speeds is true, but no model of it hears copies"),
        ({"features": {"speeds": [0.9]}, "head": {"average_speeds": True}}, "set features.encoder and features.speeds"),
        ({"head": {"frozen_fit": "logistic", "standardise": True}}, "frozen_fit: logistic fits a linear head on standardised inputs"),
        ({"head": {"frozen_fit": "logistic", "hidden": None, "standardise": False}}, "set hidden: null and standardise: true"),
        ({"head_of": {"msp": {"frozen_fit": "logistic"}}}, "head_of.msp"),
        ({"head": {"mixup": -0.1}}, "head.mixup is -0.1"),
        ({"head": {"pooling": "frames"}}, "set modalities: [audio] and tuning: [unfrozen]"),
        ({"head": {"frames_width": 12}}, "head.frames_width is 12"),
        ({"evaluate": {"baselines": ["encoder_functionals"]}}, "evaluate.baselines has encoder_functionals, but features.encoder"),
        ({"evaluate": {"baselines": ["encoder_functionals_known"]}}, "evaluate.baselines has encoder_functionals, but features.encoder"),
    ],
)
def test_settings_of_an_encoder_and_of_heads_that_do_not_fit(tmp_path, sections, says):
    given = {name: DEMO[name] | values for name, values in sections.items()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(DEMO | given))
    with pytest.raises(settings.SettingsError) as error:
        settings.load(tmp_path / "params.yaml")
    assert says in str(error.value)


def test_settings_of_an_encoder_that_fit(tmp_path):
    """Log-mel may be augmented beside an encoder, and masks are for both."""
    augmented = {"head": DEMO["head"] | {"augment": {"gain_db": 3}}, "features": DEMO["features"] | ENCODER}
    cases = [augmented | {"spectran": DEMO["spectran"] | {"frames": "log-mel"}}]
    cases += [{"features": augmented["features"], "head": DEMO["head"] | {"augment": {"time_masks": 1, "mel_masks": 1, "speed": 0.1}}}]
    cases += [{"features": augmented["features"], "spectran": DEMO["spectran"] | {"patch": [5, 384], "encoder_layers": "learned_mean"}}]
    heads = DEMO["head"] | {"train_encoder": True, "average_speeds": True, "frozen_fit": "logistic", "hidden": None, "standardise": True}
    calp = DEMO["calp"] | {"train_encoder": True, "encoder_rank": 4, "augment": {"speed": 0.1, "crop": 0.1}}
    cases += [{"features": DEMO["features"] | ENCODER | {"speeds": [0.9]}, "head": heads, "calp": calp}]
    kinds = []
    for given in cases:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(DEMO | given))
        kinds.append(settings.load(tmp_path / "params.yaml").for_model("small").spectran.frames)
    assert kinds == ["log-mel", "encoder", "encoder", "encoder"]


def test_load_or_exit_prints_the_errors_and_exits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(DEMO | {"seeds": ["a"]}))
    with pytest.raises(SystemExit) as error:
        settings.load_or_exit()
    assert "seeds.0 is 'a'" in str(error.value) and "Nothing was run" in str(error.value)


def test_limits_have_one_default_in_library_and_settings():
    assert Limits(**settings.Ingest().model_dump(exclude={"cut"})) == Limits()
    assert Pauses(**settings.Cut().model_dump()) == Pauses()


def test_settings_of_the_data_page_are_valid():
    page = (Path(__file__).parents[2] / "data/README.md").read_text()
    snippets = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert snippets
    for snippet in snippets:
        values = DEMO | {"synthetic": {}, "corpora": DEMO["corpora"] | snippet["corpora"]}
        corpora = settings.Settings.model_validate(values).corpora
        assert corpora["msp"].options["labels"] == "all" and corpora["msp"].path == Path("data/raw/msp")


def test_heads_of_the_papers_recipe_are_trained_as_section_5_prints_it():
    whole = settings.load(Path(__file__).parents[2] / "recipes/paper.yaml")
    for corpus, printed in (("mosei", (50, 64, 5e-5)), ("msp", (20, 128, 1e-4))):
        head = whole.for_target(corpus).head
        assert (head.epochs, head.batch, head.learning_rate) == printed
        assert (head.optimiser, head.schedule, head.warmup, head.weight_decay, head.clip) == ("adam", "constant", 0, 0, 0)


def test_a_model_has_sections_of_its_own():
    changed = DEMO | {"models": DEMO["models"] | {"other": {"language_model": "minilm", "lm": "small", "calp": {"alpha": 0}}}}
    whole = settings.Settings.model_validate(changed)
    assert whole.for_model("other").calp == whole.calp.model_copy(update={"alpha": 0})
    assert whole.for_model("other").pretrain == whole.pretrain and whole.for_model("small").calp == whole.calp
    assert (whole.lm("other"), whole.lm("small")) == ("small", "small")


def test_each_seed_can_have_a_pretraining_of_its_own():
    models = {"small": DEMO["models"]["small"], "small-s2": DEMO["models"]["small"] | {"lm": "small", "seed": 2}}
    heads = DEMO["heads"] | {"msp-small": {"corpus": "msp", "model": "small", "seeds": [1, 3]}}
    heads["msp-small-s2"] = {"corpus": "msp", "model": "small-s2", "seeds": [2], "release": False}
    whole = settings.Settings.model_validate(DEMO | {"models": models, "heads": heads})
    assert [whole.pretraining_seed(name) for name in models] == [1, 2]
    assert [whole.seeds_of(name) for name in heads] == [[1, 2, 3], [1, 3], [2]]
    heads["msp-small-s2"]["seeds"] = [2, 3]
    with pytest.raises(ValueError, match="the row 'calm' of small on msp occurs 2 times with seed 3"):
        settings.Settings.model_validate(DEMO | {"models": models, "heads": heads})


def test_import_is_cheap():
    """Every stage and the command line import the settings first."""
    heavy = "import sys, pipeline.settings; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pandas', 'soundfile')))"
    assert subprocess.run([sys.executable, "-c", heavy], cwd=Path(__file__).parents[2]).returncode == 0


RUN_TIME = {"workers", "checkpoint_minutes"}
EXAMPLE = settings.Settings.model_validate(
    DEMO
    | {
        "heads": {name: {**entry, "rows": {"calm": {}, "half": {"labels": 0.5}}} for name, entry in DEMO["heads"].items()},
        "transfer": {"mosei-to-msp": {"trained": "mosei-small", "tested": "msp-small"}},
    }
)


def fields(value, path=()):
    """Path of every field of a section and of the sections in it, through dicts of sections too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from fields(item, (*path, key))
    if isinstance(value, settings.Section):
        for name, item in value:
            inner = list(fields(item, (*path, name)))
            yield from inner or [(*path, name)]


def changed(value, path):
    """A copy with another value at a path, which need not be an allowed one."""
    if not path:
        return {"another": {"key": 1}} if isinstance(value, dict) else "another value"
    if isinstance(value, dict):
        return value | {path[0]: changed(value[path[0]], path[1:])}
    return value.model_copy(update={path[0]: changed(getattr(value, path[0]), path[1:])})


def test_every_section_is_in_the_example():
    def classes(value):
        if isinstance(value, settings.Section):
            return {type(value)}.union(*(classes(item) for _, item in value))
        return set().union(*map(classes, value.values())) if isinstance(value, dict) else set()

    sections = {kind for kind in vars(settings).values() if isinstance(kind, type) and issubclass(kind, settings.Section)}
    assert sections - classes(EXAMPLE) == {settings.Section, settings.Optimiser}


@pytest.mark.parametrize("path", [*fields(EXAMPLE)], ids=lambda path: ".".join(path))
def test_results_change_with_every_field_but_those_of_run_time(path):
    same = settings.results_only(changed(EXAMPLE, path)) == settings.results_only(EXAMPLE)
    assert same == (path[-1] in RUN_TIME)


@pytest.mark.parametrize("name", sorted(RUN_TIME))
def test_overrides_lose_run_time_fields_too(name):
    def example(value):
        small = DEMO["models"]["small"] | {"calp": {"checkpoint_minutes": value, "alpha": 0}, "pretrain": {"checkpoint_minutes": value}}
        return settings.Settings.model_validate(DEMO | {"models": {"small": small}, "head_of": {"msp": {name: value, "epochs": 7}}})

    values = settings.results_only(example(1))
    assert values == settings.results_only(example(2))
    assert values["models"]["small"]["calp"] == {"alpha": 0} and values["head_of"] == {"msp": {"epochs": 7}}


def test_results_only_is_plain_json_with_defaults():
    values = settings.results_only(EXAMPLE)
    assert json.loads(json.dumps(values)) == values
    assert values["synthetic"]["msp"]["path"] == "data/raw/msp-synthetic" and values["spectran"]["patch"] == [10, 16]
    assert values["ingest"]["cut"]["pause"] == 0.3 and values["calp"]["augment"]["speed"] == 0
    assert settings.run_time_fields(settings.Head) == RUN_TIME and settings.run_time_fields(settings.Calp) == {"checkpoint_minutes"}


@pytest.mark.parametrize(
    "content", [b"a: " + b"[" * 5000, b"a: 2001-13-45", b"a: \xff", b"a: b: c", b"a: 1\na: 2", b"a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}"]
)
def test_a_file_that_is_not_yaml_is_named(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(settings.SettingsError, match=r"params\.yaml is not YAML: "):
        settings.load(tmp_path / "params.yaml")
