"""The paper's recipe, recipes/paper.yaml, from nothing to its page in a reduced form: `python benchmarks/paper_recipe.py`

Every model, row, baseline and transfer of the recipe runs, on the corpora of recipes/demo.yaml (synthetic speech), with one seed, one epoch
a training, and a BERT of random weights. So it says nothing about the method: it shows that the recipe runs, and how long its stages take.
It works in a clean clone of the last commit. With `--folder` the clone is kept, with its page in `reports/index.html`.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from calm.synthesis import sentences
from pipeline.heads.conditions import conditions
from pipeline.paper import TABLES
from pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
LANGUAGE_MODEL = "data/raw/bert-random"  # in place of BERT-tiny and of BERT-base
UTTERANCES, SPEAKERS = 60, 20  # of each corpus
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Result = tuple[str, str, str, str, int]  # corpus, variant, lm, modality, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--utterances", type=int, default=UTTERANCES, help="of each corpus")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="calm-paper-") as temporary:
        folder = (options.folder or Path(temporary) / "project").resolve()
        seconds = rebuild(folder, reduced(options.utterances))
        print(f"the whole recipe: {seconds / 60:.1f} min\n{by_stage(folder)}")


def reduced(utterances: int = UTTERANCES) -> dict:
    """The recipe with other corpora, Whisper and language models, fewer seeds and epochs. All else is as it is in the recipe."""
    given, demo = (yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text(encoding="utf-8")) for name in ("paper", "demo"))
    given["title"] = "The paper's recipe in a reduced form (synthetic speech, random language model)"
    given["seeds"] = given["seeds"][:1]
    given |= {section: demo[section] for section in ("synthetic", "corpora", "transcribe")}
    for corpus in given["synthetic"].values():
        corpus |= {"utterances": utterances, "speakers": SPEAKERS}
    for model in given["models"].values():
        model["language_model"] = LANGUAGE_MODEL
    for training in (given["calp"], given["pretrain"], given["head"], *given["head_of"].values()):
        training["epochs"] = 1
    given["head"]["frozen_epochs"] = 1
    return given


def make_language_model(folder: Path) -> None:
    """Write a BERT of the size of BERT-tiny, with random weights, and a tokenizer of the words of the synthetic speech and of letters."""
    lines = [line for kind in (*sentences.OWN.values(), *sentences.SHARED.values(), sentences.NEUTRAL) for line, _ in kind]
    words = sorted({word for line in lines for word in line.lower().split() if word.isalpha()})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789',."
    vocabulary = list(dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]))
    BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(1)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)


def rebuild(folder: Path, params: dict) -> float:
    """Run all stages in a clean clone; returns seconds. Raises CalledProcessError if a stage fails, RuntimeError if the report has gaps."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    make_language_model(folder / LANGUAGE_MODEL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline.repro"], cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)}, check=True
    )
    seconds = time.perf_counter() - begin
    settings = Settings.model_validate(params)
    tables = {(name, table.number(corpus.format)) for name, corpus in settings.corpora.items() for table in TABLES}
    faults = [f"no table {number} of {corpus}" for corpus, number in sorted(tables - printed(folder))] + gaps(folder, settings)
    if faults:
        raise RuntimeError(f"{folder}/reports is not whole:\n" + "\n".join(faults))
    return seconds


def printed(folder: Path) -> set[tuple[str, int]]:
    """Corpus and number of the paper's tables that a report has."""
    names = (file.stem.split("-") for file in (folder / "reports/tables").glob("study-*-table-*-tuned.csv"))
    return {(corpus, int(number)) for _, corpus, _, number, _ in names}


def gaps(folder: Path, settings: Settings) -> list[str]:
    """What a report lacks, a line each: results that the recipe asks for, and numbers in the paper's tables."""
    rows = json.loads((folder / "reports/metrics.json").read_text(encoding="utf-8"))
    found = [f"no result of {' '.join(map(str, result))}" for result in sorted(expected(settings) - results(rows))]
    baselines = {(corpus, name) for corpus in settings.targets for name in settings.evaluate.baselines}
    found += [f"no result of {corpus} {name}" for corpus, name in sorted(baselines - {(row["corpus"], row["variant"]) for row in rows})]
    for file in sorted((folder / "reports/tables").glob("study-*-table-*.csv")):
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
            own = [] if row["variant"].endswith(", quoted") else [name for name in row if name.endswith((", validation", ", test"))]
            found += [f"{file.name}: {row['variant']}, {row['model']}, {row['input']}: no {name}" for name in own if not row[name]]
    return found


def expected(settings: Settings) -> set[Result]:
    """The results that a recipe asks for: each of its rows, for every input, tuning and seed."""
    return {
        (entry.corpus, condition.name, settings.lm(entry.model), condition.modality, seed)
        for name, entry in settings.heads.items()
        for condition in conditions(entry.rows, settings.for_target(entry.corpus).head)
        for seed in settings.seeds_of(name)
    }


def results(rows: Iterable[dict]) -> set[Result]:
    """The results that have figures of the test split."""
    return {
        (row["corpus"], row["variant"], row["lm"], row["modality"], row["seed"])
        for row in rows
        if row["split"] == "test" and row["value"] is not None
    }


def by_stage(folder: Path) -> str:
    """Lines with the number and the seconds of the stages of each kind, without the start of their processes."""
    counts, seconds = Counter(), Counter()
    for file in (folder / "data/measured").glob("*.json"):
        kind = file.stem.partition("@")[0]
        counts[kind] += 1
        seconds[kind] += json.loads(file.read_text(encoding="utf-8"))["seconds"]
    return "\n".join(f"{kind:12} {counts[kind]:3} {seconds[kind]:6.0f} s" for kind in seconds)


if __name__ == "__main__":
    main()
