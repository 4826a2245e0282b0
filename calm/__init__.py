"""CALM: contrastive aligned audio-language multirate and multimodal representations of speech."""

__version__ = "0.1.0"
