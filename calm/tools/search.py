"""Search speech by words or by a sound, in the space that CALP gives audio and text (4.3, equation 2).

Utterances come as a stream, from audio or from a corpus that was ingested; of each only its vectors are kept, and only while it is ranked.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from calm.corpora.files import AUDIO, walk
from calm.data.examples import each_frames, shards
from calm.data.ragged import AcousticFrames
from calm.inference.extractor import CONFIG, text_or_empty
from calm.inference.recordings import NO_SPEECH, Listener, each
from calm.inference.torch_classifier import opened
from calm.models.language_model import load_language_model, text_vectors
from calm.models.modeling import CalmForContrastivePretraining

DATA = Path("data")  # of the project: CALP's models, and corpora that were ingested
ROWS = 64  # utterances that are in memory at once
BATCH = 256  # blocks
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # a corpus's own; null: the file's name says it
        ("file", pa.string()),
        ("start", pa.float64()),  # seconds in the file
        ("end", pa.float64()),
        ("text", pa.string()),
        ("fault", pa.string()),  # why there are no vectors
        ("blocks", pa.list_(pa.float16())),  # one vector a block after another, each of length 1
    ]
)


class Space:
    """A model as the stage `calp` writes it, and the language model that it was trained against.

    Raises ValueError for a folder that is none.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", CONFIG, "metrics.json"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is no model of CALP: it has no {name} (the stage `calp` writes such a folder)")
        self.folder, self.about = folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        model, self.processor = opened(CalmForContrastivePretraining, folder)
        self.model = model.eval().to(device)

    @property
    def extractor(self):
        """The processor's feature extractor."""
        return self.processor.feature_extractor

    @property
    def synthetic(self) -> bool:
        """Whether the model was trained on synthetic speech."""
        return self.model.config.synthetic

    @property
    def width(self) -> int:
        """Of the space."""
        return self.model.config.projection or self.model.config.hidden_size

    def digest(self) -> str:
        """What tells one model from another, as to its vectors of audio."""
        found = hashlib.sha256()
        for name in ("model.safetensors", CONFIG):
            found.update((self.folder / name).read_bytes())
        return found.hexdigest()

    @torch.inference_mode()
    def of_text(self, words: str) -> np.ndarray:
        """T_i of some words in the space, (width,) of length 1. Raises ValueError where there are none, or too many."""
        words, tokenizer = text_or_empty(words).strip(), self.processor.tokenizer
        if not words:
            raise ValueError("there are no words to search for: give some, or a recording with --like")
        if len(tokenizer(words)["input_ids"]) > 512:
            raise ValueError("the words are more than the language model's 512 tokens: search for fewer")
        trained = self.folder / "language_model"  # only where it was trained along
        name, layers = (str(trained), None) if trained.is_dir() else (self.about["language_model"], self.about["layers"])
        vectors = text_vectors(load_language_model(name, layers), tokenizer, [words], self.about["text_vector"])
        return unit(self.model.embed_text(vectors.to(self.model.device))[0].float().cpu().numpy())

    def of_samples(self, samples: np.ndarray) -> np.ndarray:
        """Vectors of the blocks of one utterance's samples at the model's rate, (blocks, width) float16."""
        return self.of_frames(self.extractor.acoustic_frames([samples]), 0)

    @torch.inference_mode()
    def of_frames(self, frames: AcousticFrames, row: int) -> np.ndarray:
        """Vectors of the blocks of one row, each of length 1, (blocks, width) float16."""
        blocks = torch.from_numpy(frames.blocks_of(row))
        parts = [self.model.embed_audio(part.to(self.model.device)).float().cpu().numpy() for part in blocks.split(BATCH)]
        return unit(np.concatenate(parts)).astype(np.float16)

    def of_recording(self, path: Path, listener: Listener) -> np.ndarray:
        """Mean of the vectors of all its blocks, (width,) of length 1. Raises AudioError, or ValueError where nobody speaks."""
        found = [self.of_samples(piece.samples) for piece in listener(path)]
        if not found:
            raise ValueError(f"nobody speaks in {path}: there is nothing to search for")
        return unit(np.concatenate(found).astype(np.float32).mean(0))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., width) at length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def models() -> list[Path]:
    """Folders of CALP's models in the project."""
    return sorted(path.parent for path in (DATA / "calp").glob("*/config.json"))


@dataclass
class Sources:
    """What is searched: corpora of the project by name, and audio files."""

    corpora: list[str]
    files: list[Path]
    named: list[str]  # corpora, and absolute paths of files and folders, as they were named

    @classmethod
    def of(cls, names: Sequence[str]) -> "Sources":
        """From corpora, files and folders as they were named. Raises ValueError for what is none of these, and where there is no audio."""
        corpora, files, named = [], [], []
        for name in names:
            path = Path(name)
            named.append(str(path.absolute()))
            if "/" not in name and (DATA / "features" / name / "stats.json").is_file():
                corpora.append(name)
                named[-1] = name
            elif path.is_dir():
                found = list(walk(path, *AUDIO))
                if not found:
                    raise ValueError(f"{path} holds no audio: name a folder with {', '.join(AUDIO[:5])} or other sound files")
                files += found
            elif path.is_file() or path.suffix.lower() in AUDIO:
                files.append(path)
            else:
                known = ", ".join(sorted(stats.parent.name for stats in (DATA / "features").glob("*/stats.json"))) or "none"
                raise ValueError(f"'{name}' is neither a file, nor a folder, nor a corpus with log-mel in {DATA / 'features'} ({known})")
        return cls(list(dict.fromkeys(corpora)), list(dict.fromkeys(files)), sorted(set(named)))

    def state(self) -> str:
        """What changes when one of the files does."""
        files = list(self.files)
        for name in self.corpora:
            files += [*shards(DATA / "features" / name), _utterances(name), _texts(name)]
        found = hashlib.sha256()
        for path in files:
            known = path.stat() if path.exists() else None
            found.update(f"{path} {known and (known.st_size, known.st_mtime_ns)}\n".encode())
        return found.hexdigest()

    def rows(self, space: Space, listener: Listener) -> Iterator[dict]:
        """Rows of SCHEMA, of every utterance; `blocks` (blocks, width) float16, or a `fault`."""
        for name in self.corpora:
            yield from of_corpus(space, name)
        if self.files:
            for row in each(
                self.files, listener, lambda piece: {"start": piece.start, "end": piece.end, "blocks": space.of_samples(piece.samples)}
            ):
                yield {"id": None, "start": None, "end": None, "text": None, "blocks": None} | row


def of_corpus(space: Space, name: str) -> Iterator[dict]:
    """Rows of SCHEMA of a corpus's log-mel, as training has seen it. Raises ValueError where it is of another kind, or there is none."""
    folder, extractor = DATA / "features" / name, space.extractor
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    wanted = {
        "sample_rate": extractor.sampling_rate,
        **{key: getattr(extractor, key) for key in ("kind", "channels", "window_ms", "hop_ms")},
    }
    for key, value in wanted.items():
        if stats[key] != value:
            raise ValueError(f"the log-mel of {name} has {key} {stats[key]}, the model {value}: run the stage `features` anew")
    known = _known(name)
    with tqdm(total=len(known), desc=name, unit="utterance", delay=5) as bar:
        for ids, frames in each_frames(folder, ROWS, extractor.block_frames, extractor.block_hop, extractor.normalise):
            for row, id in enumerate(ids):
                if id not in known:
                    raise ValueError(f"the log-mel of {name} has an utterance {id} that its table has not: run the stage `features` anew")
                yield {**known[id], "fault": None, "blocks": space.of_frames(frames, row)}
            bar.update(len(ids))


def _known(corpus: str) -> dict[str, dict]:
    """What is known of the utterances of a corpus, by id; their texts as the stage `transcribe` left them, where it has run."""
    if not _utterances(corpus).is_file():
        raise ValueError(f"{_utterances(corpus)} is missing: run the stage `ingest` for {corpus}")
    table = pq.read_table(_utterances(corpus), columns=["id", "audio", "start", "end", "text"]).rename_columns({"audio": "file"})
    known = {row["id"]: row for row in table.to_pylist()}
    if _texts(corpus).is_file():
        for row in pq.read_table(_texts(corpus), columns=["id", "text"]).to_pylist():
            if row["id"] in known:
                known[row["id"]]["text"] = row["text"] or None
    return known


def _utterances(corpus: str) -> Path:
    return DATA / "utterances" / corpus / "utterances.parquet"


def _texts(corpus: str) -> Path:
    return DATA / "texts" / corpus / "texts.parquet"


# The index: rows that were computed before


def indexed(sources: Sources, space: Space, listener: Listener, path: Path) -> tuple[Iterator[dict], str | None]:
    """Rows from an index where it is of these sources as they are now, else computed and written to it; and a note where it is renewed.

    Raises ValueError for a file that is no index, or one of another model or of other sources: nothing is written over.
    """
    key = {"model": space.digest(), "sources": sources.named, "state": sources.state()}
    if not path.exists():
        return kept(sources.rows(space, listener), path, key), None
    try:
        old = json.loads(pq.read_schema(path).metadata[b"calm-search"])
    except (pa.ArrowException, OSError, KeyError, TypeError):
        raise ValueError(f"{path} is no index of `calm search`: name another file") from None
    for what, other in (("model", "another model"), ("sources", "other recordings")):
        if old[what] != key[what]:
            raise ValueError(f"{path} is an index of {other}: name another file, or remove this one")
    if old["state"] != key["state"]:
        return kept(sources.rows(space, listener), path, key), f"{path} is made anew: files have changed since"
    return stored(path, space.width), None


def kept(rows: Iterable[dict], path: Path, key: dict) -> Iterator[dict]:
    """The same rows, which are written to Parquet as they come; the file is there when the last one was taken."""
    partial = path.with_name(f".{path.name}.partial")
    schema = SCHEMA.with_metadata({"calm-search": json.dumps(key)})
    group: list[dict] = []
    try:
        with pq.ParquetWriter(partial, schema) as file:
            for row in rows:
                group.append(row)
                if len(group) == ROWS:
                    file.write_table(_table(group, schema))
                    group.clear()
                yield row
            if group:
                file.write_table(_table(group, schema))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    vectors = [None if row["blocks"] is None else row["blocks"].ravel() for row in rows]
    return pa.table(
        {field.name: pa.array(vectors if field.name == "blocks" else [row[field.name] for row in rows], field.type) for field in schema},
        schema,
    )


def stored(path: Path, width: int) -> Iterator[dict]:
    """Rows of an index."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS):
        vectors = batch.column("blocks")
        for index, row in enumerate(batch.drop_columns(["blocks"]).to_pylist()):
            blocks = vectors[index].values
            yield row | {"blocks": None if blocks is None else blocks.to_numpy(zero_copy_only=False).reshape(-1, width)}


# The ranking


@dataclass
class Hit:
    """An utterance that was found."""

    rank: int
    cosine: float  # of the query and the mean of the vectors of the utterance's blocks
    id: str | None
    file: str
    start: float  # seconds in the file
    end: float
    seconds: float
    text: str | None
    at: float  # seconds in the file: middle of the block that is most like the query (from the first frame kept, where ends were trimmed)
    at_cosine: float  # of the query and that block


@dataclass
class Found:
    """What a search found, best first, in so many utterances; files in which nobody speaks, and faults of those that could not be read."""

    hits: list[Hit]
    searched: int
    silent: list[str]
    faults: list[str]

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def rank(rows: Iterable[dict], query: np.ndarray, top: int, extractor) -> Found:
    """The `top` rows that are most like a query (width,) of length 1; of equal ones the earlier. Raises ValueError where there is none."""
    found = Found([], 0, [], [])
    best = heapq.nlargest(top, _scored(rows, query, found), key=lambda scored: scored[0])
    if not found.searched:
        raise ValueError(_nothing(found))
    for place, (cosine, row, block, at_cosine) in enumerate(best, 1):
        at = row["start"] + (block * extractor.block_hop + extractor.block_frames / 2) * extractor.hop_ms / 1000
        about = {name: row[name] for name in ("id", "file", "start", "end", "text")}
        seconds = row["end"] - row["start"]
        found.hits.append(Hit(rank=place, cosine=cosine, **about, seconds=seconds, at=min(at, row["end"]), at_cosine=at_cosine))
    return found


def _scored(rows: Iterable[dict], query: np.ndarray, found: Found) -> Iterator[tuple[float, dict, int, float]]:
    """Cosine, row without vectors, best block and its cosine; counts what was read, and notes what could not be."""
    for row in rows:
        if row["fault"] == NO_SPEECH:
            found.silent.append(row["file"])
        elif row["fault"]:
            found.faults.append(row["fault"])
        else:
            found.searched += 1
            blocks = row["blocks"].astype(np.float32)
            of_blocks, mean = blocks @ query, unit(blocks.mean(0))
            block = int(of_blocks.argmax())
            yield float(mean @ query), {**row, "blocks": None}, block, float(of_blocks[block])


def _nothing(found: Found) -> str:
    if found.faults:
        return "\n".join([*found.faults, f"none of {len(found.faults) + len(found.silent)} files can be searched"])
    if found.silent:
        return f"nobody speaks in any of {len(found.silent)} files: there is nothing to search"
    return "the corpus has no utterances: run its stages `ingest` and `features`"
