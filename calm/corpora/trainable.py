"""Why no head can be trained on a corpus, and what to do; before any long work."""

from collections import Counter, defaultdict

from calm.corpora.errors import CorpusError
from calm.corpora.folds import FEWEST
from calm.corpora.splits import MADE_HERE, who
from calm.corpora.tables import MAY_BE_MEANT
from calm.corpora.utterances import SPLITS, Corpus


def refuse_untrainable(corpus: Corpus, folds: int | str | None) -> None:
    """Raises CorpusError that names all that `untrainable` finds."""
    if found := untrainable(corpus, folds):
        raise CorpusError("; ".join(found))


def unfit(corpus: Corpus) -> list[str]:
    """As `untrainable`, before it is known whether there will be folds: there will be where the corpus has no splits of its own.

    A corpus without any label is fit for pretraining.
    """
    if all(row.labels is None for row in corpus.utterances):
        return renamed(corpus)
    made_here = corpus.checks.get(MADE_HERE) or any(row.fold is not None for row in corpus.utterances)
    return untrainable(corpus, 5 if made_here else None)


def untrainable(corpus: Corpus, folds: int | str | None) -> list[str]:
    """Sentences that say why no head can be trained, and what to do; [] if one can be.

    Args:
        folds: see `calm.corpora.folds.set_folds`; None: one split.
    """
    labelled = [row for row in corpus.utterances if row.labels is not None]
    if not labelled:
        return [*renamed(corpus), "no row has a label: label some rows, or use the corpus for pretraining alone"]
    found = [*renamed(corpus), *_alike(corpus.classes)]
    if len(corpus.classes) < 2 and corpus.one_hot:
        found.append(f"there is one class, {', '.join(corpus.classes)}: add rows of another one")
    speakers = {who(row) for row in labelled}
    fewest = FEWEST if folds is not None else len(SPLITS)
    if len(speakers) < fewest:
        found.append(
            f"speakers with labels: {len(speakers)} ({', '.join(sorted(speakers))}), and {fewest} are needed, to train, to validate and to "
            "test: add speakers, or name those that are there, by a column or an option 'speaker'"
        )
    return found + (_empty(corpus) if folds is None else _few(corpus))


def renamed(corpus: Corpus) -> list[str]:
    """Columns of a table that are not read, where they look like one that is and is absent."""
    absent = {"labels": all(row.labels is None for row in corpus.utterances), "speaker": all(not row.speaker for row in corpus.utterances)}
    return [
        f"the table has a column '{other}' and none called '{name}': rename it"
        for other, name in corpus.checks.get(MAY_BE_MEANT, {}).items()
        if absent.get(name)
    ]


def _alike(classes: tuple[str, ...]) -> list[str]:
    """Classes that differ in case or spaces alone."""
    spellings = defaultdict(list)
    for name in classes:
        spellings["".join(name.casefold().split())].append(name)
    several = [names for names in spellings.values() if len(names) > 1]
    return [f"{' and '.join(map(repr, names))} are two classes by their spelling alone: write them alike" for names in several]


def _empty(corpus: Corpus) -> list[str]:
    """Splits without rows of a class."""
    counts = {split: Counter(name for row in corpus.utterances if row.split == split for name in row.labels or ()) for split in SPLITS}
    return [
        f"{split} has no row of {', '.join(missing)}: move rows of it there by a column 'split', leave the class out, or set folds: 5"
        for split, count in counts.items()
        if (missing := [name for name in corpus.classes if not count[name]])
    ]


def _few(corpus: Corpus) -> list[str]:
    """Classes of fewer speakers than must train, validate and test each class."""
    speakers = defaultdict(set)
    for row in corpus.utterances:
        for name in row.labels or ():
            speakers[name].add(who(row))
    few = [f"{name} ({len(speakers[name])})" for name in corpus.classes if len(speakers[name]) < FEWEST]
    return [f"fewer than {FEWEST} speakers have rows of {', '.join(few)}: add speakers, or leave the class out"] if few else []
