"""Stage `ingest`: a raw corpus to one table of utterances, and a report of what was read, mended, dropped and why."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from calm.audio import pauses
from calm.audio.decoding import AudioError
from calm.audio.headers import Header
from calm.audio.pauses import Pauses
from calm.corpora import CorpusError, folds, read_corpus
from calm.corpora.checking import by_split, check, read_headers, refuse, speakers_in_two_splits, to_cut
from calm.corpora.limits import Limits
from calm.corpora.trainable import refuse_untrainable
from calm.corpora.utterances import Corpus, write_table
from calm.storage import write_json, write_parquet, write_sums
from pipeline import forgetting, paths
from pipeline.execution.pool import pool
from pipeline.execution.workers import Worker, cores
from pipeline.settings import Cut, Ingest, Settings
from pipeline.state import visible

SEGMENT = ["id", "audio", "start", "end", "duration", "split", "fold"]  # all that `features` needs to know of an utterance


def run(settings: Settings, corpus: str) -> str:
    """Ingest one corpus; returns the summary."""
    report = ingest(settings, corpus)
    hours = sum(part["hours"] for part in report["splits"].values())
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    return f"{corpus}: {report['kept']} of {report['read']} rows kept, {hours:.2f} h; dropped: {dropped}; {paths.ingest_report(corpus)}"


def ingest(settings: Settings, name: str) -> dict:
    """Read a corpus, check its audio, write the table, the segments and the report; returns the report.

    Raises CorpusError if the corpus is missing, loses a larger share of its rows than `ingest.max_dropped`, or is a target and no head can
    be trained on it; the report is then still written, with the reason as `refused`, and no table. Rows that the options do not ask for
    (another test set, songs) are dropped but count as no loss. A recording that is cut is one row read, and as many kept as pieces.
    """
    seen = visible(settings, "ingest", name)
    source, section, corpus = seen.corpora[name], seen.ingest, Corpus()
    facts = {
        "corpus": name,
        "format": source.format,
        "path": str(source.path),
        "options": source.options,
        "synthetic": source.synthetic,
    }
    try:
        corpus = read_corpus(source.format, source.path, **source.options)
        leave_out_forgotten(corpus, name)
        facts["read"] = len(corpus.utterances) + len(corpus.dropped)
        facts["cut"] = select(corpus, section, name)
        folds.set_folds(corpus, source.folds)
        if name in seen.targets:
            refuse_untrainable(corpus, source.folds)
    except CorpusError as error:
        write_json(facts | {"refused": str(error)} | _losses(corpus), paths.ingest_report(name))
        raise
    frame = write_table(corpus, paths.utterances(name))
    write_sums(paths.utterances(name).parent)
    write_parquet(pa.Table.from_pandas(frame[SEGMENT], preserve_index=False), paths.segments(name))
    write_sums(paths.segments(name).parent)
    report = facts | {
        "kept": len(frame),
        "folds_by": source.folds,
        "folds": folds.counts(frame),
        "splits": by_split(frame, corpus.classes),
        "speakers_in_two_splits": speakers_in_two_splits(frame),
        **_losses(corpus),
    }
    write_json(report, paths.ingest_report(name))
    return report


def select(corpus: Corpus, section: Ingest, name: str) -> dict[str, int]:
    """Check the rows against their audio and drop those that cannot be used. Returns how many recordings were cut to how many pieces."""
    headers = read_headers({row.audio for row in corpus.utterances}, name)
    limits = Limits(**section.model_dump(exclude={"cut"}))
    recordings, pieces = cut(corpus, headers, section.cut, name)
    check(corpus, headers, limits)
    refuse(corpus, limits)
    return {"recordings": recordings, "pieces": pieces}


def _losses(corpus: Corpus) -> dict:
    """What was dropped, corrected and found."""
    return {
        "dropped": dict(Counter(row.reason for row in corpus.dropped).most_common()),
        "dropped_by_choice": sum(not row.fault for row in corpus.dropped),
        "corrections": {what: count for what, count in corpus.corrections.most_common() if count},
        "checks": corpus.checks,
        "dropped_rows": [asdict(row) for row in corpus.dropped],
    }


def leave_out_forgotten(corpus: Corpus, name: str) -> None:
    """Take out the utterances of speakers that `calm forget` was told of; they are counted, and not named."""
    gone = set(forgetting.forgotten(name))
    kept = [row for row in corpus.utterances if not (gone and row.speaker is not None and forgetting.digest(row.speaker) in gone)]
    corpus.corrections["utterances of forgotten speakers left out"] += len(corpus.utterances) - len(kept)
    corpus.utterances = kept


def cut(corpus: Corpus, headers: dict[Path, Header], section: Cut | None, name: str = "") -> tuple[int, int]:
    """Replace long recordings without segments and text by the pieces between their pauses, which keep speaker, split and labels.

    A recording in which nobody speaks is dropped. Returns the numbers of recordings that were cut and of their pieces.
    """
    limits = Pauses(**section.model_dump()) if section else None
    long = [row for row in corpus.utterances if limits and to_cut(row, headers[row.audio].seconds, limits)]
    if not long:
        return 0, 0
    items = [(row.audio, headers[row.audio].seconds, limits) for row in long]
    parts = {}
    with pool(PauseWorker(), min(cores(), len(items))) as results_of:
        results = tqdm(results_of(items), desc=f"{name}: pauses", total=len(long), unit="file", delay=2)
        for row, intervals in zip(long, results, strict=True):
            parts[id(row)] = []
            if isinstance(intervals, str):
                corpus.drop(row.id, "unreadable audio", intervals)
            elif not intervals:
                corpus.drop(row.id, "no speech found", str(row.audio))
            else:
                corpus.corrections["recordings cut at pauses"] += 1
                parts[id(row)] = [replace(row, id=f"{row.id}[{a:.2f}-{b:.2f}]", start=a, end=b) for a, b in intervals]
    corpus.utterances = [part for row in corpus.utterances for part in parts.get(id(row), [row])]
    return sum(map(bool, parts.values())), sum(map(len, parts.values()))


class PauseWorker(Worker):
    """Pieces of a recording, or why it cannot be read."""

    def __call__(self, item: tuple[Path, float, Pauses]) -> list[tuple[float, float]] | str:
        try:
            return pauses.cut(*item)
        except AudioError as error:
            return str(error)
