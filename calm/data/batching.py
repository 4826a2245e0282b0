"""Batches of examples: pairs of blocks for CALP, sequences of text and audio, and masked ones.

A collator plans a batch by `plan(rows, generator)`, whose windows are cut later, where training runs (`calm.data.windows`). Called, it
gives the batch itself, on the CPU.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from calm.array_types import Bools, Floats32, Ints
from calm.data import masking
from calm.data.augmentation import Augmentation, Masks
from calm.data.ragged import AcousticFrames, Ragged, fit
from calm.data.windows import Batch, Plan, Store, View, Windows, padded, ready

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenise(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Ragged:
    """Token ids of every text between the tokenizer's special tokens, which an empty text is alone; at most 512.

    Texts go in as they are: an uncased tokenizer lower-cases them itself. A special token's name in a text is read as text.
    """
    ids = tokenizer(list(texts), truncation=True, max_length=512, split_special_tokens=True)["input_ids"]
    return Ragged.from_rows([np.array(row, dtype=np.int64) for row in ids])


class Planner(ABC):
    """What the collators share: a batch is what they plan, cut."""

    stores: list[Store]

    @abstractmethod
    def plan(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Plan:
        """A batch whose windows are not cut yet; `generator` draws what is random, None draws nothing."""

    def __call__(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        """The batch that is planned, on the CPU."""
        return ready(self.plan(rows, generator))

    def to(self, device: torch.device) -> None:
        """Move the frames to a device where they fit, to cut batches there."""
        Store.place(self.stores, device)


def tensors(*arrays: npt.NDArray[Any]) -> tuple[torch.Tensor, ...]:
    """Torch tensors that share the memory of the arrays."""
    return tuple(torch.from_numpy(array) for array in arrays)


@dataclass
class PairCollator(Planner):
    """Batches of CALP (4.3): one A_ij, A_i(j+1) and T_i per utterance.

    Args:
        texts: of every row; texts that differ in case alone count as the same.
        text_vectors: (rows, width) T_i of every row; None if the language model is trained along, from `tokens`.
        special: ids of the tokenizer's special tokens.
        speakers: of every row, None where unknown, which counts as a speaker of its own; without `speakers`, batches do not say them.
        text_blocks: how many blocks of an utterance stand against its text: 1, the anchor (equation 2); more, drawn from all of them,
            because one block of half a second holds few of the words; None: all.
        corpora: number of every row's corpus; batches then hold whole utterances and where their blocks begin, for an encoder that is
            trained along; None: they hold the blocks.
    """

    frames: AcousticFrames
    texts: Sequence[str]
    text_vectors: torch.Tensor | None = None
    tokens: Ragged | None = None
    special: tuple[int, ...] = ()
    augment: Augmentation | None = None
    speakers: Sequence[str | None] | None = None
    text_blocks: int | None = 1
    corpora: Ints | None = None
    stores: list[Store] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import pandas as pd

        self.stores = [Store(self.frames.utterances.values)]
        if self.speakers is not None:
            self.speaker_index = torch.from_numpy(numbered(self.speakers))
        folded = [text.casefold() for text in self.texts]
        self.text_index = torch.from_numpy(pd.factorize(np.asarray(folded, dtype=object))[0])
        self.has_text = torch.from_numpy(np.array([bool(text) for text in self.texts], bool))

    def plan(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Plan:
        """A batch; `generator` draws j and the augmentation, None takes the middle pair without augmentation."""
        which = np.asarray(rows)
        augment = self.augment if generator is not None and self.augment else None
        heard = [self.frames], self.stores, which
        view = View.drawn(*heard, augment, generator) if generator is not None and augment else View.plain(*heard)
        batch: dict[str, torch.Tensor | Windows] = {"text_index": self.text_index[which], "has_text": self.has_text[which]}
        if self.corpora is None:
            batch["anchor"], batch["neighbour"] = _pairs(view, generator, augment)
        else:
            batch["anchor"], batch["neighbour"] = tensors(*_pair_starts(view, generator))
            batch["frames"], batch["frame_mask"] = view.whole()
            batch["corpus"] = torch.from_numpy(self.corpora[which])
        if self.speakers is not None:
            batch["speaker_index"] = self.speaker_index[which]
        if self.text_blocks != 1:
            of, start, present = _some_blocks(view, self.text_blocks, generator)
            if self.corpora is None:
                batch["text_blocks"] = view.windows(of, view.steps(start), masks=_masks(augment, view, (len(of),), generator))
            else:
                batch["text_blocks"] = torch.from_numpy(start)
            batch["text_block_mask"] = torch.from_numpy(present)
        if self.text_vectors is not None:
            return batch | {"text_vectors": self.text_vectors[which]}
        if self.tokens is None:
            raise ValueError("a PairCollator needs text_vectors or tokens: give one of them")
        ids, mask = tensors(*self.tokens.pad(which))
        return batch | {"input_ids": ids, "attention_mask": mask.long(), "words": mask & ~torch.isin(ids, torch.tensor(self.special))}

    def pairs(self, rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """The middle pair of neighbouring blocks of each row, (rows, block, channels) each."""
        anchor, neighbour = _pairs(View.plain([self.frames], self.stores, np.asarray(rows)), None, None)
        return anchor.cut(), neighbour.cut()


def numbered(names: Sequence[str | None]) -> Ints:
    """(names,) the same number for the same name; every None has a number of its own."""
    import pandas as pd

    numbers: Ints = pd.factorize(np.asarray(names, dtype=object))[0]  # -1 where unknown
    unknown = numbers < 0
    numbers[unknown] = numbers.max(initial=-1) + 1 + np.arange(unknown.sum())
    return numbers


def _pairs(view: View, generator: torch.Generator | None, augment: Augmentation | None) -> list[Windows]:
    """Two neighbouring blocks of each utterance, drawn by `generator` or from the middle, (utterances, block, channels) each."""
    every, (start, following) = np.arange(len(view.rows)), _pair_starts(view, generator)
    steps = view.steps(following)
    same = following == start  # exactly one block long: shifted around its end
    steps[same] = np.roll(steps[same], view.sources[0].block // 3, 1)
    return [view.windows(every, own, masks=_masks(augment, view, (len(every),), generator)) for own in (view.steps(start), steps)]


def _pair_starts(view: View, generator: torch.Generator | None) -> tuple[Ints, Ints]:
    """First frames of the two blocks of `_pairs`, (utterances,) each."""
    frames, blocks = view.sources[0], view.blocks
    draw = np.full(len(blocks), 0.5) if generator is None else torch.rand(len(blocks), generator=generator).numpy()
    start = np.floor(draw * np.maximum(blocks - 1, 1)).astype(np.int64) * frames.hop
    # With one block only, the neighbour is the last window of the utterance: the same sounds, shifted in time.
    return start, np.where(blocks > 1, start + frames.hop, view.lengths - frames.block)


def _masks(augment: Augmentation | None, view: View, shape: tuple[int, ...], generator: torch.Generator | None) -> Masks:
    frames = view.sources[0]
    return augment.masks(shape, frames.block, frames.channels, generator) if augment and generator is not None else ()


def _some_blocks(view: View, most: int | None, generator: torch.Generator | None) -> tuple[Ints, Ints, Bools]:
    """At most so many blocks of each utterance: drawn without repetition, or evenly spread without a generator.

    Returns the utterance and the first frame of each, (blocks of all,), one utterance after another, and the mask (utterances, most blocks
    of one).
    """
    counts = view.blocks
    kept = counts if most is None else np.minimum(counts, most)
    mask = np.arange(kept.max(initial=0)) < kept[:, None]
    if generator is None:
        chosen = np.floor((np.arange(mask.shape[1]) + 0.5) * (counts / kept)[:, None]).astype(np.int64)
    else:
        order = torch.rand(len(counts), int(counts.max(initial=0)), generator=generator).numpy()
        order[np.arange(order.shape[1]) >= counts[:, None]] = np.inf
        chosen = np.argsort(order, 1)[:, : mask.shape[1]]
    which, place = np.nonzero(mask)
    return which, chosen[which, place] * view.sources[0].hop, mask


@dataclass
class SequenceCollator(Planner):
    """Batches of text and audio for the multimodal transformer (4.4).

    Args:
        tokens: token ids of every row.
        encoded: encoded blocks of every row (blocks, encoded width); None: the blocks themselves, to train the front end.
        modality: "audio" replaces the text by its first and last special token; "text" leaves the audio out; or "both".
        targets: (rows, classes); None: no labels in the batch.
        most: places that tokens and blocks share.
        copies: of the utterances at other speeds; one of them or the utterance itself is drawn each time, where there is a generator.
        mixup: parameter of the Beta distribution of `mixed`, where there is a generator; 0: nothing is mixed.
        functionals: kind of the functionals of each row's frames that the batch has; None: none.
    """

    frames: AcousticFrames
    tokens: Ragged
    encoded: Ragged | None = None
    modality: str = "both"
    targets: Floats32 | None = None
    most: int = 512
    augment: Augmentation | None = None
    copies: Sequence[AcousticFrames] = ()
    functionals: str | None = None
    mixup: float = 0.0
    stores: list[Store] = field(init=False, repr=False)
    encoded_stores: list[Store] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.stores = [Store(source.utterances.values) for source in (self.frames, *self.copies)]
        self.encoded_stores = [] if self.encoded is None else [Store(self.encoded.values)]

    def lengths(self, rows: Ints) -> tuple[Ints, Ints]:
        """Number of tokens and of blocks that each row gets."""
        tokens = np.full(len(rows), 2) if self.modality == "audio" else self.tokens.lengths[rows]
        blocks = np.zeros(len(rows), dtype=np.int64) if self.modality == "text" else self.frames.blocks[rows]
        return fit(tokens, blocks, self.most)

    def used(self) -> list[Store]:
        """What the audio of a batch is cut from."""
        if self.modality == "text":
            return []
        return self.encoded_stores or self.stores

    def to(self, device: torch.device) -> None:
        """Move to a device what batches are cut from, if it fits."""
        Store.place(self.used(), device)

    def plan(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Plan:
        """A batch; `generator` draws the changes of blocks, None leaves them unchanged."""
        batch, windows, _ = self.planned(np.asarray(rows), generator)
        return batch | windows

    def planned(self, rows: Ints, generator: torch.Generator | None) -> tuple[Batch, dict[str, Windows], View]:
        """The tensors of a batch, its windows, and its utterances as it hears them."""
        tokens, blocks = self.lengths(rows)
        ids, mask = tensors(*self.tokens.pad(rows, tokens))
        self._end(ids, tokens, rows)
        batch, windows, view = {"input_ids": ids, "attention_mask": mask.long()}, {}, View.plain([self.frames], self.stores, rows)
        if self.modality != "text" and self.encoded is None:
            if generator is not None and (self.augment or self.copies):
                view = View.drawn([self.frames, *self.copies], self.stores, rows, self.augment, generator)
                blocks = np.full(len(rows), self.most // 2)
            values, present = view.all_blocks(blocks)
            windows["input_features"] = replace(values, masks=_masks(self.augment, view, present.shape, generator))
            batch["acoustic_mask"], batch["acoustic_places"] = tensors(present, np.flatnonzero(present))
        elif self.modality != "text" and self.encoded is not None:
            windows["encoded_blocks"], batch["acoustic_mask"] = padded(self.encoded_stores, self.encoded, rows, blocks)
        if self.modality != "text" and self.functionals:
            batch["functionals"] = torch.from_numpy(view.functionals(self.functionals))
        if self.targets is not None:
            batch["labels"] = torch.from_numpy(self.targets[rows])
            if self.mixup and generator is not None:
                batch |= mixed(batch["labels"], self.mixup, generator)
        return batch, windows, view

    def _end(self, ids: torch.Tensor, kept: Ints, rows: Ints) -> None:
        """Put the last special token back at the end of texts that were cut."""
        last = self.tokens.values[self.tokens.offsets[rows] + self.tokens.lengths[rows] - 1]
        ids[np.arange(len(rows)), kept - 1] = torch.from_numpy(last)


def mixed(labels: torch.Tensor, concentration: float, generator: torch.Generator) -> Batch:
    """Mixup (arXiv 1710.09412) of what heads see: every row gets a share of another row of the batch, in its labels too.

    Args:
        labels: (batch, classes).
        concentration: both parameters of the Beta distribution that the shares are drawn from.

    Returns:
        `share` (batch, 1) of the row itself, `mixed_with` (batch,), the other row, and the mixed `labels`.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    drawn = np.random.default_rng(seed).beta(concentration, concentration, (len(labels), 1)).astype(np.float32)
    share, others = torch.from_numpy(drawn), torch.randperm(len(labels), generator=generator)
    return {"share": share, "mixed_with": others, "labels": share * labels + (1 - share) * labels[others]}


@dataclass
class MaskingCollator(Planner):
    """Batches of masked prediction (4.5) over those of a SequenceCollator.

    Args:
        mask_id, special, vocabulary: id of the tokenizer's mask token, ids of its special tokens, and its size.
        style: "mask", always the mask token; "80/10/10", as in BERT.
    """

    sequences: SequenceCollator
    mask_id: int
    special: tuple[int, ...]
    vocabulary: int
    words: float = 0.15
    audio: float = 0.10
    span: int = 3
    audio_share_of: str = "starts"
    audio_draw: str = "each"
    style: str = "mask"

    def to(self, device: torch.device) -> None:
        """Move to a device what batches and their labels are cut from, if it fits."""
        Store.place([*self.sequences.stores, *(store for store in self.sequences.used() if store not in self.sequences.stores)], device)

    def plan(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Plan:
        """A batch; `generator` draws the masks, None draws the same ones at every call."""
        batch, windows, view = self.sequences.planned(np.asarray(rows), generator)
        generator = generator or torch.Generator().manual_seed(int(rows[0]))
        ids, present = batch["input_ids"], batch["acoustic_mask"]
        word_mask = masking.choose(batch["attention_mask"].bool() & ~torch.isin(ids, torch.tensor(self.special)), self.words, generator)
        audio_mask = masking.choose_spans(present, self.audio, self.span, self.audio_share_of, self.audio_draw, generator)
        which, block = np.nonzero(audio_mask.numpy())
        windows["audio_labels"] = view.windows(which, view.steps(block * self.sequences.frames.hop))
        masked = {"word_mask": word_mask, "word_labels": ids[word_mask], "audio_mask": audio_mask}
        return batch | masked | {"input_ids": self.replace(ids, word_mask, generator)} | windows

    def replace(self, ids: torch.Tensor, masked: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Token ids with the masked ones replaced by `style`."""
        if self.style == "mask":
            return ids.masked_fill(masked, self.mask_id)
        draw = torch.rand(ids.shape, generator=generator)
        randoms = torch.randint(self.vocabulary, ids.shape, generator=generator)
        return torch.where(masked & (draw < 0.8), self.mask_id, torch.where(masked & (draw >= 0.9), randoms, ids))
