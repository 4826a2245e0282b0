"""Tables and sentences of the report beside the main result table: data, training, retrieval, parameters, runs."""

from typing import NamedTuple

from pipeline.results import MODALITIES, METRICS, VARIANTS, Key, Score, Table

SPLITS = ("train", "validation", "test")


def sentences(lines: dict[Key, dict[str, Score]], metric: str = "weighted_accuracy") -> list[str]:
    """What a corpus's table says in words, whichever way it falls."""
    found = {key: line[metric] for key, line in lines.items() if metric in line}
    said = []
    for lm in dict.fromkeys(key.lm for key in found if key.variant.startswith("calm")):
        for variant, plain in (("calm", "no_pretraining"), ("calm_frozen", "no_pretraining_frozen")):
            ours = {key.modality: value for key, value in found.items() if (key.variant, key.lm) == (variant, lm)}
            if ours:
                said.append(_of_model(ours, {k.modality: v for k, v in found.items() if (k.variant, k.lm) == (plain, lm)}, lm, variant))
                break
    if peer := next((value for key, value in found.items() if key.variant == "egemaps"), None):
        ours = {key: value for key, value in found.items() if key.modality == "audio" and key.variant.startswith("calm")}
        if ours:
            key = max(ours, key=lambda key: ours[key].mean)
            said.append(
                f"eGeMAPS with logistic regression, from audio alone, gives {peer.text}; {key.title} from audio alone lies "
                f"{_difference(ours[key], peer)}."
            )
    return said


def _of_model(ours: dict[str, Score], plain: dict[str, Score], lm: str, variant: str) -> str:
    parts = [f"{value} from {MODALITIES.get(name, name)}" for name, value in sorted(ours.items(), key=lambda item: -item[1].mean)]
    frozen = " with frozen weights" if variant == "calm_frozen" else ""
    text = f"CALM ({lm}){frozen} reaches {_and(parts)} in weighted accuracy."
    both = [name for name in ("both", "audio", "text") if name in ours and name in plain]
    if both:
        name = both[0]
        text += f" Without pretraining, {MODALITIES[name]} gives {plain[name]}: CALM lies {_difference(ours[name], plain[name])}."
    return text


def _difference(ours: Score, other: Score) -> str:
    points = 100 * (ours.mean - other.mean)
    return "level with it" if abs(points) < 0.05 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'} it"


def _and(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


class ByClass(NamedTuple):
    """Scores by class of one variant and model: modality -> class -> mean."""

    name: str
    title: str
    scores: dict[str, dict[str, float]]


def class_scores(lines: dict[Key, dict[str, Score]], metric: str = "weighted_accuracy") -> list[ByClass]:
    """Of the trained variant of each model that the paper is about: CALM, else what there is."""
    found = []
    for lm in dict.fromkeys(key.lm for key in lines if key.lm):
        variant = next((name for name in ("calm", "calm_frozen") if any(key[:2] == (name, lm) for key in lines)), None)
        if variant:
            of = {key.modality: classes_of(line, metric) for key, line in lines.items() if key[:2] == (variant, lm)}
            found.append(ByClass(f"{variant}-{lm}", f"{VARIANTS[variant]} ({lm})", {k: {c: s.mean for c, s in v.items()} for k, v in of.items()}))
    return [by_class for by_class in found if any(by_class.scores.values())]


def classes_of(line: dict[str, Score], metric: str) -> dict[str, Score]:
    """Scores of `<metric>/<class>` by class."""
    return {name.partition("/")[2]: value for name, value in line.items() if name.startswith(f"{metric}/")}


def class_table(corpus: str, lines: dict[Key, dict[str, Score]], metric: str = "weighted_accuracy") -> Table:
    """One column a class."""
    names = list(dict.fromkeys(name for line in lines.values() for name in classes_of(line, metric)))
    cells = [[key.title, key.lm, key.given, *(classes_of(line, metric).get(name) for name in names)] for key, line in lines.items()]
    return Table(f"{corpus}-classes", f"{corpus}, test, {metric} by class", ["variant", "model", "input", *names], cells, 3)


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


def data_facts(report: dict, texts: dict | None) -> list[tuple[str, list[str]]]:
    """Lists beside a corpus's table: what was dropped, what was mended, what was checked, how texts were made."""
    facts = []
    dropped = [f"{count:,} {reason}" for reason, count in report.get("dropped", {}).items()]
    facts.append((f"Dropped: {sum(report.get('dropped', {}).values()):,} of {report.get('read', 0):,} rows", dropped or ["none"]))
    if report.get("corrections"):
        facts.append(("Mended", [f"{count:,} {what}" for what, count in report["corrections"].items()]))
    if report.get("speakers_in_two_splits"):
        facts.append(("Speakers in two splits", [", ".join(report["speakers_in_two_splits"][:12])]))
    if texts:
        facts.append(("Texts", text_facts(texts)))
    return facts


def text_facts(texts: dict) -> list[str]:
    """How many texts came with the corpus and how many were transcribed, and how well."""
    facts = []
    if "from_corpus" in texts:
        facts.append(f"{texts['from_corpus']:,} from the corpus")
    if "transcribed" in texts:
        by = " ".join(str(texts[key]) for key in ("engine", "model") if texts.get(key))
        facts.append(f"{texts['transcribed']:,} transcribed" + (f" by {by}" if by and texts["transcribed"] else ""))
    if texts.get("wer") is not None:
        checked = f", over {texts['checked']:,} utterances with a reference" if texts.get("checked") else ""
        facts.append(f"word error rate {100 * texts['wer']:.1f} %{checked}")
    return facts


def training_sentences(calp: dict[str, dict], pretrained: dict[str, dict], heads: dict[tuple[str, str], list[dict]]) -> list[str]:
    """What was trained on what, for how long, on which device."""
    said = []
    for name, of in calp.items():
        said.append(f"CALP, {name}: {len(of['curve'])} epochs on {_hours(of)} of {_and(of['corpora'])} in {_time(of['seconds'])} ({of['device']}).")
    for name, of in pretrained.items():
        cut = of.get("cut", {}).get("utterances")
        short = f" {cut:,} utterances were cut to fit." if cut else " No utterance was cut."
        last = of["validation"]
        said.append(
            f"Masked words and masked audio, {name}: {len(of['curve'])} epochs in {_time(of['seconds'])}; held-out losses: words "
            f"{last['mlm']:.2f}, audio {last['mam']:.3f}, its middle blocks {last['mam_middle']:.3f}.{short}"
        )
    for (corpus, model), curves in heads.items():
        seconds = sum({curve.get("mlflow_run") or number: curve["seconds"] for number, curve in enumerate(curves)}.values())
        said.append(f"Heads on {corpus}, {model}: {len(curves)} in {_time(seconds)}.")
    return said


def _hours(of: dict) -> str:
    return f"{of['hours']:.1f} h" if of.get("hours", 0) >= 0.95 else f"{60 * of.get('hours', 0):.0f} min"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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


def run_table(calp: dict[str, dict], pretrained: dict[str, dict], heads: dict, evaluations: dict[str, str]) -> Table:
    """MLflow run of every stage and head."""
    found = [(f"calp@{name}", f"calm/{name}", "", of.get("mlflow_run")) for name, of in calp.items()]
    found += [(f"pretrain@{name}", f"calm/{name}", "", of.get("mlflow_run")) for name, of in pretrained.items()]
    for (corpus, model), curves in heads.items():
        runs: dict[str, list[dict]] = {}
        for curve in curves:
            runs.setdefault(curve.get("mlflow_run") or "", []).append(curve)
        found += [(f"head@{corpus}-{model}", f"calm/{corpus}", _what(of), run) for run, of in runs.items()]
    found += [(f"evaluate@{corpus}", f"calm/{corpus}", "", run) for corpus, run in evaluations.items()]
    cells = [[stage, experiment, what, run] for stage, experiment, what, run in found if run]
    rules = {number for number in range(1, len(cells)) if cells[number][0] != cells[number - 1][0]}
    return Table("runs", "MLflow runs", ["stage", "experiment", "what", "run"], cells, 4, rules=rules)


def _what(curves: list[dict]) -> str:
    key = Key(curves[0]["variant"], "", curves[0]["modality"])
    return f"{key.title}, {key.given}, seed {' '.join(str(curve['seed']) for curve in curves)}"


def comparison_table(name: str, rows: list[dict]) -> Table:
    return Table(f"{name}-comparisons", "", [], [])


def notes(of: dict) -> list[str]:
    return []
