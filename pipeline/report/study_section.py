"""The page's section "The study": the paper's tables beside ours, its claims, and figures with the commands that make them."""

from pathlib import Path
from typing import NamedTuple

from calm.corpora.utterances import read_table
from pipeline import paths
from pipeline.paper import CALM
from pipeline.report import figure_style, paper_claims, shared_embeddings, study_figure_data, study_figures, study_more_tables
from pipeline.report.cost_table import cost_table
from pipeline.report.result_tables import THRESHOLDS, WEIGHTED_ACCURACY
from pipeline.report.stage_outputs import StageOutputs, read
from pipeline.report.study import Study
from pipeline.report.study_tables import study_tables
from pipeline.report.table import Table
from pipeline.report.wording import language_model_title
from pipeline.settings import Settings

REPORT_COMMAND = "dvc repro --force --single-item report"


class Block(NamedTuple):
    """A table on the page, in one version for each kind of thresholds, or in only one."""

    name: str  # its anchor
    title: str
    tables: list[Table]
    thresholds: list[str]


def study_section(settings: Settings, outputs: StageOutputs, folder: Path) -> dict | None:
    """What the template shows. Figures are written to the folder. None where only CALM and the baselines ran.

    Where known speakers are all that there is besides, the paper's tables are left out: it has none of them.
    """
    evaluated = {row["corpus"] for row in outputs.rows}
    studies = [_study(name, settings, outputs) for name in settings.targets if name in evaluated]
    of_paper = any(study.has_more_than_calm for study in studies)
    shown = [study for study in studies if study.has_more_than_calm or study.knows_speakers]
    if of_paper:
        shown = [study for study in studies if study in shown or (study.thresholds and _transfer_rows(study.corpus, settings))]
    if not shown:
        return None
    corpora = [_corpus(study, settings, folder) for study in shown]
    lm = {name: settings.lm(name) for name in settings.models}
    costs = cost_table(outputs.calp, outputs.pretrained, outputs.measured, lm)
    tables = [table for table in (costs, study_more_tables.loss_table(outputs.pretrained)) if table]
    blocks = [Block(table.name, table.title, [table], []) for table in tables]
    tables = [table for part in corpora for block in part["blocks"] for table in block.tables] + tables
    title = "The study" if of_paper else "More results"
    return {"title": title, "of_paper": of_paper, "corpora": corpora, "blocks": blocks, "tables": tables, "command": REPORT_COMMAND}


def language_model_sizes(settings: Settings) -> dict[str, str | None]:
    """Language model -> "tiny" or "base", whose rows of the paper's tables it fills, or None."""
    sizes: dict[str, str | None] = {}
    for name, model in settings.models.items():
        lm = settings.lm(name)
        sizes[lm] = sizes.get(lm) or model.stands_for
    return sizes


def transfer_names(settings: Settings) -> list[str]:
    """Names of the transfers."""
    return list(settings.transfer)


def _study(corpus: str, settings: Settings, outputs: StageOutputs) -> Study:
    titles = {settings.lm(name): language_model_title(model.language_model, model.layers) for name, model in settings.models.items()}
    (frames, mels), (time, frequency) = settings.spectran.patch, settings.spectran.stride
    patch = f"{frames} x {mels}, stride {time} x {frequency}"
    comparisons, corpus_format = outputs.comparisons.get(corpus, []), settings.corpora[corpus].format
    return Study(corpus, corpus_format, outputs.rows, comparisons, language_model_sizes(settings), titles, patch, outputs.spread[corpus])


def _evaluation(corpus: str, name: str) -> list[dict]:
    """A list that the stage `evaluate` wrote."""
    return read(paths.evaluation(corpus) / f"{name}.json") or []


def _transfer_rows(corpus: str, settings: Settings) -> list[dict]:
    """Rows of every transfer to a corpus."""
    contents = [read(paths.transfer(name) / "metrics.json") for name in transfer_names(settings)]
    return [row for content in contents if content for row in content["rows"] if row["tested_on"] == corpus]


def _corpus(study: Study, settings: Settings, folder: Path) -> dict:
    """Tables, claims and figures of one corpus."""
    buckets, transfers = _evaluation(study.corpus, "buckets"), _transfer_rows(study.corpus, settings)
    tables = [table for threshold in study.thresholds for table in study_tables(study, threshold) if study.has_more_than_calm]
    for threshold in study.thresholds:
        more = study_more_tables.bucket_table(study, buckets, threshold), study_more_tables.transfer_table(study, transfers, threshold)
        tables += [table for table in more if table]
    calibration = study_more_tables.calibration_table(study)
    first = study.thresholds[0]
    claims = paper_claims.answered_claims(study, first)
    return {
        "name": study.corpus,
        "synthetic": study.synthetic,
        "blocks": [*_blocks(tables), *([Block(calibration.name, calibration.title, [calibration], [])] if calibration else [])],
        "claims": claims,
        "limits": paper_claims.limits(study, claims, first) if claims else "",
        "pictures": _pictures(study, first, settings, folder),
    }


def _blocks(tables: list[Table]) -> list[Block]:
    """The versions of each table together, in the order of the paper's tables."""
    versions: dict[str, list[tuple[str, Table]]] = {}
    for table in tables:
        name, _, threshold = table.name.rpartition("-")
        versions.setdefault(name, []).append((THRESHOLDS.get(threshold, threshold), table))
    return [
        Block(name, pairs[0][1].title, [table for _, table in pairs], [threshold for threshold, _ in pairs])
        for name, pairs in versions.items()
    ]


def _pictures(study: Study, threshold: str, settings: Settings, folder: Path) -> list[dict]:
    """Figures, those of one kind together. `short` is the name in the list of contents."""
    intervals, calibration = _evaluation(study.corpus, "intervals"), _evaluation(study.corpus, "calibration")
    words, pictures, evaluate = THRESHOLDS.get(threshold, threshold), [], f"dvc repro evaluate@{study.corpus}"

    def add(name: str, short: str, title: str, figure, command: str, explanation: str = "") -> None:
        note = f"{explanation} Drawn by {REPORT_COMMAND}; its numbers by {command}.".strip()
        name = f"study-{study.corpus}-{name}"
        pictures.append({**figure_style.picture(title, figure, name, folder, note), "name": name, "short": short})

    for lm in study.models():
        if bars := study_figure_data.ablation_bars(study, intervals, lm, threshold):
            figure = study_figures.ablation(bars, WEIGHTED_ACCURACY)
            add(f"ablation-{lm}", f"variants ({lm})", f"Variants on {lm}, {words}", figure, evaluate, "Interval over speakers.")
    for lm in study.models():
        if shares := study_figure_data.label_share_values(study, lm, threshold):
            published = study_figure_data.published_shares(study, lm) if "both" in shares else None
            figure = study_figures.label_curve(shares, WEIGHTED_ACCURACY, published)
            title = f"Shares of the labels, {lm}, {words}"
            add(f"labels-{lm}", f"shares of the labels ({lm})", title, figure, evaluate, "Each dot is a seed.")
    for lm in study.models():
        if curves := study_figure_data.reliability_bins(calibration, lm):
            explanation = "All classes and seeds together; larger marks stand for more predictions."
            title = f"Reliability of CALM's probabilities, {lm}, test"
            add(f"reliability-{lm}", f"reliability ({lm})", title, study_figures.reliability(curves), evaluate, explanation)
    for lm in study.models():
        if model := _model_of_space(study.corpus, lm, settings):
            figure, cosines = _shared_space(model, study.corpus)
            title = f"The shared space of audio and text, {model}: held-out utterances"
            explanation = f"Principal components. {cosines}".strip()
            add(f"space-{lm}", f"shared space ({lm})", title, figure, f"dvc repro calp@{model}", explanation)
    return pictures


def _model_of_space(corpus: str, lm: str, settings: Settings) -> str | None:
    """Model whose space is shown for a language model: that of the row CALM, else the first one with utterances of the corpus."""
    names = [heads.model for heads in settings.heads.values() if heads.corpus == corpus and CALM.name in heads.rows]
    names = [name for name in [*names, *settings.models] if settings.lm(name) == lm]
    return next((name for name in names if _embeddings(name, corpus) is not None), None)


def _embeddings(model: str, corpus: str):
    return shared_embeddings.read_embeddings(paths.calp(model) / "space.parquet", corpus)


def _shared_space(model: str, corpus: str) -> tuple:
    """Figure of the shared space, and its cosines in words."""
    frame = _embeddings(model, corpus)
    cosines = shared_embeddings.cosine_sentence(shared_embeddings.unit_vectors(frame))
    shown = shared_embeddings.thinned(frame)
    table = paths.utterances(corpus)
    labels = shared_embeddings.single_labels(shown["id"], read_table(table, ["id", "labels"])) if table.exists() else [None] * len(shown)
    return study_figures.shared_space(shared_embeddings.unit_vectors(shown), labels), cosines
