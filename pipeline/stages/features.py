"""Stage `features`: log-mel of every utterance (5.1) and states of a speech encoder, in sharded Parquet, with the statistics of the
training split to normalise them by."""

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

from calm import devices
from calm.audio import decoding
from calm.audio.encoder_states import EncoderStates, at_speed
from calm.audio.features import ENCODER, LOG_MEL, FrameExtractor, extract
from calm.audio.logmel import LogMel
from calm.corpora.utterances import Dropped
from calm.data.normalisation import Sums
from calm.storage import read_json, read_parquet, write_json, write_parquet
from pipeline import paths
from pipeline.execution.pool import pool
from pipeline.execution.workers import Worker, cores
from pipeline.settings import Features, Settings
from pipeline.stage import checkpoints, measure, whole
from pipeline.state import address, visible

GROUP = 16  # utterances of an item at least, unless a shard has fewer
SILENCE = 2**-23  # peak to peak: one step of 24 bits
# Bytes of equal weight beside each other: a quarter less on disk than float16 as it is, and read as fast. Nobody asks for the least and
# the greatest value of a page, which take a fifth of the time of writing.
STORAGE = {
    "compression": "zstd",
    "use_dictionary": ["id"],
    "column_encoding": {"features.list.element": "BYTE_STREAM_SPLIT"},
    "write_statistics": ["id", "frames"],
}


@dataclass
class Shard:
    """What came of the rows of one shard."""

    train: Sums = field(default_factory=Sums)  # over its training utterances
    folds: dict[str, Sums] = field(default_factory=dict)  # over all utterances by their fold, "" for none; {} without folds
    frames: int = 0
    dropped: list[Dropped] = field(default_factory=list)


@dataclass(frozen=True)
class Frames:
    """One kind of frames that the stage writes.

    Args:
        folder: below that of the corpus; "" for log-mel.
        kind: see `calm.audio.features.KINDS`.
        speed: at which the audio is played.
    """

    folder: str
    kind: str
    extractor: FrameExtractor
    speed: float = 1.0


def run(settings: Settings, corpus: str) -> str:
    """Features of one corpus; returns the summary. Raises ValueError if more rows are lost than `ingest.max_dropped` allows."""
    begin = time.perf_counter()
    report = compute(settings, corpus)
    seconds, audio_seconds = time.perf_counter() - begin, report["seconds_audio"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    return (
        f"{corpus}: {' and '.join(report['kinds'])} of {report['kept']} of {report['read']} utterances, {audio_seconds / 3600:.2f} h in "
        f"{seconds:.0f} s ({audio_seconds / seconds:.0f} x real time); dropped: {dropped}"
    )


def compute(settings: Settings, corpus: str) -> dict:
    """Write `part-00000.parquet` ..., `stats.json` and `report.json`; returns the report.

    Log-mel lies in the folder of the corpus, an encoder's states in `encoder` below it, and those of copies at other speeds in
    `encoder/speed-0.9`. Shards hold the utterances of `features.shard` rows of the table each, in its order: id, frames, features
    (frames * channels values, float16, frame by frame). Finished shards of a stopped run are kept and used. The same bytes come out
    whatever the number of workers, and whether they are processes here or those of a Dask cluster (`compute.dask`).
    """
    seen, table = visible(settings, "features", corpus), paths.segments(corpus)
    section = seen.features
    every, frame = kinds(section), read_parquet(table).to_pandas()
    with checkpoints(settings, "features", corpus, table, paths.fingerprint(corpus)) as work:
        shards, seconds = {}, {}
        for frames in every:
            begin = time.perf_counter()
            (work / frames.folder).mkdir(parents=True, exist_ok=True)
            shards[frames] = list(_shards(frame, section, frames, work / frames.folder, seen.compute.dask))
            seconds[frames.folder or LOG_MEL] = time.perf_counter() - begin
        with whole(paths.features(corpus)) as folder:
            reports = {own.kind: _report(frame, shards[own], seen.ingest.max_dropped) for own in every if own.speed == 1}
            report = reports[LOG_MEL] | {"kinds": [*reports]}
            if ENCODER in reports:
                report[ENCODER] = reports[ENCODER] | {"name": section.encoder, **asdict(every[1].extractor), "speeds": section.speeds}
            write_json(report, folder / "report.json")
            for frames, own in shards.items():
                (folder / frames.folder).mkdir(parents=True, exist_ok=True)
                if frames.speed == 1:
                    write_json(_stats(own, section, frames), folder / frames.folder / "stats.json")
                for part in sorted((work / frames.folder).glob("part-*.parquet")):
                    shutil.move(part, folder / frames.folder / part.name)
    measure(address("features", corpus), seconds_of=seconds)
    return report


def kinds(section: Features) -> list[Frames]:
    """The frames that the settings ask for, log-mel first. Raises ValueError if one of their settings does not fit."""
    try:
        logmel = LogMel(section.sample_rate, section.mels, section.window_ms, section.hop_ms, section.low_hz, section.high_hz)
        every = [Frames("", LOG_MEL, logmel)]
        if section.encoder:
            states = EncoderStates.describe(section.encoder, section.layers)
            copies = [Frames(f"{ENCODER}/{paths.at_speed(speed)}", ENCODER, states, speed) for speed in section.speeds]
            every += [Frames(ENCODER, ENCODER, states), *copies]
    except ValueError as error:
        raise ValueError(f"params.yaml: features.{error}") from None
    return every


def _shards(frame: pd.DataFrame, section: Features, frames: Frames, work: Path, dask: str | None) -> Iterator[Shard]:
    """Compute and write the shards in order; those that lie finished in `work` are not computed again.

    Processes here share the rows of a shard, which this one writes. A worker of a Dask cluster takes a whole shard and writes it, so that
    no frames pass through the scheduler.
    """
    tables = [frame.iloc[first : first + section.shard] for first in range(0, len(frame), section.shard)]
    missing, has_folds = [number for number in range(len(tables)) if not _finished(work, number)], bool(frame["fold"].notna().any())
    kind = (frames.extractor, section.trim_db, frames.speed)
    if dask:
        worker = ShardWorker(*kind, work=work.absolute(), has_folds=has_folds)
        items = {number: [(number, tables[number])] for number in missing}
    else:
        imports = ("calm.audio.speech_encoders",) if section.encoder else ()  # also for log-mel, whose pool is the first
        worker, items = FeatureWorker(*kind, imports=imports), {number: _items(tables[number]) for number in missing}
    most = devices.count() if frames.kind == ENCODER else 0
    processes = min(section.workers or most or cores(), max(1, sum(map(len, items.values()))))
    bar = tqdm(total=len(frame), desc=frames.folder or LOG_MEL, unit="utt", delay=2)
    with bar, pool(worker, processes, dask=dask) as results_of:
        results = results_of(chain.from_iterable(items.values()))
        for number, table in enumerate(tables):
            rows = {}
            for part in islice(results, len(items.get(number, []))):
                rows |= part or {}
                bar.update(len(part or table))
            if number not in items:
                bar.update(len(table))
            elif not dask:
                _write(work, number, table, rows, has_folds)
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
    """Frames of some rows of a shard."""

    extractor: FrameExtractor
    trim_db: float | None
    speed: float = 1.0
    device: str = "cpu"
    imports: tuple[str, ...] = ()

    def set_up(self, number: int) -> None:
        if isinstance(self.extractor, EncoderStates) and (gpus := devices.count()):
            self.device = f"cuda:{number % gpus}"

    def __call__(self, item: list[tuple]) -> dict[int, np.ndarray | tuple[str, str]]:
        """Frames (frames, channels) float16 by row number, or the reason and detail for which the row is dropped."""
        heard, results = {}, {}
        for path, group in groupby(item, key=lambda row: row[0]):
            rows = list(group)
            try:
                with decoding.AudioFile(path) as file:
                    heard |= {row: self._samples(file, start, end) for _, start, end, row in rows}
            except decoding.AudioError as error:
                heard |= {row: ("unreadable audio", str(error)) for *_, row in rows}
        usable = {row: samples for row, samples in heard.items() if isinstance(samples, np.ndarray)}
        where = {row: f"{path}, {start:.3f} to {end:.3f} s" for path, start, end, row in item}
        with np.errstate(over="ignore", invalid="ignore"):  # checked in `_float16`
            frames = dict(zip(usable, extract(self.extractor, list(usable.values()), self.trim_db, self.device), strict=True))
            for row, samples in heard.items():
                results[row] = self._float16(frames[row], samples, where[row]) if row in frames else samples
        return results

    def _samples(self, file: decoding.AudioFile, start: float, end: float) -> np.ndarray | tuple[str, str]:
        """Samples of an utterance, or why it cannot be used."""
        where = f"{file.path}, {start:.3f} to {end:.3f} s"
        try:
            samples = file.read(start, end, self.extractor.sample_rate)
        except decoding.NotNumbers as error:
            return "NaN or infinity", str(error)
        except decoding.AudioError as error:
            return "unreadable audio", str(error)
        if np.ptp(samples) < SILENCE:
            return "digital silence", where
        if not self.extractor.frames(len(samples)):
            return "shorter than a frame", f"{len(samples)} samples, a frame has {self.extractor.window}: {where}"
        if self.speed == 1:
            return samples
        copy = at_speed(samples, self.extractor.sample_rate, self.speed)
        return copy if self.extractor.frames(len(copy)) else ("shorter than a frame", f"played at speed {self.speed:g}: {where}")

    def _float16(self, frames: np.ndarray, samples: np.ndarray, where: str) -> np.ndarray | tuple[str, str]:
        """Frames as they are stored, or why they cannot be used."""
        stored = frames.astype(np.float16)  # infinite from 65,520 on
        if not np.isfinite(stored).all():
            return "NaN or infinity", f"samples up to {np.abs(samples).max():.3g}: {where}"
        return stored


@dataclass
class ShardWorker(FeatureWorker):
    """A whole shard, which it writes to the folder `work`."""

    work: Path = Path()
    has_folds: bool = False

    def __call__(self, item: tuple[int, pd.DataFrame]) -> None:
        (number, table), rows = item, {}
        for own in _items(table):
            rows |= super().__call__(own)
        _write(self.work, number, table, rows, self.has_folds)


def _write(work: Path, number: int, table: pd.DataFrame, rows: dict, has_folds: bool) -> None:
    """One shard, in the table's order, and after it the note that says it is finished."""
    shard, ids, kept = Shard(), [], []
    for row, id, split, fold in zip(table.index, table["id"], table["split"], table["fold"], strict=True):
        frames = rows[row]
        if isinstance(frames, tuple):
            shard.dropped.append(Dropped(id, *frames))
            continue
        ids.append(id)
        kept.append(frames)
        shard.frames += len(frames)
        if split == "train":
            shard.train.add(frames)
        if has_folds:
            shard.folds.setdefault(str(int(fold)) if pd.notna(fold) else "", Sums()).add(frames)
    write_parquet(_parquet(ids, kept), work / f"part-{number:05d}.parquet", **STORAGE)
    _write_note(work, number, shard)


def _parquet(ids: list[str], frames: list[np.ndarray]) -> pa.Table:
    offsets = np.cumsum([0] + [own.size for own in frames])
    if offsets[-1] >= 2**31:
        raise ValueError("params.yaml: features.shard is too large: a shard may hold 2^31 values")
    values = np.concatenate([own.ravel() for own in frames]) if frames else np.empty(0, np.float16)
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "frames": pa.array([len(own) for own in frames], pa.int32()),
            "features": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.float16())),
        }
    )


def _note(work: Path, number: int) -> Path:
    return work / f"part-{number:05d}.json"


def _write_note(work: Path, number: int, shard: Shard) -> None:
    folds = {fold: sums.plain() for fold, sums in shard.folds.items()}
    note = {"train": shard.train.plain(), "folds": folds, "frames": shard.frames}
    note["dropped"] = [asdict(row) for row in shard.dropped]
    write_json(note, _note(work, number))


def _finished(work: Path, number: int) -> bool:
    """Whether a shard is there whole; one that lost rows is computed again, because its audio may have been mended."""
    return _note(work, number).exists() and (work / f"part-{number:05d}.parquet").exists() and not _read_note(work, number).dropped


def _read_note(work: Path, number: int) -> Shard:
    note = read_json(_note(work, number))
    folds = {fold: Sums.of(sums) for fold, sums in note["folds"].items()}
    return Shard(Sums.of(note["train"]), folds, note["frames"], [Dropped(**row) for row in note["dropped"]])


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


def _stats(shards: list[Shard], section: Features, frames: Frames) -> dict:
    """Statistics of the training split, and the settings that new audio needs to become the same frames."""
    total = sum((shard.train for shard in shards), Sums())
    if not total.frames:
        raise ValueError("no utterance of the training split has features, and they are normalised by that split's statistics")
    folds: dict[str, Sums] = {}
    for shard in shards:
        for fold, sums in shard.folds.items():
            folds[fold] = folds.get(fold, Sums()) + sums
    by_fold = {"folds": {fold: folds[fold].plain() for fold in sorted(folds)}} if folds else {}
    mean, deviation = total.mean_and_deviation()
    summary = {"mean": mean.tolist(), "std": deviation.tolist(), "frames": total.frames, "utterances": total.utterances}
    return {**summary, "split": "train", "kind": frames.kind, **asdict(frames.extractor), "trim_db": section.trim_db, **by_fold}
