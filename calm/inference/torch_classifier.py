"""A released model computed by torch on any device: logits of batches, and the representations before the heads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import BatchFeature, PreTrainedModel

from calm.array_types import Floats32
from calm.inference.classifier import Classifier, check_folder
from calm.inference.extractor import CONFIG, AcousticExtractor, text_or_empty
from calm.inference.onnx_export import ABOUT
from calm.inference.processing import CalmProcessor
from calm.models.modeling import CalmForSequenceClassification
from calm.storage import check_sums

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def resolve_device(device: str | torch.device) -> str | torch.device:
    """A device as torch names it; "auto" becomes a GPU if there is one, else the CPU."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def load_pretrained(network: type[ModelT], folder: Path) -> tuple[ModelT, CalmProcessor]:
    """A model and its processor from a folder that has their files. Raises ValueError if one of the files is damaged."""
    check_sums(Path(folder), within=0)
    try:
        model, processor = network.from_pretrained(folder), CalmProcessor.from_pretrained(folder)
        if not isinstance(processor.feature_extractor, AcousticExtractor):
            raise ValueError(f"its feature extractor is {type(processor.feature_extractor).__name__}")
        return model, processor
    # Settings of another type, and weights of other shapes, end what reads them in any of the later ones.
    except (SafetensorError, ValueError, OSError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(f"{folder} has a damaged file, write or copy it again: {error}") from error


class Predictor(Classifier):
    """A released model: the weights, and the processor that the stage `head` saved beside them.

    Args:
        folder: a folder that the stage `head` wrote.
        device: see `calm.inference.loading.load_classifier`.

    Raises:
        ValueError: the folder has no released model, or one of its files is damaged.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        model, processor = load_pretrained(CalmForSequenceClassification, check_folder(folder))
        torch.nn.Module.to(model, resolve_device(device))
        self._set(model, processor)
        self.folder = Path(folder)

    @classmethod
    def from_model(cls, model: CalmForSequenceClassification, processor: CalmProcessor) -> "Predictor":
        """A predictor from a model and a processor in memory."""
        predictor = cls.__new__(cls)
        predictor._set(model, processor)
        return predictor

    def _set(self, model: CalmForSequenceClassification, processor: CalmProcessor) -> None:
        self.model, self.processor, self.extractor, config = model.eval(), processor, processor.feature_extractor, model.config
        for name in ("block_frames", "block_hop", "channels"):
            actual, expected = getattr(self.extractor, name), getattr(config, name)
            if actual != expected:
                raise ValueError(f"{name} is {actual} in the model's {CONFIG} and {expected} in its config.json: release the model again")
        self.extractor.uses(str(model.device), self.extractor.folder)
        self._describe(**{name: getattr(config, name) for name in ABOUT})

    @torch.inference_mode()
    def logits(self, frames: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        logits = np.empty((len(texts), len(self.classes)), np.float32)
        audio = {row: utterance for row, utterance in enumerate(frames) if utterance is not None}
        without = [row for row in range(len(texts)) if row not in audio]
        for rows, heard in ((list(audio), list(audio.values())), (without, None)):
            if rows:
                inputs = self.inputs(heard, [texts[row] for row in rows])
                logits[rows] = self.model(**inputs).logits.float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def pooled(self, frames: np.ndarray, text: str | None) -> np.ndarray:
        """Input of the heads for one utterance, (width,) float32."""
        pooled: Floats32 = self.model.pooled(**self.inputs([frames], [text]))[0].float().cpu().numpy()
        return pooled

    def inputs(self, frames: Sequence[np.ndarray] | None, texts: Sequence[str | None]) -> BatchFeature:
        """Inputs of the model for a batch, without the modality that it was not trained on. Raises ValueError if nothing is left."""
        frames, texts = self.select_modality(frames, texts)
        acoustic = None if frames is None else self.extractor.normalised(frames)
        return self.processor.collated(acoustic, [text_or_empty(text) for text in texts]).to(self.model.device)

    @torch.inference_mode()
    def encoded_blocks(self, frames: np.ndarray, batch: int = 256) -> torch.Tensor:
        """Blocks of one utterance, encoded by the front end, (blocks, encoded width) float32."""
        blocks = torch.from_numpy(self.extractor.normalised([frames]).blocks_of(0))
        if self.model.encoder is not None:
            blocks = self.model.reencoded(blocks[None].to(self.model.device), None)[0][0]
        spectran = self.model.calm.spectran
        return torch.cat([spectran.encode(part.to(self.model.device)) for part in blocks.split(batch)]).float()

    @torch.inference_mode()
    def acoustic_tokens(self, frames: np.ndarray) -> np.ndarray:
        """Acoustic tokens of one utterance, the front end's output for every block (4.3), (blocks, width) float32."""
        tokens: Floats32 = self.model.calm.spectran.token(self.encoded_blocks(frames)).cpu().numpy()
        return tokens
