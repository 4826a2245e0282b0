"""`calm plan`: operations counted by hand, sizes of corpora, and an estimate of the embedded default that its real time agrees with."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from calm import devices
from calm.cli import app
from pipeline import settings
from pipeline.execution.workers import cores
from pipeline.planning import plan, scale, sizes, trainings
from pipeline.planning.sizes import Size
from tests.pipeline import made_corpus

DEMO = made_corpus.ROOT / "recipes/demo.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Slow:
    """A machine of one TFLOP/s in everything."""

    title, gpus, cores = "2 CPU cores", 0, 2
    matrix, step, log_mel, egemaps, spoken, start = 1e12, 0.0, 1000.0, 100.0, (2.5, 0.1), 0.0

    def training_rate(self, training):
        return self.matrix


def small(**changes) -> settings.Settings:
    return made_corpus.project(["x"], spectran={"layers": 1, "width": 64, "beside": None}, calp={"projection": 32}, **changes)


def of_stage(found: list[trainings.Training], stage: str) -> list[trainings.Training]:
    return [training for training in found if training.stage == stage]


def test_operations_of_calp_are_those_counted_by_hand():
    """Of one utterance, a pair of blocks: a product of (a, b) and (b, c) is 2abc operations, and its backward twice as many."""
    (calp,) = of_stage(trainings.trainings(small(), {"x": Size(100, 70, 250.0, 0, 0, "made")}), "calp")
    width, frames, bands, embedding, projection = 64, 9, 7, 384, 32  # (50 - 10) / 5 + 1 and (64 - 16) / 8 + 1 patches
    patches = 2 * frames * bands * (10 * 16) * width
    places = 1 + frames * bands
    layer = 2 * places * width * (3 * width + width + 4 * width + 4 * width) + 2 * 2 * places**2 * width
    token = 2 * width * embedding + 2 * embedding * projection
    text, likeness = 2 * embedding * projection, 2 * 2 * 2 * projection  # of two rows, each with two neighbours and two texts
    # The inputs of the first layers, frames and the frozen text, have no gradient.
    expected = 2 * (2 * patches + 3 * layer + 3 * token) + 2 * text + 3 * likeness
    assert calp.row_flops == expected
    assert calp.flops == expected * 70 * 24


def test_parameters_of_the_papers_spectran():
    """With BERT-base, as table 4 counts it: 14.35 million."""
    loaded = settings.load(made_corpus.ROOT / "recipes/paper.yaml")
    (calp,) = (found for found in trainings.trainings(loaded, _paper()) if found.stage == "calp" and found.name == "mosei-base")
    model, _ = calp.build(1)
    assert sum(weight.numel() for weight in model.spectran.parameters()) == 14_350_848


@pytest.mark.parametrize("stage", ["calp", "pretrain", "head"])
def test_counts_by_layers_are_those_of_the_whole_model(stage):
    """With BERT-base: operations and parameters, to the last one."""
    loaded = settings.load(made_corpus.ROOT / "recipes/paper.yaml")
    deep = next(found for found in of_stage(trainings.trainings(loaded, _paper()), stage) if found.shapes.is_deep)
    assert deep._count_by_layers() == deep._count() and deep.parameters > 1e7


def _paper() -> dict[str, Size]:
    loaded = settings.load(made_corpus.ROOT / "recipes/paper.yaml")
    return {name: sizes.size(loaded, name) for name in loaded.corpora}


@pytest.mark.parametrize("recipe", sorted({path.stem for path in (made_corpus.ROOT / "recipes").glob("*.yaml")} - {"paper"}))
def test_every_recipe_has_a_plan(recipe):
    """Operations and parameters of each of its trainings. The README's commands have that of the paper."""
    loaded = settings.load(made_corpus.ROOT / f"recipes/{recipe}.yaml")
    corpora = {name: Size(40, 30, 80.0, 0, 2 if corpus.folds else 0, "made") for name, corpus in loaded.corpora.items()}
    found = trainings.trainings(loaded, corpora)
    stages = {"head"} | ({"calp", "pretrain"} if any(map(loaded.pretraining_corpora, loaded.models)) else set())
    assert {training.stage for training in found} == stages
    assert all(training.row_flops > 0 and training.parameters > 0 for training in found)


def test_every_training_is_counted():
    loaded, size = settings.load(DEMO), Size(400, 280, 1000.0, 0, 0, "made")
    found = trainings.trainings(loaded, {"mosei": size, "msp": size})
    assert [training.runs for training in found if training.stage != "head"] == [1, 1]
    assert sum(training.runs for training in found) == 2 + 2 * 2 * 3 * 3  # entries, rows, modalities, seeds
    rows = {training.rows for training in of_stage(found, "head")}
    assert rows == {280} and {training.rows for training in of_stage(found, "calp")} == {560}
    one_seed = loaded.model_copy(update={"seeds": [1]})
    fewer = trainings.trainings(one_seed, {"mosei": size, "msp": size})
    assert sum(training.runs for training in fewer) == 2 + 2 * 2 * 3
    longer = {"mosei": Size(400, 280, 4000.0, 0, 0, "made"), "msp": size}
    for short, long in zip(of_stage(found, "head")[:12], of_stage(trainings.trainings(loaded, longer), "head")[:12], strict=True):
        assert long.row_flops > 2 * short.row_flops


def test_sizes_come_from_the_table_else_from_what_is_published():
    made = made_corpus.make(20, {"made": ("a", "b")})
    size = sizes.size(made, "made")
    assert (size.utterances, size.train, size.without_text, size.source) == (20, 16, 0, "its table")
    assert size.seconds == pytest.approx(sum(1 + row % 4 / 2 for row in range(20)))
    paper = _paper()
    assert paper["mosei"].train == 16_326 and paper["msp"].hours == 83 and "5.1" in paper["msp"].source
    shutil.rmtree("data")
    Path("made.csv").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="get the corpus first"):
        sizes.size(made, "made")


def test_operations_of_whisper():
    """Two clips of 4 s in windows of 5 s, by tiny: 4 layers, 384 wide, 250 positions."""
    section = SimpleNamespace(model="tiny.en", window_seconds=5, beam=2)
    encoder = 4 * 250 * (24 * 384**2 + 4 * 250 * 384)
    token = 4 * (32 * 384**2 + 4 * 250 * 384) + 2 * 384 * 51_865
    size = Size(2, 1, 8.0, 2, 0, "made")
    assert plan.whisper_flops(SimpleNamespace(transcribe=section), size) == 2 * encoder + 2 * (4 + 13) * 2 * token


def test_days_on_a_cpu_are_a_warning(monkeypatch):
    loaded = settings.load(DEMO)
    quick = plan.plan(loaded, Slow())
    assert not list(quick.warnings()) and "WARNING" not in plan.described(quick)
    machine = Slow()
    machine.matrix = 1e8
    slow = plan.plan(loaded, machine)
    (warning,) = slow.warnings()
    assert "days on CPUs" in warning and "the stage head" in warning and warning in plan.described(slow)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    (warning,) = plan.plan(loaded, Slow()).warnings()
    assert "of disk are needed" in warning
    assert plan.as_dict(slow)["seconds"] == sum(line.seconds for line in slow.lines)


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (100, "2 min"), (7200, "2.0 h"), (400_000, "4.6 days"), (1e8, "1,157 days")])
def test_durations(seconds, text):
    assert plan.duration(seconds) == text


@pytest.mark.skipif(cores() > 4 or devices.count() > 0, reason="the documented time is that of two CPU cores")
def test_the_estimate_of_the_embedded_default_is_near_its_documented_time():
    """6 to 8 minutes on two cores; within a factor of three of it."""
    done = CliRunner().invoke(app, ["plan", str(DEMO), "--json"])
    result = json.loads(done.stdout)
    assert 6 / 3 * 60 < result["seconds"] < 3 * 8 * 60
    assert {stage["stage"] for stage in result["stages"]} >= {"transcribe", "calp", "embed", "pretrain", "head"}


@pytest.mark.parametrize("table", [scale.corpora, scale.hours])
def test_the_tables_of_the_page_are_those_that_are_counted(table):
    """`python -m pipeline.planning.scale` prints them; the others take a minute."""
    assert table() in (made_corpus.ROOT / "docs/scale.md").read_text()


def test_a_faulty_recipe_is_an_error_of_the_user():
    Path("params.yaml").write_text("title: none\n")
    done = CliRunner().invoke(app, ["plan"])
    assert done.exit_code == 2 and "corpora is missing" in done.stderr
