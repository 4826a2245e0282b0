"""The Transformers tasks that know released models, after this module is imported.

- `pipeline("calm-emotion", model=folder)`: audio of any format, text, or both.
- `pipeline("audio-classification", model=folder)`: Transformers' own task, audio alone.

Importing this module also registers every class of the project with Transformers' Auto classes.
"""

from os import PathLike
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForAudioClassification, AutoModelForSequenceClassification, Pipeline
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils.generic import ModelOutput

from calm.array_types import Floats16
from calm.audio.decoding import read_audio
from calm.audio.survey import one_channel
from calm.evaluation.calibration import probabilities
from calm.inference.processing import CalmProcessor
from calm.inference.torch_classifier import Predictor
from calm.inference.voice import NO_SPEECH, heard
from calm.models.configuration import CalmConfig
from calm.models.modeling import CalmForSequenceClassification

TASK = "calm-emotion"
KEYS = ("audio", "array", "raw", "bytes", "path")  # of an input that may hold its audio, the first that there is


class EmotionPipeline(Pipeline):
    """Scores of every class for audio, text or both, most likely first.

    `[{"label": "happy", "score": 0.8, "decided": True, "decision": "argmax"}, ...]`: `decided` by the model's own `decision`, see
    `Classifier.decision`. Where nobody speaks, silence or noise, the only label is "no speech", decided by "no speech".

    A call takes one of these, or a list of them (scored in batches of `batch_size`):

    - a path or the bytes of an audio file of any sampling rate, channel count and format;
    - samples (samples,), or of several channels (samples, channels), with the argument `sampling_rate`;
    - a dictionary with `audio` (any of the above) or `path`, or `array` (or `raw`) and `sampling_rate`, and `text`. Audio or text may
      be missing;
    - what an audio column of `datasets` gives: a dictionary with `bytes` or `path`, or a decoder.

    `top_k` keeps only the most likely classes. Raises ValueError (AudioError) if an input cannot be used.
    """

    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    model: CalmForSequenceClassification
    processor: CalmProcessor

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := sorted(given.keys() - {"sampling_rate", "top_k"}):
            raise TypeError(f"{TASK} takes sampling_rate and top_k, and knows no {', '.join(unknown)}")
        before, after = ({name: given[name]} if given.get(name) is not None else {} for name in ("sampling_rate", "top_k"))
        return before, {}, after

    def preprocess(self, input_: Any, sampling_rate: Any = None, **others: Any) -> dict[str, Any]:
        """Acoustic frames (None: no audio) and text of one input, each in a list of length 1, so that batches may have any lengths."""
        inputs = dict(input_) if isinstance(input_, dict) else {"audio": input_}
        audio: Any = next((inputs[name] for name in KEYS if inputs.get(name) is not None), None)
        if audio is None and inputs.get("text") is None:
            raise ValueError(
                f"an input of {TASK} has neither audio nor text: give a path, bytes, samples, or a dictionary with one of them"
            )
        if _is_decoder(audio):
            audio = {name: audio[name] for name in ("array", "sampling_rate")}
        if isinstance(audio, dict):  # an audio column of `datasets`
            return self.preprocess({**audio, "text": inputs.get("text")}, sampling_rate)
        frames = None if audio is None else self._frames(audio, inputs.get("sampling_rate", sampling_rate))
        return {"frames": [frames], "text": [inputs.get("text")]}

    def _frames(self, audio: Any, sampling_rate: int | None) -> Floats16:
        extractor = self.processor.feature_extractor
        if isinstance(audio, bytes):
            with NamedTemporaryFile() as file:
                file.write(audio)
                file.flush()
                audio, sampling_rate = read_audio(file.name, sample_rate=extractor.sampling_rate), extractor.sampling_rate
        elif isinstance(audio, str | Path):
            audio, sampling_rate = read_audio(audio, sample_rate=extractor.sampling_rate), extractor.sampling_rate
        elif isinstance(audio, np.ndarray | torch.Tensor):
            audio = one_channel(np.asarray(audio.detach().cpu()) if isinstance(audio, torch.Tensor) else audio)
        (samples,) = extractor.clips(audio, sampling_rate)
        if not heard(samples, extractor.sampling_rate):
            return np.empty((0, extractor.channels), np.float16)  # no frame: nobody speaks
        return extractor.frames(samples)

    def _forward(self, input_tensors: dict[str, Any], **others: Any) -> SequenceClassifierOutput:
        frames, texts = (
            [value for part in input_tensors[name] for value in (part if isinstance(part, list) else [part])] for name in ("frames", "text")
        )
        predictor = Predictor.from_model(self.model, self.processor)
        logits = np.full((len(texts), len(predictor.classes)), np.nan, np.float32)  # of utterances in which nobody speaks
        if rows := [row for row, utterance in enumerate(frames) if utterance is None or len(utterance)]:
            logits[rows] = predictor.logits([frames[row] for row in rows], [texts[row] for row in rows])
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def postprocess(self, model_outputs: ModelOutput, top_k: Any = None, **others: Any) -> list[dict[str, Any]]:
        if model_outputs["logits"].isnan().all():
            return [{"label": NO_SPEECH, "score": 1.0, "decided": True, "decision": NO_SPEECH}]
        predictor = Predictor.from_model(self.model, self.processor)
        (scores,) = probabilities(model_outputs["logits"].numpy(), predictor.loss)
        classes, decided, decision = predictor.classes, predictor.decided(scores), predictor.decision
        ordered = np.argsort(-scores, kind="stable")[:top_k]
        return [
            {"label": classes[index], "score": float(scores[index]), "decided": classes[index] in decided, "decision": decision}
            for index in ordered
        ]

    def save_pretrained(self, save_directory: str | PathLike[Any], **kwargs: Any) -> None:
        """Write the model and its processor; the code is in this package."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def _is_decoder(audio: object) -> bool:
    """Whether it is such as torchcodec's AudioDecoder, which `datasets` gives since version 4 and which answers by two keys."""
    return hasattr(audio, "__getitem__") and not isinstance(audio, dict | str | bytes | list | tuple | np.ndarray | torch.Tensor)


AutoModelForAudioClassification.register(CalmConfig, CalmForSequenceClassification)
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=EmotionPipeline, pt_model=AutoModelForSequenceClassification, type="multimodal")
