"""The losses of the paper: NT-Xent and CALP (equation 2), masked words and masked audio (equation 3).

They are computed in float32 where the model is in half precision. What has no part in a mean is masked, not cut out, because the host would
have to wait for the device to learn how much is left.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class ContrastiveSettings:
    """How equation 2 is computed in training; a trained model does not depend on it.

    Args:
        alpha: weight of the audio-language term (4.3).
        temperature, learn_temperature: tau, fixed, or learned from this value as in CLIP.
        keep_positive: keep the positive in the denominator (InfoNCE); equation 2 leaves it out.
        symmetric: add the losses with neighbours and texts as anchors.
        ignore_same_text: utterances with the text of the anchor are not its negatives.
        audio_negatives: whose blocks are negatives of the audio term: those of "all" utterances of the batch; of the "same_speaker", so
            that voice and channel tell no pair from another; or of "other_speakers", so that blocks of one voice are not pushed apart.
        train_beside: train the projection of the frames beside SpecTran's output, too (`CalmConfig.spectran_beside`). If not, a token keeps
            a random projection of them, whatever the loss has no use for.
        chunk: blocks, or texts, that are embedded at a time, so that the memory that a batch takes does not grow with it; None: all.
    """

    alpha: float = 0.25
    temperature: float = 0.07
    learn_temperature: bool = False
    keep_positive: bool = False
    symmetric: bool = False
    ignore_same_text: bool = False
    audio_negatives: str = "all"
    train_beside: bool = True
    chunk: int | None = None


def nt_xent(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    temperature: float | torch.Tensor,
    keep_positive: bool = False,
    exclude: torch.Tensor | None = None,
) -> torch.Tensor:
    """NT-Xent of a mini-batch, as equation 2 prints it: the denominator runs over j != i.

    L_i = -log( exp(s_ii / tau) / sum_{j != i} exp(s_ij / tau) ), with s the cosine similarity.

    Args:
        anchors, positives: (batch, width); row i of one belongs to row i of the other.
        temperature: tau.
        keep_positive: keep j = i in the denominator (InfoNCE).
        exclude: (batch, batch) bool, other pairs to leave out of the denominator.

    Returns:
        The mean over the anchors that have a negative, a scalar; 0 if none has one.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        logits = F.normalize(_full(anchors), dim=-1) @ F.normalize(_full(positives), dim=-1).T / temperature
    excluded = torch.zeros_like(logits, dtype=torch.bool) if exclude is None else exclude.clone()
    excluded.fill_diagonal_(not keep_positive)
    negatives = ~excluded
    negatives.fill_diagonal_(False)
    usable = negatives.any(1)
    others = logits.masked_fill(excluded & usable[:, None], -torch.inf)
    each = torch.logsumexp(others, 1) - logits.diagonal()
    return each.where(usable, 0).sum() / usable.sum().clamp(min=1)


def _full(values: torch.Tensor) -> torch.Tensor:
    """In float32 what was in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def calp(
    anchors: torch.Tensor,
    neighbours: torch.Tensor,
    texts: torch.Tensor,
    settings: ContrastiveSettings,
    temperature: float | torch.Tensor,
    same_text: torch.Tensor | None = None,
    has_text: torch.Tensor | None = None,
    same_speaker: torch.Tensor | None = None,
    spoken: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Equation 2: NT-Xent(A_t, A_t+1) + alpha NT-Xent(A_t, T).

    Args:
        anchors, neighbours, texts: (batch, width), projected for the loss.
        temperature: tau, which may be a parameter that `settings` only gave the first value.
        same_text: (batch, batch) bool, pairs of utterances with the same text.
        has_text: (batch,) bool; an utterance without text has no part in the second term.
        same_speaker: (batch, batch) bool, pairs of utterances of one speaker; needed where `audio_negatives` is not "all".
        spoken: (batch, width), what stands for A_t in the second term, for example several blocks pooled; None: the anchors.

    Returns:
        "loss" and its two terms, "audio" and "text", unweighted; scalars.
    """

    def both(a: torch.Tensor, b: torch.Tensor, exclude: torch.Tensor | None = None) -> torch.Tensor:
        loss = nt_xent(a, b, temperature, settings.keep_positive, exclude)
        if not settings.symmetric:
            return loss
        return (loss + nt_xent(b, a, temperature, settings.keep_positive, None if exclude is None else exclude.T)) / 2

    if not settings.ignore_same_text:
        same_text = None
    spoken = anchors if spoken is None else spoken
    if has_text is not None:  # without a negative, it has no part either as an anchor
        without = ~has_text
        same_text = without[:, None] | without if same_text is None else same_text | without[:, None] | without
    left_out = {"all": None, "same_speaker": ~same_speaker, "other_speakers": same_speaker} if same_speaker is not None else {"all": None}
    audio = both(anchors, neighbours, left_out[settings.audio_negatives])
    text = both(spoken, texts, same_text) if settings.alpha else audio.new_zeros(())
    return {"loss": audio + settings.alpha * text, "audio": audio, "text": text}


def classification(logits: torch.Tensor, targets: torch.Tensor, kind: str = "bce", smoothing: float = 0.0) -> torch.Tensor:
    """Loss of a head (4.6), mean over the utterances: logits and targets (..., classes), targets in [0, 1].

    Args:
        kind: "bce", binary cross-entropy of each class; "softmax", cross entropy over the classes, for utterances that have exactly one.
        smoothing: share of the target that is spread evenly: over present and absent, or over the classes.
    """
    logits = _full(logits)
    targets = targets.to(logits.dtype)
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2)
    targets = targets / targets.sum(-1, keepdim=True).clamp(min=1e-6)  # soft labels are shares
    classes = logits.shape[-1]
    return F.cross_entropy(logits.reshape(-1, classes), targets.reshape(-1, classes), label_smoothing=smoothing)


def masked_audio(predicted: torch.Tensor, target: torch.Tensor, frames: slice = slice(None)) -> torch.Tensor:
    """L_MAM of equation 3: mean squared error over the masked blocks, (masked, frames, channels) each; 0 if nothing is masked.

    Args:
        frames: only these frames of a block. Blocks overlap, so only the middle frames are hidden from the neighbours.
    """
    if not len(target):
        return predicted.sum()
    return F.mse_loss(_full(predicted[:, frames]), _full(target[:, frames]))


def masked_words(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L_MLM of equation 3: mean cross entropy over the masked tokens; logits (masked, vocabulary), target (masked,)."""
    if not len(target):
        return logits.sum()
    return F.cross_entropy(_full(logits), target)
