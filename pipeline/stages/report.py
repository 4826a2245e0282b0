"""Stage `report`: everything the other stages found, as `reports/metrics.json`, tables, figures and one page that needs no network.

`--print` shows the result tables of `reports/metrics.json` in the terminal.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

from calm import storage
from pipeline import paths, stage
from pipeline.report import dag, figures, results, tables
from pipeline.report.results import THRESHOLDS
from pipeline.settings import Settings

WORST = 10  # speakers with the highest word error rate that the page names

MEANINGS = [
    (
        "weighted_accuracy",
        "1/(2C) Σ<sub>c</sub> (TP<sub>c</sub>/P<sub>c</sub> + TN<sub>c</sub>/N<sub>c</sub>)",
        "The mean of the true positive and the true negative rate, over the classes (appendix B). Knowing nothing gives 50.",
    ),
    (
        "accuracy",
        "1/C Σ<sub>c</sub> (TP<sub>c</sub> + TN<sub>c</sub>)/(P<sub>c</sub> + N<sub>c</sub>)",
        "The share of right yes-or-no answers, over the classes. High for rare classes even if nothing is ever found.",
    ),
    ("balanced_accuracy", "1/C Σ<sub>c</sub> TP<sub>c</sub>/P<sub>c</sub>", "The mean recall of the classes."),
    (
        "f1_paper",
        "Σ<sub>c</sub> w<sub>c</sub> F1<sub>c</sub>, &nbsp;w<sub>c</sub> = (TP<sub>c</sub> + TN<sub>c</sub>)/Σ (TP + TN)",
        "What appendix B calls micro F1: each class's F1, weighted by its share of the right answers.",
    ),
    ("f1_macro", "1/C Σ<sub>c</sub> F1<sub>c</sub>", "The plain mean of the classes' F1."),
    ("f1_micro", "", "F1 of the counts summed over the classes."),
    ("auc_macro", "", "The mean over the classes of the area under the ROC curve, which needs no threshold. Knowing nothing gives 50."),
    ("accuracy_argmax", "", "The share of rows whose likeliest class is the right one."),
    (
        "thresholds",
        "",
        "Tuned: one a class, chosen on the validation split for weighted accuracy. 0.5: the same for all. Argmax: only the likeliest "
        "class, where each row has exactly one. A class without a positive or a negative in the test split is left out of the mean.",
    ),
]


class Inputs:
    """What the other stages wrote, as far as it is there."""

    def __init__(self, settings: Settings):
        self.corpora = {name: found for name in settings.corpora if (found := read(paths.ingest_report(name)))}
        self.texts = {name: read(paths.texts(name) / "metrics.json") for name in settings.corpora}
        self.features = {name: read(paths.features(name) / "report.json") for name in settings.corpora}
        self.calp = {name: found for name in settings.models if (found := read(paths.calp(name) / "metrics.json"))}
        self.pretrained = {name: found for name in settings.models if (found := read(paths.pretrained(name) / "metrics.json"))}
        curves = {(of.corpus, of.model): paths.heads(of.corpus, of.model) / "curves.json" for of in settings.heads.values()}
        self.heads = {names: found for names, path in curves.items() if (found := read(path))}
        self.rows = results.sort_rows(row for name in settings.targets for row in read(paths.evaluation(name) / "metrics.json") or [])
        self.comparisons = {name: read(paths.evaluation(name) / "comparisons.json") or [] for name in settings.targets}
        self.baselines = {name: read(paths.baselines(name) / "metrics.json") or {} for name in settings.targets}
        self.notes = {name: read(paths.evaluation(name) / "notes.json") or {} for name in settings.targets}


def read(path: Path):
    """A JSON file, or None where there is none."""
    return storage.read_json(path) if path.exists() else None


def run(settings: Settings) -> str:
    """Write `reports/`; returns where the page is."""
    inputs = Inputs(settings)
    if not inputs.rows:
        raise ValueError(f"no corpus has {paths.evaluation('<corpus>')}/metrics.json: run dvc repro, which evaluates before it reports")
    results.write_rows(inputs.rows, paths.REPORTS / "metrics.json")
    with stage.whole(paths.REPORTS / "figures") as pictures, stage.whole(paths.REPORTS / "tables") as folder:
        page = content(settings, inputs, pictures)
        for table in page.pop("written"):
            (folder / f"{table.name}.md").write_text(table.markdown(), encoding="utf-8")
            (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    path = paths.REPORTS / "index.html"
    partial = path.with_name(".index.html.partial")
    partial.write_text(render(page), encoding="utf-8")
    partial.replace(path)
    return f"{path} ({path.stat().st_size / 1024:.0f} kB) from {len(inputs.rows)} rows of {paths.REPORTS / 'metrics.json'}"


def content(settings: Settings, inputs: Inputs, folder: Path) -> dict:
    """What the template shows; figures are written to a folder on the way. `written` holds every table."""
    from pipeline.report import study_page

    parts = [results_part(name, settings, inputs, folder) for name in settings.targets if any(r["corpus"] == name for r in inputs.rows)]
    retrieval = retrieval_part(settings, inputs, folder)
    data = [data_part(name, settings, inputs, folder) for name in inputs.corpora]
    parameters = tables.parameter_tables(paper_sizes(), inputs.calp, inputs.pretrained)
    later = {"baselines": inputs.baselines, "evaluate": inputs.notes}
    runs = tables.run_table(inputs.calp, inputs.pretrained, inputs.heads, later)
    graph = Path("dvc.yaml")
    (folder / "dag.svg").write_text(dag.svg(graph), encoding="utf-8")
    study = study_page.study_part(settings, inputs.rows, inputs.calp, inputs.pretrained, folder)
    written = [table for part in parts for table in part["all"]] + [table for part in data for table in part["all"]] + parameters
    written += study.pop("written") if study else []
    return {
        "title": settings.title,
        "seeds": settings.seeds,
        "corpora": list(settings.corpora),
        "synthetic": [name for name, corpus in settings.corpora.items() if corpus.synthetic],
        "models": [{"words": words(name, settings)} for name in settings.models],
        "results": parts,
        "study": study,
        "meanings": [line for line in MEANINGS if line[0] == "thresholds" or any(line[0] == row["metric"] for row in inputs.rows)],
        "training": training_part(inputs, folder) if inputs.calp or inputs.pretrained or inputs.heads else None,
        "retrieval": retrieval,
        "data": data,
        "parameters": parameters,
        "runs": runs,
        "stages": described(graph),
        "dag": dag.svg(graph, alone=False),
        "dag_style": dag.STYLE,
        "ui": opens(settings.tracking.uri),
        "written": [table for table in [*written, *([retrieval["table"]] if retrieval else [])] if table.rows],
    }


def results_part(name: str, settings: Settings, inputs: Inputs, folder: Path) -> dict:
    """Tables, sentences and figures of one corpus."""
    rows = [row for row in inputs.rows if row["corpus"] == name]
    thresholds = [found for found in results.thresholds(rows) if results.result_table(rows, name, found).rows]
    by_threshold = [results.result_table(rows, name, threshold) for threshold in thresholds]
    lines = results.scores(rows, corpus=name, split="test", threshold=thresholds[0])
    overview = figures.variants(lines, seed_values(rows, thresholds[0], "weighted_accuracy"), "weighted_accuracy", 0.5)
    pictures = [figures.picture(f"Weighted accuracy, {THRESHOLDS.get(thresholds[0])}", overview, f"{name}-variants", folder)]
    more, validation = [], [results.result_table(rows, name, threshold, "validation") for threshold in thresholds]
    for by_class in tables.class_scores(lines):
        shown = figures.classes(by_class.scores, "weighted_accuracy")
        pictures.append(figures.picture(f"Weighted accuracy by class, {by_class.title}", shown, f"{name}-classes-{by_class.name}", folder))
    compared = [row for row in inputs.comparisons[name] if (row["metric"], row["threshold"]) == ("weighted_accuracy", thresholds[0])]
    if seen := [row for row in compared if results.Key.of(row["b"]).group not in results.APART]:
        more.append(tables.comparison_table(name, seen))
    everything = tables.comparison_table(name, inputs.comparisons[name], everything=True)
    return {
        "name": name,
        "synthetic": settings.corpora[name].synthetic,
        "sentences": tables.sentences(lines, compared),
        "tables": by_threshold,
        "thresholds": [THRESHOLDS.get(threshold, threshold) for threshold in thresholds],
        "counts": over_seeds(rows),
        "notes": tables.notes(inputs.notes[name]),
        "pictures": pictures,
        "more": more,
        "all": [*by_threshold, *validation, *more, everything, tables.class_table(name, lines)],
    }


def over_seeds(rows: list[dict]) -> str:
    """What the numbers are means of."""
    seeds = sorted({row["seed"] for row in rows if row["variant"] not in results.BASELINES})
    if len(seeds) > 1:
        return f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}."
    return f"one seed, {seeds[0]}." if seeds else ""


def seed_values(rows: list[dict], threshold: str, metric: str) -> dict:
    """Values of a metric on the test split by line of the table, one a seed."""
    found: dict[results.Key, list[float]] = {}
    for row in rows:
        if (row["split"], str(row["threshold"]), row["metric"]) == ("test", threshold, metric) and row["value"] is not None:
            found.setdefault(results.Key.of(row), []).append(row["value"])
    return found


def training_part(inputs: Inputs, folder: Path) -> dict:
    """Sentences and curves of all training."""
    pictures = []
    for name, of in inputs.calp.items():
        if not of["curve"]:  # CALP does not align this model
            continue
        lines = {"training": "loss", "validation": "validation_loss"}
        shown = figures.losses(of["curve"], {"": lines})
        pictures.append(figures.picture(f"CALP, {name}: loss of equation 2", shown, f"{name}-calp", folder))
    for name, of in inputs.pretrained.items():
        panels = {"masked words": {"words": "mlm"}, "masked audio": {"all masked blocks": "mam", "middle blocks": "mam_middle"}}
        shown = figures.losses(of["curve"], panels)
        pictures.append(figures.picture(f"Pretraining, {name}: held-out losses", shown, f"{name}-pretraining", folder))
    for (corpus, model), curves in inputs.heads.items():
        title = f"Heads on {corpus}, {model}: validation loss, mean and range of seeds"
        pictures.append(figures.picture(title, figures.heads(curves), f"{corpus}-{model}-heads", folder))
    return {"sentences": tables.training_sentences(inputs.calp, inputs.pretrained, inputs.heads), "pictures": pictures}


def main_models(settings: Settings, names: list[str]) -> list[str]:
    """Models for a figure: all, or of more than four those whose heads are CALM's own row."""
    chosen = {of.model for of in settings.heads.values() if "calm" in of.rows}
    return [name for name in names if len(names) <= 4 or name in chosen] or names


def retrieval_part(settings: Settings, inputs: Inputs, folder: Path) -> dict | None:
    """Retrieval of every model; None where there is none."""
    rows = [{"model": name, **row} for name, of in inputs.calp.items() for row in of["retrieval"]]
    if not rows:
        return None
    rows.sort(key=lambda row: (row["pair"] != "audio to text", row["model"], row["corpus"], row["split"]))
    table, main = tables.retrieval_table(rows), main_models(settings, results.names(rows, "model"))
    rows = [row for row in rows if row["model"] in main]
    test = [row for row in rows if row["split"] == "test"] or rows
    shown = figures.picture("Test split", figures.retrieval(test), "retrieval", folder)
    return {"sentences": tables.retrieval_sentences(rows), "table": table, "pictures": [shown]}


def data_part(name: str, settings: Settings, inputs: Inputs, folder: Path) -> dict:
    """What a corpus gave, lost and was corrected in, and a few of its utterances."""
    from calm.corpora.utterances import SPLITS
    from pipeline.report import examples

    report = inputs.corpora[name]
    pictures, heard = [], []
    if shares := tables.label_shares(report):
        pictures.append(figures.picture("Labels", figures.labels(shares), f"{name}-labels", folder))
    if (frame := examples.utterances(paths.utterances(name))) is not None:
        seconds = {split: list(frame.loc[frame["split"] == split, "duration"]) for split in SPLITS if (frame["split"] == split).any()}
        pictures.append(figures.picture("Durations", figures.durations(seconds), f"{name}-durations", folder))
        if (counts := examples.together(frame)) is not None:
            pictures.append(figures.picture("Rows that have both labels", figures.together(counts), f"{name}-together", folder))
        heard = examples_of(name, settings, frame, folder)
    wer = (inputs.texts[name] or {}).get("wer") or {}
    table, speakers = tables.data_table(name, report), tables.speaker_table(name, wer)
    if len(speakers.rows) > 1:
        shown = figures.speakers(list(tables.speaker_rates(wer).values()), 100 * wer["wer"])
        pictures.append(figures.picture("Word error rate by speaker", shown, f"{name}-speakers", folder))
    return {
        "name": name,
        "synthetic": report["synthetic"],
        "words": f"Read from {report['path']}, in the layout of {report['format']}. Dropped rows by name: {paths.ingest_report(name)}.",
        "table": table,
        "speakers": replace(speakers, rows=speakers.rows[:WORST]) if len(speakers.rows) > 1 else None,
        "all": [table, speakers],
        "facts": tables.data_facts(report, inputs.features[name], inputs.texts[name]),
        "pictures": pictures,
        "examples": heard,
    }


def examples_of(name: str, settings: Settings, frame, folder: Path) -> list[dict]:
    """Utterances to hear, with their log-mel; one whose audio cannot be read any more is left out."""
    import pandas as pd

    from calm.audio.decoding import AudioError
    from pipeline.report import examples

    file = paths.texts(name) / "texts.parquet"
    if not settings.report.examples or not file.exists():
        return []
    table = pd.read_parquet(file, columns=["id", "text"]).dropna()
    texts = dict(zip(table["id"], table["text"], strict=True))
    found = []
    for number, row in enumerate(examples.chosen(frame, texts, settings.report.examples).itertuples(), 1):
        try:
            clip = examples.clip(row, texts[row.id], settings.features)
        except AudioError:
            continue
        figure = figures.logmel(clip.pop("logmel"), settings.features.hop_ms)
        found.append({**clip, "id": row.id, **figures.picture(clip["label"], figure, f"{name}-example-{number}", folder)})
    return found


def words(name: str, settings: Settings) -> str:
    """A model in a few words."""
    model = settings.models[name]
    on = "all corpora" if model.pretrain_on == "." else model.pretrain_on
    return f"model {name}: {tables.language_words(model.language_model, model.layers)}, pretrained on {on}"


def paper_sizes() -> list[dict]:
    """Parameters of models of the paper's sizes."""
    from calm.models.modeling import parameter_table

    return parameter_table()


def described(path: Path) -> list[tuple[str, str]]:
    """Stages with the comment that stands above each in `dvc.yaml`."""
    return [(name, text) for text, name in re.findall(r"^  # (.+)\n  (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)]


def opens(uri: str) -> str:
    """Command that opens the MLflow page of a store."""
    return f"MLflow UI: {uri}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def commands(text: str):
    """A text as HTML, its DVC commands as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"dvc repro [^;.]*[^;. ]", lambda found: f"<code>{found[0]}</code>", str(escape(text))))


def render(page: dict) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parents[1] / "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["unbroken"] = lambda text: re.sub(r"(?<=\d) (?=(±|%|(h|s|min)\b))|(?<=±) ", "\u00a0", text)
    environment.filters["commands"] = commands
    return environment.get_template("report.html.j2").render(page)


def print_results() -> None:
    """The result tables in the terminal, and where the page and the runs are."""
    path = paths.REPORTS / "metrics.json"
    if not path.exists():
        sys.exit(f"{path} is missing: run dvc repro")
    from pipeline.settings import load_or_exit

    print(results.printed(results.read_rows(path)))
    print(f"The page:       {paths.REPORTS / 'index.html'}")
    print(f"The MLflow UI:  {opens(load_or_exit().tracking.uri)}")


if __name__ == "__main__":
    if "--print" in sys.argv[1:]:
        print_results()
    else:
        stage.start(run)
