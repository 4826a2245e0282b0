"""Every loss, with every setting, in float64: its value against loops over numbers, its gradient against differences."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import autograd

from calm.models import losses
from calm.models.losses import ContrastiveSettings

gradcheck = partial(autograd.gradcheck, fast_mode=True)  # along a random direction
ROWS, TAU = 5, 0.4
SPEAKERS = torch.tensor([0, 0, 1, 1, 2])
TEXTS = torch.tensor([3, 4, 3, 5, 4])
HAS_TEXT = torch.tensor([True, True, True, False, True])


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def term(anchors: list, positives: list, keep_positive: bool, excluded: set[tuple[int, int]]) -> float:
    """One direction of equation 2, an anchor at a time."""

    def similarity(a: list, b: list) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) / TAU

    each = []
    for i, anchor in enumerate(anchors):
        negatives = [j for j in range(len(positives)) if j != i and (i, j) not in excluded]
        if negatives:
            denominator = sum(math.exp(similarity(anchor, positives[j])) for j in negatives + [i] * keep_positive)
            each.append(math.log(denominator) - similarity(anchor, positives[i]))
    return sum(each) / max(1, len(each))


def equation_2(anchors: list, neighbours: list, texts: list, settings: ContrastiveSettings, has_text: list | None) -> dict[str, float]:
    pairs = list(itertools.product(range(ROWS), repeat=2))
    same_speaker = {(i, j) for i, j in pairs if SPEAKERS[i] == SPEAKERS[j]}
    of_audio = {"all": set(), "same_speaker": set(pairs) - same_speaker, "other_speakers": same_speaker}[settings.audio_negatives]
    of_text = {(i, j) for i, j in pairs if settings.ignore_same_text and TEXTS[i] == TEXTS[j]}
    of_text |= {(i, j) for i, j in pairs if has_text and not (has_text[i] and has_text[j])}

    def both(a: list, b: list, excluded: set[tuple[int, int]]) -> float:
        there = term(a, b, settings.keep_positive, excluded)
        return (there + term(b, a, settings.keep_positive, excluded)) / 2 if settings.symmetric else there

    audio, text = both(anchors, neighbours, of_audio), both(anchors, texts, of_text)
    return {"loss": audio + settings.alpha * text, "audio": audio, "text": text}


@pytest.mark.parametrize(("negatives", "with_text"), [*itertools.product(["all", "same_speaker", "other_speakers"], [None, HAS_TEXT])])
def test_calp(negatives, with_text):
    inputs = [values(ROWS, 3, seed=seed) for seed in range(3)]
    masks = {"same_text": TEXTS[:, None] == TEXTS, "same_speaker": SPEAKERS[:, None] == SPEAKERS, "has_text": with_text}
    for keep_positive, symmetric, ignore in itertools.product([False, True], repeat=3):
        settings = ContrastiveSettings(0.5, TAU, False, keep_positive, symmetric, ignore, negatives)
        found = losses.calp(*inputs, settings, TAU, **masks)
        expected = equation_2(*(part.tolist() for part in inputs), settings, None if with_text is None else with_text.tolist())
        assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, abs=1e-12)
        tau = torch.tensor(TAU, dtype=torch.float64, requires_grad=True)
        assert gradcheck(lambda a, b, t, tau, own=settings: losses.calp(a, b, t, own, tau, **masks)["loss"], [*inputs, tau])


def test_calp_of_other_vectors_in_the_text_term():
    inputs = [values(ROWS, 3, seed=seed) for seed in range(4)]
    settings = ContrastiveSettings(symmetric=True)
    assert gradcheck(lambda a, b, t, spoken: losses.calp(a, b, t, settings, TAU, spoken=spoken)["loss"], inputs)


def test_the_mean_is_over_the_anchors_that_have_a_negative():
    exclude = torch.ones(ROWS, ROWS, dtype=torch.bool)
    exclude[2, 4] = False
    anchors, positives = values(ROWS, 3), values(ROWS, 3, seed=1)
    cosines = torch.nn.functional.cosine_similarity(anchors[2], positives[[2, 4]]) / TAU
    assert losses.nt_xent(anchors, positives, TAU, exclude=exclude).item() == pytest.approx((cosines[1] - cosines[0]).item())
    assert gradcheck(lambda a, b: losses.nt_xent(a, b, TAU, exclude=exclude), (anchors, positives))


@pytest.mark.parametrize(("kind", "smoothing"), [*itertools.product(["bce", "softmax"], [0.0, 0.2])])
def test_losses_of_heads(kind, smoothing):
    """Of several heads (heads, utterances, classes), with labels that add up to less and to more than 1."""
    logits, targets = values(2, 3, 4), values(2, 3, 4, seed=1).detach().sigmoid()
    targets[0, 0] = torch.tensor([0.2, 0, 0, 0])
    each = []
    for row, wanted in zip(logits.reshape(-1, 4).tolist(), targets.reshape(-1, 4).tolist(), strict=True):
        if kind == "bce":
            shares = [target * (1 - smoothing) + smoothing / 2 for target in wanted]
            each += [math.log(1 + math.exp(x)) - share * x for x, share in zip(row, shares, strict=True)]
        else:
            shares = [target / sum(wanted) * (1 - smoothing) + smoothing / 4 for target in wanted]
            total = math.log(sum(map(math.exp, row)))
            each.append(sum(share * (total - x) for x, share in zip(row, shares, strict=True)))
    assert losses.classification(logits, targets, kind, smoothing).item() == pytest.approx(sum(each) / len(each), abs=1e-12)
    assert gradcheck(lambda x: losses.classification(x, targets, kind, smoothing), (logits,))


@pytest.mark.parametrize("masked", [0, 2])
def test_masked_audio(masked):
    target = values(masked, 6, 3, seed=1).detach()
    for frames in (slice(None), slice(2, 4)):
        assert gradcheck(lambda x, own=frames: losses.masked_audio(x, target, own), (values(masked, 6, 3),))


@pytest.mark.parametrize("masked", [0, 3])
def test_masked_words(masked):
    assert gradcheck(lambda x: losses.masked_words(x, torch.arange(masked)), (values(masked, 5),))
