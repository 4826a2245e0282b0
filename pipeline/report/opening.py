"""How the page opens: what CALM is and what was done, the words that the page uses, and the result in one sentence and one picture."""

from pathlib import Path
from typing import NamedTuple

from calm.data.normalisation import OF_SPEAKERS
from pipeline.paper import BASELINES, CALM_VARIANTS, FROZEN, KNOWN, SEPARATE_GROUPS
from pipeline.report import figures
from pipeline.report.figure_style import picture
from pipeline.report.result_tables import LEADING, Key, leading, names, scores, thresholds, uninformed
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
    "known": "a speaker of whom other recordings were heard, without labels: what is heard is normalised by these",
    "baseline": "what one would use instead of CALM: a simple classifier on standard acoustic features, or chance",
}


class Headline(NamedTuple):
    """Accuracy on test of the system by which the page speaks of a corpus, and of what it is compared with."""

    corpus: str
    key: Key
    threshold: str  # kind of thresholds
    metric: str  # of `leading`
    uninformed: float  # the metric's value for who knows nothing
    score: Score
    baseline: tuple[Key, Score] | None  # the best one
    unpretrained: Score | None = None  # the system without pretraining
    known: Score | None = None  # CALM where tested speakers are known by their recordings
    known_baseline: tuple[Key, Score] | None = None  # and the best baseline there
    candidates: int = 1  # heads of which the system is the best on validation


def opening(settings: Settings, outputs: StageOutputs, headlines: list[Headline], folder: Path) -> dict:
    """What the template shows. The figure is written to the folder."""
    variants = {row["variant"] for row in outputs.rows}
    used = {
        "SpecTran": bool(outputs.calp or outputs.pretrained),
        "CALP": any(metrics["curve"] for metrics in outputs.calp.values()),
        "frozen": any(name.endswith(FROZEN) for name in variants),
        "fold": bool(outputs.folds),
        "known": settings.spectran.normalise in OF_SPEAKERS or any(Key(name, "", "").knows for name in variants),
        "baseline": bool(variants & set(BASELINES)),
    }
    return {
        "sentences": [WHAT_CALM_IS, pretraining_sentence(settings, outputs), heads_sentence(outputs), test_sentence(settings, outputs)],
        "words": {word: meaning for word, meaning in WORDS.items() if used.get(word, True)},
        "results": result_sentences(headlines),
        "chosen": any(found.candidates > 1 for found in headlines),
        "picture": picture("The result", figures.headlines(headlines), "result", folder) if headlines else None,
    }


def headline(corpus: str, rows: list[dict], decision: str) -> Headline | None:
    """CALM with the tuning and input that do best on validation, or the best other head where CALM is not among them.

    Args:
        rows: of `metrics.json`.
        decision: kind of thresholds that the page leads with.
    """
    kind = next(iter(thresholds([row for row in rows if row["corpus"] == corpus], decision)), "")
    metric, splits = leading(kind), [scores(rows, corpus=corpus, split=split, threshold=kind) for split in ("validation", "test")]
    validation, test = ({key: line[metric] for key, line in lines.items() if metric in line} for lines in splits)
    every = [key for key in test if key.variant not in BASELINES and key.group not in SEPARATE_GROUPS]
    heads = [key for key in every if not key.knows]
    known = max((test[key] for key in every if key.knows), key=lambda score: score.mean, default=None)
    candidates = [key for key in heads if key.variant in CALM_VARIANTS] or heads
    if not candidates:
        return None
    best = max(candidates, key=lambda key: validation.get(key, Score(0.0, None, 0)).mean)
    twin = best._replace(variant=NO_PRETRAINING + FROZEN * best.variant.endswith(FROZEN)) if best.variant in CALM_VARIANTS else None
    baselines = (_best_baseline(test, knows) for knows in (False, True))
    return Headline(
        *(corpus, best, kind, metric, uninformed(metric, splits[1]), test[best], next(baselines), test.get(twin)),
        *(known, next(baselines), len(candidates)),
    )


def _best_baseline(test: dict[Key, Score], knows: bool) -> tuple[Key, Score] | None:
    """The best of the baselines that know the tested speakers by their recordings, or of those that do not."""
    names = [name for name in BASELINES if name != "chance" and name.endswith(KNOWN) == knows]
    return max(((key, score) for key, score in test.items() if key.variant in names), key=lambda pair: pair[1].mean, default=None)


def pretraining_sentence(settings: Settings, outputs: StageOutputs) -> str:
    """What was pretrained, and on what."""
    pretrained = [name for name in settings.models if settings.pretraining_corpora(name)]
    if not pretrained and settings.head.pooling == "none":
        encoder = settings.features.encoder
        frames = f"states in the pretrained speech encoder {Path(encoder).name}" if encoder else "spectrogram"
        return f"Here nothing was pretrained, and this network is left out: the heads see statistics of each recording's {frames}."
    if not pretrained:
        return "Nothing was pretrained here: the language model is as published, and no vector of sound was aligned with text."
    corpora = list(dict.fromkeys(corpus for name in pretrained for corpus in settings.pretraining_corpora(name)))
    hours = max((metrics.get("hours") or 0 for metrics in outputs.calp.values()), default=0)
    amount = f"up to {audio_hours(hours)} of " if hours else ""
    subject = f"The model {pretrained[0]} was" if len(pretrained) == 1 else f"{len(pretrained)} models were"
    return f"{subject} pretrained on {amount}speech of {listed(corpora)}, without labels: to align sound with text, and to fill in gaps."


def heads_sentence(outputs: StageOutputs) -> str:
    """How many heads learned which labels."""
    corpora = names(outputs.rows, "corpus")
    count = sum(len(curves) for curves in outputs.heads.values())
    heads = counted(count, "head") if count else "Heads"
    own = listed(["input", "settings", "seed", *(["fold"] if outputs.folds else [])])
    return f"{heads} then learned the labels of {listed(corpora)}, each from its own {own}."


def test_sentence(settings: Settings, outputs: StageOutputs) -> str:
    """Whom they were tested on."""
    corpora = names(outputs.rows, "corpus")
    sizes = [outputs.notes.get(corpus, {}).get("utterances", {}).get("test", {}).get("labelled") for corpus in corpora]
    tested = listed([f"{size:,} utterances of {corpus}" for size, corpus in zip(sizes, corpora, strict=True) if size]) or "utterances"
    overlap = any(outputs.corpora.get(corpus, {}).get("speakers_in_two_splits") for corpus in corpora)
    whom = "that they had not learned from" if overlap else "of people whom they had not heard in training"
    known = ", each known by recordings without labels" if settings.spectran.normalise in OF_SPEAKERS else ""
    return f"They were tested on {tested} {whom}{known}."


def result_sentences(headlines: list[Headline]) -> list[str]:
    """The result of every corpus in a few sentences."""
    texts = []
    for number, found in enumerate(headlines):
        new = not number or found.metric != headlines[number - 1].metric or found.uninformed != headlines[number - 1].uninformed
        measure = f" in {LEADING[found.metric]}; knowing nothing gives {100 * found.uninformed:.3g} %" if new else ""
        parts = [f"On {found.corpus}, {_system(found.key)} reaches {found.score.text} %{measure}", *_beside(found)]
        texts.append(" ".join(f"{part[0].upper()}{part[1:]}." for part in parts))
    return texts


def _system(key: Key) -> str:
    """A head with what it is told by: "CALM (frozen, from audio)"."""
    name, _, how = key.title.partition(", ")
    return f"{name} ({f'{how}, ' if how else ''}from {key.input})"


def _beside(found: Headline) -> list[str]:
    """What the result is compared with, in sentences without a full stop."""
    parts = [f"without pretraining it reaches {found.unpretrained.text} %"] if found.unpretrained else []
    if found.baseline:
        key, score = found.baseline
        parts.append(f"the best baseline, {key.title} from {key.input}, reaches {score.text} %")
    sentences = ["; ".join(parts)] if parts else []
    if found.known:
        baseline = ""
        if found.known_baseline:
            key, score = found.known_baseline
            baseline = f", and the best baseline, {key.title.removesuffix(', known speakers')}, {score.text} %"
        sentences.append(f"where each speaker is known by recordings without labels, CALM reaches {found.known.text} %{baseline}")
    return sentences
