"""Outputs of all stages before `report`, in their formats, with invented numbers, for tests of the page."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import paths
from pipeline.report import result_tables
from pipeline.settings import Settings

MODALITIES = ("audio", "text", "both")
CLASSES = {"mosei": ["happy", "sad", "anger", "surprise", "disgust", "fear"], "msp": ["angry", "sad", "happy", "neutral"]}

HOSTILE = ["<img src=x onerror=alert(2)>", "</script><script>alert(1)</script>", '=HYPERLINK("x")', r"a$\foo$b"]  # classes


def sample_rows(corpus: str, seeds: list[int]) -> list[dict]:
    """Rows as `evaluate` writes them."""
    random = np.random.default_rng(len(corpus))
    lines = [("chance", "-", "none", 0.0, [1]), ("egemaps", "-", "audio", 0.14, [1]), ("logmel_functionals", "-", "audio", 0.12, [1])]
    for variant, gain in (("no_pretraining", 0.15), ("calm", 0.18), ("no_pretraining_frozen", 0.06), ("calm_frozen", 0.12)):
        lines += [(variant, "small", modality, gain + more, seeds) for modality, more in (("audio", 0.0), ("text", 0.02), ("both", 0.07))]
    rows = []
    for variant, lm, modality, gain, line_seeds in lines:
        for split in ("validation", "test"):
            for threshold in ("0.5", "tuned", *(["argmax"] if corpus == "msp" else [])):
                for seed in line_seeds:
                    shared = {"corpus": corpus, "synthetic": True, "variant": variant, "lm": lm, "modality": modality, "split": split}
                    value = 0.5 + gain + 0.02 * random.standard_normal() * (variant != "chance") - 0.05 * (threshold == "0.5")
                    metrics = {name: value - 0.03 * number for number, name in enumerate(result_tables.METRICS)}
                    metrics |= {f"weighted_accuracy/{name}": value + 0.06 * random.standard_normal() for name in CLASSES[corpus]}
                    metrics |= {"accuracy": value + 0.2, **({"auc_macro": value + 0.1} if threshold == "0.5" else {})}
                    metrics |= {"accuracy_argmax": value - 0.1} if threshold == "argmax" else {}
                    rows += [{**shared, "threshold": threshold, "seed": seed, "metric": m, "value": float(v)} for m, v in metrics.items()]
    return rows


def sample_comparisons(corpus: str) -> list[dict]:
    rows = []
    for a, b, low in (("calm", "no_pretraining", -0.01), ("calm", "egemaps", 0.02), ("calm_frozen", "no_pretraining_frozen", None)):
        for modality in ("audio",) if b == "egemaps" else ("audio", "text", "both"):
            systems = [{"variant": name, "lm": "-" if name == "egemaps" else "small", "modality": modality} for name in (a, b)]
            shared = {"a": systems[0], "b": systems[1], "corpus": corpus, "synthetic": True, "split": "test", "n": 72, "speakers": 6}
            interval = {"low": low, "high": None if low is None else 0.09, "significant": None if low is None else low > 0}
            rows += [
                {**shared, "threshold": threshold, "metric": metric, "difference": 0.041, **interval, "seeds_a": 3, "seeds_b": 1}
                for threshold in ("0.5", "tuned")
                for metric in ("weighted_accuracy", "accuracy")
            ]
    return rows


def sample_notes(corpus: str) -> dict:
    test = {"labelled": 72, "unlabelled": 0, "speakers": 6, "never_anything": {"accuracy": 0.775, "weighted_accuracy": 0.5}}
    left = {"split": "test", "threshold": "0.5", "metric": "weighted_accuracy", "classes": ["fear"], "defined": True, "runs": ["a"]}
    missing = {"variant": "egemaps", "lm": "-", "modality": "audio", "seed": 1, "split": "test", "utterances": 2, "ids": ["a", "b"]}
    lists = {"left_out": [left], "missing": [missing], "not_evaluated": []}
    return {"corpus": corpus, "one_hot": corpus == "msp", "utterances": {"test": test}, **lists}


def sample_curve(epochs: int, **starts: float) -> list[dict]:
    return [{"epoch": e, **{k: start * (0.4 + 0.6 * math.exp(-e / 6)) for k, start in starts.items()}} for e in range(1, epochs + 1)]


def sample_ingest(corpus: str) -> dict:
    splits = {}
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        rows = int(360 * share)
        counts = {name: rows // (2 + number) for number, name in enumerate(CLASSES[corpus])}
        labels = {**counts, "none of them": rows // 10 if corpus == "mosei" else 0, "unlabelled": 0}
        with_text = rows if corpus == "mosei" else 0
        splits[split] = {"rows": rows, "hours": rows / 900, "speakers": rows // 12, "with_text": with_text, "labels": labels}
    dropped = {"too short": 3, "audio file is missing": 1, "label outside its range": 1}
    return {
        "corpus": corpus, "format": "mosei", "path": f"data/raw/{corpus}", "options": {}, "synthetic": True, "read": 365, "kept": 360,
        "dropped": dropped, "dropped_by_choice": 0, "corrections": {"start before 0 set to 0": 4}, "splits": splits,
        "speakers_in_two_splits": [], "checks": {}, "dropped_rows": [],
    }  # fmt: skip


def sample_word_errors(speakers: int) -> dict:
    """Speaker k has k errors in 100 words; one more speaker, "mute", has no reference."""

    def errors(count: int, words: int, n: int) -> dict:
        rate = count / words if words else None
        return {"n": n, "words": words, "substitutions": count, "deletions": 0, "insertions": 0, "wer": rate}

    by_speaker = {f"s{k:04}": errors(k, 100, 5) for k in range(1, speakers + 1)} | {"mute": errors(0, 0, 1)}
    return {**errors(speakers * (speakers + 1) // 2, 100 * speakers, 5 * speakers), "by_speaker": by_speaker, "worst": []}


def sample_retrieval(corpus: str, pair: str, split: str) -> dict:
    recall = {"recall_at_1": 0.11, "recall_at_5": 0.34, "recall_at_10": 0.52, "median_rank": 9.0}
    chance = {"recall_at_1": 1 / 72, "recall_at_5": 5 / 72, "recall_at_10": 10 / 72, "median_rank": 36.5}
    return {"corpus": corpus, "split": split, "pair": pair, "n": 72, **recall, **{f"chance_{key}": value for key, value in chance.items()}}


def write_predictions(file: Path, corpus: str, seeds: list[int], utterances: int = 40) -> None:
    """`predictions.parquet` of the heads of CALM, with names that must not become markup."""
    random = np.random.default_rng(3)
    rows = []
    for variant, modality, seed in itertools.product(("calm", "calm_frozen"), MODALITIES, seeds):
        for number in range(utterances):
            probabilities = random.dirichlet(np.ones(len(HOSTILE)))
            labels = [HOSTILE[number % len(HOSTILE)]] if corpus == "msp" or number % 5 else []
            answer = [HOSTILE[int(probabilities.argmax())]]
            decided = {f"decided_{kind}": answer for kind in ("0.5", "tuned", "argmax")}
            names = {"id": f"<img src=x onerror=alert({number})>", "split": "test", "speaker": f"<b>speaker-{number}</b>", "labels": labels}
            system = {"variant": variant, "lm": "small", "modality": modality, "seed": seed}
            rows.append({**names, **system, "probabilities": list(probabilities), **decided})
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"classes": "\n".join(HOSTILE)})
    pq.write_table(table, file)


def write_stage_outputs(folder: Path, settings: Settings) -> None:
    """Write what the other stages would have written below `folder`."""

    def write(path: Path, value) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(value), encoding="utf-8")

    def measure(stage: str, **measurements) -> None:
        write(paths.measured(stage), {"device": "cpu", "host": "here", **measurements})

    for corpus in settings.corpora:
        wer = sample_word_errors(1 if corpus == "msp" else 40)
        texts = {"transcribed": 20, "from_corpus": 340, "model": "tiny.en", "wer": wer, "flags": {"repeats": 1}, "unreadable": []}
        write(paths.ingest_report(corpus), sample_ingest(corpus))
        write(paths.texts(corpus) / "metrics.json", texts)
        write(paths.evaluation(corpus) / "metrics.json", sample_rows(corpus, settings.seeds))
        write(paths.evaluation(corpus) / "comparisons.json", sample_comparisons(corpus))
        write_predictions(folder / paths.evaluation(corpus) / "predictions.parquet", corpus, settings.seeds)
        write(paths.evaluation(corpus) / "notes.json", sample_notes(corpus))
        measure(f"baselines@{corpus}", seconds=9.5, mlflow_run="d" * 32)
        measure(f"evaluate@{corpus}", seconds=3.5, mlflow_run="c" * 32)
        write(paths.features(corpus) / "report.json", {"read": 360, "kept": 359, "dropped": {"silence": 1}})
        conditions = [
            {"variant": variant, "modality": modality, "seed": seed}
            for variant in ("calm", "no_pretraining", "calm_frozen", "no_pretraining_frozen")
            for modality in MODALITIES
            for seed in settings.seeds
        ]
        starts = {modality: 0.62 - 0.05 * number for number, modality in enumerate(MODALITIES)}
        curves = [
            {**head, "curve": sample_curve(8, loss=0.6, validation_loss=starts[head["modality"]] + 0.02 * head["seed"])}
            for head in conditions
        ]
        write(paths.heads(corpus, "small") / "curves.json", curves)
        heads = [{**head, "seconds": 12.5, "mlflow_run": "-".join(map(str, head.values()))} for head in conditions]
        measure(f"head@{corpus}-small", seconds=61.0, heads=heads)
    pairs = [(pair, split) for pair in ("audio to text", "audio to next block") for split in ("validation", "test")]
    shared = {"corpora": list(settings.corpora), "synthetic": True, "seed": 1, "hours": 0.4}
    calp = {"language_model": "minilm", "layers": 2, "parameters": {"spectran": 440_000, "projections": 65_000}}
    retrieval = [sample_retrieval(corpus, *pair) for corpus in settings.corpora for pair in pairs]
    read = {"corpus": "msp", "of": "speaker", "n": 90, "classes": 16, "chance": 1 / 16}
    probes = [{**read, "when": "before", "balanced_accuracy": 0.41}, {**read, "when": "after", "balanced_accuracy": 0.63}]
    calp |= {"curve": sample_curve(40, loss=4, validation_loss=4.3), "retrieval": retrieval, "probes": probes}
    write(paths.calp("small") / "metrics.json", {**shared, **calp})
    pretrained = {"validation": {"mlm": 3.1, "mam": 0.61, "mam_middle": 0.83}, "cut": {"utterances": 0, "tokens": 0, "blocks": 0}}
    pretrained |= {"parameters": {"language_model": 15_300_000, "calm_besides_language_model": 1_100_000, "all": 16_400_000}}
    curve = sample_curve(10, loss=5, mlm=4.5, mam=1.0, mam_middle=1.2)
    write(paths.pretrained("small") / "metrics.json", {**shared, **pretrained, "curve": curve})
    measure("calp@small", seconds=64.0, mlflow_run="a" * 32)
    measure("pretrain@small", seconds=64.0, mlflow_run="b" * 32)
