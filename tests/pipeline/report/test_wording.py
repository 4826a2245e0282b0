"""What tables say of the spread over seeds."""

from pathlib import Path

import pytest
import yaml

from pipeline.report import opening, result_tables, wording
from pipeline.report.results_section import seeds_text
from pipeline.settings import Settings

DEMO = yaml.safe_load((Path(__file__).parents[3] / "recipes/demo.yaml").read_text())
SMALL = DEMO["models"]["small"]
OWN = {"small": SMALL, **{f"small-s{seed}": SMALL | {"lm": "small", "seed": seed} for seed in (2, 3)}}


def spread(models: dict, msp: dict[str, list[int]], **changes) -> str:
    """Of heads on MSP: the seeds of each model."""
    heads = {f"msp-{model}": {"corpus": "msp", "model": model, "seeds": seeds} | changes for model, seeds in msp.items()}
    changed = DEMO | {"models": models, "heads": {"mosei-small": DEMO["heads"]["mosei-small"], **heads}}
    return wording.spread(Settings.model_validate(changed), "msp")


HEADS_ALONE = "the spread over seeds is that of heads alone, of one pretraining"


@pytest.mark.parametrize(
    ("msp", "expected"),
    [
        ({"small": [1, 2, 3]}, HEADS_ALONE),
        ({"small": [1], "small-s2": [2], "small-s3": [3]}, "the spread over seeds is that of pretraining and heads"),
        ({"small": [1, 3], "small-s2": [2]}, "the spread over seeds is that of heads on 2 pretrainings"),
        ({"small": [1]}, ""),
    ],
)
def test_the_spread_is_that_of_what_differs_between_seeds(msp, expected):
    assert spread(OWN, msp) == expected


def test_models_that_share_a_seed_share_the_spread_of_their_heads():
    same = {"small": SMALL, "small-s2": SMALL | {"lm": "small", "seed": 1}}
    assert spread(same, {"small": [1], "small-s2": [2]}) == HEADS_ALONE


def test_rows_that_differ_from_most_are_named():
    models = OWN | {"other": SMALL}
    assert spread(models, {"small": [1], "small-s2": [2], "other": [1, 2]}) == (
        "the spread over seeds is that of pretraining and heads; heads for calm (other)"
    )
    assert spread(models, {"small": [1, 2]}, rows={"no_pretraining": {"start": "language_model"}}) == ""


def test_notes_and_the_terminal_say_it():
    rows = [{"variant": "calm", "seed": seed} for seed in (1, 2)]
    assert seeds_text(rows, HEADS_ALONE) == f"mean ± standard deviation over seeds 1, 2; {HEADS_ALONE}."
    row = {"corpus": "msp", "synthetic": False, "variant": "calm", "lm": "small", "modality": "both", "split": "test", "threshold": "tuned"}
    rows = [row | {"seed": seed, "metric": "weighted_accuracy", "value": 0.5} for seed in (1, 2)]
    assert f"msp: {HEADS_ALONE}.\n" in result_tables.terminal_text(rows, {"msp": HEADS_ALONE}, {})


def test_the_terminal_and_the_headline_are_of_the_decision_and_name_the_best_baseline():
    row = {"corpus": "mine", "synthetic": False, "lm": "-", "modality": "audio", "seed": 1}
    values = {"calm_frozen": 0.805, "encoder_functionals": 0.804, "logmel_functionals": 0.629}
    values |= {"calm_known_frozen": 0.91, "encoder_functionals_known": 0.907}
    rows = [
        row | {"variant": name, "split": split, "threshold": kind, "metric": metric, "value": value - less}
        for name, value in values.items()
        for split in ("validation", "test")
        for kind, less in (("argmax", 0.0), ("tuned", 0.1))
        for metric in (
            "balanced_accuracy",
            "weighted_accuracy/glad",
            "weighted_accuracy/sad",
            "weighted_accuracy/calm",
            "weighted_accuracy",
        )
    ]
    assert result_tables.terminal_text(rows, {}, {"mine": "argmax"}).startswith("mine, test, the most likely class")
    assert result_tables.terminal_text(rows, {}, {"mine": "tuned"}).startswith("mine, test, thresholds tuned")
    found = opening.headline("mine", rows, "argmax")
    assert (found.threshold, found.metric, found.score.text) == ("argmax", "balanced_accuracy", "80.5")
    assert opening.result_sentences([found]) == [
        "On mine, CALM (frozen, from audio) reaches 80.5 % in unweighted accuracy; knowing nothing gives 33.3 %. The best baseline, "
        "functionals of the encoder's states from audio, reaches 80.4 %. Where each speaker is known by recordings without labels, CALM "
        "reaches 91.0 %, and the best baseline, functionals of the encoder's states, 90.7 %."
    ]
    tuned = opening.headline("mine", rows, "tuned")
    assert (tuned.metric, tuned.uninformed, tuned.score.text) == ("weighted_accuracy", 0.5, "70.5")
