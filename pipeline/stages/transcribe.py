"""Stage `transcribe`: a text for every utterance. Those that have one keep it; the others are heard by Whisper, and its errors measured.

Where nothing reads the texts of a corpus (`Settings.reads`), nothing is transcribed, and texts that are missing are empty.
"""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from calm.asr import engines, transcripts
from calm.audio.decoding import AudioError, read_audio
from calm.corpora.utterances import read_table
from calm.storage import write_json, write_parquet
from pipeline import paths
from pipeline.execution.pool import pool
from pipeline.execution.workers import Worker, cores
from pipeline.settings import Settings, Transcribe
from pipeline.stage import checkpoints, measure, whole
from pipeline.state import address, visible

BATCH = {"cpu": 8, "cuda": 16}  # clips of about one length at once, where the settings say nothing
NOT_NEEDED = "not needed"  # source of a text that is empty because nothing reads it
WORST = 10  # utterances with the most errors that the metrics show

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),  # null: its audio could not be read
        ("source", pa.string()),  # "corpus", engine and model, or NOT_NEEDED
        ("language", pa.string()),  # from here on null where the text is the corpus's
        ("avg_logprob", pa.float64()),
        ("no_speech_prob", pa.float64()),
        ("compression_ratio", pa.float64()),
        ("flags", pa.list_(pa.string())),  # "no_speech", "compression", "repeats", "improbable", "unreadable"
        ("reference", pa.string()),  # what was really said, where `reference.jsonl` of the raw corpus tells
    ]
)


def run(settings: Settings, corpus: str) -> str:
    """Texts of one corpus; returns the summary."""
    metrics = transcribe(settings, corpus)
    if metrics["not_needed"]:
        return f"{corpus}: {metrics['not_needed']} utterances have no text and need none: only audio is used"
    if not metrics["transcribed"]:
        return f"{corpus}: all {metrics['from_corpus']} utterances have a text of their own"
    wer = metrics["wer"]
    measured = f"WER {wer['wer']:.1%} of {wer['n']} with a reference" if wer and wer["words"] else "no reference to measure it by"
    return (
        f"{corpus}: {metrics['transcribed']} utterances transcribed by {metrics['model']}, {metrics['from_corpus']} have their own text; "
        f"{measured}; {sum(metrics['flags'].values())} flags"
    )


def transcribe(settings: Settings, corpus: str) -> dict:
    """Write `texts.parquet` (SCHEMA, a row an utterance) and `metrics.json`; returns the metrics.

    Of the utterances that have a text, `transcribe.check` are transcribed too, to measure the word error rate, if others have none.
    What was transcribed before a stop is kept.
    """
    seen, table = visible(settings, "transcribe", corpus), paths.utterances(corpus)
    section, raw = seen.transcribe, seen.corpora[corpus].path
    frame = read_table(table, ["id", "audio", "start", "end", "duration", "speaker", "text"])
    missing = frame["text"].fillna("").str.strip() == ""
    references, faults = read_references((raw if raw.is_dir() else raw.parent) / "reference.jsonl")
    results: dict[str, dict] = {}
    with checkpoints(settings, "transcribe", corpus, table, paths.fingerprint(corpus)) as work:
        if section and missing.any():
            rows = pd.concat([frame[missing], checked(frame[~missing], section.check)])
            results = transcripts_of(rows, section, work / "results.jsonl", seen.compute.dask)
            seconds = float(frame.loc[frame["id"].isin(results), "duration"].sum())
            spent = sum(result["seconds"] for result in results.values())
            measure(address("transcribe", corpus), real_time_factor=round(spent / seconds, 4))  # seconds of one process a second of audio
        metrics = _metrics(frame, missing, results, references, faults, section)
        with whole(paths.texts(corpus)) as folder:
            write_parquet(_texts(frame, missing, results, references, section), folder / "texts.parquet")
            write_json(metrics, folder / "metrics.json")
    return metrics


def read_references(path: Path) -> tuple[dict[str, str], list[str]]:
    """Texts by id from lines `{"id": ..., "text": ...}`, and the lines that are none; nothing if there is no file."""
    references, faults = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
        try:
            row = json.loads(line)
            references[str(row["id"])] = row["text"].strip()
        except (ValueError, KeyError, TypeError, AttributeError):
            faults.append(f"line {number}: {line[:80]}")
    return references, faults


def checked(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """So many rows, evenly spread over the table, so that they are of many speakers and the same in every run."""
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(count, len(frame))).round().astype(int))]


def transcripts_of(frame: pd.DataFrame, section: Transcribe, finished: Path, dask: str | None = None) -> dict[str, dict]:
    """Transcribe rows; returns by id what came of each: the fields of a Transcript, flags and seconds, or a fault.

    Each result is appended to `finished`, and rows that stand there are taken from it.
    """
    results = _finished(finished)
    gpus = engines.gpus(section.engine)
    batches = _batches(frame, section.batch or BATCH["cuda" if gpus else "cpu"])
    batches = [batch for batch in batches if not all(row[0] in results for row in batch)]
    if not batches:
        return results
    engines.resolve(section.engine, section.model)  # fetched once, and an error comes before any work
    processes = min(section.workers or gpus or cores(), len(batches))
    bar = tqdm(total=len(frame), initial=len(frame) - sum(map(len, batches)), desc="Whisper", unit="utt", delay=2, smoothing=0.05)
    with bar, finished.open("a", encoding="utf-8") as log, pool(TranscriptWorker(section), processes, dask=dask) as results_of:
        log.write("\n")  # after a line that was torn
        for batch in results_of(batches):
            log.writelines(json.dumps(result) + "\n" for result in batch)
            log.flush()
            results |= {result["id"]: result for result in batch}
            bar.update(len(batch))
    return results


def _finished(path: Path) -> dict[str, dict]:
    """What an earlier run transcribed; the last line may be torn."""
    results: dict[str, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        results[result["id"]] = result
    return {id: result for id, result in results.items() if "fault" not in result}


def _batches(frame: pd.DataFrame, size: int) -> list[list[tuple]]:
    """Longest first, so that no worker is left alone with a long one at the end; the rows of a batch are of about one length."""
    ordered = frame.sort_values(["duration", "id"], ascending=False)
    rows = list(zip(ordered["id"], ordered["audio"], ordered["start"], ordered["end"], strict=True))
    return [rows[first : first + size] for first in range(0, len(rows), size)]


@dataclass
class TranscriptWorker(Worker):
    """Transcripts of a batch."""

    section: Transcribe

    def set_up(self, number: int) -> None:
        section, gpus = self.section, engines.gpus(self.section.engine)
        options = {"compute_type": section.compute_type, "beam": section.beam, "language": section.language}
        device = {"device": "cuda", "index": number % gpus} if gpus else {"device": "cpu"}
        model = engines.resolve(section.engine, section.model)
        self.whisper = engines.load(section.engine, model, **options, window=section.window_seconds, **device)

    def __call__(self, batch: list[tuple]) -> list[dict]:
        """A result a row."""
        begin = time.perf_counter()
        clips, results = {}, []
        for id, path, start, end in batch:
            try:
                clips[id] = read_audio(path, start, end, engines.SAMPLE_RATE)
            except AudioError as error:
                results.append({"id": id, "fault": str(error)})
        for id, transcript in zip(clips, self.whisper(list(clips.values())), strict=True):
            flags = transcripts.flags(transcript, self.section.no_speech_threshold)
            results.append({"id": id, **asdict(transcript), "flags": flags})
        for result in results:
            result["seconds"] = (time.perf_counter() - begin) / len(batch)
        return results


def _texts(frame: pd.DataFrame, missing: pd.Series, results: dict, references: dict, section: Transcribe | None) -> pa.Table:
    rows = []
    for id, text, lacks in zip(frame["id"], frame["text"], missing, strict=True):
        if not lacks:
            rows.append({"id": id, "text": text, "source": "corpus", "flags": []})
        elif section is None:
            rows.append({"id": id, "text": "", "source": NOT_NEEDED, "flags": []})
        elif "fault" in results[id]:
            rows.append({"id": id, "source": _model_name(section), "flags": ["unreadable"], "reference": references.get(id)})
        else:
            rows.append({**results[id], "source": _model_name(section), "reference": references.get(id)})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _model_name(section: Transcribe) -> str:
    return f"{section.engine} {section.model}"


def _metrics(
    frame: pd.DataFrame, missing: pd.Series, results: dict, references: dict, faults: list[str], section: Transcribe | None
) -> dict:
    chosen = frame[missing] if section else frame[:0]
    read = [results[id] for id in chosen["id"] if "fault" not in results[id]]
    return {
        "transcribed": len(chosen),
        "not_needed": int(missing.sum()) - len(chosen),
        "from_corpus": int((~missing).sum()),
        "model": _model_name(section) if section and results else None,
        "seconds_audio": round(float(chosen["duration"].sum()), 3),
        "wer": _word_errors(frame, missing, results, references, section.language or "en") if section else None,
        "flags": dict(Counter(flag for result in read for flag in result["flags"])),
        "languages": dict(Counter(result["language"] for result in read)),
        "without_words": [result["id"] for result in read if not result["text"]],
        "unreadable": [{"id": id, "detail": results[id]["fault"]} for id in chosen["id"] if "fault" in results[id]],
        "reference_faults": faults,
    }


def _word_errors(frame: pd.DataFrame, missing: pd.Series, results: dict, references: dict, language: str) -> dict | None:
    """Word error rate of all that was transcribed and has a reference, by speaker too, and the worst utterances."""
    texts = {id: references.get(id) if lacks else text for id, text, lacks in zip(frame["id"], frame["text"], missing, strict=True)}
    rows = [row for row in frame.itertuples() if texts[row.id] and "text" in results.get(row.id, {})]
    if not rows:
        return None

    def errors(some: list) -> transcripts.WordErrors:
        return transcripts.word_errors([texts[row.id] for row in some], [results[row.id]["text"] for row in some], language)

    single = sorted(((errors([row]), row.id) for row in rows), key=lambda pair: -pair[0].errors)
    speakers = sorted({row.speaker for row in rows if row.speaker})
    return {
        **asdict(errors(rows)),
        "by_speaker": {speaker: asdict(errors([row for row in rows if row.speaker == speaker])) for speaker in speakers},
        "worst": [
            {"id": id, "reference": texts[id], "heard": results[id]["text"], "errors": counts.errors}
            for counts, id in single[:WORST]
            if counts.errors
        ],
    }
