"""A released model on the test split of another corpus, over the emotions that both corpora know; beside it that corpus's own model."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from calm import evaluation, metrics
from calm.batching import SequenceCollator, tokenise
from calm.corpora.emotions import shared
from calm.language_model import load_tokenizer
from calm.modeling import CalmForSequenceClassification
from calm.training import predict
from pipeline import build, command, paths, tracking
from pipeline.runs import Evaluation, Run, System, read_runs, read_truth
from pipeline.settings import Settings

COMPARED = ("weighted_accuracy", "accuracy", "f1_macro")


def run(settings: Settings, name: str) -> str:
    """Write `metrics.json`: figures of the transferred model at 0.5 and at its own corpus's tuned thresholds, with intervals."""
    begin, of = time.monotonic(), settings.transfer[name]
    source, target = settings.heads[of.trained], settings.heads[of.tested]
    synthetic = build.synthetic(settings, [source.corpus, target.corpus])
    with (
        tracking.stage_run(settings, target.corpus, {"transfer": of}, synthetic, settings.seeds[0]) as tracked,
        command.whole(paths.transfer(name)) as folder,
    ):
        kept = command.read_json(paths.heads(source.corpus, source.model) / "model" / "release.json")
        here, there = truth(settings, source.corpus), truth(settings, target.corpus)
        classes = shared(here.classes, there.classes)
        if not classes:
            raise ValueError(f"{source.corpus} and {target.corpus} have no emotion in common: take {name} out of transfer")
        columns = [column for _, column, _ in classes]
        thresholds = tuned(paths.heads(source.corpus, source.model), settings.lm(source.model), kept, here)[columns]
        probabilities = answers(settings, source.corpus, source.model, target.corpus, there)[:, columns]
        own = own_decisions(settings, target.corpus, target.model, kept, there)
        rows = compare(probabilities, thresholds, own, there, classes, settings)
        about = {"trained_on": source.corpus, "tested_on": target.corpus, **kept, "lm": settings.lm(source.model), "synthetic": synthetic}
        rows = [{**about, "classes": [name for name, _, _ in classes], **row} for row in rows]
        command.write_json({"rows": rows, "mlflow_run": tracked.id}, folder / "metrics.json")
        tracked.log({f"test/{row['threshold']}/{row['metric']}": row["value"] for row in rows if row["value"] is not None})
        tracked.artifact(folder / "metrics.json")
    best = next(row for row in rows if (row["threshold"], row["metric"]) == ("tuned", COMPARED[0]))
    return f"{name}: weighted accuracy {best['value']:.1%} over {len(classes)} emotions in {time.monotonic() - begin:.0f} s"


def truth(settings: Settings, corpus: str) -> Evaluation:
    """Labelled utterances of a corpus."""
    made = read_truth(paths.utterances(corpus), corpus, settings.corpora[corpus].synthetic)
    made.notes |= {"missing": []}
    return made


def released(folder: Path, lm: str, kept: dict, made: Evaluation) -> Run | None:
    """The answers of the released model, or of the same row of another corpus, to its own corpus; None where there is no such row."""
    system = System(kept["variant"], lm, kept["modality"])
    found = [one for one in read_runs(folder / "logits.parquet", lm, made) if (one.system, one.seed) == (system, kept["seed"])]
    return found[0] if found else None


def tuned(folder: Path, lm: str, kept: dict, made: Evaluation) -> np.ndarray:
    """Thresholds of the released model, tuned on the validation split of its own corpus; (classes,)."""
    one = released(folder, lm, kept, made)
    answered = one.answered("validation")
    return evaluation.tune_thresholds(made.truth["validation"].targets[answered], one.probabilities["validation"][answered])


def answers(settings: Settings, corpus: str, model: str, other: str, made: Evaluation) -> np.ndarray:
    """Probabilities of the model released on `corpus` for the test utterances of `other`, (utterances, classes of the model).

    The log-mel is normalised by the statistics of the corpus that it is of, as in pretraining on several corpora.
    """
    settings = settings.for_model(model).for_target(corpus)
    examples = build.examples(settings, [other])
    network = CalmForSequenceClassification.from_pretrained(paths.heads(corpus, model) / "model").to(build.device())
    tokens = tokenise(load_tokenizer(settings.models[model].language_model), examples.table["text"])
    collator = SequenceCollator(examples.logmels, tokens, None, network.config.modality, most=settings.head.max_tokens)
    ids = pd.Index(made.truth["test"].table["id"])
    rows = np.flatnonzero(examples.table["id"].isin(ids))
    found = np.full((len(ids), len(next(iter(network.config.heads.values())))), np.nan)
    found[ids.get_indexer(examples.table["id"].iloc[rows])] = predict(network, rows, collator, settings.head.batch)
    return 1 / (1 + np.exp(-found))


def own_decisions(settings: Settings, corpus: str, model: str, kept: dict, made: Evaluation) -> dict[str, np.ndarray]:
    """What the tested corpus's own model of the same kind decides on its test split, by threshold; {} where there is none."""
    one = released(paths.heads(corpus, model), settings.lm(model), kept, made)
    if one is None:
        return {}
    thresholds = tuned(paths.heads(corpus, model), settings.lm(model), kept, made)
    return {"0.5": one.probabilities["test"] >= 0.5, "tuned": one.probabilities["test"] >= thresholds}


def compare(
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    own: dict[str, np.ndarray],
    made: Evaluation,
    classes: list[tuple[str, int, int]],
    settings: Settings,
) -> list[dict]:
    """Figures over the shared emotions with their intervals over speakers, and `own`, those of the tested corpus's own model."""
    columns, of = [column for _, _, column in classes], made.truth["test"]
    answered = np.isfinite(probabilities).all(axis=1)
    targets, rows = of.targets[answered][:, columns], []
    speakers = of.table["speaker"][answered].tolist()
    resamples = evaluation.Resamples.of(speakers, settings.evaluate.bootstrap, settings.seeds[0])
    for threshold, at in (("tuned", thresholds), ("0.5", 0.5)):
        drawn = resamples.metrics(targets, probabilities[answered] >= at, COMPARED)
        theirs = metrics.decided(targets, own[threshold][answered][:, columns], [name for name, _, _ in classes]).values if own else {}
        for metric in COMPARED:
            found = evaluation.difference([drawn[metric]], [np.zeros_like(drawn[metric])])
            about = {"threshold": threshold, "metric": metric, "value": found["difference"], "own": theirs.get(metric)}
            rows.append({**about, "low": found["low"], "high": found["high"], "n": len(targets), "speakers": resamples.speakers})
    return rows


if __name__ == "__main__":
    command.start(run, transfer=lambda settings: settings.transfer)
