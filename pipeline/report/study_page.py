"""The page's part "The study": the paper's tables beside ours, its claims, and figures, each with the command that makes it anew."""

from pathlib import Path
from typing import NamedTuple

from calm import storage
from calm.corpora.utterances import read_table
from pipeline import paper, paths
from pipeline.report import claims, figures, shared_space, study_figures, study_tables
from pipeline.report.results import THRESHOLDS, Table
from pipeline.report.study_tables import Study
from pipeline.report.tables import METRIC, language_words
from pipeline.settings import Settings

FILES = ("comparisons", "intervals", "calibration", "buckets")  # lists that `evaluate` writes
REMAKE = "dvc repro --force --single-item report"


class Block(NamedTuple):
    """A table for the page, in a version a kind of thresholds, or one alone."""

    name: str  # its anchor
    title: str
    tables: list[Table]
    thresholds: list[str]


def study_part(settings: Settings, rows: list[dict], calp: dict[str, dict], pretrained: dict[str, dict], folder: Path) -> dict | None:
    """What the template shows of the study; figures are written to a folder. None where only CALM and the baselines ran."""
    found = {name: _study(name, settings, rows) for name in settings.targets if any(row["corpus"] == name for row in rows)}
    if not any(one.beyond for one in found.values()):
        return None
    shown = [one for one in found.values() if one.beyond or (one.thresholds and _transfer(one.corpus, settings))]
    corpora = [_corpus(one, settings, folder) for one in shown]
    costs = study_tables.costs(calp, pretrained, {name: settings.lm(name) for name in settings.models})
    whole = [table for table in (costs, claims.loss_table(pretrained)) if table]
    blocks = [Block(table.name, table.title, [table], []) for table in whole]
    written = [table for part in corpora for block in part["blocks"] for table in block.tables] + whole
    return {"corpora": corpora, "blocks": blocks, "written": written, "remake": REMAKE}


def languages(settings: Settings) -> dict[str, str | None]:
    """Language model -> "tiny" or "base", whose rows of the paper's tables it fills, or None."""
    found: dict[str, str | None] = {}
    for name, model in settings.models.items():
        lm = settings.lm(name)
        found[lm] = found.get(lm) or model.stands_for
    return found


def _study(name: str, settings: Settings, rows: list[dict]) -> Study:
    described = {settings.lm(model): language_words(of.language_model, of.layers) for model, of in settings.models.items()}
    (frames, mels), (along, across) = settings.spectran.patch, settings.spectran.stride
    patch = f"{frames} x {mels}, stride {along} x {across}"
    return Study(name, settings.corpora[name].format, rows, _read(name, "comparisons") or [], languages(settings), described, patch)


def _read(corpus: str, name: str):
    path = paths.evaluation(corpus) / f"{name}.json"
    return storage.read_json(path) if path.exists() else None


def transfers(settings: Settings) -> list[str]:
    """Names of the transfers."""
    return list(settings.transfer)


def _transfer(corpus: str, settings: Settings) -> list[dict]:
    """Rows of every transfer to a corpus."""
    files = [paths.evaluation("_transfer") / name / "metrics.json" for name in transfers(settings)]
    return [row for file in files if file.exists() for row in storage.read_json(file)["rows"] if row["tested_on"] == corpus]


def _corpus(one: Study, settings: Settings, folder: Path) -> dict:
    """Tables, claims and figures of one corpus."""
    found, thresholds = {name: _read(one.corpus, name) or [] for name in FILES}, one.thresholds
    made = [table for threshold in thresholds for table in study_tables.tables(one, threshold)]
    transfer = _transfer(one.corpus, settings)
    for threshold in thresholds:
        more = claims.bucket_table(one, found["buckets"], threshold), claims.transfer_table(one, transfer, threshold)
        made += [table for table in more if table]
    calibration = claims.calibration_table(one)
    answers = claims.claims(one, thresholds[0])
    return {
        "name": one.corpus,
        "synthetic": any(row["synthetic"] for row in one.rows),
        "blocks": [*_blocks(made), *([Block(calibration.name, calibration.title, [calibration], [])] if calibration else [])],
        "claims": answers,
        "limits": claims.limits(one, answers, thresholds[0]) if answers else "",
        "pictures": _pictures(one, found, thresholds[0], settings, folder),
    }


def _blocks(made: list[Table]) -> list[Block]:
    """Versions of one table together, in the order of the paper's tables."""
    by_name: dict[str, list[tuple[str, Table]]] = {}
    for table in made:
        name, _, threshold = table.name.rpartition("-")
        by_name.setdefault(name, []).append((threshold, table))
    return [
        Block(name, of[0][1].title, [table for _, table in of], [THRESHOLDS.get(threshold, threshold) for threshold, _ in of])
        for name, of in by_name.items()
    ]


def _pictures(one: Study, found: dict[str, list[dict]], threshold: str, settings: Settings, folder: Path) -> list[dict]:
    """Figures, those of one kind together; `short` names them in the list of contents."""
    words, pictures, evaluate = THRESHOLDS.get(threshold, threshold), [], f"dvc repro evaluate@{one.corpus}"

    def add(name: str, short: str, title: str, figure, stage: str, said: str = "") -> None:
        note = f"{said} Drawn anew by {REMAKE}; its numbers by {stage}.".strip()
        name = f"study-{one.corpus}-{name}"
        pictures.append({**figures.picture(title, figure, name, folder, note), "name": name, "short": short})

    for lm in one.models():
        if bars := claims.bars(one, found["intervals"], lm, threshold):
            title = f"Variants on {lm}, {words}"
            add(f"ablation-{lm}", f"variants ({lm})", title, study_figures.ablation(bars, METRIC), evaluate, "Interval over speakers.")
    for lm in one.models():
        if shares := claims.shares(one, lm, threshold):
            figure = study_figures.label_curve(shares, METRIC, _published_shares(one, lm) if "both" in shares else None)
            title = f"Shares of the labels, {lm}, {words}"
            add(f"labels-{lm}", f"shares of the labels ({lm})", title, figure, evaluate, "A dot is a seed.")
    for lm in one.models():
        if curves := claims.reliability(one, found["calibration"], lm):
            figure, said = study_figures.reliability(curves), "All classes and seeds together; a large mark stands for many answers."
            add(f"reliability-{lm}", f"reliability ({lm})", f"Reliability of CALM's probabilities, {lm}, test", figure, evaluate, said)
    for lm in one.models():
        if model := _with_space(one.corpus, lm, settings):
            figure, cosines = _space(model, one.corpus)
            title = f"The space that audio and text share, {model}: held-out utterances"
            add(f"space-{lm}", f"shared space ({lm})", title, figure, f"dvc repro calp@{model}", f"Principal components. {cosines}".strip())
    return pictures


def _published_shares(one: Study, lm: str) -> dict[int, float] | None:
    """The paper's curve, where the corpus and the size are the paper's."""
    number = {"mosei": 9, "msp_podcast": 10}.get(one.format)
    if not number or one.languages.get(lm) != "tiny":
        return None
    return {int(row.label.rstrip("%")): row.test[METRIC] for row in paper.TABLES[number]}


def _with_space(corpus: str, lm: str, settings: Settings) -> str | None:
    """The model of a language model whose space is shown: that of the row CALM, else the first with utterances of the corpus."""
    names = [of.model for of in settings.heads.values() if of.corpus == corpus and "calm" in of.rows]
    names = [name for name in [*names, *settings.models] if settings.lm(name) == lm]
    return next((name for name in names if shared_space.read(paths.calp(name) / "space.parquet", corpus) is not None), None)


def _space(model: str, corpus: str) -> tuple:
    """Figure of the shared space, and the cosines in words."""
    frame = shared_space.read(paths.calp(model) / "space.parquet", corpus)
    said = shared_space.cosine_sentence(shared_space.columns(frame))
    shown = shared_space.thinned(frame)
    table = paths.utterances(corpus)
    labels = shared_space.only_labels(shown["id"], read_table(table, ["id", "labels"])) if table.exists() else [None] * len(shown)
    return study_figures.space(shared_space.columns(shown), labels), said
