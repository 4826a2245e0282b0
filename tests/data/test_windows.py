"""Windows that are planned on the CPU and cut where a model is trained."""

import threading

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from calm.data.augmentation import Augmentation, Change
from calm.data.batching import MaskingCollator, PairCollator, SequenceCollator
from calm.data.ragged import AcousticFrames, Ragged
from calm.data.windows import Store, View, Windows, ahead, ready

CHANNELS, LENGTHS, COPY = 8, [140, 60, 300, 50], [150, 0, 280, 55]
EVERYTHING = Augmentation(speed=0.2, warp=0.1, gain_db=6, crop=0.3, time_masks=1, channel_masks=1)


def frames(lengths: list[int], seed: int = 0) -> AcousticFrames:
    values = np.random.default_rng(seed).normal(size=(sum(lengths), CHANNELS)).astype(np.float16)
    return AcousticFrames(Ragged(values, np.array(lengths)), np.linspace(1, 2, len(lengths)).astype(np.float32))


def sources() -> list[AcousticFrames]:
    return [frames(LENGTHS), frames(COPY, 1)]


def stores_of(of: list[AcousticFrames]) -> list[Store]:
    return [Store(source.utterances.values) for source in of]


def tokens() -> Ragged:
    return Ragged.from_rows([np.array([101, *range(10, 10 + length), 102]) for length in (4, 2, 7, 0)])


def test_a_change_by_hand():
    """Frames 0, 10, 20 and channels c + (0, 1): halfway is the mean of the neighbours."""
    values = np.array([[0, 1], [10, 11], [20, 21]], np.float32)
    changed = Change(np.array([0.0, 0.5, 1.25]), np.array([0.0, 0.5]), np.float32(100))(values)
    np.testing.assert_allclose(changed, [[100, 100.5], [105, 105.5], [112.5, 113]])
    acoustic = AcousticFrames(Ragged(values.astype(np.float16), np.array([3])), np.ones(1, np.float32), block=2)
    view = View([acoustic], stores_of([acoustic]), np.array([0]), np.array([0]), [Change(np.array([0.0, 0.5, 1.25]), None, np.float32(0))])
    np.testing.assert_allclose(view.windows(np.array([0]), np.array([[1, 2]])).cut(), [[[5, 6], [12.5, 13.5]]])


@pytest.mark.parametrize("augment", [None, EVERYTHING, Augmentation(speed=0.3), Augmentation(gain_db=3)])
@pytest.mark.parametrize("copies", [0, 1])
def test_windows_of_changed_utterances_are_windows_of_the_whole_changed_utterance(augment, copies):
    of, rows = sources()[: 1 + copies], np.array([2, 0, 1, 3, 2, 2])
    view = View.drawn(of, stores_of(of), rows, augment, torch.Generator().manual_seed(4))
    assert set(view.of[rows == 1]) == {0} and len(set(view.of)) == 1 + copies
    which = np.array([0, 1, 3, 3, 4, 2, 5])
    steps = view.steps(np.array([view.lengths[row] - 50 for row in which]))
    found = view.windows(which, steps).cut().numpy()
    for window, row, at in zip(found, which, steps, strict=True):
        whole = of[view.of[row]].utterances[rows[row]].astype(np.float32)
        whole = view.changes[row](whole) if augment else whole
        np.testing.assert_allclose(window, whole[at], rtol=0, atol=1e-6)


def test_all_blocks_are_those_of_the_frames():
    acoustic, rows = frames(LENGTHS), np.array([3, 2, 0])
    view = View.plain([acoustic], stores_of([acoustic]), rows)
    windows, mask = view.all_blocks(np.array([9, 4, 9]))
    blocks, all_of = acoustic.all_blocks(rows)
    assert mask.sum(1).tolist() == [1, 4, 4] and all_of.sum(1).tolist() == [1, 9, 4]
    np.testing.assert_array_equal(windows.cut().numpy()[mask], blocks[:, :4][mask])
    assert (windows.cut()[~torch.from_numpy(mask)] == 0).all()


def collators() -> dict:
    acoustic, copy = sources()
    encoded = Ragged(np.random.default_rng(2).normal(size=(int(acoustic.blocks.sum()), 4)).astype(np.float16), acoustic.blocks)
    return {
        "pairs": PairCollator(acoustic, ["a", "b", "", "d"], torch.zeros(4, 4), augment=EVERYTHING, text_blocks=3),
        "sequences": SequenceCollator(acoustic, tokens(), augment=EVERYTHING, copies=[copy]),
        "encoded": SequenceCollator(acoustic, tokens(), encoded),
        "masked": MaskingCollator(SequenceCollator(acoustic, tokens(), encoded), 103, (101, 102, 103), 200),
    }


@pytest.mark.parametrize("name", ["pairs", "sequences", "encoded", "masked"])
def test_batches_are_cut_on_the_device(name):
    """All frames go there; what is sent for a batch is small, nothing waits, and no tensor of the CPU is mixed in."""
    collator, mode = collators()[name], FakeTensorMode()
    expected = collator([2, 0, 3], torch.Generator().manual_seed(0))
    planned = collator.plan([2, 0, 3], torch.Generator().manual_seed(0))
    assert any(isinstance(own, Windows) for own in planned.values())
    assert all(torch.equal(own, expected[key]) for key, own in ready(planned).items())
    with mode:
        stores = {id(store): store for own in planned.values() if isinstance(own, Windows) for store in own.stores}
        for store in stores.values():
            store.values = mode.from_tensor(store.values).to("cuda")
        fake = {
            key: own.with_tensors(mode.from_tensor) if isinstance(own, Windows) else mode.from_tensor(own) for key, own in planned.items()
        }
        cut = ready(fake, "cuda")
    assert {key: (own.shape, own.dtype, own.device.type) for key, own in cut.items()} == {
        key: (own.shape, own.dtype, "cuda") for key, own in expected.items()
    }


def test_frames_that_do_not_fit_stay_on_the_cpu(monkeypatch):
    """A third of the free memory at most, all stores together."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 80000))
    mode, device = FakeTensorMode(), torch.device("cuda")
    pairs = {size: [Store(np.zeros((size // 2, 1), np.float16)) for _ in range(2)] for size in (140, 160)}
    with mode:
        for both in pairs.values():
            for store in both:
                store.values = mode.from_tensor(store.values)
            Store.place(both, device)
    assert {store.values.device.type for store in pairs[140]} == {"cuda"}
    assert {store.values.device.type for store in pairs[160]} == {"cpu"}


def test_windows_are_a_small_part_of_what_they_cut():
    planned = collators()["pairs"].plan([2, 0, 3], torch.Generator().manual_seed(0))["anchor"]
    plain = PairCollator(frames([300], 3), ["a"], torch.zeros(1, 4)).plan([0], torch.Generator().manual_seed(0))["anchor"]
    assert plain.frames.nbytes == 50 * 8 and plain.cut().nbytes == 50 * CHANNELS * 4
    assert planned.cut().shape == (3, 50, CHANNELS)


def test_no_window_is_a_tensor_without_rows():
    acoustic = frames(LENGTHS)
    view = View.plain([acoustic], stores_of([acoustic]), np.array([0]))
    assert view.windows(np.array([], np.int64), view.steps(np.array([], np.int64))).cut().shape == (0, 50, CHANNELS)


def test_items_made_ahead_come_in_order_and_with_their_errors():
    made = []

    def items():
        for number in range(6):
            made.append((number, threading.current_thread() is threading.main_thread()))
            if number == 4:
                raise ValueError("the fifth")
            yield number

    found, source = [], ahead(items())
    with pytest.raises(ValueError, match="the fifth"):
        for number in source:
            found.append(number)
    assert found == [0, 1, 2, 3] and made == [(number, False) for number in range(5)]
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4] and list(ahead(iter([]))) == []
    stopped = ahead(iter(range(100)))
    next(stopped)
    stopped.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
