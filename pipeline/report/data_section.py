"""The page's section "Data" of a corpus: its table, what was dropped and corrected, how its texts were made, and utterances to hear."""

from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd

from calm.audio.decoding import AudioError
from calm.corpora.folds import IN_SEVERAL
from calm.corpora.utterances import SPLITS
from calm.storage import read_parquet
from pipeline import paths
from pipeline.report import figures, utterance_examples
from pipeline.report.figure_style import picture
from pipeline.report.folds_table import missing
from pipeline.report.stage_outputs import StageOutputs
from pipeline.report.table import Table
from pipeline.report.wording import duration, listed
from pipeline.settings import Settings

WORST_SPEAKERS = 10  # speakers with the highest word error rate that the page names
FLAGS = {  # of the stage `transcribe`, in words
    "no_speech": "where Whisper hears no speech",
    "compression": "that compress like a loop",
    "repeats": "with a phrase said four times in a row",
    "improbable": "that Whisper itself thinks improbable",
}


def data_section(corpus: str, settings: Settings, outputs: StageOutputs, folder: Path) -> dict:
    """What the template shows. Figures are written to the folder. `tables` holds every table of the corpus."""
    report, texts = outputs.corpora[corpus], outputs.texts.get(corpus)
    frame = utterance_examples.read_utterances(paths.utterances(corpus))
    wer = (texts or {}).get("wer") or {}
    table, speakers = data_table(corpus, report), speaker_table(corpus, wer)
    several_speakers = len(speakers.rows) > 1
    pictures = _pictures(corpus, report, frame, folder)
    if several_speakers:
        figure = figures.speakers(list(speaker_rates(wer).values()), 100 * wer["wer"])
        pictures.append(picture("Word error rate by speaker", figure, f"{corpus}-speakers", folder))
    source = f"Read from {report['path']}, in the layout of {report['format']}."
    return {
        "name": corpus,
        "synthetic": report["synthetic"],
        "words": source + (f" {paths.ingest_report(corpus)} names the dropped rows." if report.get("dropped") else ""),
        "table": table,
        "speakers": replace(speakers, rows=speakers.rows[:WORST_SPEAKERS]) if several_speakers else None,
        "tables": [table, speakers],
        "facts": data_facts(report, outputs.features.get(corpus), texts, outputs.measured.get(f"features@{corpus}", {})),
        "pictures": pictures,
        "examples": [] if frame is None else _examples(corpus, settings, frame, folder),
    }


def _pictures(corpus: str, report: dict, frame: pd.DataFrame | None, folder: Path) -> list[dict]:
    pictures = []
    if shares := label_shares(report):
        pictures.append(picture("Labels", figures.labels(shares), f"{corpus}-labels", folder))
    if frame is not None:
        seconds = {split: list(rows["duration"]) for split in SPLITS if len(rows := frame[frame["split"] == split])}
        pictures.append(picture("Durations", figures.durations(seconds), f"{corpus}-durations", folder))
        if (counts := utterance_examples.label_pairs(frame)) is not None:
            pictures.append(picture("Utterances with both labels", figures.label_pairs(counts), f"{corpus}-together", folder))
    return pictures


def _examples(corpus: str, settings: Settings, frame: pd.DataFrame, folder: Path) -> list[dict]:
    """Utterances to hear, with their log-mel. One whose audio can no longer be read is left out."""
    file = paths.texts(corpus) / "texts.parquet"
    if not settings.report.examples or not file.exists():
        return []
    table = read_parquet(file, ["id", "text"]).to_pandas().dropna()
    texts = dict(zip(table["id"], table["text"], strict=True))
    examples = []
    for number, row in enumerate(utterance_examples.choose_examples(frame, texts, settings.report.examples).itertuples(), 1):
        try:
            clip = utterance_examples.clip(row, texts[row.id], settings.features)
        except AudioError:
            continue
        figure = figures.logmel(clip.pop("logmel"), settings.features.hop_ms)
        examples.append({**clip, "id": row.id, **picture(clip["label"], figure, f"{corpus}-example-{number}", folder)})
    return examples


def data_table(corpus: str, report: dict) -> Table:
    """Utterances, hours or minutes, speakers and texts of every split."""
    splits = {split: report["splits"][split] for split in SPLITS if split in report.get("splits", {})}
    rows, hours, texts = (sum(counts[key] for counts in splits.values()) for key in ("rows", "hours", "with_text"))
    unit, amount = ("hours", "{:.2f}".format) if hours >= 1 else ("minutes", lambda hours: f"{60 * hours:.1f}")
    cells = [
        [split, f"{counts['rows']:,}", amount(counts["hours"]), f"{counts['speakers']:,}", f"{counts['with_text']:,}"]
        for split, counts in splits.items()
    ]
    cells.append(["all", f"{rows:,}", amount(hours), "", f"{texts:,}"])
    note = "These splits are those of the released model. Each fold has its own: see below." if report.get("folds") else ""
    columns = ["split", "rows", unit, "speakers", "rows with text"]
    return Table(f"data-{corpus}", f"{corpus}: data that was used", columns, cells, rules={len(cells) - 1}, note=note)


def label_shares(report: dict) -> dict[str, dict[str, float]]:
    """Share of labelled rows that have a class, by split; {} for a corpus without labels."""
    shares = {}
    for split in SPLITS:
        counts = report.get("splits", {}).get(split, {})
        by_label = {name: count for name, count in counts.get("labels", {}).items() if name != "unlabelled"}
        labelled = counts.get("rows", 0) - counts.get("labels", {}).get("unlabelled", 0)
        if labelled and len(by_label) > 1:
            shares[split] = {name: count / labelled for name, count in by_label.items()}
    present = {name for by_label in shares.values() for name, share in by_label.items() if share}
    return {split: {name: share for name, share in by_label.items() if name in present} for split, by_label in shares.items()}


def data_facts(report: dict, features: dict | None, texts: dict | None, measured: dict | None = None) -> list[tuple[str, list[str]]]:
    """Lists beside a corpus's table: what was dropped and corrected, what was checked, how texts and an encoder's states were made.

    `measured`: of the stage `features`.
    """
    dropped = [f"{count:,} {reason}" for reason, count in report.get("dropped", {}).items()]
    count = f"{sum(report.get('dropped', {}).values()):,}" if dropped else "none"
    facts = [(f"Dropped: {count} of {report.get('read', 0):,} rows", dropped)]
    if features and features.get("dropped"):
        reasons = [f"{count:,} {reason}" for reason, count in features["dropped"].items()]
        facts.append((f"Without features: {sum(features['dropped'].values()):,}", reasons))
    if features and features.get("encoder"):
        facts.append(("Speech encoder", encoder_facts(features["encoder"], (measured or {}).get("seconds_of", {}))))
    if report.get("corrections"):
        facts.append(("Corrected", [f"{count:,} {what}" for what, count in report["corrections"].items()]))
    if report.get("folds"):
        facts.append(("Folds", fold_facts(report)))
    if report.get("speakers_in_two_splits"):
        facts.append(("Speakers in two splits", [", ".join(report["speakers_in_two_splits"][:12])]))
    if texts:
        facts.append(("Texts", text_facts(texts)))
    return facts


def fold_facts(report: dict) -> list[str]:
    """Who is tested and who validates in each fold, and what is missing."""
    facts = []
    for fold, parts in report["folds"].items():
        tested, validated = (_people(parts[split]["speakers"]) for split in ("test", "validation"))
        facts.append(f"{fold}: tested on {parts['test']['rows']:,} rows of {tested}; validated on {validated}")
    several = report.get("checks", {}).get(IN_SEVERAL)
    if several:
        facts.append(f"heard in training and tested, by the given folds: {_people(several)}")
    return facts + ([absent] if (absent := missing(report)) else [])


def _people(speakers: list[str]) -> str:
    """Names of a few speakers, or the number of many."""
    return ", ".join(speakers) if len(speakers) <= 8 and all(speakers) else f"{len(speakers):,} speakers"


def encoder_facts(encoder: dict, seconds: dict[str, float]) -> list[str]:
    """Name and layers of a speech encoder, its frames, copies and lost utterances, and what it took.

    `seconds`: of the stage, by folder of the frames.
    """
    layers, step = encoder["layers"], 1000 * encoder["hop"] / encoder["sample_rate"]
    facts = [f"{Path(encoder['name']).name}, {'layer' if len(layers) == 1 else 'layers'} {listed(list(map(str, layers)))}"]
    facts.append(f"{encoder['frames']:,} frames of {encoder['channels']:,} channels, one every {step:.0f} ms")
    if encoder["dropped"]:
        facts.append("without states: " + listed([f"{count:,} {reason}" for reason, count in encoder["dropped"].items()]))
    if encoder["speeds"]:
        facts.append(f"copies at {listed([f'{speed:g}' for speed in encoder['speeds']])} times the speed")
    if spent := sum(value for folder, value in seconds.items() if folder.startswith("encoder")):
        facts.append(f"computed in {duration(spent)}")
    return facts


def text_facts(texts: dict) -> list[str]:
    """How many texts came with the corpus, how many were transcribed and how well, and how many look like hallucinations."""
    facts = [f"{texts['from_corpus']:,} from the corpus", f"{texts['transcribed']:,} transcribed"]
    if texts.get("not_needed"):
        return [facts[0], f"{texts['not_needed']:,} not transcribed, as only audio is used"]
    if texts["transcribed"] and texts.get("model"):
        facts[1] += f" by {texts['model']}"
    if (wer := texts.get("wer")) and wer.get("words"):
        facts.append(f"word error rate {100 * wer['wer']:.1f} % over {wer['n']:,} utterances with a reference")
        facts += speaker_facts(wer)
    if texts["transcribed"]:
        flags = [f"{count:,} {FLAGS.get(flag, flag)}" for flag, count in texts.get("flags", {}).items() if count]
        facts.append(f"likely hallucinations, kept and flagged: {listed(flags) or 'none'}")
    if texts.get("unreadable"):
        facts.append(f"{len(texts['unreadable']):,} could not be read")
    return facts


def speaker_facts(wer: dict) -> list[str]:
    """How the word error rate is distributed over speakers, where there is more than one."""
    rates = sorted(speaker_rates(wer).values())
    if len(rates) < 2:
        return ["from one speaker"] if rates else []
    tenth = [f"nine of ten up to {rates[-(-9 * len(rates) // 10) - 1]:.1f} %"] if len(rates) >= 10 else []
    parts = [f"median {median(rates):.1f} %", *tenth, f"worst {rates[-1]:.1f} %"]
    return [f"by speaker ({len(rates):,}): {', '.join(parts)}"]


def speaker_rates(wer: dict) -> dict[str, float]:
    """Word error rate in percent of every speaker whose references have words, the worst first."""
    rates = {name: 100 * errors["wer"] for name, errors in wer.get("by_speaker", {}).items() if errors["words"]}
    return dict(sorted(rates.items(), key=lambda pair: (-pair[1], pair[0])))


def speaker_table(corpus: str, wer: dict) -> Table:
    """Word errors of every speaker, the worst first."""
    kinds = ("n", "words", "substitutions", "deletions", "insertions")
    cells = [
        [speaker, f"{rate:.1f}", *(f"{wer['by_speaker'][speaker][kind]}" for kind in kinds)] for speaker, rate in speaker_rates(wer).items()
    ]
    columns = ["speaker", "WER, percent", "texts", *kinds[1:]]
    note = "A rate over few words is uncertain."
    return Table(f"{corpus}-speakers", f"{corpus}: word error rate by speaker", columns, cells, note=note)
