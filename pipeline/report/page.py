"""The page `reports/index.html`: what it shows, and its HTML. It is self-contained and needs no network."""

import base64
import re
from pathlib import Path

from calm.evaluation.metrics import METRICS
from pipeline.report import figure_style, stage_graph
from pipeline.report.answers_section import answers_section
from pipeline.report.data_section import data_section
from pipeline.report.opening import Headline, headline, opening
from pipeline.report.parameter_tables import paper_sizes, parameter_tables
from pipeline.report.results_section import results_section
from pipeline.report.sounds import Sounds
from pipeline.report.stage_outputs import StageOutputs
from pipeline.report.study_section import REPORT_COMMAND, study_section
from pipeline.report.table import Table
from pipeline.report.training_section import retrieval_section, run_table, training_section
from pipeline.report.wording import language_model_title, mlflow_command
from pipeline.settings import Settings

THRESHOLDS_MEANING = (
    "thresholds",
    "",
    "Tuned: one for each class, chosen on the validation split for weighted accuracy. 0.5: the same for all classes. Argmax: only the "
    "most likely class, where each utterance has exactly one. A class without a positive or a negative in the test split is left out of "
    "the mean.",
)


def metric_meanings(names: set[str]) -> list[tuple[str, str, str]]:
    """Name, formula as HTML, and meaning of some metrics, in the order of the registry."""
    return [(name, metric.formula, metric.description) for name, metric in METRICS.items() if name in names]


def page_content(settings: Settings, outputs: StageOutputs, folder: Path) -> dict:
    """What the template shows, with every table of the report in `tables`. Figures are written to the folder."""
    evaluated = {row["corpus"] for row in outputs.rows}
    metrics = {row["metric"] for row in outputs.rows}
    synthetic = [name for name, corpus in settings.corpora.items() if corpus.synthetic]
    targets = [name for name in settings.targets if name in evaluated]
    headlines = {name: headline(name, outputs.rows, outputs.decisions[name]) for name in targets}
    answered = answers_sections(headlines, settings, folder)
    results = [results_section(name, name in synthetic, outputs, folder) | {"answers": answered[name]} for name in targets]
    study = study_section(settings, outputs, folder)
    training = training_section(settings, outputs, folder)
    retrieval = retrieval_section(settings, outputs, folder)
    data = [data_section(name, settings, outputs, folder) for name in outputs.corpora]
    parameters = parameter_tables(paper_sizes() if study and study["of_paper"] else [], outputs.calp, outputs.pretrained)
    graph = stage_graph.read_graph()
    tables = [table for section in (*results, *data) for table in section["tables"]]
    tables += [part["table"] for part in answered.values() if part]
    tables += [*parameters, *(study["tables"] if study else []), *([retrieval["table"], retrieval["probes"]] if retrieval else [])]
    return {
        "title": settings.title,
        "opening": opening(settings, outputs, [found for found in headlines.values() if found], folder),
        "seeds": settings.seeds,
        "corpora": list(settings.corpora),
        "synthetic": synthetic,
        "models": [model_text(name, settings) for name in settings.models],
        "results": results,
        "study": study,
        "meanings": [*metric_meanings(metrics), THRESHOLDS_MEANING],
        "training": training,
        "retrieval": retrieval,
        "data": data,
        "parameters": parameters,
        "runs": run_table(settings, outputs),
        "stages": graph.descriptions,
        "graph": figure_style.save(stage_graph.graph_figure(graph), "dag", folder, "svg"),
        "command": REPORT_COMMAND,
        "ui": mlflow_command(settings.tracking.uri),
        "tables": [table for table in tables if table.rows],
    }


def answers_sections(headlines: dict[str, Headline | None], settings: Settings, folder: Path) -> dict[str, dict | None]:
    """The part "Answers" of every corpus. They share the page's room for sound."""
    count = len(headlines)
    return {name: answers_section(found, settings, Sounds().part(count), count, folder) for name, found in headlines.items()}


def model_text(name: str, settings: Settings) -> str:
    """A model in a few words."""
    model = settings.models[name]
    corpora = "all corpora" if model.pretrain_on == "." else model.pretrain_on
    pretrained = f"pretrained on {corpora}" if settings.pretraining_corpora(name) else "not pretrained"
    return f"model {name}: {language_model_title(model.language_model, model.layers)}, {pretrained}"


def render(content: dict) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["unbroken"] = unbroken
    environment.filters["commands"] = with_commands_as_code
    environment.filters["breakable"] = breakable
    environment.filters["csv"] = csv_link
    environment.globals["script"] = markup((Path(__file__).parent / "report.js").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(content)


def csv_link(table: Table) -> str:
    """A table as a file of CSV that the page holds, as a data URI."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(table.csv().encode()).decode()}"


def markup(text: str):
    """A text of our own as HTML."""
    from markupsafe import Markup

    return Markup(text)


def breakable(name: str):
    """A name as HTML that may break after its underscores."""
    from markupsafe import Markup, escape

    return escape(name).replace("_", Markup("_<wbr>"))


def unbroken(text: str) -> str:
    """A text whose numbers do not break from their units."""
    return re.sub(r"(?<=\d) (?=(±|%|(h|s|min)\b))|(?<=±) ", "\u00a0", text)


def with_commands_as_code(text: str):
    """A text as HTML, its DVC commands as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"dvc repro [^;.]*[^;. ]", lambda match: f"<code>{match[0]}</code>", str(escape(text))))
