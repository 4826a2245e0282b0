"""Tables and sentences of the report beside the main result table: data, training, retrieval, parameters, runs."""

from pathlib import Path
from statistics import median
from typing import NamedTuple

from pipeline.report.results import THRESHOLDS, VARIANTS, Key, Score, Table

SPLITS = ("train", "validation", "test")


METRIC = "weighted_accuracy"


def sentences(lines: dict[Key, dict[str, Score]], comparisons: list[dict]) -> list[str]:
    """What a corpus's table says in words, whichever way it falls. `comparisons`: those of the same metric and thresholds."""
    found = {key: line[METRIC] for key, line in lines.items() if METRIC in line}
    said = []
    for lm in dict.fromkeys(key.lm for key in found if key.variant in ("calm", "calm_frozen")):
        variant = next(name for name in ("calm", "calm_frozen") if any(key[:2] == (name, lm) for key in found))
        ours = [key for key in found if key[:2] == (variant, lm)]
        ours.sort(key=lambda key: -found[key].mean)
        parts = [f"{found[key]} from {key.given}" for key in ours]
        said.append(f"{named(ours[0])} reaches {listed(parts)} in weighted accuracy.")
        others = [ours[0]._replace(variant=variant.replace("calm", "no_pretraining"))]
        others += [key for key in found if key.variant in ("egemaps", "logmel_functionals")]
        said += [_against(own, other, found, comparisons) for other in others if other in found and (own := _same_input(other, ours))]
    return said


def _same_input(other: Key, ours: list[Key]) -> Key | None:
    return next((key for key in ours if key.modality == other.modality), None)


def _against(ours: Key, other: Key, found: dict[Key, Score], comparisons: list[dict]) -> str:
    points = 100 * (found[ours].mean - found[other].mean)
    way = "level with it" if abs(points) < 0.05 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'} it"
    row = next((row for row in comparisons if (Key.of(row["a"]), Key.of(row["b"])) == (ours, other)), None)
    sure = f" ({_interval(row)})" if row and row["low"] is not None else ""
    who = f"Without pretraining, {ours.given} gives" if other.lm else f"{named(other)} from {ours.given} gives"
    return f"{who} {found[other]}: {named(ours)} lies {way}{sure}."


def _interval(row: dict) -> str:
    outcome = "" if row["significant"] else ": not significant"
    return f"95 % interval {in_points(row['low'])} to {in_points(row['high'])}{outcome}"


def in_points(share: float) -> str:
    """A difference of two shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def named(key: Key) -> str:
    """A line's variant with its language model."""
    return f"{key.title} ({key.lm})" if key.lm else key.title


def listed(parts: list[str]) -> str:
    """Parts as an enumeration."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def comparison_table(corpus: str, rows: list[dict], everything: bool = False) -> Table:
    """Differences with their intervals; `everything`: with columns of threshold and metric, for a file."""
    cells, several = [], len({row["a"]["lm"] for row in rows}) > 1
    for row in rows:
        a, b = (f"{named(key) if several else key.title}: {key.given}" for key in (Key.of(row["a"]), Key.of(row["b"])))
        known = row["low"] is not None
        interval = f"{in_points(row['low'])} to {in_points(row['high'])}" if known else "–"
        mark = "" if row["significant"] else "not significant" if known else "too few speakers"
        of = [row["threshold"], row["metric"]] if everything else []
        cells.append([a, b, *of, "–" if row["difference"] is None else in_points(row["difference"]), interval, mark])
    columns = ["first", "second", *(["threshold", "metric"] if everything else []), "difference", "95 % interval", "note"]
    sizes = f"{rows[0]['n']:,} utterances of {rows[0]['speakers']:,} speakers" if rows else ""
    what = "" if everything else f"Weighted accuracy, {THRESHOLDS.get(rows[0]['threshold'], '')}: " if rows else ""
    note = f"{what}first less second in points, mean over seeds. The interval is a bootstrap over speakers ({sizes}), not over seeds."
    title = f"{corpus}, test: differences"
    name = f"{corpus}-comparisons" + ("-all" if everything else "")
    return Table(name, title, columns, cells, 4 if everything else 2, note=note)


def notes(of: dict) -> list[str]:
    """What to know about a corpus's figures: its size, what answering "no" always gives, what was left out."""
    said, test = [], of.get("utterances", {}).get("test", {})
    if test:
        said.append(f"{test['labelled']:,} labelled utterances of {test['speakers']:,} speakers.")
    if never := test.get("never_anything"):
        parts = [f"{name} {100 * never[name]:.1f}" for name in ("accuracy", METRIC) if name in never]
        said.append(f"Deciding for no class at all gives {listed(parts)}.")
    left = [row["classes"] for row in of.get("left_out", []) if (row["split"], row["metric"]) == ("test", METRIC)]
    if classes := list(dict.fromkeys(name for found in left for name in found)):
        said.append(f"Without a positive or a negative here, and so left out of weighted accuracy: {', '.join(classes)}.")
    lacking = {Key.of(row): row["utterances"] for row in of.get("missing", []) if row["split"] == "test"}
    said += [f"{named(key)}, {key.given}, has no answer to {count:,} utterances." for key, count in lacking.items()]
    absent = list(dict.fromkeys(row["reason"] for row in of.get("not_evaluated", [])))
    return said + ([f"Not everything was evaluated: {'; '.join(absent)}."] if absent else [])


class ByClass(NamedTuple):
    """Scores by class of one variant and model: modality -> class -> mean."""

    name: str
    title: str
    scores: dict[str, dict[str, float]]


def class_scores(lines: dict[Key, dict[str, Score]]) -> list[ByClass]:
    """Of the trained variant of each model that the paper is about: CALM, else what there is."""
    found = []
    for lm in dict.fromkeys(key.lm for key in lines if key.lm):
        variant = next((name for name in ("calm", "calm_frozen") if any(key[:2] == (name, lm) for key in lines)), None)
        if variant:
            of = {key.modality: classes_of(line) for key, line in lines.items() if key[:2] == (variant, lm)}
            means = {modality: {name: score.mean for name, score in scores.items()} for modality, scores in of.items()}
            found.append(ByClass(f"{variant}-{lm}", f"{VARIANTS[variant]} ({lm})", means))
    return [by_class for by_class in found if any(by_class.scores.values())]


def classes_of(line: dict[str, Score]) -> dict[str, Score]:
    """Scores of `weighted_accuracy/<class>` by class."""
    return {name.partition("/")[2]: value for name, value in line.items() if name.startswith(f"{METRIC}/")}


def class_table(corpus: str, lines: dict[Key, dict[str, Score]]) -> Table:
    """One column a class."""
    found = list(dict.fromkeys(name for line in lines.values() for name in classes_of(line)))
    cells = [[key.title, key.lm, key.given, *(classes_of(line).get(name) for name in found)] for key, line in lines.items()]
    return Table(f"{corpus}-classes", f"{corpus}, test, {METRIC} by class", ["variant", "model", "input", *found], cells, 3)


def retrieval_table(rows: list[dict]) -> Table:
    """Recall of the right text, or the next block, beside what chance gives; `rows` have a `model` each."""
    several = len({row["model"] for row in rows}) > 1
    columns = ["pair", *(["model"] if several else []), "corpus", "split", "n"]
    columns += [name for at in (1, 5, 10) for name in (f"recall at {at}", "chance")] + ["median rank", "chance"]
    cells = [
        [row["pair"], *([row["model"]] if several else []), row["corpus"], row["split"], str(row["n"])]
        + [f"{100 * row[f'{kind}recall_at_{at}']:.1f}" for at in (1, 5, 10) for kind in ("", "chance_")]
        + [f"{row['median_rank']:g}", f"{row['chance_median_rank']:g}"]
        for row in rows
    ]
    rules = {number for number in range(1, len(rows)) if rows[number]["pair"] != rows[number - 1]["pair"]}
    return Table("retrieval", "Retrieval among held-out utterances", columns, cells, 3 + several, rules=rules, note="Recall in percent.")


def retrieval_sentences(rows: list[dict]) -> list[str]:
    """How far above chance the text of a held-out utterance is found."""
    found = [row for row in rows if row["pair"] == "audio to text" and row["split"] == "test"]
    return [
        f"Given the audio of a test utterance of {row['corpus']}, its text is among the first 10 of {row['n']} in "
        f"{100 * row['recall_at_10']:.1f} % of cases; chance gives {100 * row['chance_recall_at_10']:.1f} % "
        f"({row['recall_at_10'] / row['chance_recall_at_10']:.1f} times chance; model {row['model']})."
        for row in found
        if row["chance_recall_at_10"]
    ]


def data_table(name: str, report: dict) -> Table:
    """Rows, hours, speakers and texts of every split."""
    parts = [(split, report["splits"][split]) for split in SPLITS if split in report.get("splits", {})]
    cells = [[split, f"{of['rows']:,}", f"{of['hours']:.2f}", f"{of['speakers']:,}", f"{of['with_text']:,}"] for split, of in parts]
    totals = [sum(of[key] for _, of in parts) for key in ("rows", "hours", "with_text")]
    cells.append(["all", f"{totals[0]:,}", f"{totals[1]:.2f}", "", f"{totals[2]:,}"])
    columns = ["split", "rows", "hours", "speakers", "rows with text"]
    return Table(f"data-{name}", f"{name}: what was used", columns, cells, rules={len(cells) - 1})


def label_shares(report: dict) -> dict[str, dict[str, float]]:
    """Share of labelled rows that have a class, by split; {} for a corpus without labels."""
    shares = {}
    for split in SPLITS:
        of = report.get("splits", {}).get(split, {})
        counts = {name: count for name, count in of.get("labels", {}).items() if name != "unlabelled"}
        labelled = of.get("rows", 0) - of.get("labels", {}).get("unlabelled", 0)
        if labelled and len(counts) > 1:
            shares[split] = {name: count / labelled for name, count in counts.items()}
    never = [name for of in shares.values() for name in of if not any(part.get(name) for part in shares.values())]
    return {split: {name: share for name, share in of.items() if name not in never} for split, of in shares.items()}


def data_facts(report: dict, features: dict | None, texts: dict | None) -> list[tuple[str, list[str]]]:
    """Lists beside a corpus's table: what was dropped, what was mended, what was checked, how texts were made."""
    facts = []
    dropped = [f"{count:,} {reason}" for reason, count in report.get("dropped", {}).items()]
    facts.append((f"Dropped: {sum(report.get('dropped', {}).values()):,} of {report.get('read', 0):,} rows", dropped or ["none"]))
    if features and features.get("dropped"):
        lost = [f"{count:,} {reason}" for reason, count in features["dropped"].items()]
        facts.append((f"Without features: {sum(features['dropped'].values()):,}", lost))
    if report.get("corrections"):
        facts.append(("Mended", [f"{count:,} {what}" for what, count in report["corrections"].items()]))
    if report.get("speakers_in_two_splits"):
        facts.append(("Speakers in two splits", [", ".join(report["speakers_in_two_splits"][:12])]))
    if texts:
        facts.append(("Texts", text_facts(texts)))
    return facts


FLAGS = {  # of `transcribe`, in words
    "no_speech": "where Whisper hears no speech",
    "compression": "that shrink like a loop",
    "repeats": "with a phrase said four times in a row",
}


def text_facts(texts: dict) -> list[str]:
    """How many texts came with the corpus, how many were transcribed, how well, and how many look like no speech or a loop."""
    facts = [f"{texts['from_corpus']:,} from the corpus", f"{texts['transcribed']:,} transcribed"]
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
    """How the word error rate lies over the speakers, as far as so many have a say."""
    rates = sorted(speaker_rates(wer).values())
    if len(rates) < 2:
        return ["of one speaker"] if rates else []
    tenth = [f"nine of ten up to {rates[-(-9 * len(rates) // 10) - 1]:.1f} %"] if len(rates) >= 10 else []
    parts = [f"median {median(rates):.1f} %", *tenth, f"worst {rates[-1]:.1f} %"]
    return [f"by speaker ({len(rates):,}): {', '.join(parts)}"]


def speaker_rates(wer: dict) -> dict[str, float]:
    """Word error rate in percent of every speaker who has a reference with words, the worst first."""
    rates = {name: 100 * of["wer"] for name, of in wer.get("by_speaker", {}).items() if of["words"]}
    return dict(sorted(rates.items(), key=lambda pair: (-pair[1], pair[0])))


def speaker_table(name: str, wer: dict) -> Table:
    """Word errors of every speaker, the worst first."""
    kinds = ("n", "words", "substitutions", "deletions", "insertions")
    cells = [
        [speaker, f"{rate:.1f}", *(f"{wer['by_speaker'][speaker][kind]}" for kind in kinds)] for speaker, rate in speaker_rates(wer).items()
    ]
    columns = ["speaker", "WER, percent", "texts", *kinds[1:]]
    return Table(f"{name}-speakers", f"{name}: word error rate by speaker", columns, cells, note="A rate over few words says little.")


def training_sentences(calp: dict[str, dict], pretrained: dict[str, dict], heads: dict[tuple[str, str], list[dict]]) -> list[str]:
    """What was trained on what, for how long, on which device."""
    said = []
    for name, of in calp.items():
        if not of["curve"]:
            said.append(f"CALP, {name}: not trained, by its settings.")
            continue
        on = f"{_hours(of)} of {listed(of['corpora'])}"
        said.append(f"CALP, {name}: {len(of['curve'])} epochs on {on} in {took(of['seconds'])} ({of['device']}).")
    for name, of in pretrained.items():
        cut = of.get("cut", {}).get("utterances")
        short = f" {cut:,} utterances were cut to fit." if cut else " No utterance was cut."
        last = of["validation"]
        said.append(
            f"Masked words and masked audio, {name}: {len(of['curve'])} epochs in {took(of['seconds'])}; held-out losses: words "
            f"{_loss(last, 'mlm')}, audio {_loss(last, 'mam')}, its middle blocks {_loss(last, 'mam_middle')}.{short}"
        )
    for (corpus, model), curves in heads.items():
        seconds = sum({curve.get("mlflow_run") or number: curve["seconds"] for number, curve in enumerate(curves)}.values())
        said.append(f"Heads on {corpus}, {model}: {len(curves)}, whose runs add to {took(seconds)}; several run at once.")
    return said


def _loss(of: dict, name: str) -> str:
    return "–" if of.get(name) is None else f"{of[name]:.3g}"


def _hours(of: dict) -> str:
    return f"{of['hours']:.1f} h" if of.get("hours", 0) >= 0.95 else f"{60 * of.get('hours', 0):.0f} min"


def took(seconds: float) -> str:
    """A time as a reader says it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def language_words(language_model: str, layers: int | None) -> str:
    """A language model in a few words."""
    return Path(language_model).name + (f", first {layers} layers" if layers else "")


def parameter_tables(paper: list[dict], calp: dict[str, dict], pretrained: dict[str, dict]) -> list[Table]:
    """The paper's sizes, counted; and those of the models of this report."""
    tables = []
    if paper:
        columns = ["language model", "its parameters", "CALM besides it", "all", "paper: language model", "paper: CALM"]
        keys = ("lm_parameters", "calm_besides_lm", "all")
        cells = [[row["language_model"], *(f"{row[key]:,}" for key in keys), row["paper_lm"], row["paper_calm"]] for row in paper]
        note = "Counted on models of these sizes, CALP's projections and the heads of pretraining included."
        tables.append(Table("parameters-paper", "CALM with BERT-tiny's and BERT-base's sizes", columns, cells, note=note))
    if pretrained:
        keys = ("language_model", "calm_besides_language_model", "all")
        cells = [[name, *(f"{of['parameters'][key]:,}" for key in keys), spectran(calp.get(name))] for name, of in pretrained.items()]
        columns = ["model", "its language model", "CALM besides it", "all", "of it SpecTran"]
        tables.append(Table("parameters", "Models of this report", columns, cells))
    return tables


def spectran(calp: dict | None) -> str:
    """SpecTran's parameters, where they are known."""
    count = (calp or {}).get("parameters", {}).get("spectran")
    return f"{count:,}" if count else ""


def run_table(calp: dict[str, dict], pretrained: dict[str, dict], heads: dict, later: dict[str, dict[str, dict]]) -> Table:
    """MLflow run of every stage and head. `later` maps a stage that runs once a corpus -> corpus -> what it wrote."""
    found = [(f"calp@{name}", f"calm/{name}", "", of.get("mlflow_run")) for name, of in calp.items()]
    found += [(f"pretrain@{name}", f"calm/{name}", "", of.get("mlflow_run")) for name, of in pretrained.items()]
    for (corpus, model), curves in heads.items():
        runs: dict[str, list[dict]] = {}
        for curve in curves:
            runs.setdefault(curve.get("mlflow_run") or "", []).append(curve)
        found += [(f"head@{corpus}-{model}", f"calm/{corpus}", _what(of), run) for run, of in runs.items()]
    found += [(f"{stage}@{corpus}", f"calm/{corpus}", "", of.get("mlflow_run")) for stage, by in later.items() for corpus, of in by.items()]
    cells = [[stage, experiment, what, run] for stage, experiment, what, run in found if run]
    rules = {number for number in range(1, len(cells)) if cells[number][0] != cells[number - 1][0]}
    return Table("runs", "MLflow runs", ["stage", "experiment", "what", "run"], cells, 4, rules=rules)


def _what(curves: list[dict]) -> str:
    key = Key(curves[0]["variant"], "", curves[0]["modality"])
    return f"{key.title}, {key.given}, seed {' '.join(str(curve['seed']) for curve in curves)}"
