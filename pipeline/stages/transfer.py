"""Stage `transfer`: a released model on the test split of another corpus, over the emotions of both, beside that corpus's own model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from calm.audio.encoder_states import load_encoder
from calm.audio.speech_encoders import SpeechEncoder
from calm.data.batching import SequenceCollator, tokenise
from calm.data.examples import statistics
from calm.evaluation.calibration import probabilities
from calm.evaluation.resampling import Resamples, difference
from calm.models.language_model import load_tokenizer
from calm.models.modeling import CalmForSequenceClassification
from calm.models.text_encoders import places
from calm.storage import read_json, write_json
from calm.training.forward import predict
from pipeline import factory, paths
from pipeline.evaluation import released
from pipeline.heads.networks import TASK
from pipeline.settings import HeadRow, Heads, Settings
from pipeline.stage import measure, whole
from pipeline.state import Visible, address, visible
from pipeline.tracking.tracker import stage_run

SAME = {  # emotions that corpora name differently -> their common names
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}


class Answers(NamedTuple):
    """Of one model for the shared emotions."""

    probabilities: np.ndarray  # (utterances, emotions); a row of NaN where there is no prediction
    thresholds: np.ndarray  # (emotions,)


def run(settings: Settings, name: str) -> str:
    """Write `metrics.json`: figures of the transferred model at 0.5 and at its own corpus's tuned thresholds, with intervals."""
    seen = visible(settings, "transfer", name)
    transfer = seen.transfer[name]
    source, target = seen.heads[transfer.trained], seen.heads[transfer.tested]
    synthetic = seen.is_synthetic([source.corpus, target.corpus])
    with (
        stage_run(seen, target.corpus, {"transfer": transfer}, synthetic, seen.seeds[0]) as tracked,
        whole(paths.transfer(name)) as folder,
    ):
        network, head = load(source)
        own_head = read_json(paths.model(target.corpus, target.model) / "release.json")
        own = released.read(paths.evaluation(target.corpus), own_head | {"lm": seen.lm[target.model]})
        emotions = shared(network.config.heads[TASK], own.classes)
        if not emotions:
            raise ValueError(f"{source.corpus} and {target.corpus} have no emotion in common: take {name} out of transfer")
        ours, theirs = ([emotion[number] for emotion in emotions] for number in (1, 2))
        row = source.rows[head["variant"].removesuffix("_frozen")]
        encoder = encoder_of(seen, source, row)
        answers = transferred(seen, network, source.model, target.corpus, own.tables["test"]["id"], encoder, row.normalise)
        first = Answers(answers[:, ours], np.array(network.config.thresholds[TASK])[ours])
        second = Answers(own.column("test", "probabilities")[:, theirs], own.thresholds[theirs])
        targets, speakers = own.column("test", "targets")[:, theirs], own.tables["test"]["speaker"].tolist()
        rows = compare(first, second, targets, speakers, seen)
        columns = {"trained_on": source.corpus, "tested_on": target.corpus, **head, "lm": seen.lm[source.model], "synthetic": synthetic}
        columns["classes"] = [emotion for emotion, _, _ in emotions]
        rows = [columns | row for row in rows]
        write_json({"rows": rows}, folder / "metrics.json")
        tracked.log({f"test/{row['threshold']}/{row['metric']}": row["value"] for row in rows if row["value"] is not None})
        tracked.artifact(folder / "metrics.json")
        measure(address("transfer", name), mlflow_run=tracked.id)
    best = next(row for row in rows if (row["threshold"], row["metric"]) == ("tuned", "weighted_accuracy"))
    return f"{name}: weighted accuracy {best['value']:.1%} over {len(emotions)} emotions"


def load(heads: Heads) -> tuple[CalmForSequenceClassification, dict]:
    """The released model of an entry of `heads`, and which of its heads it is: variant, modality, seed."""
    folder = paths.model(heads.corpus, heads.model)
    return CalmForSequenceClassification.from_pretrained(folder).to(factory.device()), read_json(folder / "release.json")


def encoder_of(settings: Visible, heads: Heads, row: HeadRow) -> SpeechEncoder | None:
    """The speech encoder of a released model where CALP trained it; None: frames are as stored."""
    if row.start == "language_model" or not settings.calp.train_encoder or not settings.models[heads.model].aligned:
        return None
    return load_encoder(paths.model(heads.corpus, heads.model))


def transferred(
    settings: Visible,
    network: CalmForSequenceClassification,
    model: str,
    other: str,
    ids: pd.Series,
    encoder: SpeechEncoder | None,
    normalise: str | None,
) -> np.ndarray:
    """Probabilities of a model for utterances of another corpus, (utterances, classes of the model); a row of NaN without features.

    Frames are normalised by the statistics of their own corpus, as in pretraining on several corpora.

    Args:
        encoder: of the model, if it is not the one whose states are stored.
        normalise: of the model's row.
    """
    examples = factory.examples(settings, [other], encoder=encoder, normalise=normalise)
    if network.encoder is not None:
        network.encoder.normalised_by(*statistics(paths.frames(other, settings.spectran.frames)))
    tokens = tokenise(load_tokenizer(settings.models[model].language_model), examples.table["text"])
    most = min(settings.head.max_tokens, places(network.calm.language_model))
    collator = SequenceCollator(
        examples.frames, tokens, None, network.config.modality, most=most, functionals=network.config.head_functionals
    )
    index = pd.Index(ids)
    rows = np.flatnonzero(examples.table["id"].isin(index))
    logits = np.full((len(index), len(network.config.heads[TASK])), np.nan)
    logits[index.get_indexer(examples.table["id"].iloc[rows])] = predict(network, rows, collator, settings.head.batch)
    return probabilities(logits, network.config.head_loss)


def compare(first: Answers, own: Answers, targets: np.ndarray, speakers: list, settings: Visible) -> list[dict]:
    """Figures over the shared emotions with their intervals over speakers, and `own`, those of the tested corpus's own model.

    Args:
        targets: bool (utterances, emotions); speakers: (utterances,).
    """
    present = np.isfinite(first.probabilities).all(axis=1) & np.isfinite(own.probabilities).all(axis=1)
    speakers, rows = [speaker for speaker, has in zip(speakers, present, strict=True) if has], []
    resamples = Resamples.of(speakers, settings.evaluate.bootstrap, settings.seeds[0])
    for threshold in ("tuned", "0.5"):
        decisions = [answers.probabilities[present] >= (answers.thresholds if threshold == "tuned" else 0.5) for answers in (first, own)]
        drawn, of_own = (resamples.metrics(targets[present], decided, released.METRICS) for decided in decisions)
        for metric in released.METRICS:
            ours, theirs = (difference([values[metric]], [np.zeros_like(values[metric])]) for values in (drawn, of_own))
            columns = {"threshold": threshold, "metric": metric, "value": ours["difference"], "own": theirs["difference"]}
            size = {"n": int(present.sum()), "speakers": resamples.speakers}
            rows.append({**columns, "low": ours["low"], "high": ours["high"], **size})
    return rows


def shared(trained: Sequence[str], tested: Sequence[str]) -> list[tuple[str, int, int]]:
    """Emotions in both lists of classes: common name, column in `trained`, column in `tested`; in the order of `tested`."""
    known = {SAME.get(name, name): column for column, name in enumerate(trained)}
    names = [SAME.get(name, name) for name in tested]
    return [(name, known[name], column) for column, name in enumerate(names) if name in known]
