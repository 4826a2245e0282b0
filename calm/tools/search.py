"""Search speech by words or by a sound, in the space that CALP's contrastive training gives audio and text (4.3, equation 2).

Utterances are read as a stream, from audio files or from the features of a corpus. Only their vectors are kept, until they are ranked.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from calm.array_types import Floats
from calm.audio.encoder_states import WEIGHTS, load_encoder
from calm.audio.features import ENCODER
from calm.audio.opening import shown
from calm.corpora.files import AUDIO, walk
from calm.data.examples import each_frames, read_normaliser, shards
from calm.data.ragged import AcousticFrames
from calm.inference.extractor import CONFIG, AcousticExtractor, kind_settings, text_or_empty
from calm.inference.processing import CalmFeatureExtractor
from calm.inference.recordings import Listener, Segment, over_files
from calm.inference.torch_classifier import load_pretrained
from calm.inference.voice import NO_SPEECH
from calm.models.encoder_blocks import through
from calm.models.language_model import load_language_model, text_vectors
from calm.models.modeling import CalmForContrastivePretraining
from calm.storage import read_parquet

DATA = Path("data")  # the project's results: CALP models, and corpora with their features
ROWS = 64  # utterances in memory at a time
BATCH = 256  # blocks


class CalpEncoder:
    """A model that the stage `calp` wrote, with the language model it was trained against: vectors of audio and text in one space.

    Raises ValueError if the folder has no such model.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", CONFIG, "metrics.json"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is not a CALP model: it has no {name} (the stage `calp` writes such a folder)")
        self.folder, self.training = folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        model, self.processor = load_pretrained(CalmForContrastivePretraining, folder)
        self.model, encoder = model.eval().to(device), load_encoder(folder)
        self.through = through(encoder, device)

    @property
    def extractor(self) -> CalmFeatureExtractor:
        """The processor's feature extractor."""
        return self.processor.feature_extractor

    @property
    def synthetic(self) -> bool:
        """Whether the model was trained on synthetic speech."""
        return bool(self.model.config.synthetic)

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return int(self.model.config.projection or self.model.config.embedding_width)

    def digest(self) -> str:
        """SHA-256 of everything that the vectors of audio depend on."""
        total = hashlib.sha256()
        for name in ("model.safetensors", CONFIG, f"{WEIGHTS}/model.safetensors"):  # the last one, if an encoder was trained along
            if (self.folder / name).is_file():
                total.update((self.folder / name).read_bytes())
        return total.hexdigest()

    @torch.inference_mode()
    def embed_text(self, text: str) -> np.ndarray:
        """Vector T_i of a text, (width,) of length 1. Raises ValueError if the text is empty or too long."""
        text, tokenizer = text_or_empty(text).strip(), self.processor.tokenizer
        if not text:
            raise ValueError("there are no words to search for: give some, or a recording with --like")
        most = self.extractor.max_tokens
        if len(tokenizer(text)["input_ids"]) > most:
            raise ValueError(f"the words are more than the language model's {most} tokens: search for fewer")
        own = self.folder / "language_model"  # exists if the language model was trained along
        name, layers = (str(own), None) if own.is_dir() else (self.training["language_model"], self.training["layers"])
        vectors = text_vectors(load_language_model(name, layers), tokenizer, [text], self.training["text_vector"])
        return unit(self.model.embed_text(vectors.to(self.model.device))[0].float().cpu().numpy())

    def embed_samples(self, samples: np.ndarray) -> np.ndarray:
        """Vectors of all blocks of one utterance's samples at the model's sampling rate, (blocks, width) float16."""
        return self.embed_frames(self.extractor.acoustic_frames([samples]), 0)

    @torch.inference_mode()
    def embed_frames(self, acoustic: AcousticFrames, row: int) -> np.ndarray:
        """Vectors of all blocks of one row, each of length 1, (blocks, width) float16."""
        blocks = torch.from_numpy(acoustic.blocks_of(row))
        parts = [self.model.embed_audio(part.to(self.model.device)).float().cpu().numpy() for part in blocks.split(BATCH)]
        return unit(np.concatenate(parts)).astype(np.float16)

    def embed_recording(self, path: Path, listener: Listener) -> np.ndarray:
        """Mean vector of all blocks of a recording, (width,) of length 1. Raises AudioError, or ValueError if nobody speaks."""
        vectors = [self.embed_samples(segment.samples) for segment in listener(path)]
        if not vectors:
            raise ValueError(f"nobody speaks in {path}: there is nothing to search for")
        return unit(np.concatenate(vectors).astype(np.float32).mean(0))


def unit(vectors: Floats) -> Floats:
    """Vectors (..., width) scaled to length 1."""
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled


def models() -> list[Path]:
    """Folders of the CALP models in the project."""
    return sorted(path.parent for path in (DATA / "calp").glob("*/config.json"))


# What is searched


@dataclass
class Sources:
    """Corpora of the project by name, and audio files."""

    corpora: list[str]
    files: list[Path]
    names: list[str]  # names of the corpora, and absolute paths of the files and folders, as the user gave them; sorted

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "Sources":
        """Sort names of corpora, files and folders. Raises ValueError for a name that is none of these, or a folder without audio."""
        corpora, files, canonical = [], [], []
        for name in names:
            path = Path(name)
            if "/" not in name and (DATA / "features" / name / "stats.json").is_file():
                corpora.append(name)
                canonical.append(name)
                continue
            canonical.append(shown(path.absolute()))
            files += _audio_files(path)
        return cls(list(dict.fromkeys(corpora)), list(dict.fromkeys(files)), sorted(set(canonical)))

    def state(self) -> str:
        """SHA-256 of the names, sizes and modification times of all files."""
        files = list(self.files)
        for corpus in self.corpora:
            files += [*shards(DATA / "features" / corpus), _utterances(corpus), _texts(corpus)]
        total = hashlib.sha256()
        for path in files:
            stat = path.stat() if path.exists() else None
            total.update(f"{shown(path)} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
        return total.hexdigest()

    def rows(self, encoder: CalpEncoder, listener: Listener) -> Iterator[dict[str, Any]]:
        """Rows of `calm.tools.search_index.SCHEMA` of every utterance, with `blocks` (blocks, width) float16 or a `fault`."""

        def embedded(segment: Segment) -> dict[str, Any]:
            return {"start": segment.start, "end": segment.end, "blocks": encoder.embed_samples(segment.samples)}

        for corpus in self.corpora:
            yield from corpus_rows(encoder, corpus)
        if self.files:
            for row in over_files(self.files, listener, embedded):
                yield {"id": None, "start": None, "end": None, "text": None, "blocks": None} | row


def _audio_files(path: Path) -> list[Path]:
    """A file, or the audio files of a folder. Raises ValueError if the path is neither."""
    if path.is_dir():
        if files := list(walk(path, *AUDIO)):
            return files
        raise ValueError(f"{path} holds no audio: name a folder with {', '.join(AUDIO[:5])} or other sound files")
    if path.is_file() or path.suffix.lower() in AUDIO:
        return [path]
    known = ", ".join(sorted(stats.parent.name for stats in (DATA / "features").glob("*/stats.json"))) or "none"
    raise ValueError(f"'{path}' is not a file, a folder, or a corpus with features in {DATA / 'features'} ({known})")


def corpus_rows(encoder: CalpEncoder, corpus: str) -> Iterator[dict[str, Any]]:
    """Rows of `calm.tools.search_index.SCHEMA` from the features of a corpus, as training uses them.

    Raises ValueError if the table does not exist, or if the features were computed with other settings than the model's.
    """
    extractor, folder = encoder.extractor, DATA / "features" / corpus
    folder = folder / ENCODER if extractor.kind == ENCODER else folder
    if not (folder / "stats.json").is_file():
        raise ValueError(f"{folder} has no features, and the model takes those of {extractor.encoder}: run the stage `features` again")
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    expected = {key: getattr(extractor, key) for key in ("kind", *kind_settings(extractor.kind))}
    expected["sample_rate"] = extractor.sampling_rate
    for key, value in expected.items():
        if stats.get(key) != value:
            raise ValueError(f"the features of {corpus} have {key} {stats.get(key)}, the model {value}: run the stage `features` again")
    utterances = _utterance_rows(corpus)
    with tqdm(total=len(utterances), desc=corpus, unit="utterance", delay=5) as bar:
        normaliser = read_normaliser(folder, extractor.normalise)
        for ids, acoustic in each_frames(folder, ROWS, normaliser, extractor.block_frames, extractor.block_hop, encoder.through):
            for row, id in enumerate(ids):
                if id not in utterances:
                    raise ValueError(
                        f"the features of {corpus} have an utterance {id} that its table lacks: run the stage `features` again"
                    )
                yield {**utterances[id], "fault": None, "blocks": encoder.embed_frames(acoustic, row)}
            bar.update(len(ids))


def _utterance_rows(corpus: str) -> dict[str, dict[str, Any]]:
    """Rows of a corpus's table by utterance id, with the texts of the stage `transcribe` if it has run."""
    if not _utterances(corpus).is_file():
        raise ValueError(f"{_utterances(corpus)} is missing: run the stage `ingest` for {corpus}")
    table = read_parquet(_utterances(corpus), ["id", "audio", "start", "end", "text"]).rename_columns({"audio": "file"})
    rows = {row["id"]: row for row in table.to_pylist()}
    if _texts(corpus).is_file():
        for row in read_parquet(_texts(corpus), ["id", "text"]).to_pylist():
            if row["id"] in rows:
                rows[row["id"]]["text"] = row["text"] or None
    return rows


def _utterances(corpus: str) -> Path:
    return DATA / "utterances" / corpus / "utterances.parquet"


def _texts(corpus: str) -> Path:
    return DATA / "texts" / corpus / "texts.parquet"


# The ranking


@dataclass
class Hit:
    """An utterance of the result."""

    rank: int
    cosine: float  # between the query and the mean vector of the utterance's blocks
    id: str | None
    file: str
    start: float  # seconds in the file
    end: float
    seconds: float
    text: str | None
    at: float  # seconds in the file: middle of the block closest to the query (from the first frame kept, if ends are trimmed)
    at_cosine: float  # between the query and that block


@dataclass
class SearchResult:
    """Hits, best first; the number of utterances searched; files in which nobody speaks; and faults of files that could not be read."""

    hits: list[Hit]
    searched: int
    silent: list[str]
    faults: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def rank(rows: Iterable[dict[str, Any]], query: np.ndarray, top: int, extractor: AcousticExtractor) -> SearchResult:
    """The `top` rows closest to a query (width,) of length 1; of equal ones the earlier. Raises ValueError if no row can be ranked."""
    result = SearchResult([], 0, [], [])
    best = heapq.nlargest(top, _scored(rows, query, result), key=lambda scored: scored[0])
    if not result.searched:
        raise ValueError(_nothing_searched(result))
    for place, (cosine, row, block, at_cosine) in enumerate(best, 1):
        at = row["start"] + (block * extractor.block_hop + extractor.block_frames / 2) * extractor.frame_extractor.frame_seconds
        known = {name: row[name] for name in ("id", "file", "start", "end", "text")}
        seconds = row["end"] - row["start"]
        result.hits.append(Hit(rank=place, cosine=cosine, **known, seconds=seconds, at=min(at, row["end"]), at_cosine=at_cosine))
    return result


def _scored(rows: Iterable[dict[str, Any]], query: np.ndarray, result: SearchResult) -> Iterator[tuple[float, dict[str, Any], int, float]]:
    """Cosine, row without its vectors, best block and its cosine; counts in `result` what was searched, silent or faulty."""
    for row in rows:
        if row["fault"] == NO_SPEECH:
            result.silent.append(row["file"])
        elif row["fault"]:
            result.faults.append(row["fault"])
        else:
            result.searched += 1
            blocks = row["blocks"].astype(np.float32)
            block_cosines, mean = blocks @ query, unit(blocks.mean(0))
            block = int(block_cosines.argmax())
            yield float(mean @ query), {**row, "blocks": None}, block, float(block_cosines[block])


def _nothing_searched(result: SearchResult) -> str:
    if result.faults:
        return "\n".join([*result.faults, f"none of {len(result.faults) + len(result.silent)} files can be searched"])
    if result.silent:
        return f"nobody speaks in any of {len(result.silent)} files: there is nothing to search"
    return "the corpus has no utterances: run its stages `ingest` and `features`"
