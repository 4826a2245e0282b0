"""Which words and which blocks are masked (4.5)."""

import torch


def choose(valid: torch.Tensor, share: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """In every row round(share x valid positions) random ones, at least one if there is any and share > 0.

    Args:
        valid: (batch, positions) bool.

    Returns:
        (batch, positions) bool, True only where valid.
    """
    count = (valid.sum(1) * share).round().long()
    if share > 0:
        count = count.clamp(min=1)
    scores = torch.rand(valid.shape, generator=generator).masked_fill(~valid, 2.0)
    rank = scores.argsort(1).argsort(1)
    return (rank < count[:, None]) & valid


def choose_spans(
    valid: torch.Tensor,
    share: float,
    span: int = 3,
    share_of: str = "starts",
    draw: str = "each",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Masked blocks (4.5): `share` of the blocks and the `span` - 1 after each, within the utterance.

    Args:
        valid: (batch, blocks) bool, True for the blocks of the utterance, which come first in the row.
        share_of: "starts": the share counts the first blocks of the spans; "all": all masked blocks, so that share / span are starts.
        draw: "each": every block is a start with this probability, so a short utterance may have none; "count": the rounded share
            of each utterance, at least one, which masks half of 3 to 6 blocks.
    """
    share = share if share_of == "starts" else share / span
    starts = choose(valid, share, generator) if draw == "count" else valid & (torch.rand(valid.shape, generator=generator) < share)
    masked = starts.clone()
    for shift in range(1, span):
        masked[:, shift:] |= starts[:, : starts.shape[1] - shift]
    return masked & valid
