"""A small corpus of noise, through the stages that come before training: what tests of the later ones start from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import yaml

from calm.corpora.utterances import Corpus, Utterance, write_table
from calm.storage import write_json, write_parquet
from pipeline import paths, settings
from pipeline.stages import features, ingest, transcribe

ROOT = Path(__file__).parents[2]


def project(corpora: list[str], /, **changes: dict) -> settings.Settings:
    """In the working folder: `params.yaml` of one model `small` and of these corpora, whose formats are manifests.

    Args:
        changes: of sections of the embedded default; values that are no dict, and those of `models`, `heads`, replace them.
    """
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"synthetic": {}, "corpora": {name: {"format": "manifest", "path": f"{name}.csv"} for name in corpora}, "head_of": {}}
    params |= {"targets": corpora, "heads": {name: {"corpus": name, "model": "small"} for name in corpora}}
    for section, values in changes.items():
        replaced = not isinstance(values, dict) or section in ("models", "heads")
        params[section] = values if replaced else params.get(section, {}) | values
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return settings.load()


def make(utterances: int, classes: dict[str, tuple[str, ...]] | None = None, **changes: dict) -> settings.Settings:
    """A project with audio, table, texts and features of each corpus.

    Args:
        classes: of each corpus by name, one a row; None: one corpus `made` without labels.
        changes: see `project`.
    """
    classes = classes or {"made": ()}
    loaded = project(list(classes), **changes)
    for name in classes:
        _corpus(name, utterances, classes[name], loaded)
    return loaded


def _corpus(name: str, utterances: int, classes: tuple[str, ...], loaded: settings.Settings) -> None:
    """Noise whose loudness tells the class, of eight speakers; splits hold no speaker twice."""
    corpus, noise = Corpus(classes, one_hot=bool(classes)), np.random.default_rng(0)
    Path(f"audio-{name}").mkdir()
    for row in range(utterances):
        seconds, file = 1 + row % 4 / 2, Path(f"audio-{name}/{row}.wav")
        soundfile.write(file, noise.normal(0, 0.1 / (1 + row % max(1, len(classes))), int(seconds * 16000)), 16000)
        split = "train" if row % 5 else ("validation", "test")[row // 5 % 2]
        labels = [classes[row % len(classes)]] if classes else None
        person = {"speaker": f"{split}{row % 3}", "gender": ("female", "male")[row % 4 > 1]} if classes else {}
        corpus.utterances.append(Utterance(f"u{row}", file, 0, seconds, split=split, text=f"number {row % 11}", labels=labels, **person))
    write_table_and_segments(corpus, name)
    texts = [{"id": row.id, "text": row.text, "source": "corpus", "reference": f"number {row.id[-1:]}"} for row in corpus.utterances]
    write_parquet(pa.Table.from_pylist(texts, schema=transcribe.SCHEMA), paths.texts(name) / "texts.parquet")
    features.compute(loaded, name)


def write_table_and_segments(corpus: Corpus, name: str) -> None:
    """What `ingest` leaves of a corpus, and `check` of its files."""
    frame = write_table(corpus, paths.utterances(name))
    write_parquet(pa.Table.from_pandas(frame[ingest.SEGMENT], preserve_index=False), paths.segments(name))
    for part in ("audio", "other"):
        write_json({}, paths.fingerprint(name) / f"{part}.json")
