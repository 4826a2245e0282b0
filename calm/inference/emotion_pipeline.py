"""The Transformers task `calm-emotion`: `pipeline("calm-emotion", model=folder)` after this module is imported."""

from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from calm.audio.decoding import read_audio
from calm.inference.classifier import probabilities
from calm.inference.torch_classifier import Predictor

TASK = "calm-emotion"


class EmotionPipeline(Pipeline):
    """Scores of every class for audio, text or both, most likely first: `[{"label": "happy", "score": 0.8}, ...]`.

    A call takes one of these, or a list of them (scored in batches of `batch_size`):

    - a path or the bytes of an audio file, of any rate, channel count and format;
    - samples (samples,), with `sampling_rate` given beside them;
    - a dictionary with `audio` (any of the above) or `path`, or `array` (or `raw`) and `sampling_rate`, and `text`; either may be missing.

    `top_k` keeps the likeliest so many. Raises ValueError (AudioError) where an input cannot be used.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, sampling_rate: int | None = None, top_k: int | None = None):
        before = {} if sampling_rate is None else {"sampling_rate": sampling_rate}
        return before, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, given, sampling_rate: int | None = None) -> dict[str, list]:
        """Log-mel frames (None: no audio) and text of one input, a list of one each, so that batches may have any lengths."""
        given = dict(given) if isinstance(given, dict) else {"audio": given}
        audio = next((given[name] for name in ("audio", "array", "raw", "path") if given.get(name) is not None), None)
        if audio is None and given.get("text") is None:
            raise ValueError(
                f"an input of {TASK} has neither audio nor text: give a path, bytes, samples, or a dictionary with one of them"
            )
        if isinstance(audio, dict):  # as `datasets` has it
            return self.preprocess({**audio, "text": given.get("text")}, sampling_rate)
        frames = None if audio is None else self._frames(audio, given.get("sampling_rate", sampling_rate))
        return {"frames": [frames], "text": [given.get("text")]}

    def _frames(self, audio, sampling_rate: int | None) -> np.ndarray:
        extractor = self.processor.feature_extractor
        if isinstance(audio, bytes):
            with NamedTemporaryFile() as file:
                file.write(audio)
                file.flush()
                audio, sampling_rate = read_audio(file.name, sample_rate=extractor.sampling_rate), extractor.sampling_rate
        elif isinstance(audio, str | Path):
            audio, sampling_rate = read_audio(audio, sample_rate=extractor.sampling_rate), extractor.sampling_rate
        (samples,) = extractor.clips(audio, sampling_rate)
        return extractor.frames(samples)

    def _forward(self, inputs: dict[str, list]) -> dict[str, torch.Tensor]:
        frames, texts = (
            [one for part in inputs[name] for one in (part if isinstance(part, list) else [part])] for name in ("frames", "text")
        )
        return {"logits": torch.from_numpy(Predictor.of(self.model, self.processor).logits(frames, texts))}

    def postprocess(self, outputs: dict[str, torch.Tensor], top_k: int | None = None) -> list[dict]:
        ((_, classes),) = self.model.config.heads.items()
        (scores,) = probabilities(outputs["logits"].numpy())
        ordered = np.argsort(-scores, kind="stable")[:top_k]
        return [{"label": classes[index], "score": float(scores[index])} for index in ordered]

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """The model and its processor, without the code: that is this package's."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=EmotionPipeline, pt_model=AutoModelForSequenceClassification, type="multimodal")
