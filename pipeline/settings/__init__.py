"""`params.yaml`, typed and checked: the only place where settings are read. All settings: docs/settings.md."""

from pipeline.settings.base import Name, Positive, Rate, Section, Share, results_only, run_time_fields
from pipeline.settings.corpora import CorpusSettings, Cut, Features, Ingest, Synthetic, Transcribe
from pipeline.settings.execution import Compute, Flows, Report, Tracking
from pipeline.settings.heads import Evaluate, Head, HeadRow, Heads, Modality, Transfer, Tuning
from pipeline.settings.loading import SettingsError, load, load_or_exit
from pipeline.settings.models import Augment, Calp, Model, Optimiser, Pretrain, SpecTranSettings
from pipeline.settings.settings import Settings

__all__ = [
    "Augment",
    "Calp",
    "Compute",
    "CorpusSettings",
    "Cut",
    "Evaluate",
    "Features",
    "Flows",
    "Head",
    "HeadRow",
    "Heads",
    "Ingest",
    "Modality",
    "Model",
    "Name",
    "Optimiser",
    "Positive",
    "Pretrain",
    "Rate",
    "Report",
    "Section",
    "Settings",
    "SettingsError",
    "Share",
    "SpecTranSettings",
    "Synthetic",
    "Tracking",
    "Transcribe",
    "Transfer",
    "Tuning",
    "load",
    "load_or_exit",
    "results_only",
    "run_time_fields",
]
