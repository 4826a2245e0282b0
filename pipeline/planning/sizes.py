"""How much speech the corpora of a recipe hold, before or after they are ingested."""

from dataclasses import dataclass
from typing import NamedTuple

from calm.corpora import read_corpus
from calm.corpora.checking import read_headers
from calm.corpora.folds import folds_of
from calm.corpora.utterances import read_table
from pipeline import paths
from pipeline.settings import Settings

TRAIN = 0.7  # share of the utterances in the training split, where no table says it
CLASSES = 8  # of the labels, where no table says it; their number hardly counts
TOKENS_A_SECOND = 3.25  # of text: 150 words a minute, 1.3 tokens a word


class Published(NamedTuple):
    """Size of a corpus as its publisher or the paper gives it."""

    hours: float
    utterances: int
    train: int | None
    source: str


PUBLISHED = {
    "mosei": Published(65.9, 23_453, 16_326, "Zadeh et al. 2018 (65 h 53 min 36 s), its standard split"),
    "msp_podcast": Published(83, 50_000, None, "version 1.6, the paper's section 5.1; a share of 0.7 in training is assumed"),
    "ravdess": Published(1.5, 1_440, None, "Livingstone and Russo 2018, speech alone; a share of 0.7 in training is assumed"),
    "crema_d": Published(5.3, 7_442, None, "Cao et al. 2014; a share of 0.7 in training is assumed"),
}


@dataclass(frozen=True)
class Size:
    """How much speech a corpus holds."""

    utterances: int
    train: int
    seconds: float  # of all together
    without_text: int
    folds: int  # 0: one split
    source: str

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def mean(self) -> float:
        """Seconds of an utterance."""
        return self.seconds / max(1, self.utterances)


def size(settings: Settings, name: str, spoken: float = 2.2) -> Size:
    """Size of a corpus: from its table, else from its files, its settings or what is published.

    Args:
        spoken: seconds of an utterance of synthetic speech.

    Raises:
        ValueError: nothing tells the size.
    """
    corpus = settings.corpora[name]
    if paths.utterances(name).exists():
        table = read_table(paths.utterances(name), ["split", "duration", "text", "fold"])
        missing = int((table["text"].fillna("").str.strip() == "").sum())
        train = int((table["split"] == "train").sum())
        return Size(len(table), train, float(table["duration"].sum()), missing, len(folds_of(table)), "its table")
    if name in settings.synthetic:
        count = settings.synthetic[name].utterances
        missing = count if corpus.format == "msp_podcast" else 0  # the layout has no transcripts
        return Size(count, round(TRAIN * count), spoken * count, missing, 0, "its settings")
    folds = corpus.folds if isinstance(corpus.folds, int) else 5 if corpus.folds else 0
    if corpus.path.exists():
        rows = read_corpus(corpus.format, corpus.path, **corpus.options).utterances
        headers = read_headers({row.audio for row in rows}, corpus.path.name)
        ends = [row.end if row.end is not None else headers[row.audio].seconds for row in rows]
        seconds = float(sum((end or 0) - (row.start or 0) for row, end in zip(rows, ends, strict=True)))
        train = sum(row.split == "train" for row in rows) or round(TRAIN * len(rows))
        return Size(len(rows), train, seconds, sum(not row.text for row in rows), folds, "its files")
    if corpus.format not in PUBLISHED:
        raise ValueError(
            f"corpora.{name}: {corpus.path} does not exist, and the size of {corpus.format} is not known: get the corpus first"
        )
    known = PUBLISHED[corpus.format]
    train = known.train or round(TRAIN * known.utterances)
    missing = known.utterances if corpus.format == "msp_podcast" else 0
    return Size(known.utterances, train, 3600 * known.hours, missing, folds, known.source)
