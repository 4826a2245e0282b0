"""How the page opens: what CALM is and what was done, the words that the page uses, and the result in one sentence and one picture."""

from pathlib import Path
from typing import NamedTuple

from pipeline.paper import BASELINES, CALM_VARIANTS, FROZEN, SEPARATE_GROUPS
from pipeline.report import figures
from pipeline.report.figure_style import picture
from pipeline.report.result_tables import WEIGHTED_ACCURACY, Key, names, scores, thresholds
from pipeline.report.stage_outputs import StageOutputs
from pipeline.report.table import Score
from pipeline.report.wording import audio_hours, counted, listed
from pipeline.settings import Settings

NO_PRETRAINING = "no_pretraining"
WHAT_CALM_IS = (
    "CALM learns representations of speech that join how something is said with what is said (arXiv 2202.03587). A small transformer turns "
    "short blocks of sound into vectors, which stand beside the words in a pretrained language model."
)
WORDS = {
    "head": "a small classifier on top of the network: it turns what the network heard and read into a probability of each class",
    "SpecTran": "CALM's transformer for sound: it turns a block of the spectrogram, about half a second, into one vector",
    "CALP": "contrastive pretraining without labels: SpecTran learns to place a block near its own text and away from other texts",
    "frozen": "only the head learns; the network below it stays as it was pretrained. Without this word, both learn",
    "fold": "one of several parts of the speakers: each is tested once, by networks that learned from the other parts",
    "baseline": "what one would use instead of CALM: a simple classifier on standard acoustic features, or chance",
}


class Headline(NamedTuple):
    """Weighted accuracy on test of the system by which the page speaks of a corpus, the best baseline, and the system unpretrained."""

    corpus: str
    key: Key
    threshold: str  # kind of thresholds
    score: Score
    baseline: tuple[Key, Score] | None
    unpretrained: Score | None = None


def opening(settings: Settings, outputs: StageOutputs, headlines: list[Headline], folder: Path) -> dict:
    """What the template shows. The figure is written to the folder."""
    variants = {row["variant"] for row in outputs.rows}
    used = {
        "SpecTran": bool(outputs.calp or outputs.pretrained),
        "CALP": any(metrics["curve"] for metrics in outputs.calp.values()),
        "frozen": any(name.endswith(FROZEN) for name in variants),
        "fold": bool(outputs.folds),
        "baseline": bool(variants & set(BASELINES)),
    }
    return {
        "sentences": [WHAT_CALM_IS, pretraining_sentence(settings, outputs), heads_sentence(outputs), test_sentence(outputs)],
        "words": {word: meaning for word, meaning in WORDS.items() if used.get(word, True)},
        "result": result_sentence(headlines),
        "picture": picture("The result", figures.headlines(headlines), "result", folder) if headlines else None,
    }


def headline(corpus: str, rows: list[dict], decision: str) -> Headline | None:
    """CALM with the tuning and input that do best on validation, or the best other head where CALM is not among them.

    Args:
        rows: of `metrics.json`.
        decision: kind of thresholds that the page leads with.
    """
    kind = next(iter(thresholds([row for row in rows if row["corpus"] == corpus], decision)), "")
    splits = (scores(rows, corpus=corpus, split=split, threshold=kind) for split in ("validation", "test"))
    validation, test = ({key: line[WEIGHTED_ACCURACY] for key, line in lines.items() if WEIGHTED_ACCURACY in line} for lines in splits)
    heads = [key for key in test if key.variant not in BASELINES and key.group not in SEPARATE_GROUPS]
    candidates = [key for key in heads if key.variant in CALM_VARIANTS] or heads
    if not candidates:
        return None
    best = max(candidates, key=lambda key: validation.get(key, Score(0.0, None, 0)).mean)
    baselines = [(key, score) for key, score in test.items() if key.variant in BASELINES and key.variant != "chance"]
    twin = best._replace(variant=NO_PRETRAINING + FROZEN * best.variant.endswith(FROZEN)) if best.variant in CALM_VARIANTS else None
    return Headline(corpus, best, kind, test[best], max(baselines, key=lambda pair: pair[1].mean, default=None), test.get(twin))


def pretraining_sentence(settings: Settings, outputs: StageOutputs) -> str:
    """What was pretrained, and on what."""
    pretrained = [name for name in settings.models if settings.pretraining_corpora(name)]
    if not pretrained:
        return "Nothing was pretrained here: the language model is as published, and no vector of sound was aligned with text."
    corpora = list(dict.fromkeys(corpus for name in pretrained for corpus in settings.pretraining_corpora(name)))
    hours = max((metrics.get("hours") or 0 for metrics in outputs.calp.values()), default=0)
    amount = f", at most {audio_hours(hours)} of it" if hours else ""
    subject = f"The model {pretrained[0]} was" if len(pretrained) == 1 else f"{len(pretrained)} models were"
    return f"{subject} pretrained on speech of {listed(corpora)} without its labels{amount}: to align sound with text, and to fill in gaps."


def heads_sentence(outputs: StageOutputs) -> str:
    """How many heads learned which labels."""
    corpora = names(outputs.rows, "corpus")
    count = sum(len(curves) for curves in outputs.heads.values())
    heads = counted(count, "head") if count else "Heads"
    return f"{heads} then learned the labels of {listed(corpora)}, each from its own input, settings and seed."


def test_sentence(outputs: StageOutputs) -> str:
    """Whom they were tested on."""
    corpora = names(outputs.rows, "corpus")
    sizes = [outputs.notes.get(corpus, {}).get("utterances", {}).get("test", {}).get("labelled") for corpus in corpora]
    tested = listed([f"{size:,} utterances of {corpus}" for size, corpus in zip(sizes, corpora, strict=True) if size]) or "utterances"
    overlap = any(outputs.corpora.get(corpus, {}).get("speakers_in_two_splits") for corpus in corpora)
    whom = "that they had not learned from" if overlap else "of people whom they had not heard in training"
    return f"They were tested on {tested} {whom}."


def result_sentence(headlines: list[Headline]) -> str:
    """The result of every corpus in one sentence; "" where no head was evaluated."""
    parts = []
    for number, (corpus, key, _, score, baseline, unpretrained) in enumerate(headlines):
        measure = " in weighted accuracy, where 50 % is knowing nothing" if not number else ""
        other = f"; without pretraining it reaches {unpretrained.text} %" if unpretrained else ""
        other += f"; the best baseline, {baseline[0].title} from {baseline[0].input}, reaches {baseline[1].text} %" if baseline else ""
        parts.append(f"on {corpus}, {key.title}, from {key.input}, reaches {score.text} %{measure}{other}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""
