"""A released model with all that it computes, by torch and on any device: logits of batches, and the vectors on the way to them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import BatchFeature, PreTrainedModel

from calm.inference.classifier import Classifier, check
from calm.inference.extractor import CONFIG, text_or_empty
from calm.inference.processing import CalmProcessor
from calm.models.modeling import CalmForSequenceClassification


def place(device: str | torch.device) -> str | torch.device:
    """A device as torch names it; "auto": a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def opened(network: type[PreTrainedModel], folder: Path) -> tuple[PreTrainedModel, CalmProcessor]:
    """A model and its processor from a folder that has their files. Raises ValueError where one of these is damaged."""
    try:
        return network.from_pretrained(folder), CalmProcessor.from_pretrained(folder)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{folder} has a damaged file, make or copy it anew: {error}") from error


class Predictor(Classifier):
    """A model as the stage `head` releases it: weights, and the processor that was saved beside them.

    `device` as in `calm.inference.loading.load`. Raises ValueError for a folder that is no released model.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        model, processor = opened(CalmForSequenceClassification, check(folder))
        self._hold(model.to(place(device)), processor)

    @classmethod
    def of(cls, model: CalmForSequenceClassification, processor: CalmProcessor) -> "Predictor":
        """From what is loaded already."""
        made = cls.__new__(cls)
        made._hold(model, processor)
        return made

    def _hold(self, model: CalmForSequenceClassification, processor: CalmProcessor) -> None:
        self.model, self.processor, self.extractor, config = model.eval(), processor, processor.feature_extractor, model.config
        for name in ("block_frames", "block_hop", "channels"):
            given, wanted = getattr(self.extractor, name), getattr(config, name)
            if given != wanted:
                raise ValueError(f"{name} is {given} in the model's {CONFIG} and {wanted} in its config.json: release it anew")
        self._take(config.heads, config.thresholds, config.modality, config.synthetic)

    @torch.inference_mode()
    def logits(self, frames: Sequence[np.ndarray | None], texts: Sequence[str | None]) -> np.ndarray:
        logits = np.empty((len(texts), len(self.classes)), np.float32)
        for heard in (True, False):  # those with audio, and those without
            rows = [row for row, one in enumerate(frames) if (one is not None) == heard]
            if rows:
                inputs = self.inputs([frames[row] for row in rows] if heard else None, [texts[row] for row in rows])
                logits[rows] = self.model(**inputs).logits.float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def pooled(self, frames: np.ndarray, text: str | None) -> np.ndarray:
        """What the heads see of one utterance, (width,) float32."""
        return self.model.pooled(**self.inputs([frames], [text]))[0].float().cpu().numpy()

    def inputs(self, frames: Sequence[np.ndarray] | None, texts: Sequence[str | None]) -> BatchFeature:
        """What the model takes of a batch, by its modality. Raises ValueError where that leaves nothing."""
        frames, texts = self.seen(frames, texts)
        logmels = None if frames is None else self.extractor.normalised(frames)
        return self.processor.collated(logmels, [text_or_empty(text) for text in texts]).to(self.model.device)

    @torch.inference_mode()
    def encoded_blocks(self, frames: np.ndarray, batch: int = 256) -> torch.Tensor:
        """Encoded blocks of one utterance, (blocks, encoded width) float32."""
        blocks = torch.from_numpy(self.extractor.normalised([frames]).blocks_of(0))
        spectran = self.model.calm.spectran
        return torch.cat([spectran.encode(part.to(self.model.device)) for part in blocks.split(batch)]).float()

    @torch.inference_mode()
    def acoustic_tokens(self, frames: np.ndarray) -> np.ndarray:
        """SpecTran's outputs of every block of one utterance, (blocks, width) float32."""
        return self.model.calm.spectran.token(self.encoded_blocks(frames)).cpu().numpy()
