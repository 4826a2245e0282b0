"""Embed recordings for use elsewhere: a vector of every block, of the utterance, and of its text."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from calm.inference.extractor import text_or_empty
from calm.inference.recordings import Segment
from calm.inference.torch_classifier import Predictor
from calm.models.language_model import text_vectors
from calm.storage import parquet_writer

GROUP = 64  # rows in memory before they are written
VECTOR = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("start", pa.float64()),  # seconds; long recordings are cut at their pauses
        ("end", pa.float64()),
        ("text", pa.string()),
        ("blocks", pa.list_(VECTOR)),  # the front end's output for every block (4.3); null for a model of text alone
        ("utterance", VECTOR),  # input of the heads: [CLS] over audio and text, and by setting mean and deviation
        ("text_vector", VECTOR),  # mean of the language model's last states over the words, from text alone; null without a text
        ("fault", pa.string()),  # why there are no vectors
    ]
)


def vectors(predictor: Predictor, segment: Segment) -> dict[str, Any]:
    """Columns of SCHEMA for one segment of a recording."""
    (samples,) = predictor.extractor.clips(segment.samples, predictor.sample_rate)
    frames = predictor.extractor.frames(samples)
    text = text_or_empty(segment.text)
    words = None
    if text:
        words = text_vectors(predictor.model.calm.language_model, predictor.processor.tokenizer, [text])[0].float().numpy()
    return {
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "blocks": None if predictor.modality == "text" else list(predictor.acoustic_tokens(frames)),
        "utterance": predictor.pooled(frames, segment.text),
        "text_vector": words,
    }


def write(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Write rows to Parquet as they come, whole or not at all. Returns the number of rows."""
    total = 0
    with parquet_writer(path, SCHEMA) as file:
        for group in _groups(rows):
            file.write_table(pa.Table.from_pylist(group, SCHEMA))
            total += len(group)
    return total


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == GROUP:
            yield group
            group = []
    if group:
        yield group
