"""A small corpus of noise, through the stages that come before training: what tests of the later ones start from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import yaml

from calm.corpora.utterances import Corpus, Utterance, write_parquet, write_table
from pipeline import paths, settings
from pipeline.stages import features, transcribe

ROOT = Path(__file__).parents[2]


def make(utterances: int, **changes: dict) -> settings.Settings:
    """In the working folder: `params.yaml` of one corpus `made` and one model `small`, with audio, table, texts and features.

    Args:
        changes: of sections of the embedded default.
    """
    given = yaml.safe_load((ROOT / "params.yaml").read_text())
    given |= {"synthetic": {}, "corpora": {"made": {"format": "manifest", "path": "made.csv"}}, "targets": ["made"], "head_of": {}}
    for section, values in changes.items():
        given[section] = given.get(section, {}) | values
    Path("params.yaml").write_text(yaml.safe_dump(given))
    corpus, noise = Corpus(), np.random.default_rng(0)
    Path("audio").mkdir()
    for row in range(utterances):
        seconds = 1 + row % 4 / 2
        soundfile.write(f"audio/{row}.wav", noise.normal(0, 0.1, int(seconds * 16000)), 16000)
        split = "train" if row % 5 else ("validation", "test")[row // 5 % 2]
        corpus.utterances.append(Utterance(f"u{row}", Path(f"audio/{row}.wav"), 0, seconds, split=split, text=f"number {row % 11}"))
    write_table(corpus, paths.utterances("made"))
    texts = [{"id": row.id, "text": row.text, "source": "corpus"} for row in corpus.utterances]
    write_parquet(pa.Table.from_pylist(texts, schema=transcribe.SCHEMA), paths.texts("made") / "texts.parquet")
    made = settings.load()
    features.extract(paths.utterances("made"), made.features, paths.features("made"), "features@made")
    return made
