"""From settings to the objects of `calm`: configurations, examples and schedules."""

import os

import numpy as np
import torch
import transformers
from transformers import BertModel

from calm.corpora.utterances import read_table
from calm.data.augmentation import Augmentation
from calm.data.examples import Examples, load_examples
from calm.data.ragged import Ragged
from calm.models.configuration import CalmConfig
from calm.training.forward import Collator, step_flops
from calm.training.trainer import Schedule
from pipeline import paths
from pipeline.settings import Augment, Head, Optimiser
from pipeline.state import Visible

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def device() -> torch.device:
    """The first GPU where there is one, or under torchrun this process's own; else the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def config(settings: Visible, language_model: BertModel, corpora: list[str], channels: int, **options) -> CalmConfig:
    """Configuration of a CALM on a language model.

    Args:
        corpora: that it is trained on.
        channels: of the acoustic frames.
        options: more of `CalmConfig`'s.
    """
    spectran = settings.spectran
    return CalmConfig(
        text_config=language_model.config.to_dict(),
        block_frames=spectran.block,
        block_hop=spectran.hop,
        mels=channels,
        patch=spectran.patch,
        stride=spectran.stride,
        spectran_layers=spectran.layers,
        spectran_width=spectran.width,
        spectran_pooling=spectran.pooling,
        spectran_dropout=spectran.dropout,
        synthetic=synthetic(settings, corpora),
        **options,
    )


def synthetic(settings: Visible, corpora: list[str]) -> bool:
    """Whether any of the corpora is synthetic speech."""
    return any(settings.corpora[name].synthetic for name in corpora)


def examples(settings: Visible, corpora: list[str]) -> Examples:
    """Utterances and log-mel of the named corpora."""
    files = {name: (paths.utterances(name), paths.texts(name), paths.features(name)) for name in corpora}
    return load_examples(files, settings.spectran.block, settings.spectran.hop, settings.spectran.normalise)


def channels(examples: Examples) -> int:
    """Channels of the acoustic frames."""
    return examples.logmels.frames.values.shape[-1]


def encoded(model: str, examples: Examples, corpora: list[str]) -> Ragged:
    """Blocks that `embed` encoded, in the order of the examples."""
    ids = examples.table["id"]
    tables = [Ragged.read(paths.encoded(model) / f"{name}.parquet", ids[examples.table["corpus"] == name]) for name in corpora]
    return Ragged.concatenate(tables)


def schedule(section: Optimiser, **changes) -> Schedule:
    """Schedule of a section of the settings."""
    shared = {name: getattr(section, name) for name in Optimiser.model_fields}
    if isinstance(section, Head):
        shared |= {"body_rate": section.body_rate, "average": section.average}
    return Schedule(**shared | changes)


def augmentation(section: Augment) -> Augmentation:
    """What training changes of the log-mel."""
    return Augmentation(**section.model_dump())


def hours(corpora: list[str], split: str = "train") -> float:
    """Hours of audio in a split of the corpora."""
    tables = [read_table(paths.utterances(name)) for name in corpora]
    return sum(table.loc[table["split"] == split, "duration"].sum() for table in tables) / 3600


def flops(model: torch.nn.Module, collator: Collator, rows: np.ndarray, section: Optimiser) -> float:
    """Floating-point operations of a whole training, from those of one step on rows spread over all."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(section.batch, len(rows))).round().astype(int))]
    return step_flops(model, collator(chosen)) / len(chosen) * len(rows) * section.epochs
