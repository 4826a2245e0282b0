"""The model of an entry of `heads` that is kept for use: weights and thresholds, the processor of its inputs, and its card."""

from pathlib import Path

import numpy as np

from calm import storage
from calm.evaluation import resampling, thresholds
from calm.inference import onnx_export
from calm.inference.processing import CalmProcessor
from calm.models.language_model import load_tokenizer
from calm.models.modeling import CalmForSequenceClassification
from pipeline import inputs, model_card, paths
from pipeline.evaluation.predictions import Evaluation, Run, System, read_runs, read_truth
from pipeline.heads.networks import TASK, conditions
from pipeline.settings import Head, Heads, Settings

MEASURED = ("weighted_accuracy", "accuracy", "f1_macro")  # on the card


def released(of: Heads, head: Head) -> tuple[str, str]:
    """Variant and modality of the model that is kept: CALM, unfrozen and of both modalities where there is such a one."""
    found = [condition for condition in conditions(of.rows, head) if condition.row.network == "calm"]
    best = max(found, key=lambda one: (one.name.startswith("calm"), one.tuning == "unfrozen", one.modality == "both"))
    return best.name, best.modality


def release(settings: Settings, of: Heads, checkpoints: Path, curves: list[dict], logits: Path, folder: Path) -> None:
    """Write the folder.

    Args:
        checkpoints: where the trained model lies. curves, logits: what the stage found, of all its heads.
    """
    (variant, modality), seed = released(of, settings.head), settings.seeds[0]
    kept = {"variant": variant, "modality": modality, "seed": seed}
    one, made = answers(settings, of.corpus, of.model, logits, kept)
    answered = one.answered("validation")
    one.thresholds = thresholds.tune_thresholds(made.truth["validation"].targets[answered], one.probabilities["validation"][answered])
    network = CalmForSequenceClassification.from_pretrained(checkpoints / f"{variant}-{modality}-{seed}" / "model")
    network.config.thresholds = {TASK: one.thresholds.tolist()}
    network.save_pretrained(folder)
    tokenizer = load_tokenizer(settings.models[of.model].language_model)
    CalmProcessor(inputs.extractor(settings.spectran, [of.corpus], settings.head.max_tokens), tokenizer).save_pretrained(folder)
    onnx_export.write(network.eval(), folder)
    storage.write_json(kept, folder / "release.json")
    entry = next(entry for entry in curves if kept.items() <= entry.items())
    model_card.write(settings, of.corpus, of.model, network.config, entry, measured(one, made, settings), folder)


def answers(settings: Settings, corpus: str, model: str, logits: Path, kept: dict) -> tuple[Run, Evaluation]:
    """Answers of the released head to its corpus's labelled utterances."""
    made = read_truth(paths.utterances(corpus), corpus, settings.corpora[corpus].synthetic)
    made.notes |= {"missing": []}
    system = System(kept["variant"], settings.lm(model), kept["modality"])
    (one,) = [one for one in read_runs(logits, system.lm, made) if (one.system, one.seed) == (system, kept["seed"])]
    return one, made


def measured(one: Run, made: Evaluation, settings: Settings) -> list[dict]:
    """Metrics at tuned thresholds and at 0.5, one a row, with their 95 % intervals over speakers (`low`, `high`)."""
    rows = []
    for split, truth in made.truth.items():
        answered = one.answered(split)
        speakers = truth.table["speaker"][answered].tolist()
        resamples = resampling.Resamples.of(speakers, settings.evaluate.bootstrap, settings.seeds[0])
        for threshold, at in (("tuned", one.thresholds), ("0.5", 0.5)):
            drawn = resamples.metrics(truth.targets[answered], one.probabilities[split][answered] >= at, MEASURED)
            for metric in MEASURED:
                found = resampling.difference([drawn[metric]], [np.zeros_like(drawn[metric])])
                about = {"split": split, "threshold": threshold, "metric": metric, "value": found["difference"]}
                rows.append({**about, "low": found["low"], "high": found["high"], "n": len(speakers), "speakers": resamples.speakers})
    return rows
