"""Windows of acoustic frames, cut where a model is trained.

The frames of a corpus lie on the training device, once, as float16, where they fit. A batch is planned on the CPU, by its generator: which
frames and how they are changed, as small tensors. The device then cuts, stretches and masks. On the CPU the same code runs on the same
numbers.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from calm.array_types import Bools, Floats32, Floats64, Ints
from calm.audio.functionals import functionals
from calm.data.augmentation import Augmentation, Change, Masks, hide
from calm.data.ragged import AcousticFrames, Ragged

SHARE = 0.3  # of the free memory of a device that frames may take
Interpolation = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # lower and upper neighbour of each position, share of the upper one
Item = TypeVar("Item")


class Store:
    """Rows of an array (all, width), of frames or encoded blocks, on the device where batches are cut from them."""

    def __init__(self, values: npt.NDArray[Any]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of arrays that must not be written to, as nothing does
            self.values = torch.from_numpy(values)  # shares its memory

    @staticmethod
    def place(stores: Sequence["Store"], device: torch.device) -> None:
        """Move all stores to a device if they fit in its free memory. Those that do not fit stay on the CPU."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if sum(store.values.nbytes for store in stores if store.values.device != device) > SHARE * free:
                return
        for store in stores:
            store.values = store.values.to(device)

    def rows(self, numbers: torch.Tensor) -> torch.Tensor:
        """(...) row numbers -> (..., width) float32."""
        rows: torch.Tensor = self.values.index_select(0, numbers.flatten()).float().unflatten(0, numbers.shape)
        return rows


@dataclass
class Windows:
    """A tensor (windows, frames, channels) that is not cut yet.

    Args:
        stores: of the frames.
        frames: (windows, frames) long, row numbers in the store, or where the frames lie between two rows.
        channels: where the channels lie between two, (windows, channels) each.
        gain: (windows,) is added.
        parts: of several stores: those of the windows in each, by number.
        present: (windows, frames) bool, False where the result is 0.
        places: (windows,) and shape: the windows' places among (*shape,) windows, of which the others are 0.
        masks: stretches of frames and of channels that are set to 0.
    """

    stores: Sequence[Store]
    frames: torch.Tensor | Interpolation
    channels: Interpolation | None = None
    gain: torch.Tensor | None = None
    parts: Sequence[torch.Tensor] = ()
    present: torch.Tensor | None = None
    places: torch.Tensor | None = None
    shape: tuple[int, ...] = ()
    masks: Masks = ()

    def cut(self) -> torch.Tensor:
        """The tensor, float32, on the device of the stores."""
        own = self.with_tensors(lambda tensor: tensor.to(self.stores[0].values.device, non_blocking=True))
        values = _between(own._rows, *own.frames) if isinstance(own.frames, tuple) else own._rows(own.frames)
        if own.channels is not None:
            values = _between(lambda at: values.gather(2, at.unsqueeze(1).expand(-1, values.shape[1], -1)), *own.channels, unsqueeze=1)
        if own.gain is not None:
            values.add_(own.gain[:, None, None])
        if own.present is not None:
            values.masked_fill_(~own.present.unsqueeze(-1), 0)
        if own.places is not None:
            values = _zeros((*own.shape, *values.shape[1:]), values.device).flatten(0, -3).index_copy_(0, own.places, values)
            values = values.unflatten(0, own.shape)
        hide(values, own.masks)
        return values

    def with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Windows":
        """The same windows with each small tensor changed."""
        return replace(self, **{part.name: _mapped(getattr(self, part.name), change) for part in fields(self) if part.name != "stores"})

    def _rows(self, numbers: torch.Tensor) -> torch.Tensor:
        """(windows, frames) -> (windows, frames, channels), each window from its store."""
        if not self.parts:
            return self.stores[0].rows(numbers)
        found = numbers.new_empty((*numbers.shape, self.stores[0].values.shape[1]), dtype=torch.float32)
        for store, part in zip(self.stores, self.parts, strict=True):
            found.index_copy_(0, part, store.rows(numbers.index_select(0, part)))
        return found


def _zeros(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Zeros in float32; on the CPU in memory that the system gives as zeros, so that padding costs nothing."""
    return torch.from_numpy(np.zeros(shape, np.float32)) if device.type == "cpu" else torch.zeros(shape, device=device)


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    return tuple(_mapped(part, change) for part in value) if isinstance(value, tuple) else value


def _between(
    rows: Callable[[torch.Tensor], torch.Tensor], low: torch.Tensor, high: torch.Tensor, share: torch.Tensor, unsqueeze: int = -1
) -> torch.Tensor:
    share = share.unsqueeze(unsqueeze)
    return rows(low).mul_(1 - share).add_(rows(high).mul_(share))  # in place: fresh memory costs more than the arithmetic


@dataclass
class View:
    """Utterances of a batch as it hears them.

    Args:
        sources: frames of the utterances, and those of their copies.
        stores: of the sources.
        rows: (utterances,) in each of the sources.
        of: (utterances,) number of the source that each is heard from.
        changes: of each utterance; None: they are heard as they are.
    """

    sources: Sequence[AcousticFrames]
    stores: Sequence[Store]
    rows: Ints
    of: Ints
    changes: Sequence[Change] | None = None

    @classmethod
    def plain(cls, sources: Sequence[AcousticFrames], stores: Sequence[Store], rows: Ints) -> "View":
        """The utterances as they are."""
        return cls(sources[:1], stores[:1], rows, np.zeros(len(rows), np.int64))

    @classmethod
    def drawn(
        cls,
        sources: Sequence[AcousticFrames],
        stores: Sequence[Store],
        rows: Ints,
        augment: Augmentation | None,
        generator: torch.Generator,
    ) -> "View":
        """Each drawn from the utterance and its copies, if it has any, with tempo, channel axis, gain and ends changed."""
        frames, of = sources[0], np.zeros(len(rows), np.int64)
        if len(sources) > 1:
            drawn = torch.randint(len(sources), (len(rows),), generator=generator).numpy()
            of = np.where(np.stack([source.utterances.lengths[rows] for source in sources])[drawn, np.arange(len(rows))] > 0, drawn, 0)
        view = cls(sources, stores, rows, of)
        if augment:
            view.changes = [
                augment.draw(length, frames.channels, frames.scale[row], frames.block, generator)
                for length, row in zip(view._of_source("lengths"), rows, strict=True)
            ]
        return view

    def _of_source(self, name: str) -> Ints:
        """Lengths or offsets of the utterances in their sources, (utterances,)."""
        return np.stack([getattr(source.utterances, name)[self.rows] for source in self.sources])[self.of, np.arange(len(self.rows))]

    @property
    def lengths(self) -> Ints:
        """Frames of each utterance as it is heard, (utterances,)."""
        return self._of_source("lengths") if self.changes is None else np.array([len(change.frames) for change in self.changes])

    @property
    def blocks(self) -> Ints:
        """Blocks of each, (utterances,)."""
        return 1 + (self.lengths - self.sources[0].block) // self.sources[0].hop

    def functionals(self, kind: str) -> Floats32:
        """`calm.audio.functionals` of each, (utterances, width) float32."""
        heard = [self.sources[of].utterances[row] for of, row in zip(self.of, self.rows, strict=True)]
        if self.changes is not None:
            heard = [change(frames.astype(np.float32)) for change, frames in zip(self.changes, heard, strict=True)]
        return np.stack([functionals(frames, kind) for frames in heard])

    def steps(self, starts: Ints) -> Ints:
        """Frames of blocks, (blocks, block), from the frames `starts` (blocks,) on."""
        return starts[:, None] + np.arange(self.sources[0].block)

    def windows(self, which: Ints, steps: Ints, **options: Any) -> Windows:
        """Windows (windows, frames) of the utterances `which` (windows,), at their frames `steps`; options are those of `Windows`."""
        of, offsets = self.of[which], self._of_source("offsets")[which][:, None]
        if len(self.sources) > 1:
            options["parts"] = tuple(torch.from_numpy(np.flatnonzero(of == number)) for number in range(len(self.sources)))
        if self.changes is None:
            return Windows(self.stores, torch.from_numpy(offsets + steps), **options)
        at = np.concatenate([change.frames for change in self.changes])
        first = np.cumsum([0] + [len(change.frames) for change in self.changes])[which][:, None]
        low, high, share = _neighbours(at[first + steps], self._of_source("lengths")[which][:, None])
        frames = _tensors(offsets + low, offsets + high, share) if share.any() else torch.from_numpy(offsets + low)
        if warped := [change.channels for change in self.changes if change.channels is not None]:  # all or none of them
            channels = np.stack(warped)[which]
            options["channels"] = _tensors(*_neighbours(channels, channels.shape[1]))
        gain = torch.from_numpy(np.array([change.gain for change in self.changes], np.float32)[which])
        return Windows(self.stores, frames, gain=gain, **options)

    def all_blocks(self, limit: Ints | int) -> tuple[Windows, Bools]:
        """At most so many blocks of each, (utterances, most blocks, block, channels), 0 where padded; the mask (utterances, most blocks).

        Args:
            limit: (utterances,) or a number.
        """
        counts = np.minimum(self.blocks, limit)
        mask = np.arange(counts.max(initial=0)) < counts[:, None]
        which, block = np.nonzero(mask)
        places = torch.from_numpy(np.flatnonzero(mask))
        return self.windows(which, self.steps(block * self.sources[0].hop), places=places, shape=mask.shape), mask

    def whole(self) -> tuple[Windows, torch.Tensor]:
        """Each whole utterance, (utterances, most frames, channels), 0 where padded; and the mask (utterances, most frames)."""
        lengths = self.lengths[:, None]
        steps = np.arange(lengths.max(initial=0))
        present = torch.from_numpy(steps < lengths)
        return self.windows(np.arange(len(self.rows)), np.minimum(steps, lengths - 1), present=present), present


def _neighbours(at: Floats64, size: Ints | int) -> tuple[Ints, Ints, Floats32]:
    """Whole numbers below and above fractional positions, in `size` many, and the share of the upper one, float32."""
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)


def _tensors(low: Ints, high: Ints, share: Floats32) -> Interpolation:
    return torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy(share)


def padded(stores: Sequence[Store], ragged: Ragged, rows: Ints, limit: Ints) -> tuple[Windows, torch.Tensor]:
    """At most so many steps of each row, (rows, longest, width), 0 where padded; and the mask (rows, longest)."""
    lengths = np.minimum(ragged.lengths[rows], limit)
    steps = np.arange(lengths.max(initial=0))
    mask = steps < lengths[:, None]
    present = torch.from_numpy(mask)
    return Windows(stores, torch.from_numpy(np.where(mask, ragged.offsets[rows][:, None] + steps, 0)), present=present), present


Batch = dict[str, torch.Tensor]
Plan = Mapping[str, torch.Tensor | Windows]  # of a batch, some of whose tensors are not cut yet


def ready(batch: Plan, device: torch.device | str = "cpu") -> Batch:
    """A planned batch as tensors on a device."""
    return {name: (own.cut() if isinstance(own, Windows) else own).to(device, non_blocking=True) for name, own in batch.items()}


def pinned(batch: Plan) -> Plan:
    """A planned batch from which copies to a GPU need not be waited for. What is cut on the CPU is cut now."""
    return {name: _pinned(own) for name, own in batch.items()}


def _pinned(own: torch.Tensor | Windows) -> torch.Tensor | Windows:
    if isinstance(own, Windows):
        if own.stores[0].values.device.type != "cpu":
            return own.with_tensors(torch.Tensor.pin_memory)
        own = own.cut()
    return own.pin_memory()


def ahead(items: Iterator[Item], device: torch.device | None = None, number: int = 2) -> Iterator[Item]:
    """The same items, so many of which are made ahead by a thread, whose GPU is `device`, not the first one."""
    end = object()

    def choose() -> None:
        if device is not None and device.index is not None:
            torch.cuda.set_device(device)

    with ThreadPoolExecutor(1, initializer=choose) as thread:
        waiting: deque[Future[Any]] = deque(thread.submit(next, items, end) for _ in range(number))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
