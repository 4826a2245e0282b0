"""A released model on the test split of another corpus, over the emotions that both corpora know; beside it that corpus's own model."""

import time
from typing import NamedTuple

import numpy as np
import pandas as pd

from calm import storage
from calm.corpora.emotions import shared
from calm.data.batching import SequenceCollator, tokenise
from calm.evaluation import resampling
from calm.models.language_model import load_tokenizer
from calm.models.modeling import CalmForSequenceClassification
from calm.training.forward import predict
from pipeline import factory, paths, stage
from pipeline.evaluation.predictions import Evaluation
from pipeline.heads.networks import TASK
from pipeline.release import answers
from pipeline.settings import Heads, Settings
from pipeline.tracking import tracker

COMPARED = ("weighted_accuracy", "accuracy", "f1_macro")


def run(settings: Settings, name: str) -> str:
    """Write `metrics.json`: figures of the transferred model at 0.5 and at its own corpus's tuned thresholds, with intervals."""
    begin, of = time.monotonic(), settings.transfer[name]
    source, target = settings.heads[of.trained], settings.heads[of.tested]
    synthetic = factory.synthetic(settings, [source.corpus, target.corpus])
    with (
        tracker.stage_run(settings, target.corpus, {"transfer": of}, synthetic, settings.seeds[0]) as tracked,
        stage.whole(paths.transfer(name)) as folder,
    ):
        network, kept = released(source)
        theirs, their = released(target)
        own, there = answers(settings, target.corpus, target.model, paths.heads(target.corpus, target.model) / "logits.parquet", their)
        classes = shared(next(iter(network.config.heads.values())), there.classes)
        if not classes:
            raise ValueError(f"{source.corpus} and {target.corpus} have no emotion in common: take {name} out of transfer")
        ours, columns = ([place[number] for place in classes] for number in (1, 2))
        probabilities = transferred(settings.for_model(source.model).for_target(source.corpus), network, source.model, target.corpus, there)
        first = Answers(probabilities[:, ours], thresholds(network)[ours])
        second = Answers(own.probabilities["test"][:, columns], thresholds(theirs)[columns])
        rows = compare(first, second, there, classes, settings)
        about = {"trained_on": source.corpus, "tested_on": target.corpus, **kept, "lm": settings.lm(source.model), "synthetic": synthetic}
        rows = [{**about, "classes": [name for name, _, _ in classes], **row} for row in rows]
        storage.write_json({"rows": rows, "mlflow_run": tracked.id}, folder / "metrics.json")
        tracked.log({f"test/{row['threshold']}/{row['metric']}": row["value"] for row in rows if row["value"] is not None})
        tracked.artifact(folder / "metrics.json")
    best = next(row for row in rows if (row["threshold"], row["metric"]) == ("tuned", COMPARED[0]))
    return f"{name}: weighted accuracy {best['value']:.1%} over {len(classes)} emotions in {time.monotonic() - begin:.0f} s"


def released(heads: Heads) -> tuple[CalmForSequenceClassification, dict]:
    """The released model of an entry of `heads`, and which of its heads it is."""
    folder = paths.heads(heads.corpus, heads.model) / "model"
    return CalmForSequenceClassification.from_pretrained(folder).to(factory.device()), storage.read_json(folder / "release.json")


def thresholds(network: CalmForSequenceClassification) -> np.ndarray:
    """A model's thresholds, tuned on the validation split of its own corpus; (classes,)."""
    return np.array(network.config.thresholds[TASK])


def transferred(settings: Settings, network: CalmForSequenceClassification, model: str, other: str, made: Evaluation) -> np.ndarray:
    """Probabilities of a model for the test utterances of another corpus, (utterances, classes of the model).

    The log-mel is normalised by the statistics of the corpus that it is of, as in pretraining on several corpora.
    """
    examples = factory.examples(settings, [other])
    tokens = tokenise(load_tokenizer(settings.models[model].language_model), examples.table["text"])
    collator = SequenceCollator(examples.logmels, tokens, None, network.config.modality, most=settings.head.max_tokens)
    ids = pd.Index(made.truth["test"].table["id"])
    rows = np.flatnonzero(examples.table["id"].isin(ids))
    found = np.full((len(ids), len(network.config.heads[TASK])), np.nan)
    found[ids.get_indexer(examples.table["id"].iloc[rows])] = predict(network, rows, collator, settings.head.batch)
    return 1 / (1 + np.exp(-found))


class Answers(NamedTuple):
    """Of one model for the shared emotions."""

    probabilities: np.ndarray  # (utterances, emotions); a row of NaN where there is no answer
    thresholds: np.ndarray  # (emotions,)


def compare(first: Answers, own: Answers, made: Evaluation, classes: list[tuple[str, int, int]], settings: Settings) -> list[dict]:
    """Figures over the shared emotions with their intervals over speakers, and `own`, those of the tested corpus's own model."""
    columns, of = [column for _, _, column in classes], made.truth["test"]
    answered = np.isfinite(first.probabilities).all(axis=1) & np.isfinite(own.probabilities).all(axis=1)
    targets, rows = of.targets[answered][:, columns], []
    speakers = of.table["speaker"][answered].tolist()
    resamples = resampling.Resamples.of(speakers, settings.evaluate.bootstrap, settings.seeds[0])
    for threshold in ("tuned", "0.5"):
        decided = [one.probabilities[answered] >= (one.thresholds if threshold == "tuned" else 0.5) for one in (first, own)]
        drawn, theirs = (resamples.metrics(targets, decisions, COMPARED) for decisions in decided)
        for metric in COMPARED:
            found, of_own = (resampling.difference([values[metric]], [np.zeros_like(values[metric])]) for values in (drawn, theirs))
            about = {"threshold": threshold, "metric": metric, "value": found["difference"], "own": of_own["difference"]}
            rows.append({**about, "low": found["low"], "high": found["high"], "n": len(targets), "speakers": resamples.speakers})
    return rows


if __name__ == "__main__":
    stage.start(run, transfer=lambda settings: settings.transfer)
