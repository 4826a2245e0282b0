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
    "is": "is",
    "answer": "answered",
    "probability": "probability",
    "text": "text",
}
MOST_WRONG = 6  # clips that are shown
LISTED = 3000  # utterances at most


def answers_section(headline: Headline | None, decision: str, settings: Settings, sounds: Sounds, folder: Path) -> dict | None:
    """What the template shows; None where `evaluate` left no predictions of the head. The figure is written to the folder.

    Sound and texts are there if `report.examples` asks for utterances to hear.
    """
    if headline is None:
        return None
    corpus = headline.corpus
    read = (answers.read(corpus, headline.key, seed, decision) for seed in settings.seeds)
    found = next((one for one in read if one is not None), None)
    if found is None:
        return None
    rows = described(found, settings, sounds)
    counts = answers.confusion(found)
    table = Table(
        f"{corpus}-confusion",
        f"{corpus}, test: confusions",
        ["is", *counts],
        [[name, *map(str, row)] for name, *row in counts.itertuples()],
    )
    wrong = int(found.table["wrong"].sum())
    return {
        "head": f"{found.key.full_title}, from {found.key.input} (seed {found.seed})",
        "sentence": f"{wrong:,} of {len(found.table):,} answers are wrong" + (" in one class or more." if not found.one_hot else "."),
        "picture": picture("Is (rows), and was answered (columns)", figures.confusion(counts), f"{corpus}-confusion", folder, _note(found)),
        "table": table,
        "wrong": [row for row in rows if row["wrong"]][:MOST_WRONG],
        "rows": rows[:LISTED],
        "columns": [name for name in TITLES if any(row.get(name) not in (None, "") for row in rows)],
        "titles": TITLES,
        "one_hot": found.one_hot,
        "heard": sum(row["sound"] is not None for row in rows[:LISTED]),
        "more": max(0, len(rows) - LISTED),
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


def _note(found: answers.Answers) -> str:
    """What the shades of the matrix mean."""
    several = "" if found.one_hot else " An utterance with several classes counts once for each."
    return f"Utterances; shaded by the share of their row.{several}"
