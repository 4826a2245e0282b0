"""A released model computed by ONNX Runtime on the CPU, which loads in a tenth of the time of torch and Transformers."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from calm.array_types import Floats32
from calm.audio.functionals import PER_CHANNEL
from calm.data.ragged import fit
from calm.inference.classifier import TOKENIZER, Classifier, digest
from calm.inference.extractor import AcousticExtractor, text_or_empty, warn_cut
from calm.inference.onnx_export import GRAPH

logger = logging.getLogger(__name__)


class Compiled(Classifier):
    """The ONNX graph of a released model, as `calm.inference.onnx_export.write` writes it."""

    def __init__(self, folder: Path, session: onnxruntime.InferenceSession):
        self.folder, self.session, self.extractor = folder, session, AcousticExtractor.read(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(512)
        self.tokenizer.encode_special_tokens = True  # the names of special tokens in a text are text
        self.inputs = [node.name for node in session.get_inputs()]
        self._describe(**json.loads(session.get_modelmeta().custom_metadata_map["about"]))

    @classmethod
    def read(cls, folder: Path) -> "Compiled | None":
        """Load the graph; None if there is none, if it is damaged, or if the weights or settings have changed since it was exported."""
        if not (folder / GRAPH).is_file():
            return None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            logger.warning(f"{folder / GRAPH} is damaged, torch is used instead: release the model again ({error})")
            return None
        return cls(folder, session) if session.get_modelmeta().custom_metadata_map.get("made_of") == digest(folder) else None

    def logits(self, frames: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        return np.concatenate([self._logits(utterance, text) for utterance, text in zip(frames, texts, strict=True)])

    def _logits(self, frames: np.ndarray | None, text: str | None) -> np.ndarray:
        """Logits of one utterance, (1, classes), from acoustic frames (frames, channels)."""
        utterances, (text,) = self.select_modality(None if frames is None else [frames], [text])
        ids = np.array(self.tokenizer.encode(text_or_empty(text)).ids)
        blocks = np.zeros((0, self.extractor.block_frames, self.extractor.channels), np.float32)
        kind = self.extractor.functionals
        width = PER_CHANNEL.get(kind or "", 0) * self.extractor.channels
        functionals = np.zeros((1, width), np.float32)  # of an utterance without audio
        if utterances:
            acoustic = self.extractor.normalised(utterances)
            blocks = acoustic.blocks_of(0)
            functionals = acoustic.functionals(np.array([0]), kind) if kind else functionals
        (tokens,), (places,) = fit(np.array([len(ids)]), np.array([len(blocks)]), self.extractor.max_tokens)
        warn_cut(int(tokens < len(ids) or places < len(blocks)), 1, self.extractor.max_tokens)
        ids, blocks = np.append(ids[: tokens - 1], ids[-1]), blocks[:places]
        inputs = {"input_ids": ids[None], "blocks": blocks, "functionals": functionals}
        logits: Floats32 = self.session.run(["logits"], {name: inputs[name] for name in self.inputs})[0]
        return logits
