"""Equations 2 and 3 and the masks against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calm.data import masking
from calm.models import losses
from calm.models.losses import ContrastiveSettings

# Cosines of anchors (1, 0), (0, 1), (3/5, 4/5) with positives (1, 0), (4/5, 3/5), (0, 1):
#   1.00 0.80 0.00
#   0.00 0.60 1.00
#   0.60 0.96 0.80
ANCHORS = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.6, 0.8]])
POSITIVES = torch.tensor([[1.0, 0.0], [8.0, 6.0], [0.0, 3.0]])


def hand(rows: list[tuple[float, list[float]]], temperature: float) -> float:
    """Mean of -log(exp(s/t) / sum exp(others/t)), written out."""
    return sum(-s / temperature + math.log(sum(math.exp(o / temperature) for o in others)) for s, others in rows) / len(rows)


def test_nt_xent_leaves_the_positive_out():
    expected = hand([(1.0, [0.8, 0.0]), (0.6, [0.0, 1.0]), (0.8, [0.6, 0.96])], 0.5)
    assert losses.nt_xent(ANCHORS, POSITIVES, 0.5).item() == pytest.approx(expected, abs=1e-6)


def test_nt_xent_by_hand_at_temperature_one():
    # ln(e^0.8 + 1) - 1 = 0.17110; ln(1 + e) - 0.6 = 0.71326; ln(e^0.6 + e^0.96) - 0.8 = 0.68926; mean 0.52454
    assert losses.nt_xent(ANCHORS, POSITIVES, 1.0).item() == pytest.approx(0.52454, abs=1e-4)


def test_info_nce_keeps_the_positive():
    expected = hand([(1.0, [1.0, 0.8, 0.0]), (0.6, [0.0, 0.6, 1.0]), (0.8, [0.6, 0.96, 0.8])], 0.5)
    loss = losses.nt_xent(ANCHORS, POSITIVES, 0.5, keep_positive=True)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert loss > 0  # never below 0, unlike equation 2's


def test_nt_xent_excludes_pairs_and_anchors_without_negatives():
    exclude = torch.zeros(3, 3, dtype=torch.bool)
    exclude[0, 1] = True  # leaves 0.0 for the first anchor
    exclude[1, [0, 2]] = True  # leaves nothing for the second
    expected = hand([(1.0, [0.0]), (0.8, [0.6, 0.96])], 0.5)
    assert losses.nt_xent(ANCHORS, POSITIVES, 0.5, exclude=exclude).item() == pytest.approx(expected, abs=1e-6)


def test_nt_xent_of_one_utterance_is_zero_and_has_a_gradient():
    anchor = torch.ones(1, 4, requires_grad=True)
    loss = losses.nt_xent(anchor, torch.ones(1, 4), 0.07)
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(anchor.grad).all()


def test_equation_2_is_bounded_as_the_paper_says():
    torch.manual_seed(0)
    a, b, t = torch.randn(3, 16, 8)
    alpha, tau, m = 0.25, 0.07, 16
    loss = losses.calp(a, b, t, ContrastiveSettings(alpha=alpha), tau)["loss"]
    sim = lambda x, y: torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T  # noqa: E731
    off = -10 * torch.eye(m)
    bound = -alpha * sim(a, t).diagonal() - sim(a, b).diagonal() + (sim(a, b) + off).amax(1) + alpha * (sim(a, t) + off).amax(1)
    assert loss <= (bound / tau).mean() + 2 * math.log(m)


def test_calp_adds_the_text_term_with_alpha():
    texts = POSITIVES.flip(0)
    terms = losses.calp(ANCHORS, POSITIVES, texts, ContrastiveSettings(alpha=0.25), 0.5)
    audio, text = losses.nt_xent(ANCHORS, POSITIVES, 0.5), losses.nt_xent(ANCHORS, texts, 0.5)
    assert terms["loss"].item() == pytest.approx((audio + 0.25 * text).item())
    without = losses.calp(ANCHORS, POSITIVES, texts, ContrastiveSettings(alpha=0.0), 0.5)
    assert without["loss"].item() == pytest.approx(audio.item()) and without["text"] == 0


def test_calp_symmetric_averages_both_directions():
    terms = losses.calp(ANCHORS, POSITIVES, POSITIVES, ContrastiveSettings(alpha=0.0, symmetric=True), 0.5)
    expected = (losses.nt_xent(ANCHORS, POSITIVES, 0.5) + losses.nt_xent(POSITIVES, ANCHORS, 0.5)) / 2
    assert terms["loss"].item() == pytest.approx(expected.item())


def test_calp_leaves_utterances_without_text_out_of_the_text_term():
    has_text = torch.tensor([True, False, True])
    terms = losses.calp(ANCHORS, POSITIVES, POSITIVES, ContrastiveSettings(alpha=1.0), 0.5, has_text=has_text)
    assert terms["text"].item() == pytest.approx(hand([(1.0, [0.0]), (0.8, [0.6])], 0.5), abs=1e-6)


def test_masked_audio_by_hand():
    predicted = torch.zeros(2, 3, 2)
    target = torch.tensor([[[1.0, 1], [2, 2], [0, 0]], [[0, 0], [2, 2], [3, 3]]])
    assert losses.masked_audio(predicted, target).item() == pytest.approx(18 / 6)  # squares 1 4 0 0 4 9, twice, over 12
    assert losses.masked_audio(predicted, target, slice(1, 2)).item() == pytest.approx(4)
    assert losses.masked_audio(predicted[:0], target[:0]).item() == 0


def test_masked_words_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0, 0, 0]])
    expected = (math.log(4) + math.log(2)) / 2  # 1/4 of the mass, and 3/6
    assert losses.masked_words(logits, torch.tensor([2, 0])).item() == pytest.approx(expected, abs=1e-6)
    assert losses.masked_words(logits[:0], torch.empty(0, dtype=torch.long)).item() == 0


def test_losses_of_heads_by_hand():
    logits = torch.tensor([[math.log(3), 0.0, 0.0], [0.0, 0.0, 0.0]])  # softmax: 3/5, 1/5, 1/5; 1/3 each
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    softmax = (math.log(5 / 3) + math.log(3)) / 2
    assert losses.classification(logits, targets, "softmax").item() == pytest.approx(softmax, abs=1e-6)
    assert losses.classification(logits, 2 * targets, "softmax").item() == pytest.approx(softmax, abs=1e-6)  # soft labels are shares
    even = (math.log(5 / 3) + 2 * math.log(5)) / 3  # of the first row; the second has log 3 for each class
    assert losses.classification(logits, targets, "softmax", 0.3).item() == pytest.approx(
        (0.7 * math.log(5 / 3) + 0.3 * even + math.log(3)) / 2, abs=1e-6
    )
    bce = (-math.log(3 / 4) + 5 * math.log(2)) / 6
    assert losses.classification(logits, targets).item() == pytest.approx(bce, abs=1e-6)
    smooth = (-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4) + 5 * math.log(2)) / 6
    assert losses.classification(logits, targets, "bce", 0.2).item() == pytest.approx(smooth, abs=1e-6)


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6), share=st.floats(0, 1), seed=st.integers(0, 2**30))
def test_choose_takes_the_rounded_share_and_at_least_one(lengths, share, seed):
    valid = torch.arange(40) < torch.tensor(lengths)[:, None]
    chosen = masking.choose(valid, share, torch.Generator().manual_seed(seed))
    assert not (chosen & ~valid).any()
    for length, count in zip(lengths, chosen.sum(1).tolist(), strict=True):
        rounded = torch.tensor(length * share).round().int().item()
        assert count == (min(length, max(1, rounded)) if share > 0 else 0)


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), span=st.integers(1, 4), seed=st.integers(0, 2**30))
def test_spans_cover_what_follows_and_stay_in_the_utterance(lengths, span, seed):
    valid = torch.arange(60) < torch.tensor(lengths)[:, None]
    starts = masking.choose(valid, 0.1, torch.Generator().manual_seed(seed))
    masked = masking.choose_spans(valid, 0.1, span, "starts", "count", torch.Generator().manual_seed(seed))
    expected = torch.zeros_like(masked)
    for row, first in starts.nonzero().tolist():
        expected[row, first : min(first + span, lengths[row])] = True
    assert torch.equal(masked, expected)


def test_masks_are_those_of_the_paper_by_default_and_drawn_by_the_generator():
    valid = torch.arange(30) < torch.tensor([30, 12])[:, None]
    default, named = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for _ in range(3):
        masked = masking.choose_spans(valid, 0.2, generator=default)
        assert masked.any() and torch.equal(masked, masking.choose_spans(valid, 0.2, 3, "starts", "each", named))


def test_share_of_masked_blocks():
    valid = torch.ones(2000, 30, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    for draw in ("each", "count"):
        assert masking.choose_spans(valid, 0.1, 3, "starts", draw, generator).float().mean().item() == pytest.approx(0.265, abs=0.01)
        assert masking.choose_spans(valid, 0.1, 3, "all", draw, generator).float().mean().item() == pytest.approx(0.10, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 40), share=st.sampled_from([0.05, 0.1, 0.3]), seed=st.integers(0, 2**30))
def test_the_share_of_starts_is_the_one_printed_for_every_length(length, share, seed):
    """Over 60,000 blocks, the mean of independent draws stays within five standard errors."""
    rows = 60_000 // length
    valid = (torch.arange(length + 2) < length).expand(rows, -1)
    starts = masking.choose_spans(valid, share, 1, "starts", "each", torch.Generator().manual_seed(seed))
    assert not (starts & ~valid).any()
    error = math.sqrt(share * (1 - share) / (rows * length))
    assert starts.sum().item() / (rows * length) == pytest.approx(share, abs=5 * error)


def test_at_least_one_span_masks_half_of_a_short_utterance():
    """What `count` does, and why it is not the default: one start of 4 blocks masks 3, 3, 2 or 1 of them."""
    valid = torch.ones(4000, 4, dtype=torch.bool)
    masked = {draw: masking.choose_spans(valid, 0.1, 3, "starts", draw, torch.Generator().manual_seed(1)) for draw in ("count", "each")}
    assert masked["count"].float().mean().item() == pytest.approx(9 / 16, abs=0.01)
    assert masked["each"].float().mean().item() == pytest.approx((0.1 + 0.19 + 2 * 0.271) / 4, abs=0.01)


def test_negatives_of_the_audio_term_by_hand():
    """Three utterances, the first two of one speaker; neighbours that are the unit vectors, anchors with cosines 0.6 and 0.8."""
    anchors = torch.tensor([[0.6, 0.8, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]])
    speakers = torch.tensor([0, 0, 1])
    same = speakers[:, None] == speakers

    def audio(negatives):
        settings = ContrastiveSettings(alpha=0, audio_negatives=negatives)
        return losses.calp(anchors, torch.eye(3), anchors, settings, 1.0, same_speaker=same)["audio"].item()

    # Positives: 0.6, 0.6, 0.8. Row 1 has the negatives 0.8 (same speaker) and 0 (the other), row 2 the same, row 3 0 and 0.6.
    both = math.log(math.exp(0.8) + 1) - 0.6
    assert audio("all") == pytest.approx((2 * both + math.log(1 + math.exp(0.6)) - 0.8) / 3, abs=1e-6)
    assert audio("same_speaker") == pytest.approx(0.8 - 0.6, abs=1e-6)  # the third has no negative, so no part
    assert audio("other_speakers") == pytest.approx((2 * (0 - 0.6) + math.log(1 + math.exp(0.6)) - 0.8) / 3, abs=1e-6)


def test_what_stands_for_the_anchor_in_the_text_term():
    spoken, texts = POSITIVES.flip(0), torch.roll(POSITIVES, 1, 0)
    terms = losses.calp(ANCHORS, POSITIVES, texts, ContrastiveSettings(), 0.5, spoken=spoken)
    assert terms["text"].item() == pytest.approx(losses.nt_xent(spoken, texts, 0.5).item())
    assert terms["audio"].item() == pytest.approx(losses.nt_xent(ANCHORS, POSITIVES, 0.5).item())


def test_losses_are_in_float32_in_mixed_precision():
    """Similarities in bfloat16 would have two or three digits."""
    exact = losses.nt_xent(ANCHORS, POSITIVES, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(losses.nt_xent(ANCHORS, POSITIVES, 0.07), exact, rtol=0, atol=1e-6)
        half = [
            losses.nt_xent(ANCHORS.bfloat16(), POSITIVES.bfloat16(), 0.07),
            losses.masked_audio(torch.ones(1, 2, 2).bfloat16(), torch.zeros(1, 2, 2)),
        ]
        half += [
            losses.masked_words(torch.ones(1, 4).bfloat16(), torch.tensor([0])),
            losses.classification(torch.ones(1, 4).bfloat16(), torch.ones(1, 4)),
        ]
    assert {loss.dtype for loss in half} == {torch.float32}
