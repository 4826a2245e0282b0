"""Results of the study on one corpus, and how its rows are found. Imports nothing heavy."""

from dataclasses import dataclass, field
from functools import cache

from pipeline.paper import CALM, CALM_VARIANTS, FROZEN, GROUPS, LANGUAGE_MODELS, VARIANTS, TableRow
from pipeline.report.result_tables import WEIGHTED_ACCURACY, Key, scores

STUDY_THRESHOLDS = ("tuned", "0.5")  # kinds of thresholds that have a version of every table


@dataclass
class Study:
    """Rows and comparisons of one corpus."""

    corpus: str
    corpus_format: str  # "mosei" and "msp_podcast" have published figures
    rows: list[dict]  # of `metrics.json`
    comparisons: list[dict]  # of `comparisons.json`
    sizes: dict[str, str | None]  # language model -> "tiny", "base" or None: whose rows of the paper it fills
    model_titles: dict[str, str] = field(default_factory=dict)  # language model -> its title
    patch: str = ""  # CALM's own, in words
    spread: str = ""  # what differs between seeds, see `wording.spread`

    def __post_init__(self):
        self.rows = [row for row in self.rows if row["corpus"] == self.corpus]
        self.scores = cache(lambda split, threshold: scores(self.rows, corpus=self.corpus, split=split, threshold=threshold))

    @property
    def over_seeds(self) -> str:
        """How numbers of several seeds are shown, for notes."""
        return f"mean ± standard deviation over seeds{f' ({self.spread})' if self.spread else ''}"

    @property
    def has_more_than_calm(self) -> bool:
        """Whether a variant was tested other than CALM, of known speakers or not, CALM without pretraining and the baselines."""
        names = (CALM.name, "no_pretraining", *GROUPS["known"])
        plain = {name + suffix for name in names for suffix in ("", FROZEN)} | set(GROUPS["baselines"])
        more = any(row["variant"] in VARIANTS and row["variant"] not in plain for row in self.rows)
        return more and bool(self.thresholds)

    @property
    def knows_speakers(self) -> bool:
        """Whether known speakers were tested."""
        return any(Key.from_row(row).variant.removesuffix(FROZEN) in GROUPS["known"] for row in self.rows) and bool(self.thresholds)

    @property
    def synthetic(self) -> bool:
        """Whether any of the speech is synthetic."""
        return any(row["synthetic"] for row in self.rows)

    @property
    def thresholds(self) -> list[str]:
        """Those of STUDY_THRESHOLDS at which something was tested."""
        return [threshold for threshold in STUDY_THRESHOLDS if self.keys(threshold)]

    def models(self) -> list[str]:
        """Language models of the rows: first those that stand for BERT-tiny, then for BERT-base, then others."""
        names = {Key.from_row(row).lm for row in self.rows} - {""}
        order = [*LANGUAGE_MODELS, None]
        return sorted(names, key=lambda lm: (order.index(self.sizes.get(lm)), lm))

    def keys(self, threshold: str) -> list[Key]:
        """Lines that have a test figure."""
        return [key for key, line in self.scores("test", threshold).items() if WEIGHTED_ACCURACY in line]

    def find(self, row: TableRow, lm: str, threshold: str) -> Key | None:
        """Key of a row of the paper: the first of its inputs that was run, unfrozen where there is such a run."""
        return self.first([row.variant.name], lm, row.inputs, threshold)

    def first(self, variants: list[str], lm: str, modalities: tuple[str, ...], threshold: str) -> Key | None:
        """The first key that was tested: by modality, then variant, unfrozen before frozen."""
        keys = self.keys(threshold)
        wanted = [Key(name + suffix, lm, item) for item in modalities for name in variants for suffix in ("", FROZEN)]
        return next((key for key in wanted if key in keys), None)

    def comparison(self, key: Key, threshold: str) -> dict | None:
        """CALM less a line in weighted accuracy, both from the same input; CALM itself is compared with CALM from both inputs.

        None where `comparisons.json` does not hold exactly one such row.
        """
        modality = "both" if key.variant in CALM_VARIANTS else key.modality
        calm = CALM.name + (FROZEN if key.variant.endswith(FROZEN) else "")
        matches = [
            row
            for row in self.comparisons
            if (row["threshold"], row["metric"], Key.from_row(row["b"])) == (threshold, WEIGHTED_ACCURACY, key)
            and (row["a"]["variant"], row["a"]["modality"]) == (calm, modality)
            and key.lm in ("", row["a"]["lm"])
        ]
        return matches[0] if len(matches) == 1 else None
