"""A released model by its graph, for answers on the CPU: ONNX Runtime is there in a tenth of the time that torch and Transformers take."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from calm.data.ragged import fit
from calm.inference.classifier import Classifier
from calm.inference.extractor import AcousticExtractor, text_or_empty, warn_cut
from calm.inference.onnx_export import GRAPH, TOKENIZER, digest

logger = logging.getLogger(__name__)


class Compiled(Classifier):
    """What `calm.inference.onnx_export.write` wrote into the folder of a released model."""

    def __init__(self, folder: Path, session: onnxruntime.InferenceSession):
        self.session, self.extractor = session, AcousticExtractor.read(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(512)
        self.tokenizer.encode_special_tokens = True  # their names in a text are text
        self.inputs = [one.name for one in session.get_inputs()]
        self._take(**json.loads(session.get_modelmeta().custom_metadata_map["about"]))

    @classmethod
    def of(cls, folder: Path) -> "Compiled | None":
        """None where there is no graph that can be read, or one of other weights or settings than the folder has now."""
        if not (folder / GRAPH).is_file():
            return None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's have no common base
            logger.warning(f"{folder / GRAPH} is damaged, torch answers instead: release the model anew ({error})")
            return None
        return cls(folder, session) if session.get_modelmeta().custom_metadata_map.get("made_of") == digest(folder) else None

    def logits(self, frames: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        return np.concatenate([self._logits(one, text) for one, text in zip(frames, texts, strict=True)])

    def _logits(self, frames: np.ndarray | None, text: str | None) -> np.ndarray:
        """Of one utterance, (1, classes)."""
        heard, (text,) = self.seen(None if frames is None else [frames], [text])
        ids = np.array(self.tokenizer.encode(text_or_empty(text)).ids)
        shape = (0, self.extractor.block_frames, self.extractor.channels)
        blocks = self.extractor.normalised(heard).blocks_of(0) if heard else np.zeros(shape, np.float32)
        (tokens,), (places,) = fit(np.array([len(ids)]), np.array([len(blocks)]), self.extractor.max_tokens)
        warn_cut(int(tokens < len(ids) or places < len(blocks)), 1, self.extractor.max_tokens)
        ids, blocks = np.append(ids[: tokens - 1], ids[-1]), blocks[:places]
        given = {"input_ids": ids[None], "blocks": blocks}
        return self.session.run(["logits"], {name: given[name] for name in self.inputs})[0]
