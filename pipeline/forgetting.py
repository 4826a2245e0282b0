"""`calm forget SPEAKER`: a speaker's rows are removed from all that was derived from a corpus, and no later rebuild reads them again."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from calm.storage import SUMS, parquet_batches, parquet_writer, read_json, read_parquet, write_json, write_sums
from pipeline import paths

NO_TABLES = {"raw", "work", "studies", "servers"}  # folders of `data` without tables of this project's results
TEXTS = {".json", ".jsonl", ".csv", ".md", ".html", ".svg"}  # kinds of files that may name a speaker
ROWS = 512


@dataclass
class Forgotten:
    """What was done for one speaker."""

    speaker: str
    utterances: dict[str, list[str]]  # ids by corpus
    recordings: list[str] = field(default_factory=list)  # of the raw corpora, which are left as they are
    rows: dict[str, int] = field(default_factory=dict)  # removed, by table
    named_in: list[str] = field(default_factory=list)  # files that still name them, until the next rebuild
    heard_by: dict[str, list[str]] = field(default_factory=dict)  # models, by the splits that they heard


def forget(speaker: str, corpus: str | None = None) -> Forgotten:
    """Remove a speaker's rows.

    Args:
        corpus: where the speaker is; None: every corpus that has one of this name.

    Raises:
        ValueError: no corpus has such a speaker.
    """
    tables = {name: read_parquet(paths.utterances(name)) for name in _corpora() if corpus in (None, name)}
    theirs = {name: table.filter(pc.equal(table["speaker"], speaker)) for name, table in tables.items()}
    theirs = {name: table for name, table in theirs.items() if len(table)}
    if not theirs:
        raise ValueError(f"no utterance of {corpus or ', '.join(_corpora()) or 'any corpus'} is of a speaker '{speaker}'")
    done = Forgotten(speaker, {name: table["id"].to_pylist() for name, table in theirs.items()})
    done.recordings = sorted({audio for table in theirs.values() for audio in table["audio"].to_pylist()})
    done.heard_by = {model: splits for name, table in theirs.items() for model, splits in _hearers(name, table)}
    for name in theirs:
        write_json(sorted({*forgotten(name), digest(speaker)}), paths.forgotten(name))
    for file in _files(paths.DATA, {".parquet"}):
        if removed := _remove(file, speaker, done.utterances):
            done.rows[str(file)] = removed
    for folder in {top for file in done.rows for top in Path(file).parents if (top / SUMS).exists()}:
        write_sums(folder)
    names = [speaker, *(id for ids in done.utterances.values() for id in ids)]
    done.named_in = [str(file) for root in (paths.DATA, paths.REPORTS) for file in _files(root, TEXTS) if _names(file, names)]
    return done


def forgotten(corpus: str) -> list[str]:
    """Digests of the speakers of a corpus that were forgotten; `ingest` reads none of them."""
    file = paths.forgotten(corpus)
    return read_json(file) if file.exists() else []


def digest(speaker: str) -> str:
    """A name that does not say who it is of, unless one knows whom to ask for."""
    return hashlib.sha256(speaker.encode()).hexdigest()


def described(done: Forgotten) -> str:
    """All that was done, and what is left to do, for people to read."""
    lines = [f"{len(ids)} utterances of '{done.speaker}' in {name} are forgotten" for name, ids in done.utterances.items()]
    lines += [f"  {count} rows removed from {table}" for table, count in done.rows.items()]
    lines += ["Models that heard them, and keep what they learned until they are trained anew:"] * bool(done.heard_by)
    lines += [f"  {model}: {', '.join(splits)}" for model, splits in done.heard_by.items()]
    lines += ["Still named in, until `dvc repro` writes these anew:"] * bool(done.named_in)
    lines += [f"  {file}" for file in done.named_in]
    lines += [
        f"Left to you: {len(done.recordings)} recordings of the raw corpus ({done.recordings[0]}, ...); earlier tables in DVC's cache",
        "(`dvc gc --workspace`); registered versions and runs in MLflow; models that were given away.",
        "`dvc repro` trains everything without them.",
    ]
    return "\n".join(lines)


def _corpora() -> list[str]:
    return sorted(file.parent.name for file in (paths.DATA / "utterances").glob("*/utterances.parquet"))


def _files(root: Path, kinds: set[str]) -> Iterator[Path]:
    """Files of some kinds that stages wrote."""
    for file in sorted(root.rglob("*")):
        parts = file.relative_to(root).parts
        if file.suffix in kinds and file.is_file() and not (root == paths.DATA and parts[0] in NO_TABLES):
            yield file


def _remove(file: Path, speaker: str, utterances: dict[str, list[str]]) -> int:
    """Write a table anew without a speaker's rows, if it has some; returns their number. All else of the table stays as it is."""
    schema = pq.read_schema(file)
    if "id" not in schema.names:
        return 0
    corpora = _corpora_of(file, list(utterances)) if "corpus" not in schema.names else list(utterances)
    columns = [name for name in ("id", "corpus", "speaker") if name in schema.names]
    theirs = [_is_theirs(row, speaker, utterances, corpora) for row in read_parquet(file, columns).to_pylist()]
    if not any(theirs):
        return 0
    about, first = pq.read_metadata(file), 0
    chunk = about.row_group(0).column(about.num_columns - 1)
    with parquet_writer(file, schema, compression=chunk.compression) as writer:
        for batch in parquet_batches(file, ROWS, schema.names):
            kept = pa.array([not one for one in theirs[first : first + len(batch)]])
            writer.write_table(pa.Table.from_batches([batch.filter(kept)], schema))
            first += len(batch)
    return sum(theirs)


def _is_theirs(row: dict, speaker: str, utterances: dict[str, list[str]], corpora: list[str]) -> bool:
    if "speaker" in row and row["speaker"] != speaker:
        return False
    return any(row["id"] in utterances[name] for name in corpora if row.get("corpus", name) == name)


def _corpora_of(file: Path, names: list[str]) -> list[str]:
    """The corpora that a table may be of, by the folders that it lies in."""
    of_one = {*file.relative_to(paths.DATA).parts[1:-1], file.stem}
    known = set(_corpora())
    return [name for name in names if name in of_one or not of_one & known]


def _names(file: Path, names: list[str]) -> bool:
    """Whether a file has one of the names; a mere number only where speakers are what the file is of."""
    if names[0].isdecimal() and not ("speakers" in file.name or file.parent.parent.name == "texts"):
        names = names[1:]
    text = file.read_text(encoding="utf-8", errors="replace")
    return any(f'"{name}"' in text or f"\n{name}," in text or f",{name}," in text or f">{name}" in text for name in names)


def _hearers(corpus: str, table: pa.Table) -> Iterator[tuple[str, list[str]]]:
    """Models that were made from a corpus, and the splits of it in which a speaker is."""
    in_folds = "fold" in table.column_names and any(table["fold"].to_pylist())
    splits = ["all folds but theirs"] if in_folds else sorted(set(table["split"].to_pylist()))
    for kind in ("calp", "pretrained"):
        for file in sorted((paths.DATA / kind).glob("*/metrics.json")):
            if corpus in read_json(file).get("corpora", []):
                yield str(file.parent), splits
    for kind in ("heads", "models"):
        for folder in sorted((paths.DATA / kind / corpus).glob("*")):
            yield str(folder), splits
