"""Settings are typed and checked; a fault names the key, what was given and what is allowed."""

import re
from pathlib import Path

import pytest
import yaml

from calm.audio.pauses import Pauses
from calm.corpora.limits import Limits
from pipeline import settings

DEMO = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())


def fault(tmp_path, *keys, value):
    """What is said of the embedded default with one value changed."""
    given = yaml.safe_load(yaml.safe_dump(DEMO))
    place = given
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(given))
    with pytest.raises(settings.SettingsError) as error:
        settings.load(file)
    return str(error.value)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("calp", "learning_rate"), 2, ["calp.learning_rate is 2", "less than 1"]),
        (("calp", "alpha"), -1, ["calp.alpha is -1", "greater than or equal to 0"]),
        (("transcribe", "engine"), "kaldi", ["transcribe.engine is 'kaldi'", "faster-whisper", "openai-whisper"]),
        (("head", "epoch"), 3, ["head.epoch: there is no such setting"]),
        (("head", "modalities"), ["video"], ["head.modalities.0 is 'video'", "audio"]),
        (("seeds",), [], ["seeds is []", "at least 1"]),
        (("seeds",), [1, 1], ["seeds", "different"]),
        (("targets",), ["iemocap"], ["targets: 'iemocap' is none of corpora (mosei, msp)"]),
        (("heads", "msp-small", "model"), "huge", ["heads.msp-small.model: 'huge' is none of models (small)"]),
        (("heads", "msp-small", "corpus"), "iemocap", ["heads.msp-small.corpus: 'iemocap' is none of targets (mosei, msp)"]),
        (("heads", "msp-small", "corpus"), "mosei", ["the row 'calm' of small on mosei is there 2 times"]),
        (("heads", "msp-small", "rows"), {}, ["heads.msp-small.rows", "at least 1"]),
        (("heads", "msp-small", "rows"), {"calm_frozen": {}}, ["'calm_frozen': names in _frozen are those of frozen heads"]),
        (("heads", "msp-small", "rows"), {"calm": {"labels": 0}}, ["heads.msp-small.rows.calm.labels is 0"]),
        (
            ("heads", "msp-small", "rows"),
            {"peer": {"network": "cnn", "modalities": ["audio"]}},
            ["'cnn' is trained whole", "no modalities"],
        ),
        (("targets",), ["mosei"], ["heads.msp-small.corpus: 'msp' is none of targets (mosei)"]),
        (("heads",), {"mosei-small": {"corpus": "mosei", "model": "small"}}, ["heads: none is of msp"]),
        (
            ("transfer",),
            {"x": {"trained": "mosei-small", "tested": "a"}},
            ["transfer.x.tested: 'a' is none of heads (mosei-small, msp-small)"],
        ),
        (("transfer",), {"x": {"trained": "msp-small", "tested": "msp-small"}}, ["are of one corpus"]),
        (("models", "small", "calp"), {"alpha": -1}, ["models.small.calp.alpha is -1"]),
        (("models", "small", "pretrain"), {"epoch": 1}, ["models.small.pretrain.epoch"]),
        (("models", "small", "spectran"), {"patch": [10, 65]}, ["models.small.spectran.patch is [10, 65]", "features.mels, 64"]),
        (("models", "small", "spectran"), {"patch": [60, 16]}, ["models.small.spectran", "spectran.block, 50"]),
        (("models", "small", "pretrain_on"), "all", ["models.small.pretrain_on: 'all' is none of corpora"]),
        (("corpora", "msp", "format"), "iemocap", ["corpora.msp.format is 'iemocap': choose one of mosei, msp_podcast,"]),
        (("corpora", "msp", "options"), {"labels": "some"}, ["corpora.msp", "some"]),
        (("spectran", "patch"), [60, 16], ["patch", "block"]),
        (("spectran", "width"), 100, ["spectran.width is 100", "64"]),
        (("spectran", "pooling"), "max", ["spectran.pooling is 'max'", "'bands'"]),
        (("head", "pooling"), "mean", ["head.pooling is 'mean'", "'cls_blocks'"]),
        (("head", "frozen_copies"), 2, ["frozen_copies are changed as augment says, which says nothing"]),
        (("head", "first"), "body", ["head.first is 'body'", "'head'"]),
        (("features", "high_hz"), 9000, ["high_hz", "8000"]),
    ],
)
def test_faults(tmp_path, keys, value, said):
    message = fault(tmp_path, *keys, value=value)
    for part in said:
        assert part in message, message


def test_missing_section_and_file(tmp_path):
    given = {key: value for key, value in DEMO.items() if key != "calp"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(settings.SettingsError, match="calp is missing"):
        settings.load(tmp_path / "params.yaml")
    with pytest.raises(settings.SettingsError, match="copy one of recipes"):
        settings.load(tmp_path / "none.yaml")
    (tmp_path / "params.yaml").write_text("seeds: [1\n")
    with pytest.raises(settings.SettingsError, match="not YAML"):
        settings.load(tmp_path / "params.yaml")


def test_the_stage_says_so_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(DEMO | {"seeds": ["a"]}))
    with pytest.raises(SystemExit) as error:
        settings.main()
    assert "seeds.0 is 'a'" in str(error.value) and "Nothing was run" in str(error.value)
    assert not (tmp_path / "data").exists()


def test_limits_have_one_default_in_library_and_settings():
    assert Limits(**settings.Ingest().model_dump(exclude={"cut"})) == Limits()
    assert Pauses(**settings.Cut().model_dump()) == Pauses()


def test_settings_of_the_data_page_are_valid():
    page = (Path(__file__).parents[2] / "data/README.md").read_text()
    snippets = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert snippets
    for snippet in snippets:
        corpora = settings.Settings.model_validate(DEMO | {"corpora": DEMO["corpora"] | snippet["corpora"]}).corpora
        assert corpora["msp"].options["labels"] == "all" and corpora["msp"].path == Path("data/raw/msp")


def test_a_model_has_sections_of_its_own():
    changed = DEMO | {"models": DEMO["models"] | {"other": {"language_model": "minilm", "lm": "small", "calp": {"alpha": 0}}}}
    given = settings.Settings.model_validate(changed)
    assert given.for_model("other").calp == given.calp.model_copy(update={"alpha": 0})
    assert given.for_model("other").pretrain == given.pretrain and given.for_model("small").calp == given.calp
    assert (given.lm("other"), given.lm("small")) == ("small", "small")
