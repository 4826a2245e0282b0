"""The paper's tables: their rows, the variants that fill them, and the published figures. Imports nothing heavy.

A row of a table is one entry of TABLES. It names the variant that a recipe runs for it, with the variant's title and group, and holds the
figures that the paper prints. What other modules need of variants and tables is derived from TABLES.

Figures are in percent, as printed; "F1" and "accuracy" follow the formulas of the paper's appendix B. Left out is the column "WA relative
improvement" of table 1, which follows from the others.
"""

from collections.abc import Collection
from typing import NamedTuple

MODALITIES = {"audio": "audio", "text": "text", "both": "audio + text"}  # titles of the inputs
FROZEN = "_frozen"  # suffix of variants whose heads are trained on frozen representations
KNOWN = "_known"  # suffix of variants that know the tested speakers by recordings without labels
GROUP_ORDER = ("baselines", "peers", "ablations", "calm", "known", "labels", "patches")  # result tables separate the groups by rules
SEPARATE_GROUPS = ("labels", "patches")  # left out of overviews that have anything else to show
METRICS = {"mosei": ("weighted_accuracy", "accuracy"), "msp_podcast": ("f1_paper", "weighted_accuracy", "accuracy")}  # printed columns
FORMATS = tuple(METRICS)  # formats of the corpora that have published figures


class LanguageModel(NamedTuple):
    """A language model of the paper, and its sizes as table 4 prints them."""

    title: str
    parameters: str
    calm_parameters: str  # besides those of the language model


class Cost(NamedTuple):
    """A row of table 4: what pretraining takes."""

    corpora: str
    hours: str
    size: str  # key of LANGUAGE_MODELS
    time: str

    @property
    def language_model(self) -> LanguageModel:
        """The language model that the row is about."""
        return LANGUAGE_MODELS[self.size]


class Variant(NamedTuple):
    """A system of the tables. `name` is the `variant` of `metrics.json`, which a recipe names in `heads.<name>.rows`."""

    name: str
    title: str
    group: str


class PublishedRow(NamedTuple):
    """Figures that the paper prints for one row and language model: metric -> percent. Empty cells are absent."""

    validation: dict[str, float]
    test: dict[str, float]


ANY_INPUT = ("both", "audio", "text")
AUDIO = ("audio",)
Figures = dict[str, tuple[float | None, ...]]  # "tiny", "base" or "" (no language model) -> validation and test of each of METRICS


class TableRow(NamedTuple):
    """A row of a table, for every language model that ran it."""

    variant: Variant | None  # None: only quoted, as nothing here can run it
    label: str = ""  # empty: the variant's title; {patch}: CALM's own patch
    inputs: tuple[str, ...] = ANY_INPUT  # the row shows the first of these that was run; published figures are for the first one
    mosei: Figures = {}
    msp_podcast: Figures = {}
    input_words: str = ""  # input of a quoted row that is none of MODALITIES

    @property
    def title(self) -> str:
        """What the row is called in its table."""
        return self.label or self.variant.title

    def published(self, corpus_format: str, size: str) -> PublishedRow | None:
        """The paper's figures for a corpus of this format and a language model of this size."""
        values = getattr(self, corpus_format).get(size) if corpus_format in FORMATS else None
        if values is None:
            return None
        validation, test = (dict(zip(METRICS[corpus_format], values[start::2], strict=True)) for start in (0, 1))
        return PublishedRow(*({name: value for name, value in split.items() if value is not None} for split in (validation, test)))


class PaperTable(NamedTuple):
    """A table of the paper, which has one number for CMU-MOSEI and one for MSP-Podcast."""

    mosei: int
    msp_podcast: int
    title: str
    rows: tuple[TableRow, ...]

    def number(self, corpus_format: str) -> int:
        """Number of the table for a corpus of this format; corpora of other formats take MOSEI's."""
        return self.msp_podcast if corpus_format == "msp_podcast" else self.mosei


LANGUAGE_MODELS = {"tiny": LanguageModel("BERT-tiny", "4.5M", "5M"), "base": LanguageModel("BERT-base", "125M", "19M")}
COSTS = (  # table 4, on 8 Tesla V100 (section 6.2)
    Cost("MOSEI only", "65 hr.", "tiny", "40 min."),
    Cost("MOSEI only", "65 hr.", "base", "2.5 hr."),
    Cost("CMU-MOSEI & MSP-Podcasts", "148 hr.", "base", "5.5 hr."),
)

CALM = Variant("calm", "CALM", "calm")
CALM_VARIANTS = (CALM.name, CALM.name + FROZEN)
WITHOUT_TEXT_TERM = Variant("no_calp_text", "CALM without CALP's text", "ablations")

# Rows that stand in several tables. MOSEI: validation and test of WA, then of accuracy. MSP-Podcast: of F1, WA, accuracy.
CALM_MOSEI = {"tiny": (71.0, 72.1, 80.6, 80.9), "base": (72.4, 73.6, 81.4, 81.8)}
CALM_MSP = {"tiny": (43.3, 48.3, 70.1, 75.1, 85.9, 85.3), "base": (44.7, 49.4, 71.7, 74.2, 86.0, 85.1)}
CALM_FROM_AUDIO = TableRow(
    CALM,
    inputs=AUDIO,
    mosei={"tiny": (67.2, 66.0, 79.1, 79.0), "base": (66.7, 66.1, 79.1, 79.2)},
    msp_podcast={"tiny": (39.1, 45.8, 69.2, 75.1, 84.3, 85.1), "base": (39.1, 46.0, 69.4, 75.1, 84.3, 79.8)},
)
NO_TEXT_TERM_FROM_AUDIO = TableRow(
    WITHOUT_TEXT_TERM,
    inputs=AUDIO,
    mosei={"tiny": (65.9, 64.7, 78.7, 78.8), "base": (66.0, 64.7, 78.8, 78.6)},
    msp_podcast={"tiny": (38.8, 44.1, 69.1, 72.1, 87.5, 87.5), "base": (38.8, 37.3, 69.1, 71.2, 87.5, 87.5)},
)


def _labels(percent: int, mosei: tuple[float, ...], msp_podcast: tuple[float, ...]) -> TableRow:
    variant = Variant(f"labels_{percent}", f"CALM, {percent} % of the labels", "labels")
    return TableRow(variant, f"{percent} % of the labels", mosei={"tiny": mosei}, msp_podcast={"tiny": msp_podcast})


def _quoted(label: str, inputs: tuple[str, ...], input_words: str = "", **figures: tuple[float | None, ...]) -> TableRow:
    return TableRow(None, label, inputs, input_words=input_words, **{corpus_format: {"": row} for corpus_format, row in figures.items()})


TABLES = (
    PaperTable(
        1,
        3,
        "beside other systems",
        (
            _quoted("M-ELMo (Tseng et al.)", ("both",), mosei=(None, 66.2, None, None)),
            _quoted("MM-BERT small", ("both",), mosei=(None, 66.6, None, None)),
            _quoted("Transformer (Delbrouck et al.)", ("both",), mosei=(65.5, 66.5, 81.2, 81.3)),
            _quoted("Transformer (Khare et al.)", ("both",), "audio + text + video", mosei=(None, 67.4, None, None)),
            _quoted("Lotfian and Busso (2018)", AUDIO, msp_podcast=(None, 26.3, None, None, None, None)),
            _quoted(
                "Human performance, estimated by Lotfian and Busso", ("none",), "all", msp_podcast=(None, 38.9, None, None, None, None)
            ),
            _quoted(
                "Listener adaptive models (Ando et al.)",
                AUDIO,
                "audio + augmentation",
                msp_podcast=(None, None, None, 59.7, None, 48.6),
            ),
            TableRow(Variant("chance", "chance", "baselines"), inputs=("none",), mosei={"": (None, 50.0, None, 77.5)}),
            TableRow(Variant("egemaps", "eGeMAPS", "baselines"), inputs=AUDIO),
            TableRow(Variant("logmel_functionals", "log-mel functionals", "baselines"), inputs=AUDIO),
            TableRow(
                Variant("bert_only", "BERT, linear audio input", "peers"),
                mosei={"tiny": (65.1, 65.0, None, None), "base": (65.4, 65.3, None, None)},
            ),
            TableRow(Variant("mm_bert_cnn", "BERT, CNN audio input", "peers")),
            TableRow(Variant("joint_transformer", "joint transformer", "peers")),
            TableRow(CALM, mosei=CALM_MOSEI, msp_podcast=CALM_MSP),
        ),
    ),
    PaperTable(
        2,
        2,
        "ablation of pretraining",
        (
            TableRow(
                Variant("no_pretraining", "no pretraining", "ablations"),
                mosei={"tiny": (70.0, 70.8, 80.0, 80.1), "base": (70.9, 71.7, 80.3, 80.4)},
            ),
            TableRow(
                Variant("mm_only", "masked pretraining only", "ablations"),
                mosei={"tiny": (70.2, 71.1, 80.1, 80.3), "base": (71.2, 72.3, 80.6, 81.0)},
            ),
            TableRow(Variant("calp_only", "CALP only", "ablations")),
            TableRow(Variant("calm_in_domain", "CALM, pretrained in domain only", "calm")),
            TableRow(CALM, mosei=CALM_MOSEI),
            TableRow(
                Variant("calm_ood", "CALM + out of domain", "calm"),
                mosei={"tiny": (71.3, 72.2, 81.0, 81.2), "base": (72.5, 73.6, 81.5, 81.9)},
            ),
        ),
    ),
    PaperTable(5, 6, "CALP with and without its text term, audio alone", (NO_TEXT_TERM_FROM_AUDIO, CALM_FROM_AUDIO)),
    PaperTable(
        7,
        8,
        "inputs",
        (
            NO_TEXT_TERM_FROM_AUDIO,
            CALM_FROM_AUDIO,
            TableRow(
                CALM,
                inputs=("text",),
                mosei={"tiny": (70.4, 71.1, 80.2, 80.8), "base": (72.0, 72.5, 81.2, 81.3)},
                msp_podcast={"tiny": (41.3, 46.0, 69.4, 75.2, 84.5, 85.1), "base": (43.1, 48.5, 70.2, 73.8, 84.5, 84.4)},
            ),
            TableRow(CALM, inputs=("both",), mosei=CALM_MOSEI, msp_podcast=CALM_MSP),
        ),
    ),
    PaperTable(
        9,
        10,
        "shares of the labels",
        (
            _labels(20, (69.1, 70.8, 79.1, 79.1), (42.3, 47.8, 69.6, 73.1, 83.7, 84.7)),
            _labels(40, (69.8, 71.3, 79.5, 79.6), (42.9, 48.2, 69.8, 73.9, 83.9, 84.4)),
            _labels(60, (69.9, 71.5, 80.3, 80.2), (42.9, 48.3, 69.8, 73.3, 84.6, 85.4)),
            _labels(80, (70.8, 71.9, 80.5, 80.5), (43.1, 48.4, 69.8, 74.2, 84.3, 85.2)),
            TableRow(CALM, "all labels", mosei={"tiny": CALM_MOSEI["tiny"]}, msp_podcast={"tiny": CALM_MSP["tiny"]}),
        ),
    ),
    PaperTable(
        11,
        12,
        "shapes of patches",
        (
            TableRow(
                Variant("patch_2x64", "CALM, patches 2 x 64", "patches"),
                "patch 2 x 64, stride 1 x 64",
                mosei={"tiny": (71.0, 71.9, 80.7, 80.8)},
                msp_podcast={"tiny": (43.6, 49.1, 70.1, 73.7, 84.7, 85.5)},
            ),
            TableRow(
                Variant("patch_20x8", "CALM, patches 20 x 8", "patches"),
                "patch 20 x 8, stride 10 x 4",
                mosei={"tiny": (70.9, 71.7, 80.5, 80.7)},
                msp_podcast={"tiny": (43.3, 48.8, 70.2, 74.1, 86.2, 85.3)},
            ),
            TableRow(CALM, "patch {patch}", mosei={"tiny": CALM_MOSEI["tiny"]}, msp_podcast={"tiny": CALM_MSP["tiny"]}),
        ),
    ),
)

BESIDE_THE_PAPER = (
    Variant("encoder_functionals", "functionals of the encoder's states", "baselines"),
    Variant("egemaps_known", "eGeMAPS, known speakers", "baselines"),
    Variant("logmel_functionals_known", "log-mel functionals, known speakers", "baselines"),
    Variant("encoder_functionals_known", "functionals of the encoder's states, known speakers", "baselines"),
    Variant("calm_known", "CALM, known speakers", "known"),
)
_variants = dict.fromkeys([*(row.variant for table in TABLES for row in table.rows if row.variant), *BESIDE_THE_PAPER])
GROUPS = {group: {variant.name: variant.title for variant in _variants if variant.group == group} for group in GROUP_ORDER}
BASELINES = GROUPS["baselines"]
VARIANTS = {  # name -> title of every variant, frozen ones included, in the order of all result tables
    name + suffix: title + (", frozen" if suffix else "")
    for group, titles in GROUPS.items()
    for name, title in titles.items()
    for suffix in (("",) if group == "baselines" else ("", FROZEN))
}


def label_shares() -> dict[str, int]:
    """Variants of tables 9 and 10 -> percent of the labels that they see; CALM sees 100."""
    shares = {name: int(name.removeprefix("labels_")) for name in GROUPS["labels"]}
    return shares | {CALM.name: 100}


def tables_of(variant: str, modality: str, inputs: Collection[str]) -> str:
    """Numbers of the tables that a result stands in, such as "1 3 2"; "" for none.

    Args:
        inputs: every modality that the variant was run with. A row that takes any input shows the first one of its own that was run.
    """
    name = variant.removesuffix(FROZEN)
    tables = [
        table
        for table in TABLES
        if any(
            row.variant and row.variant.name == name and modality == next((item for item in row.inputs if item in inputs), None)
            for row in table.rows
        )
    ]
    return " ".join(dict.fromkeys(str(number) for table in tables for number in (table.mosei, table.msp_podcast)))
