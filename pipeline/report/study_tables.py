"""The paper's tables 1-12 from the rows of `metrics.json`, the paper's published figures beside ours. Imports nothing heavy."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from pipeline import paper
from pipeline.report.results import FROZEN, GROUPS, MODALITIES, THRESHOLDS, VARIANTS, Key, Score, Table, best, scores
from pipeline.report.tables import METRIC, in_points, listed, took

WIDEST = ("both", "audio", "text")  # the input of a row: the first of these that there is
CALM = ("calm", "calm" + FROZEN)
SIZES = {"tiny": "BERT-tiny", "base": "BERT-base"}
SHOWN = ("tuned", "0.5")  # thresholds that have a version of every table


class Line(NamedTuple):
    """A row that a table has where something ran it."""

    variant: str
    inputs: tuple[str, ...] = WIDEST
    label: str = ""


class Shape(NamedTuple):
    """A table of the paper: its number for CMU-MOSEI and for MSP-Podcast, and its rows."""

    mosei: int
    msp: int
    title: str
    lines: tuple[Line, ...]


AUDIO = ("audio",)
ABLATIONS = ("no_pretraining", "mm_only", "calp_only", "calm_in_domain", "calm", "calm_ood")
SHAPES = (
    Shape(
        1,
        3,
        "beside other systems",
        (
            Line("chance", ("none",)),
            *(Line(name, AUDIO) for name in ("egemaps", "logmel_functionals")),
            *(Line(name) for name in (*GROUPS["peers"], "calm")),
        ),
    ),
    Shape(2, 2, "ablation of pretraining", tuple(Line(name) for name in ABLATIONS)),
    Shape(5, 6, "CALP with and without its text term, audio alone", (Line("no_calp_text", AUDIO), Line("calm", AUDIO))),
    Shape(7, 8, "inputs", (Line("no_calp_text", AUDIO), *(Line("calm", (name,)) for name in ("audio", "text", "both")))),
    Shape(
        9,
        10,
        "shares of the labels",
        (*(Line(f"labels_{share}", label=f"{share} % of the labels") for share in (20, 40, 60, 80)), Line("calm", label="all labels")),
    ),
    Shape(
        11,
        12,
        "shapes of patches",
        (
            Line("patch_2x64", label="patch 2 x 64, stride 1 x 64"),
            Line("patch_20x8", label="patch 20 x 8, stride 10 x 4"),
            Line("calm", label="patch {patch}"),
        ),
    ),
)


@dataclass
class Study:
    """What the study found on one corpus."""

    corpus: str
    format: str  # of the corpus: "mosei" and "msp_podcast" have published figures
    rows: list[dict]  # of `metrics.json`
    comparisons: list[dict]  # of `comparisons.json`
    languages: dict[str, str | None]  # language model as the rows name it -> "tiny", "base" or None, whose rows of the paper it fills
    described: dict[str, str] = field(default_factory=dict)  # language model -> what it is, in words
    patch: str = ""  # CALM's own

    def __post_init__(self):
        self.rows = [row for row in self.rows if row["corpus"] == self.corpus]
        self.scores = cache(lambda split, threshold: scores(self.rows, corpus=self.corpus, split=split, threshold=threshold))

    @property
    def beyond(self) -> bool:
        """Whether more ran than CALM, CALM without pretraining, and the baselines, and was tested at thresholds that are shown."""
        plain = {name + end for name in ("calm", "no_pretraining") for end in ("", FROZEN)} | set(GROUPS["baselines"])
        more = any(row["variant"] in VARIANTS and row["variant"] not in plain for row in self.rows)
        return more and bool(self.thresholds)

    @property
    def thresholds(self) -> list[str]:
        """Those of SHOWN at which something was tested."""
        return [threshold for threshold in SHOWN if self.keys(threshold)]

    def models(self) -> list[str]:
        """Language models of the rows, those that stand for BERT-tiny first, then BERT-base, then others."""
        found = dict.fromkeys(Key.of(row).lm for row in self.rows)
        order = [*SIZES, None]
        return sorted((lm for lm in found if lm), key=lambda lm: (order.index(self.languages.get(lm)), lm))

    def keys(self, threshold: str) -> dict[Key, None]:
        """Lines that have a test figure."""
        return {key: None for key, line in self.scores("test", threshold).items() if METRIC in line}

    def find(self, line: Line, lm: str, threshold: str) -> Key | None:
        """The line's own key: the first of its inputs that there is, unfrozen where there is one."""
        keys = self.keys(threshold)
        wanted = [Key(line.variant + end, lm, given) for given in line.inputs for end in ("", FROZEN)]
        return next((key for key in wanted if key in keys), None)

    def against(self, key: Key, threshold: str, metric: str = METRIC) -> dict | None:
        """The comparison of CALM with a line: of the same input, but both inputs for CALM itself; None where there is not one."""
        modality = "both" if key.variant in CALM else key.modality
        calm = "calm" + (FROZEN if key.variant.endswith(FROZEN) else "")
        found = [
            row
            for row in self.comparisons
            if (row["threshold"], row["metric"], Key.of(row["b"])) == (threshold, metric, key)
            and (row["a"]["variant"], row["a"]["modality"]) == (calm, modality)
            and key.lm in ("", row["a"]["lm"])
        ]
        return found[0] if len(found) == 1 else None


def tables(study: Study, threshold: str) -> list[Table]:
    """The tables of a corpus at one kind of thresholds, as far as something ran that they compare."""
    found = []
    for shape in SHAPES:
        number = shape.msp if study.format == "msp_podcast" else shape.mosei
        printed = paper.TABLES[number] if study.format == "msp_podcast" else paper.TABLES[shape.mosei]
        if study.format not in ("mosei", "msp_podcast") or (study.format, number) == ("msp_podcast", 2):
            printed = []  # the paper prints no such table of such a corpus
        if table := _table(study, shape, number, printed, threshold):
            found.append(table)
    return found


class _Row(NamedTuple):
    key: Key | None  # None: only quoted
    label: str
    group: str
    paper: paper.Row | None


def _table(study: Study, shape: Shape, number: int, printed: list[paper.Row], threshold: str) -> Table | None:
    rows = [_Row(None, f"{row.label}, quoted", "quoted", row) for row in printed if row.variant is None]
    for lm in ("", *study.models()):
        found = [(line, key) for line in shape.lines if (key := study.find(line, lm, threshold))]
        if lm and len(found) < 2 and shape.mosei != 1:  # nothing to compare
            continue
        for line, key in found:
            label = line.label.format(patch=study.patch) or VARIANTS[line.variant]
            rows.append(_Row(key, label, f"of {lm}", _paper(study, key, printed)))
        there = {key for _, key in found}
        inputs = dict.fromkeys(key.modality for key in there if key.variant.endswith(FROZEN)) if lm else {}
        for modality in sorted(inputs, key=list(MODALITIES).index):  # what the frozen rows are compared with
            key = study.find(Line("calm" + FROZEN, (modality,)), lm, threshold)
            rows += [_Row(key, "CALM", f"of {lm}", None)] if key and key not in there else []
    if not any(row.key and row.key.lm for row in rows):
        return None
    metrics = ["weighted_accuracy", "accuracy", *(["f1_paper"] if study.format == "msp_podcast" else [])]
    papers = [name for name in metrics if any(row.paper and name in row.paper.test for row in rows)]
    columns = ["variant", "model", "input"]
    for metric in metrics:
        columns += [f"{metric}, validation", f"{metric}, test", *([f"{metric}, the paper's test"] if metric in papers else [])]
        columns += ["CALM less this row, points"] if metric == METRIC else []
    cells = [_cells(study, row, metrics, papers, threshold, shape) for row in rows]
    rules = {n for n in range(1, len(rows)) if rows[n].group != rows[n - 1].group}
    title = f"{'In the shape of table' if not printed else 'Table'} {number}, {study.corpus}: {shape.title}"
    bold = best([[cell if isinstance(cell, Score) else None for cell in row] for row in cells], 3)
    note = " ".join(_notes(study, rows, threshold, shape))
    return Table(f"study-{study.corpus}-table-{number}-{threshold}", title, columns, cells, 3, bold, rules, note)


def _paper(study: Study, key: Key, printed: list[paper.Row]) -> paper.Row | None:
    """The paper's row of the same variant, input and size."""
    variant = key.variant.removesuffix(FROZEN)
    wanted = (variant, key.modality, study.languages.get(key.lm))
    return next((row for row in printed if (row.variant, row.modality, row.size) == wanted), None)


def _cells(study: Study, row: _Row, metrics: list[str], papers: list[str], threshold: str, shape: Shape) -> list:
    lines = [study.scores(split, threshold).get(row.key, {}) for split in ("validation", "test")]
    itself = row.key is None or (row.key.variant in CALM and shape.mosei != 7)
    found, own = None if itself else study.against(row.key, threshold), []
    for metric in metrics:
        own += [line.get(metric) for line in lines]
        if metric in papers:
            own.append(f"{row.paper.test[metric]:.1f}" if row.paper and metric in row.paper.test else None)
        own += [found and difference(found)] if metric == METRIC else []
    if row.key is None:
        return [row.label, "–", row.paper.given or MODALITIES.get(row.paper.modality, "–"), *own]
    frozen = " (frozen)" if row.key.variant.endswith(FROZEN) else ""
    return [row.label + frozen, row.key.lm or "–", row.key.given, *own]


def difference(row: dict) -> str:
    """A comparison in one cell: points, interval, and n.s. where 0 lies in it."""
    if row["difference"] is None:
        return "–"
    if row["low"] is None:
        return f"{in_points(row['difference'])} (too few speakers)"
    return f"{in_points(row['difference'])} ({in_points(row['low'])} to {in_points(row['high'])}){'' if row['significant'] else ' n.s.'}"


def _notes(study: Study, rows: list[_Row], threshold: str, shape: Shape) -> list[str]:
    own = [row for row in rows if row.key]
    said = [f"Percent, {THRESHOLDS.get(threshold, threshold)}; mean ± standard deviation over seeds: {_seeds(study, own)}."]
    same = "; CALM from one input with CALM from both" if shape.mosei == 7 else ""
    said.append(
        "CALM less a row: CALM from the same input, by weighted accuracy on test, with the 95 % interval of a paired bootstrap "
        f"over speakers{same}; n.s.: 0 lies in the interval."
    )
    if any(row.key.variant.endswith(FROZEN) for row in own):
        said.append("(frozen): only heads were trained; compared with CALM, frozen.")
    if any(row.paper for row in rows):
        said += [
            f"Beside the paper's rows of {SIZES[size]} stand those of {lm}{_in_brackets(study.described.get(lm))}."
            for lm in study.models()
            if (size := study.languages.get(lm)) and any(row.key.lm == lm and row.paper for row in own)
        ]
        if any(row.key is None for row in rows):
            said.append("Quoted rows cannot be run here.")
    if any(row["synthetic"] for row in study.rows):
        said.append("Synthetic speech: the paper's figures are of real speech and no yardstick for these.")
    return said


def _in_brackets(words: str | None) -> str:
    return f" ({words})" if words else ""


def _seeds(study: Study, rows: list[_Row]) -> str:
    """Seeds of the trained rows; of rows with other seeds than most, by name."""
    found: dict[tuple, list[str]] = {}
    for row in rows:
        if row.key.lm:
            seeds = {r["seed"] for r in study.rows if Key.of(r) == row.key and r["split"] == "test"}
            found.setdefault(tuple(sorted(seeds)), []).append(row.label)
    order = sorted(found, key=lambda seeds: -len(found[seeds]))
    parts = [", ".join(map(str, seeds)) for seeds in order]
    return "; ".join([parts[0], *(f"{listed(list(dict.fromkeys(found[s])))}: {p}" for s, p in zip(order[1:], parts[1:], strict=True))])


def costs(calp: dict[str, dict], pretrained: dict[str, dict], languages: dict[str, str]) -> Table | None:
    """Table 4: what pretraining takes, ours and the paper's. `languages`: model -> the language model's name in the tables."""
    names = list(dict.fromkeys([*calp, *pretrained]))
    if not names:
        return None
    columns = ["pretraining", "language model", "hours of audio", "its parameters", "CALM's besides", "device", "time"]
    columns += ["of it CALP", "FLOPs"]
    cells = [_cost(name, calp.get(name), pretrained.get(name), languages) for name in names]
    cells += [
        [f"paper: {row.corpora}", row.language_model, row.hours, row.lm_parameters, row.calm_parameters, "8 V100", row.time, None, None]
        for row in paper.COSTS
    ]
    note = (
        "CALP and masked prediction together, by the clock; hours of audio are those of the training split. CALM's "
        "parameters: SpecTran, CALP's projections and the heads of masked prediction, as far as a model has them. The paper's rows are "
        "quoted from its table 4."
    )
    return Table("study-table-4", "Table 4: what pretraining takes", columns, cells, 2, rules={len(names)}, note=note)


def _cost(name: str, calp: dict | None, masked: dict | None, languages: dict[str, str]) -> list:
    steps = [of for of in (calp, masked) if of]
    hours = next((of["hours"] for of in steps if of.get("hours")), None)
    sizes = (masked or {}).get("parameters", {})
    besides = sizes.get("calm_besides_language_model", 0) + projections(calp)
    if not masked:
        besides += (calp.get("parameters") or {}).get("spectran", 0)
    corpora = listed(steps[0].get("corpora", [])) or "–"
    return [
        f"{name}: {corpora}",
        languages.get(name, name),
        f"{hours:.1f}" if hours else None,
        f"{sizes['language_model']:,}" if sizes.get("language_model") else None,
        f"{besides:,}" if besides else None,
        listed(list(dict.fromkeys(of["device"] for of in steps))),
        took(sum(of["seconds"] for of in steps)),
        took(calp["seconds"]) if calp and calp.get("curve", True) else "–",  # a model that CALP does not align has no epochs of it
        flops(of.get("flops") for of in steps),
    ]


def projections(calp: dict | None) -> int:
    """Parameters of CALP's projections, which the multimodal transformer does not keep."""
    return (calp or {}).get("parameters", {}).get("projections", 0)


def flops(counts: Iterable[float | None]) -> str | None:
    """The sum as a power of ten; None where one of them is not known."""
    counts = list(counts)
    return None if None in counts else f"{sum(counts):.1e}"
