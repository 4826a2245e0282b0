"""The page's part "Answers" of a corpus: confusion matrix, the clips that went most wrong, and all utterances of the test split."""

from pathlib import Path

import pandas as pd

from pipeline import paths
from pipeline.report import answers, figures, utterance_examples
from pipeline.report.figure_style import picture
from pipeline.report.opening import Headline
from pipeline.report.sounds import Sounds, both_ends
from pipeline.report.table import Table
from pipeline.settings import Settings

TITLES = {  # of the list's columns
    "sound": "hear",
    "id": "utterance",
    "speaker": "speaker",
    "fold": "fold",
    "is": "truth",
    "answer": "answer",
    "probability": "probability",
    "text": "text",
}
MOST_WRONG = 6  # clips that are shown
LISTED = 2000  # utterances at most, of all corpora


def answers_section(headline: Headline | None, settings: Settings, sounds: Sounds, corpora: int, folder: Path) -> dict | None:
    """What the template shows; None where `evaluate` left no predictions of the head. The figure is written to the folder.

    Sound and texts are there if `report.examples` asks for utterances to hear.

    Args:
        sounds: the room for sound of this corpus.
        corpora: that share the page.
    """
    if headline is None:
        return None
    read = (answers.read(headline.corpus, headline.key, seed, headline.threshold) for seed in settings.seeds)
    found = next((one for one in read if one is not None), None)
    if found is None:
        return None
    rows, wrong, listed = described(found, settings, sounds), int(found.table["wrong"].sum()), LISTED // corpora
    return {
        **matrix(found, folder),
        "head": f"{found.key.full_title}, from {found.key.input} (seed {found.seed})",
        "sentence": f"{wrong:,} of {len(found.table):,} answers are wrong" + (" in one class or more." if not found.one_hot else "."),
        "one_hot": found.one_hot,
        "wrong": [row for row in rows if row["wrong"]][:MOST_WRONG],
        "rows": rows[:listed],
        "more": max(0, len(rows) - listed),
        "heard": sum(row["sound"] is not None for row in rows[:listed]),
        "titles": TITLES,
        "columns": [name for name in TITLES if any(row.get(name) not in (None, "") for row in rows)],
    }


def matrix(found: answers.Answers, folder: Path) -> dict:
    """The confusion matrix as a picture and as a table."""
    counts, name = answers.confusion(found), f"{found.corpus}-confusion"
    most = found.table[["labels", "answer"]].map(len).to_numpy().max()
    several = " An utterance with several classes, in truth or answer, counts once for each." if most > 1 else ""
    note = f"Utterances; shaded by the share of their row.{several}"
    cells = [[is_class, *map(str, row)] for is_class, *row in counts.itertuples()]
    return {
        "picture": picture("Truth (rows) and answer (columns)", figures.confusion(counts), name, folder, note),
        "table": Table(name, f"{found.corpus}, test: confusions", ["truth", *counts], cells),
    }


def described(found: answers.Answers, settings: Settings, sounds: Sounds) -> list[dict]:
    """Rows for the page, the most wrong first: id, speaker, is, answer, probability in percent, wrong; text, sound and fold where known."""
    table = found.table.assign(sound=None, text="")
    if settings.report.examples:
        said = texts(found.corpus)
        table["text"] = [said.get(name, "") for name in table["id"]]
        heard = utterance_examples.read_utterances(paths.utterances(found.corpus))
        places = {} if heard is None else {row.id: row for row in heard[["id", "audio", "start", "end"]].itertuples()}
        for number in both_ends(len(table)):
            if place := places.get(table.at[number, "id"]):
                table.at[number, "sound"] = sounds.of(place, settings.features.sample_rate)
    table["is"], table["answer"] = (table[name].map(lambda names: list(names) or [answers.NOTHING]) for name in ("labels", "answer"))
    table["probability"] = (100 * table["probability"].astype(float)).round(1)
    return table.drop(columns="labels").to_dict("records")


def texts(corpus: str) -> dict[str, str]:
    """Text by id, of utterances that have one."""
    file = paths.texts(corpus) / "texts.parquet"
    table = pd.read_parquet(file, columns=["id", "text"]).dropna() if file.exists() else pd.DataFrame({"id": [], "text": []})
    return dict(zip(table["id"], table["text"], strict=True))
