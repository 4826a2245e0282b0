"""Stage `transcribe`: a text for every utterance. Those that have one keep it; the others are heard by Whisper, and its errors measured."""

import json
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from calm import storage
from calm.asr import engines, transcripts, windows
from calm.audio.decoding import AudioError, read_audio
from calm.corpora.utterances import read_table
from calm.storage import write_parquet
from pipeline import paths, stage
from pipeline.execution import workers
from pipeline.settings import Settings, Transcribe

BATCH = {"cpu": 8, "cuda": 16}  # clips of about one length at once, where the settings say nothing
WORST = 10  # utterances with the most errors that the metrics show

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),  # with its casing; null: its audio could not be read
        ("source", pa.string()),  # "corpus", or engine and model
        ("language", pa.string()),  # from here on null where the text is the corpus's
        ("avg_logprob", pa.float64()),
        ("no_speech_prob", pa.float64()),
        ("compression_ratio", pa.float64()),
        ("flags", pa.list_(pa.string())),  # "no_speech", "compression", "repeats", "unreadable"
        ("reference", pa.string()),  # what was really said, where `reference.jsonl` of the raw corpus tells
    ]
)


def run(settings: Settings, corpus: str) -> str:
    """Texts of one corpus; returns the summary."""
    raw = settings.corpora[corpus].path
    reference = (raw if raw.is_dir() else raw.parent) / "reference.jsonl"
    folder, dask = paths.texts(corpus), settings.compute.dask
    metrics = write(paths.utterances(corpus), reference, settings.transcribe, folder, f"transcribe@{corpus}", dask)
    if not metrics["transcribed"]:
        return f"{corpus}: all {metrics['from_corpus']} utterances have a text of their own"
    wer = metrics["wer"]
    measured = f"WER {wer['wer']:.1%} of {wer['n']} with a reference" if wer and wer["words"] else "no reference to measure it by"
    return (
        f"{corpus}: {metrics['transcribed']} utterances transcribed by {metrics['model']}, {metrics['from_corpus']} have their own text; "
        f"{measured}; {sum(metrics['flags'].values())} flags"
    )


def write(table: Path, reference: Path, section: Transcribe, folder: Path, name: str, dask: str | None = None) -> dict:
    """Write `texts.parquet` (SCHEMA, a row an utterance) and `metrics.json` to `folder`; returns the metrics.

    Of the utterances that have a text, `section.check` are heard too, to measure the word error rate, where others have none.
    What was heard before a stop is kept, and not heard again.
    """
    frame = read_table(table, ["id", "audio", "start", "end", "duration", "speaker", "text"])
    missing = frame["text"].fillna("").str.strip() == ""
    told, faults = read_references(reference)
    heard = {}
    with stage.checkpoints(name, section, table, Path(engines.__file__), Path(windows.__file__), Path(__file__)) as work:
        if missing.any():
            heard = hear(pd.concat([frame[missing], checked(frame[~missing], section.check)]), section, work / "heard.jsonl", dask)
        metrics = _metrics(frame, missing, heard, told, faults, section)
        with stage.whole(folder) as new:
            write_parquet(_texts(frame, missing, heard, told, section), new / "texts.parquet")
            storage.write_json(metrics, new / "metrics.json")
    return metrics


def read_references(path: Path) -> tuple[dict[str, str], list[str]]:
    """Texts by id from lines `{"id": ..., "text": ...}`, and the lines that are none; nothing where there is no file."""
    told, faults = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
        try:
            row = json.loads(line)
            told[str(row["id"])] = row["text"].strip()
        except (ValueError, KeyError, TypeError, AttributeError):
            faults.append(f"line {number}: {line[:80]}")
    return told, faults


def checked(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """So many rows, evenly spread over the table, so that they are of many speakers and the same in every run."""
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(count, len(frame))).round().astype(int))]


def hear(frame: pd.DataFrame, section: Transcribe, finished: Path, dask: str | None = None) -> dict[str, dict]:
    """Transcribe rows; returns what each came to by id: the fields of a Transcript, flags and seconds, or a fault.

    Each result is appended to `finished`, and rows that stand there are taken from it.
    """
    done = _finished(finished)
    gpus = engines.gpus(section.engine)
    tasks = [task for task in _tasks(frame, section.batch or BATCH["cuda" if gpus else "cpu"]) if not all(row[0] in done for row in task)]
    if not tasks:
        return done
    count = min(section.workers or gpus or workers.cores(), len(tasks))
    options = {"compute_type": section.compute_type, "beam": section.beam, "language": section.language, "window": section.window_seconds}
    engines.resolve(section.engine, section.model)  # fetched once, and told now where it cannot be
    bar = tqdm(total=len(frame), initial=len(frame) - sum(map(len, tasks)), desc="Whisper", unit="utt", delay=2, smoothing=0.05)
    preparation = (section.engine, section.model, options, section.no_speech_threshold)
    with bar, finished.open("a", encoding="utf-8") as log, workers.processes(count, _prepare, *preparation, dask=dask) as pool:
        log.write("\n")  # after a line that was torn
        for results in workers.in_order(pool, _hear, tasks, ahead=4 * count):
            log.writelines(json.dumps(result) + "\n" for result in results)
            log.flush()
            done |= {result["id"]: result for result in results}
            bar.update(len(results))
    return done


def _finished(path: Path) -> dict[str, dict]:
    """What an earlier run heard; the last line may be torn."""
    done = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        done[result["id"]] = result
    return {id: result for id, result in done.items() if "fault" not in result}


def _tasks(frame: pd.DataFrame, batch: int) -> list[list[tuple]]:
    """Longest first, so that no worker is left alone with a long one at the end; each batch is of about one length."""
    ordered = frame.sort_values(["duration", "id"], ascending=False)
    rows = list(zip(ordered["id"], ordered["audio"], ordered["start"], ordered["end"], strict=True))
    return [rows[first : first + batch] for first in range(0, len(rows), batch)]


# In the workers


def _prepare(engine: str, model: str, options: dict, no_speech_threshold: float) -> None:
    global _loader, _model, _threshold
    gpus = engines.gpus(engine)
    where = {"device": "cuda", "index": workers.turn() % gpus} if gpus else {"device": "cpu"}
    _model, _threshold = None, no_speech_threshold
    _loader = partial(_load, engine, model, options | where)


def _load(engine: str, model: str, options: dict) -> engines.Whisper:
    return engines.load(engine, engines.resolve(engine, model), **options)


def _hear(task: list[tuple]) -> list[dict]:
    """One batch: a result a row."""
    global _model
    _model = _model or _loader()  # here and not before, so that what fails is told
    started = time.perf_counter()
    clips, results = {}, []
    for id, path, start, end in task:
        try:
            clips[id] = read_audio(path, start, end, engines.SAMPLE_RATE)
        except AudioError as error:
            results.append({"id": id, "fault": str(error)})
    for id, transcript in zip(clips, _model(list(clips.values())), strict=True):
        results.append({"id": id, **asdict(transcript), "flags": transcripts.flags(transcript, _threshold)})
    for result in results:
        result["seconds"] = (time.perf_counter() - started) / len(task)
    return results


# In the parent


def _texts(frame: pd.DataFrame, missing: pd.Series, heard: dict, told: dict, section: Transcribe) -> pa.Table:
    rows = []
    for id, text, lacks in zip(frame["id"], frame["text"], missing, strict=True):
        if not lacks:
            rows.append({"id": id, "text": text, "source": "corpus", "flags": []})
        elif "fault" in heard[id]:
            rows.append({"id": id, "source": _model_name(section), "flags": ["unreadable"], "reference": told.get(id)})
        else:
            rows.append({**heard[id], "source": _model_name(section), "reference": told.get(id)})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _model_name(section: Transcribe) -> str:
    return f"{section.engine} {section.model}"


def _metrics(frame: pd.DataFrame, missing: pd.Series, heard: dict, told: dict, faults: list[str], section: Transcribe) -> dict:
    chosen = frame[missing]
    read = [heard[id] for id in chosen["id"] if "fault" not in heard[id]]
    metrics = {
        "transcribed": int(missing.sum()),
        "from_corpus": int((~missing).sum()),
        "model": _model_name(section) if heard else None,
        "seconds_audio": round(float(chosen["duration"].sum()), 3),
        "real_time_factor": None,  # seconds of one process a second of audio
        "wer": None,
        "flags": dict(Counter(flag for result in read for flag in result["flags"])),
        "languages": dict(Counter(result["language"] for result in read)),
        "without_words": [result["id"] for result in read if not result["text"]],
        "unreadable": [{"id": id, "detail": heard[id]["fault"]} for id in chosen["id"] if "fault" in heard[id]],
        "reference_faults": faults,
    }
    if heard:
        audio = frame.loc[frame["id"].isin(heard), "duration"].sum()
        metrics["real_time_factor"] = round(sum(result["seconds"] for result in heard.values()) / float(audio), 4)
        metrics["wer"] = _word_errors(frame, missing, heard, told, section.language or "en")
    return metrics


def _word_errors(frame: pd.DataFrame, missing: pd.Series, heard: dict, told: dict, language: str) -> dict | None:
    """Word error rate of all that was heard and has a reference, by speaker too, and the worst of them."""
    references = {id: told.get(id) if lacks else text for id, text, lacks in zip(frame["id"], frame["text"], missing, strict=True)}
    rows = [row for row in frame.itertuples() if references[row.id] and "text" in heard.get(row.id, {})]
    if not rows:
        return None

    def errors(some: list) -> transcripts.WordErrors:
        return transcripts.word_errors([references[row.id] for row in some], [heard[row.id]["text"] for row in some], language)

    single = sorted(((errors([row]), row.id) for row in rows), key=lambda pair: -pair[0].errors)
    speakers = sorted({row.speaker for row in rows if row.speaker})
    return {
        **asdict(errors(rows)),
        "by_speaker": {speaker: asdict(errors([row for row in rows if row.speaker == speaker])) for speaker in speakers},
        "worst": [
            {"id": id, "reference": references[id], "heard": heard[id]["text"], "errors": found.errors}
            for found, id in single[:WORST]
            if found.errors
        ],
    }


if __name__ == "__main__":
    stage.start(run, corpus=lambda settings: settings.corpora)
