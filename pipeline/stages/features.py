"""Stage `features`: log-mel of every utterance (5.1) in sharded Parquet, and the statistics of the training split to normalise it by."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from calm.audio import decoding
from calm.audio.features import LOG_MEL
from calm.audio.logmel import LogMel, trim
from calm.corpora.utterances import Dropped
from calm.data.normalisation import mean_and_deviation
from calm.storage import read_json, write_json, write_parquet
from pipeline import paths
from pipeline.execution.pool import pool
from pipeline.execution.workers import Worker, cores
from pipeline.settings import Features, Settings
from pipeline.stage import checkpoints, whole
from pipeline.state import visible

GROUP = 16  # utterances of an item at least, unless a shard has fewer
SILENCE = 2**-23  # peak to peak: one step of 24 bits
# Bytes of equal weight beside each other: a quarter less on disk than float16 as it is, and read as fast.
STORAGE = {"compression": "zstd", "use_dictionary": ["id"], "column_encoding": {"features.list.element": "BYTE_STREAM_SPLIT"}}


class Unusable(ValueError):
    """An utterance without features: the reason in a few words, and what was found."""


@dataclass
class Statistics:
    """Sums over frames in float64, (mels,) each, added up in the table's order so that they never depend on the workers."""

    frames: int = 0
    utterances: int = 0
    total: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0

    def add(self, logmel: np.ndarray) -> None:
        """One utterance, (frames, mels), as it is stored."""
        values = logmel.astype(np.float64)
        self.frames += len(values)
        self.utterances += 1
        self.total = self.total + values.sum(axis=0)
        self.squares = self.squares + (values**2).sum(axis=0)

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(ours + theirs for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def summary(self) -> dict:
        """Mean and standard deviation of every band; a band that never changes is divided by 0.001."""
        mean, deviation = mean_and_deviation(self.frames, self.total, self.squares)
        return {"mean": mean.tolist(), "std": deviation.tolist(), "frames": self.frames, "utterances": self.utterances}

    def plain(self) -> dict:
        """The sums as JSON has them."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()}

    @classmethod
    def of(cls, sums: dict) -> "Statistics":
        """From what `plain` gave."""
        return cls(**{key: np.array(value) if isinstance(value, list) else value for key, value in sums.items()})


@dataclass
class Shard:
    """What came of the rows of one shard."""

    statistics: Statistics = field(default_factory=Statistics)  # of its training utterances
    folds: dict[str, Statistics] = field(default_factory=dict)  # of all utterances by their fold, "" for none; {} without folds
    frames: int = 0
    dropped: list[Dropped] = field(default_factory=list)


def run(settings: Settings, corpus: str) -> str:
    """Features of one corpus; returns the summary. Raises ValueError if more rows are lost than `ingest.max_dropped` allows."""
    begin = time.perf_counter()
    report = extract(settings, corpus)
    seconds, audio_seconds = time.perf_counter() - begin, report["seconds_audio"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    return (
        f"{corpus}: log-mel of {report['kept']} of {report['read']} utterances, {audio_seconds / 3600:.2f} h in {seconds:.0f} s "
        f"({audio_seconds / seconds:.0f} x real time); dropped: {dropped}"
    )


def extract(settings: Settings, corpus: str) -> dict:
    """Write `part-00000.parquet` ..., `stats.json` and `report.json`; returns the report.

    Shards hold the utterances of `features.shard` rows of the table each, in its order: id, frames, features (frames * channels values,
    float16, frame by frame). Finished shards of a stopped run are kept and used. The same bytes come out whatever the number of workers,
    and whether they are processes here or those of a Dask cluster (`compute.dask`).
    """
    seen, table = visible(settings, "features", corpus), paths.segments(corpus)
    section = seen.features
    logmel = _logmel(section)
    frame = pd.read_parquet(table)
    with checkpoints(settings, "features", corpus, table, paths.fingerprint(corpus)) as work:
        shards = list(_shards(frame, section, logmel, work, seen.compute.dask))
        with whole(paths.features(corpus)) as folder:
            report = _report(frame, shards, seen.ingest.max_dropped)
            write_json(report, folder / "report.json")
            write_json(_stats(shards, section), folder / "stats.json")
            for part in sorted(work.glob("part-*.parquet")):
                shutil.move(part, folder / part.name)
    return report


def _logmel(section: Features) -> LogMel:
    try:
        return LogMel(section.sample_rate, section.mels, section.window_ms, section.hop_ms, section.low_hz, section.high_hz)
    except ValueError as error:
        raise ValueError(f"params.yaml: features.{error}") from None


def _shards(frame: pd.DataFrame, section: Features, logmel: LogMel, work: Path, dask: str | None) -> Iterator[Shard]:
    """Compute and write the shards in order; those that lie finished in `work` are not computed again."""
    tables = [frame.iloc[first : first + section.shard] for first in range(0, len(frame), section.shard)]
    items = {number: _items(table) for number, table in enumerate(tables) if not _finished(work, number)}
    processes = min(section.workers or cores(), max(1, sum(map(len, items.values()))))
    bar = tqdm(total=len(frame), desc="log-mel", unit="utt", delay=2)
    with bar, pool(FeatureWorker(logmel, section.trim_db), processes, dask=dask) as results_of:
        results = results_of(chain.from_iterable(items.values()))
        for number, table in enumerate(tables):
            if number in items:
                rows = {}
                for part in islice(results, len(items[number])):
                    rows |= part
                    bar.update(len(part))
                _write(work, number, table, rows, bool(frame["fold"].notna().any()))
            else:
                bar.update(len(table))
            yield _read_note(work, number)


def _items(table: pd.DataFrame) -> list[list[tuple]]:
    """The rows of a shard by audio file, in lists of at least GROUP utterances; a file goes into one list and is opened once."""
    rows = sorted(zip(table["audio"], table["start"], table["end"], table.index, strict=True))
    items = [[]]
    for _, group in groupby(rows, key=lambda row: row[0]):
        items[-1].extend(group)
        if len(items[-1]) >= GROUP:
            items.append([])
    return [item for item in items if item]


@dataclass
class FeatureWorker(Worker):
    """Log-mel of some rows of a shard."""

    logmel: LogMel
    trim_db: float | None

    def __call__(self, item: list[tuple]) -> dict[int, np.ndarray | tuple[str, str]]:
        """Log-mel (frames, mels) float16 by row number, or the reason and detail for which the row is dropped."""
        results = {}
        for path, group in groupby(item, key=lambda row: row[0]):
            rows = list(group)
            try:
                with decoding.AudioFile(path) as file:
                    results |= {row: self._or_reason(file, start, end) for _, start, end, row in rows}
            except decoding.AudioError as error:
                results |= {row: ("unreadable audio", str(error)) for *_, row in rows}
        return results

    def _or_reason(self, file: decoding.AudioFile, start: float, end: float) -> np.ndarray | tuple[str, str]:
        try:
            return self._frames(file, start, end)
        except decoding.NotNumbers as error:
            return "NaN or infinity", str(error)
        except decoding.AudioError as error:
            return "unreadable audio", str(error)
        except Unusable as error:
            return error.args

    def _frames(self, file: decoding.AudioFile, start: float, end: float) -> np.ndarray:
        samples = file.read(start, end, self.logmel.sample_rate)
        where = f"{file.path}, {start:.3f} to {end:.3f} s"
        if np.ptp(samples) < SILENCE:
            raise Unusable("digital silence", where)
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            frames = self.logmel(samples)
        if not len(frames):
            raise Unusable("shorter than a frame", f"{len(samples)} samples, a frame has {self.logmel.window}: {where}")
        if not np.isfinite(frames).all():
            raise Unusable("NaN or infinity", f"samples up to {np.abs(samples).max():.3g}: {where}")
        return (frames if self.trim_db is None else trim(frames, self.trim_db)).astype(np.float16)


def _write(work: Path, number: int, table: pd.DataFrame, rows: dict, has_folds: bool) -> None:
    """One shard, in the table's order, and after it the note that says it is finished."""
    shard, ids, kept = Shard(), [], []
    for row, id, split, fold in zip(table.index, table["id"], table["split"], table["fold"], strict=True):
        logmel = rows[row]
        if isinstance(logmel, tuple):
            shard.dropped.append(Dropped(id, *logmel))
            continue
        ids.append(id)
        kept.append(logmel)
        shard.frames += len(logmel)
        if split == "train":
            shard.statistics.add(logmel)
        if has_folds:
            shard.folds.setdefault(str(int(fold)) if pd.notna(fold) else "", Statistics()).add(logmel)
    write_parquet(_parquet(ids, kept), work / f"part-{number:05d}.parquet", **STORAGE)
    _write_note(work, number, shard)


def _parquet(ids: list[str], logmels: list[np.ndarray]) -> pa.Table:
    offsets = np.cumsum([0] + [logmel.size for logmel in logmels])
    if offsets[-1] >= 2**31:
        raise ValueError("params.yaml: features.shard is too large: a shard may hold 2^31 values")
    values = np.concatenate([logmel.ravel() for logmel in logmels]) if logmels else np.empty(0, np.float16)
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "frames": pa.array([len(logmel) for logmel in logmels], pa.int32()),
            "features": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.float16())),
        }
    )


def _note(work: Path, number: int) -> Path:
    return work / f"part-{number:05d}.json"


def _write_note(work: Path, number: int, shard: Shard) -> None:
    folds = {fold: statistics.plain() for fold, statistics in shard.folds.items()}
    note = {"statistics": shard.statistics.plain(), "folds": folds, "frames": shard.frames}
    note["dropped"] = [asdict(row) for row in shard.dropped]
    write_json(note, _note(work, number))


def _finished(work: Path, number: int) -> bool:
    """Whether a shard is there whole; one that lost rows is computed again, because its audio may have been mended."""
    return _note(work, number).exists() and (work / f"part-{number:05d}.parquet").exists() and not _read_note(work, number).dropped


def _read_note(work: Path, number: int) -> Shard:
    note = read_json(_note(work, number))
    folds = {fold: Statistics.of(sums) for fold, sums in note["folds"].items()}
    return Shard(Statistics.of(note["statistics"]), folds, note["frames"], [Dropped(**row) for row in note["dropped"]])


def _report(frame: pd.DataFrame, shards: list[Shard], max_dropped: float) -> dict:
    dropped = [row for shard in shards for row in shard.dropped]
    counts = dict(Counter(row.reason for row in dropped).most_common())
    if len(dropped) > max_dropped * len(frame) or len(dropped) == len(frame):
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise ValueError(
            f"{len(dropped)} of {len(frame)} utterances have no features ({reasons}; the first: "
            f"{dropped[0].detail if dropped else 'the table is empty'}): mend the audio, or raise ingest.max_dropped in params.yaml"
        )
    lost = {row.id for row in dropped}
    return {
        "read": len(frame),
        "kept": len(frame) - len(dropped),
        "dropped": counts,
        "frames": sum(shard.frames for shard in shards),
        "seconds_audio": round(float(frame.loc[~frame["id"].isin(lost), "duration"].sum()), 3),
        "dropped_rows": [{"id": row.id, "reason": row.reason, "detail": row.detail} for row in dropped],
    }


def _stats(shards: list[Shard], section: Features) -> dict:
    total = sum((shard.statistics for shard in shards), Statistics())
    if not total.frames:
        raise ValueError("no utterance of the training split has features, and the log-mel is normalised by that split's statistics")
    used = section.model_dump(include={"sample_rate", "window_ms", "hop_ms", "low_hz", "high_hz", "trim_db"})
    folds: dict[str, Statistics] = {}
    for shard in shards:
        for fold, statistics in shard.folds.items():
            folds[fold] = folds.get(fold, Statistics()) + statistics
    by_fold = {"folds": {fold: folds[fold].plain() for fold in sorted(folds)}} if folds else {}
    return {**total.summary(), "split": "train", "kind": LOG_MEL, "channels": section.mels, **used, **by_fold}
