"""CALM: contrastive aligned audio-language multirate and multimodal representations of speech.

The names below are the public interface. Each is imported from its module when it is first used, so that `import calm` loads no library.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {  # public name -> its module
    # Models, to be loaded with `from_pretrained`
    "CalmConfig": "calm.models.configuration",
    "CalmModel": "calm.models.multimodal",
    "CalmForContrastivePretraining": "calm.models.modeling",
    "CalmForMaskedPretraining": "calm.models.modeling",
    "CalmForSequenceClassification": "calm.models.modeling",
    # Inputs of the models
    "CalmFeatureExtractor": "calm.inference.processing",
    "CalmProcessor": "calm.inference.processing",
    "LogMel": "calm.audio.logmel",
    "read_audio": "calm.audio.decoding",
    "AudioError": "calm.audio.errors",
    # Predictions by a released model
    "load_classifier": "calm.inference.loading",  # the fastest way: ONNX Runtime or torch
    "Classifier": "calm.inference.classifier",  # what it returns
    "Predictor": "calm.inference.torch_classifier",  # always torch, with the representations before the heads
    "EmotionPipeline": "calm.inference.emotion_pipeline",  # Transformers' pipeline("calm-emotion")
    # Recordings of any length
    "Listener": "calm.inference.recordings",  # cuts a recording to segments of speech, and transcribes them
    "Segment": "calm.inference.recordings",
    "classify_segment": "calm.inference.recordings",
    "over_files": "calm.inference.recordings",
    # Corpora
    "read_corpus": "calm.corpora",
    "CorpusError": "calm.corpora.errors",
    "Corpus": "calm.corpora.utterances",
    "Utterance": "calm.corpora.utterances",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'calm' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
