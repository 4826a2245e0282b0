"""The conditions of the tables' rows: what heads stand on, what is trained, and what goes in."""

from dataclasses import dataclass

from calm.data.normalisation import OF_SPEAKERS
from pipeline.settings import Head, HeadRow, Heads


@dataclass(frozen=True)
class Condition:
    """One row of the tables, what is trained, and what goes in."""

    name: str  # the variant's name in the tables
    row: HeadRow
    tuning: str  # "frozen" or "unfrozen"
    modality: str  # "audio", "text" or "both"

    @property
    def random(self) -> bool:
        """Whether the front end is drawn anew by every seed."""
        return self.row.network != "calm" or self.row.start == "language_model"

    @property
    def front_end(self) -> str:
        """What makes the acoustic tokens of the network."""
        from calm.models.front_ends import FRONT_ENDS  # loads PyTorch, which the settings' check does without

        return self.row.network if self.row.network in FRONT_ENDS else "spectran"

    def pooling(self, head: Head) -> str:
        """What the heads see."""
        return self.row.pooling or head.pooling

    def functionals(self, head: Head) -> str | None:
        """Kind of functionals of the frames that the heads see; None without audio, and for networks for comparison."""
        sees = self.modality != "text" and self.row.network == "calm" and self.pooling(head) != "frames"
        return head.functionals if sees else None

    def config(self, head: Head) -> dict[str, object]:
        """Arguments of `CalmConfig`: of the network's input, and of its heads."""
        return {
            "modality": self.modality,
            "front_end": self.front_end,
            "head_hidden": head.hidden,
            "head_dropout": head.dropout,
            "head_loss": head.loss,
            "head_smoothing": head.label_smoothing,
            "head_pooling": self.pooling(head),
            "head_frames_width": head.frames_width,
            "head_members": head.members,
            "head_functionals": self.functionals(head),
            "head_standardise": head.standardise,
        }

    def title(self, *seeds: int) -> str:
        """Name of a run."""
        return f"{self.name}, {self.modality}, seed {' '.join(map(str, seeds))}"

    def details(self, head: Head) -> dict[str, object]:
        """Parameters of its runs in MLflow, besides those by which it is told from others."""
        frozen = self.tuning == "frozen"
        return {
            "network": self.row.network,
            "start": self.row.start,
            "labels": self.row.labels,
            "pooling": self.pooling(head),
            "epochs": head.frozen_epochs if frozen else head.epochs,
            "learning_rate": head.frozen_learning_rate if frozen else head.learning_rate,
        }


def conditions(rows: dict[str, HeadRow], head: Head) -> list[Condition]:
    """Every combination that the settings ask for, those of frozen heads first."""
    combinations = [
        Condition(name if tuning == "unfrozen" else f"{name}_frozen", row, tuning, modality)
        for name, row in rows.items()
        for tuning, modality in row.trained_with(head)
    ]
    return sorted(combinations, key=lambda condition: condition.tuning != "frozen")


def by_training(every: list[Condition], normalise: str) -> list[list[Condition]]:
    """Conditions with the same training in one list: the first is trained, and its heads answer for the others too.

    `tested_speaker` changes the frames of the test split alone, so its training is that of `corpus`.

    Args:
        normalise: how frames are normalised where the row does not say it.
    """
    groups: dict[tuple, list[Condition]] = {}
    for condition in every:
        how = (condition.row.normalise or normalise).replace("tested_speaker", "corpus")
        row = condition.row.model_dump_json(exclude={"normalise", "modalities", "tuning"})
        groups.setdefault((row, how, condition.tuning, condition.modality), []).append(condition)
    return list(groups.values())


def released(heads: Heads, head: Head) -> Condition:
    """The condition whose model is kept for use: CALM, for new speakers, unfrozen and of both modalities if there is one."""
    candidates = [condition for condition in conditions(heads.rows, head) if condition.row.network == "calm"]

    def rank(each: Condition) -> tuple[bool, ...]:
        return each.name.startswith("calm"), each.row.normalise not in OF_SPEAKERS, each.tuning == "unfrozen", each.modality == "both"

    return max(candidates, key=rank)
