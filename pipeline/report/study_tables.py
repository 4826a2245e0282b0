"""The paper's tables from the rows of `metrics.json`, with the published figures beside ours. Imports nothing heavy."""

from typing import NamedTuple

from pipeline.paper import CALM, CALM_VARIANTS, FORMATS, FROZEN, LANGUAGE_MODELS, MODALITIES, TABLES, PaperTable, PublishedRow
from pipeline.report.result_tables import THRESHOLDS, WEIGHTED_ACCURACY, Key
from pipeline.report.study import Study
from pipeline.report.table import Score, Table, best_cells, group_starts
from pipeline.report.wording import MISSING, in_points, listed

SYSTEMS, INPUTS = 1, 7  # MOSEI's numbers of the tables of other systems and of inputs


class StudyRow(NamedTuple):
    """A row of one of the paper's tables as the page shows it."""

    key: Key | None  # None: only quoted
    label: str
    input: str
    group: str
    published: PublishedRow | None


def study_tables(study: Study, threshold: str) -> list[Table]:
    """The paper's tables for a corpus at one kind of thresholds, as far as there are results to compare."""
    return [table for paper_table in TABLES if (table := _table(study, paper_table, threshold))]


def _table(study: Study, paper_table: PaperTable, threshold: str) -> Table | None:
    rows = _quoted_rows(study, paper_table)
    for lm in ("", *study.models()):
        rows += _model_rows(study, paper_table, lm, threshold)
    if not any(row.key and row.key.lm for row in rows):
        return None
    metrics = [WEIGHTED_ACCURACY, "accuracy", *(["f1_paper"] if study.corpus_format == "msp_podcast" else [])]
    published = [name for name in metrics if any(row.published and name in row.published.test for row in rows)]
    columns = ["variant", "model", "input"]
    for metric in metrics:
        columns += [f"{metric}, validation", f"{metric}, test", *([f"{metric}, the paper's test"] if metric in published else [])]
        columns += ["CALM less this row, points"] if metric == WEIGHTED_ACCURACY else []
    cells = [_cells(study, row, metrics, published, threshold, paper_table) for row in rows]
    number = paper_table.number(study.corpus_format)
    in_paper = study.corpus_format in FORMATS and any(getattr(row, study.corpus_format) for row in paper_table.rows)
    title = f"{'Table' if in_paper else 'In the shape of table'} {number}, {study.corpus}: {paper_table.title}"
    bold = best_cells([[cell if isinstance(cell, Score) else None for cell in row] for row in cells], 3)
    note = " ".join(_notes(study, rows, threshold, paper_table))
    rules = group_starts([row.group for row in rows])
    return Table(f"study-{study.corpus}-table-{number}-{threshold}", title, columns, cells, 3, bold, rules, note)


def _quoted_rows(study: Study, paper_table: PaperTable) -> list[StudyRow]:
    """Rows that only the paper has."""
    rows = []
    for row in paper_table.rows:
        if row.variant is None and (published := row.published(study.corpus_format, "")):
            words = row.input_words or MODALITIES.get(row.inputs[0], MISSING)
            rows.append(StudyRow(None, f"{row.label}, quoted", words, "quoted", published))
    return rows


def _model_rows(study: Study, paper_table: PaperTable, lm: str, threshold: str) -> list[StudyRow]:
    """Rows of one language model; none where it has nothing to compare."""
    tested = [(row, key) for row in paper_table.rows if row.variant and (key := study.find(row, lm, threshold))]
    if lm and len(tested) < 2 and paper_table.mosei != SYSTEMS:
        return []
    rows = []
    for row, key in tested:
        published = row.published(study.corpus_format, study.sizes.get(lm) or "") if key.modality == row.inputs[0] else None
        rows.append(StudyRow(key, row.title.format(patch=study.patch), key.input, f"model {lm}", published))
    keys = {key for _, key in tested}
    frozen_inputs = {key.modality for key in keys if key.variant.endswith(FROZEN)} if lm else set()
    for modality in sorted(frozen_inputs, key=list(MODALITIES).index):  # frozen rows are compared with frozen CALM: show it too
        key = Key(CALM.name + FROZEN, lm, modality)
        if key in study.keys(threshold) and key not in keys:
            rows.append(StudyRow(key, CALM.title, key.input, f"model {lm}", None))
    return rows


def _cells(study: Study, row: StudyRow, metrics: list[str], published: list[str], threshold: str, paper_table: PaperTable) -> list:
    lines = [study.scores(split, threshold).get(row.key, {}) for split in ("validation", "test")]
    is_calm = row.key is None or (row.key.variant in CALM_VARIANTS and paper_table.mosei != INPUTS)
    comparison, values = None if is_calm else study.comparison(row.key, threshold), []
    for metric in metrics:
        values += [line.get(metric) for line in lines]
        if metric in published:
            values.append(f"{row.published.test[metric]:.1f}" if row.published and metric in row.published.test else None)
        values += [comparison and difference_text(comparison)] if metric == WEIGHTED_ACCURACY else []
    frozen = " (frozen)" if row.key and row.key.variant.endswith(FROZEN) else ""
    return [row.label + frozen, row.key.lm or MISSING if row.key else MISSING, row.input, *values]


def difference_text(comparison: dict) -> str:
    """A comparison in one cell: points, interval, and n.s. where the interval includes 0."""
    if comparison["difference"] is None:
        return MISSING
    points = in_points(comparison["difference"])
    if comparison["low"] is None:
        return f"{points} (too few speakers)"
    return f"{points} ({in_points(comparison['low'])} to {in_points(comparison['high'])}){'' if comparison['significant'] else ' n.s.'}"


def _notes(study: Study, rows: list[StudyRow], threshold: str, paper_table: PaperTable) -> list[str]:
    own = [row for row in rows if row.key]
    notes = [f"Percent, {THRESHOLDS.get(threshold, threshold)}; {study.over_seeds}: {_seeds(study, own)}."]
    inputs = "; CALM from one input is compared with CALM from both" if paper_table.mosei == INPUTS else ""
    notes.append(
        "“CALM less this row” compares weighted accuracy on test, from the same input, with the 95 % interval of a paired bootstrap "
        f"over speakers{inputs}. n.s.: the interval includes 0."
    )
    if any(row.key.variant.endswith(FROZEN) for row in own):
        notes.append("(frozen): only the heads were trained; these rows are compared with frozen CALM.")
    if any(row.published for row in rows):
        notes += [
            f"The paper's figures for {LANGUAGE_MODELS[size].title} stand beside {lm}{_in_brackets(study.model_titles.get(lm))}."
            for lm in study.models()
            if (size := study.sizes.get(lm)) and any(row.key.lm == lm and row.published for row in own)
        ]
        if any(row.key is None for row in rows):
            notes.append("Quoted rows cannot be run here.")
    if study.synthetic:
        notes.append("Synthetic speech: the paper's figures are for real speech and cannot be compared with these.")
    return notes


def _in_brackets(words: str | None) -> str:
    return f" ({words})" if words else ""


def _seeds(study: Study, rows: list[StudyRow]) -> str:
    """Seeds of the trained rows, and by name those of the rows that differ from most."""
    labels: dict[tuple, list[str]] = {}
    for row in rows:
        if row.key.lm:
            seeds = {result["seed"] for result in study.rows if Key.from_row(result) == row.key and result["split"] == "test"}
            labels.setdefault(tuple(sorted(seeds)), []).append(row.label)
    most, *others = sorted(labels, key=lambda seeds: -len(labels[seeds]))
    parts = [f"{listed(list(dict.fromkeys(labels[seeds])))}: {', '.join(map(str, seeds))}" for seeds in others]
    return "; ".join([", ".join(map(str, most)), *parts])
