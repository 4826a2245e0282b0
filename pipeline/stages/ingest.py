"""Stage `ingest`: a raw corpus to one table of utterances, and a report of what was read, mended, dropped and why."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from calm import storage
from calm.audio import pauses
from calm.audio.decoding import AudioError
from calm.audio.headers import Header
from calm.audio.pauses import Pauses
from calm.corpora import checking, read_corpus
from calm.corpora.checking import by_split, check, read_headers, refuse, speakers_in_two_splits
from calm.corpora.limits import Limits
from calm.corpora.utterances import Corpus, write_table
from pipeline import paths, settings, stage
from pipeline.execution import workers


def run(name: str, source: settings.CorpusSettings, limits: settings.Ingest, table: Path, report: Path) -> dict:
    """Read a corpus, check its audio, write the table and the report; returns the report.

    Raises CorpusError, with nothing written, where the corpus is missing or loses a larger share of its rows than
    `limits.max_dropped`. Rows that the options do not ask for (another test set, songs) are dropped but count as no loss.
    """
    corpus = read_corpus(source.format, source.path, **source.options)
    headers = read_headers({row.audio for row in corpus.utterances}, name)
    cut(corpus, headers, limits.cut, name)
    read = len(corpus.utterances) + len(corpus.dropped)
    allowed = Limits(**limits.model_dump(exclude={"cut"}))
    check(corpus, headers, allowed)
    refuse(corpus, allowed)
    frame = write_table(corpus, table)
    summary = {
        "corpus": name,
        "format": source.format,
        "path": str(source.path),
        "options": source.options,
        "synthetic": source.synthetic,
        "read": read,
        "kept": len(frame),
        "dropped": dict(Counter(row.reason for row in corpus.dropped).most_common()),
        "dropped_by_choice": sum(not row.fault for row in corpus.dropped),
        "corrections": {what: count for what, count in corpus.corrections.most_common() if count},
        "splits": by_split(frame, corpus.classes),
        "speakers_in_two_splits": speakers_in_two_splits(frame),
        "checks": corpus.checks,
        "dropped_rows": [asdict(row) for row in corpus.dropped],
    }
    storage.write_json(summary, report)
    return summary


def cut(corpus: Corpus, headers: dict[Path, Header], limits: settings.Cut | None, name: str = "") -> None:
    """Replace long recordings that have no segments and no text by the pieces between their pauses, which keep their speaker,
    split and labels; a recording in which nobody speaks is dropped.
    """
    allowed = Pauses(**limits.model_dump()) if limits else None
    long = [row for row in corpus.utterances if allowed and checking.to_cut(row, headers[row.audio].seconds, allowed)]
    if not long:
        return
    tasks = [(row.audio, headers[row.audio].seconds, allowed) for row in long]
    parts, count = {}, min(workers.cores(), len(tasks))
    with workers.processes(count) as pool:
        found = workers.in_order(pool, _cut, tasks, ahead=4 * count)
        for row, intervals in zip(long, tqdm(found, desc=f"{name}: pauses", total=len(long), unit="file", delay=2), strict=True):
            parts[id(row)] = []
            if isinstance(intervals, str):
                corpus.drop(row.id, "unreadable audio", intervals)
            elif not intervals:
                corpus.drop(row.id, "no speech found", str(row.audio))
            else:
                corpus.corrections["recordings cut at pauses"] += 1
                parts[id(row)] = [replace(row, id=f"{row.id}[{a:.2f}-{b:.2f}]", start=a, end=b) for a, b in intervals]
    corpus.utterances = [part for row in corpus.utterances for part in parts.get(id(row), [row])]


def _cut(task: tuple[Path, float, Pauses]) -> list[tuple[float, float]] | str:
    """Pieces of a recording, or why it cannot be read."""
    try:
        return pauses.cut(*task)
    except AudioError as error:
        return str(error)


def main() -> None:
    """`python -m pipeline.stages.ingest --corpus NAME`"""
    stage.start(_ingest, corpus=lambda given: given.corpora)


def _ingest(given: settings.Settings, name: str) -> str:
    report = run(name, given.corpora[name], given.ingest, paths.utterances(name), paths.ingest_report(name))
    hours = sum(part["hours"] for part in report["splits"].values())
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    return f"{name}: {report['kept']} of {report['read']} rows kept, {hours:.2f} h; dropped: {dropped}; {paths.ingest_report(name)}"


if __name__ == "__main__":
    main()
