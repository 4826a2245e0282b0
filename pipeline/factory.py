"""From settings to the objects of `calm`: configurations, examples and schedules."""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from calm import devices
from calm.audio.features import ENCODER
from calm.audio.speech_encoders import SpeechEncoder
from calm.corpora.utterances import read_table
from calm.data.augmentation import Augmentation
from calm.data.examples import Examples, load_examples
from calm.data.ragged import Ragged
from calm.models.configuration import CalmConfig
from calm.models.encoder_blocks import through
from calm.models.losses import ContrastiveSettings
from calm.storage import read_json
from calm.training.forward import Collator, step_flops
from calm.training.schedule import Schedule
from pipeline import paths
from pipeline.settings import Augment, Calp, Head, Optimiser, SpecTranSettings
from pipeline.state import Visible

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def device() -> torch.device:
    """The device of this process."""
    return torch.device(devices.first())


def config(settings: Visible, language_model: PreTrainedModel, corpora: list[str], channels: int, **options) -> CalmConfig:
    """Configuration of a model of CALM on a language model.

    Args:
        corpora: on which it is trained.
        channels: of the acoustic frames.
        options: other arguments of `CalmConfig`.
    """
    spectran = settings.spectran
    if "averaged_layers" not in options:
        options["averaged_layers"] = averaged_layers(spectran, corpora[0])
    return CalmConfig(
        text_config=language_model.config.to_dict(),
        block_frames=spectran.block,
        block_hop=spectran.hop,
        channels=channels,
        patch=spectran.patch,
        stride=spectran.stride,
        spectran_layers=spectran.layers,
        spectran_width=spectran.width,
        spectran_pooling=spectran.pooling,
        spectran_beside=spectran.beside,
        spectran_dropout=spectran.dropout,
        synthetic=settings.is_synthetic(corpora),
        **options,
    )


def averaged_layers(spectran: SpecTranSettings, corpus: str) -> int:
    """How many layers of a speech encoder SpecTran averages; 1 if it does not."""
    if spectran.encoder_layers == "side_by_side" or spectran.frames != ENCODER:
        return 1
    return len(read_json(paths.frames(corpus, ENCODER) / "stats.json")["layers"])


def contrastive(section: Calp) -> ContrastiveSettings:
    """How equation 2 is computed."""
    return ContrastiveSettings(
        alpha=section.alpha,
        temperature=section.temperature,
        learn_temperature=section.learn_temperature,
        keep_positive=section.keep_positive,
        symmetric=section.symmetric,
        ignore_same_text=section.ignore_same_text,
        audio_negatives=section.audio_negatives,
        train_beside=section.train_beside,
        chunk=section.chunk,
    )


def examples(
    settings: Visible,
    corpora: list[str],
    fold: int = 0,
    copies: bool = False,
    encoder: SpeechEncoder | None = None,
    work: Path | None = None,
    normalise: str | None = None,
) -> Examples:
    """Utterances and acoustic frames of the named corpora, with the splits and the normalisation of a fold (0: those of the tables).

    Args:
        copies: whether to read the copies at other speeds too.
        encoder: that frames come from, computed anew from the stored states of its first layer; None: they are as stored.
        work: see `load_examples`.
        normalise: in place of `spectran.normalise`.
    """
    files = {name: (paths.utterances(name), paths.texts(name), paths.frames(name, settings.spectran.frames)) for name in corpora}
    section = settings.spectran
    how = section.block, section.hop, normalise or section.normalise
    return load_examples(files, *how, fold, copies, through(encoder, device()), work)


def encoded(model: str, examples: Examples, corpora: list[str], work: Path | None = None) -> Ragged:
    """Blocks that the stage `embed` encoded, in the order of the examples; `work`: see `load_examples`."""
    ids = examples.table["id"]
    return Ragged.read([(paths.encoded(model) / f"{name}.parquet", ids[examples.table["corpus"] == name]) for name in corpora], work)


def schedule(section: Optimiser, **changes) -> Schedule:
    """Training schedule of a section of the settings; `changes` replace some of its fields."""
    shared = {name: getattr(section, name) for name in Optimiser.model_fields}
    if isinstance(section, Head):
        shared |= {"average": section.average}
    return Schedule(**shared | changes)


def augmentation(section: Augment) -> Augmentation:
    """How training changes the acoustic frames; the settings name the channels of log-mel."""
    names = {"mel_masks": "channel_masks", "mel_mask_bands": "channel_mask_width"}
    return Augmentation(**{names.get(name, name): value for name, value in section.model_dump().items()})


def hours(corpora: list[str], split: str = "train") -> float:
    """Hours of audio in a split of the corpora."""
    tables = [read_table(paths.utterances(name)) for name in corpora]
    return sum(table.loc[table["split"] == split, "duration"].sum() for table in tables) / 3600


def flops(model: torch.nn.Module, collator: Collator, rows: np.ndarray, section: Optimiser) -> float:
    """Floating-point operations of a whole training, estimated from one step on evenly spread rows."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(section.batch, len(rows))).round().astype(int))]
    return step_flops(model, collator(chosen)) / len(chosen) * len(rows) * section.epochs
