"""Vectors of recordings, for use elsewhere: of every block, of the utterance, and of its text."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from calm.inference.extractor import text_or_empty
from calm.inference.recordings import Piece
from calm.inference.torch_classifier import Predictor
from calm.models.language_model import text_vectors

GROUP = 64  # rows that are in memory before they are written
VECTOR = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("start", pa.float64()),  # seconds; long recordings are cut at their pauses
        ("end", pa.float64()),
        ("text", pa.string()),
        ("blocks", pa.list_(VECTOR)),  # SpecTran's output of every block (4.3); null for a model of text alone
        ("utterance", VECTOR),  # what the heads see: [CLS] over audio and text, or beside it mean and spread of both
        ("text_vector", VECTOR),  # mean of the language model's last states over the words, of the text alone; null without a text
        ("fault", pa.string()),  # why there are no vectors
    ]
)


def vectors(predictor: Predictor, piece: Piece) -> dict:
    """Columns of SCHEMA of one piece of a recording."""
    (samples,) = predictor.extractor.clips(piece.samples, predictor.sample_rate)
    frames = predictor.extractor.frames(samples)
    text = text_or_empty(piece.text)
    words = None
    if text:
        words = text_vectors(predictor.model.calm.language_model, predictor.processor.tokenizer, [text])[0].float().numpy()
    return {
        "start": piece.start,
        "end": piece.end,
        "text": piece.text,
        "blocks": None if predictor.modality == "text" else list(predictor.acoustic_tokens(frames)),
        "utterance": predictor.pooled(frames, piece.text),
        "text_vector": words,
    }


def write(rows: Iterable[dict], path: Path) -> int:
    """Write rows to Parquet as they come, and rename it when all are there; returns how many they were."""
    path = Path(path)
    partial, total = path.with_name(f".{path.name}.partial"), 0
    try:
        with pq.ParquetWriter(partial, SCHEMA) as file:
            for group in _groups(rows):
                file.write_table(pa.Table.from_pylist(group, SCHEMA))
                total += len(group)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return total


def _groups(rows: Iterable[dict]) -> Iterator[list[dict]]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == GROUP:
            yield group
            group = []
    if group:
        yield group
