"""Outputs of a study in the formats of the stages before `report`, with random numbers of a fixed seed, for tests of the page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from sample_report import CLASSES

from calm.corpora.utterances import Corpus, Utterance, write_table
from pipeline import paths
from pipeline.report import result_tables
from pipeline.settings import Settings

GAINS = {
    "bert_only": 0.06, "mm_bert_cnn": 0.09, "joint_transformer": 0.1, "no_pretraining": 0.11, "mm_only": 0.13, "calp_only": 0.14,
    "no_calp_text": 0.12, "calm": 0.16, "calm_ood": 0.165, "labels_20": 0.1, "labels_40": 0.12, "labels_60": 0.135, "labels_80": 0.15,
    "patch_2x64": 0.155, "patch_20x8": 0.15,
}  # fmt: skip
INPUTS = {"audio": -0.04, "text": 0.0, "both": 0.03}
MODELS = ("small", "large")


def gains(corpus: str) -> dict[tuple[str, str, str], float]:
    """Variant, language model and modality -> distance above 0.5. The second model has the main rows only, and frozen ones."""
    values = {}
    for variant, gain in GAINS.items():
        for modality, more in INPUTS.items():
            peer = variant in ("bert_only", "mm_bert_cnn", "joint_transformer")
            if (variant == "no_calp_text" and modality != "audio") or (peer and modality != "both"):
                continue
            values[variant, "small", modality] = gain + more
            if variant in ("calm", "no_pretraining", "labels_20"):
                values[variant + "_frozen", "large", modality] = gain + more + 0.01
                if variant != "labels_20":
                    values[variant, "large", modality] = gain + more + 0.02
    return values


def study_rows(corpus: str, seeds: list[int]) -> list[dict]:
    """Rows of `metrics.json`, baselines included."""
    random = np.random.default_rng(len(corpus))
    lines = {key: (gain, seeds) for key, gain in gains(corpus).items()}
    lines |= {("chance", "-", "none"): (0.0, [1]), ("egemaps", "-", "audio"): (0.1, [1]), ("logmel_functionals", "-", "audio"): (0.12, [1])}
    rows = []
    for (variant, lm, modality), (gain, line_seeds) in lines.items():
        for split in ("validation", "test"):
            for threshold in ("0.5", "tuned"):
                for seed in line_seeds:
                    value = 0.5 + gain + 0.01 * random.standard_normal() * (variant != "chance") - 0.03 * (threshold == "0.5")
                    shared = {"corpus": corpus, "synthetic": True, "variant": variant, "lm": lm, "modality": modality, "split": split}
                    metrics = {name: value - 0.03 * number for number, name in enumerate(result_tables.METRICS)}
                    metrics |= {f"weighted_accuracy/{name}": value + 0.04 * random.standard_normal() for name in CLASSES[corpus]}
                    metrics |= {"ece": abs(0.05 + 0.02 * random.standard_normal())} if threshold == "0.5" and variant != "chance" else {}
                    rows += [{**shared, "threshold": threshold, "seed": seed, "metric": m, "value": float(v)} for m, v in metrics.items()]
    return rows


def study_comparisons(corpus: str) -> list[dict]:
    """CALM less every variant of the same model, input and tuning; both inputs less each; audio less the baselines."""
    values, rows = gains(corpus), []
    for a in (key for key in values if key[0] in ("calm", "calm_frozen")):
        end = "_frozen" if a[0].endswith("_frozen") else ""
        others = [b for b in values if b != a and b[1:] == a[1:] and b[0].endswith("_frozen") == bool(end)]
        others += [b for b in values if b[:2] == a[:2] and a[2] == "both" and b[2] != "both"]
        others += [(name, "-", "audio") for name in ("egemaps", "logmel_functionals") if a[2] == "audio"]
        for b in others:
            difference = values[a] - values.get(b, 0.1)
            low, high = difference - 0.018, difference + 0.018
            systems = [dict(zip(("variant", "lm", "modality"), key, strict=True)) for key in (a, b)]
            shared = {"a": systems[0], "b": systems[1], "corpus": corpus, "synthetic": True, "split": "test", "n": 72, "speakers": 6}
            interval = {"difference": difference, "low": low, "high": high, "significant": low > 0 or high < 0, "seeds_a": 3, "seeds_b": 3}
            rows += [
                {**shared, "threshold": t, "metric": m, **interval} for t in ("0.5", "tuned") for m in ("weighted_accuracy", "accuracy")
            ]
    return rows


def study_intervals(corpus: str) -> list[dict]:
    rows = []
    for (variant, lm, modality), gain in gains(corpus).items():
        interval = {"mean": 0.5 + gain, "low": 0.47 + gain, "high": 0.53 + gain, "n": 72, "speakers": 6}
        key = {"variant": variant, "lm": lm, "modality": modality, "metric": "weighted_accuracy"}
        rows += [{**key, "threshold": threshold, **interval} for threshold in ("0.5", "tuned")]
    return rows


def study_calibration(seeds: list[int]) -> list[dict]:
    bins = [
        {"low": b / 10, "high": (b + 1) / 10, "n": 60 // (b + 1), "predicted": b / 10 + 0.05, "observed": b / 12 + 0.06} for b in range(10)
    ]
    return [
        {"variant": "calm", "lm": lm, "modality": modality, "seed": seed, "split": "test", "bins": bins[: 10 - number]}
        for lm in MODELS
        for number, modality in enumerate(INPUTS)
        for seed in seeds
    ]


def study_buckets(corpus: str, seeds: list[int]) -> list[dict]:
    random = np.random.default_rng(7)
    groups = {"gender": ["male", "female"], "duration": ["2-4 s", "under 2 s", "from 4 s"], "wer": ["over 20% wrong", "no word wrong"]}
    places = [(by, name, 20 + 7 * number) for by, names in groups.items() for number, name in enumerate(names)]
    key = {"variant": "calm", "lm": "small", "metric": "weighted_accuracy"}
    return [
        {**key, "modality": modality, "seed": seed, "by": by, "bucket": name, "n": n, "threshold": threshold, "value": value}
        for by, name, n in places
        for modality in INPUTS
        for seed in seeds
        for threshold in ("tuned", "0.5")
        for value in [float(0.65 + INPUTS[modality] + 0.03 * random.standard_normal())]
    ]


def study_transfer(corpus: str, seeds: list[int]) -> dict:
    key = {"variant": "calm", "lm": "small", "modality": "both", "metric": "weighted_accuracy", "n": 72, "speakers": 6}
    about = {"trained_on": "msp" if corpus == "mosei" else "mosei", "tested_on": corpus, "classes": ["happy", "sad"]}
    ends = {"low": 0.55, "high": 0.65, "own": 0.7}
    rows = [{**key, **about, "seed": seed, "threshold": t, "value": 0.6 + seed / 100, **ends} for seed in seeds for t in ("0.5", "tuned")]
    return {"rows": rows}


def study_space(corpora: dict[str, list[str]], width: int = 32) -> pd.DataFrame:
    """Held-out utterances: text and audio far apart before, near each other and by label after; every tenth without a text."""
    random, rows = np.random.default_rng(3), []
    for corpus, classes in corpora.items():
        places = {name: 2 * random.standard_normal(width) for name in classes}
        for number in range(120):
            mine = places[classes[number % len(classes)]]
            apart = 3 * np.eye(width)[0]
            means = {"audio_before": apart, "text_before": -apart, "audio_after": mine, "text_after": mine}
            vectors = {name: (mean + random.standard_normal(width)).astype(np.float16) for name, mean in means.items()}
            vectors |= {"text_before": None, "text_after": None} if number % 10 == 9 else {}
            rows.append({"id": f"{corpus}{number:03}", "corpus": corpus, "split": "test", **vectors})
    return pd.DataFrame(rows)


def write_study(folder: Path, settings: Settings, corpora: list[str]) -> None:
    """Replace the evaluation of some corpora by that of a study. `write_stage_outputs` must be called before."""
    for corpus in corpora:
        files = {
            "metrics": study_rows(corpus, settings.seeds),
            "comparisons": study_comparisons(corpus),
            "intervals": study_intervals(corpus),
            "calibration": study_calibration(settings.seeds),
            "buckets": study_buckets(corpus, settings.seeds),
        }
        for name, content in files.items():
            (folder / paths.evaluation(corpus) / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        utterances = Corpus(classes=tuple(CLASSES[corpus]))
        for number in range(120):
            labels = [] if number % 17 == 16 else [CLASSES[corpus][number % len(CLASSES[corpus])]]
            times = 0.0, 2.0 + number / 60
            utterances.utterances.append(Utterance(f"{corpus}{number:03}", folder / "none.wav", *times, labels=labels, split="test"))
        write_table(utterances, folder / paths.utterances(corpus))
        curves = json.loads((folder / paths.heads(corpus, "small") / "curves.json").read_text())
        curves = [{**curve, "variant": variant} for variant in GAINS for curve in curves if curve["variant"] == "calm"]
        (folder / paths.heads(corpus, "small") / "curves.json").write_text(json.dumps(curves), encoding="utf-8")
    file = folder / paths.transfer("there") / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(study_transfer(corpora[0], settings.seeds)), encoding="utf-8")
    study_space({name: CLASSES[name] for name in corpora}).to_parquet(folder / paths.calp("small") / "space.parquet")
    for path in (paths.calp("small"), paths.pretrained("small")):
        file = folder / path / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"flops": 1.2e12}), encoding="utf-8")
