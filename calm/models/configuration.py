"""Configuration of every CALM model: the sizes, and the readings of the paper that shape the network."""

from typing import Any

from transformers import AutoConfig, BertConfig, PreTrainedConfig

SPECTRAN_POOLINGS = ("cls", "mean", "bands")
SPECTRAN_BESIDE = (None, "frames")
HEAD_POOLINGS = ("cls", "cls_mean_std", "cls_blocks", "frames", "none")
HEAD_LOSSES = ("bce", "softmax")
TEXT_POOLINGS = ("last_mean", "input_mean", "cls")


class CalmConfig(PreTrainedConfig):
    """Sizes of the front end, of the language model and of the heads.

    Args:
        text_config: configuration of the text encoder that the multimodal transformer starts from (4.4). A dict is read by its
            `model_type`; without one it is BERT's.
        block_frames, block_hop, channels: an acoustic block is (block_frames, channels), one every block_hop frames (5.1).
        averaged_layers: how many layers of a speech encoder lie side by side in the channels, if SpecTran takes their mean with weights
            that it learns; 1: it takes the channels as they are.
        front_end: name in `calm.models.front_ends.FRONT_ENDS` of what turns a block into a token: "spectran", or that of a peer
            method, "linear" or "cnn" (tables 1, 3).
        patch, stride: (frames, channels) of a patch and of the shift between patches (5.1; tables 11, 12).
        spectran_layers, spectran_width: size of SpecTran; a width of None is the language model's hidden size.
        spectran_pooling: "cls", the first output embedding (4.2); "mean" of the patches; or "bands", mean and deviation over time of
            every row of patches of one frequency, side by side.
        spectran_beside: None, or "frames": mean and deviation of the block's own frames, per channel, stand beside what SpecTran pooled.
            They have a projection of their own to the token, so that SpecTran's width is no bottleneck.
        spectran_dropout: dropout in SpecTran.
        projection: width of the linear projections of the contrastive loss (3.1), one per modality; None: no projection.
        text_pooling: what T_i is, see `calm.models.language_model.pool_text`.
        heads: class names by head name, `{"emotion": ["happy", "sad"]}` (4.6).
        one_hot: names of the heads whose utterances have exactly one class.
        thresholds: by head name, the probability from which each class counts as present; tuned on validation.
        temperatures: by head name, the number by which its logits are divided; fitted on validation.
        decisions: by head name, how classes are decided: "thresholds" or "argmax", the likeliest class.
        head_loss: "bce", each class is a question of its own; or "softmax", exactly one class, for heads in `one_hot`.
        head_smoothing: label smoothing in training.
        head_hidden, head_dropout: the two-layer MLP of a head (5.2); without a hidden layer, a head is linear.
        head_pooling: "cls" (5.2); or [CLS] beside mean and deviation: "cls_mean_std", of the outputs; "cls_blocks", of the encoded
            blocks that the front end projects to tokens; "frames": attentive statistics of the frames (`calm.models.heads`), without
            the transformer; "none": heads see the functionals alone.
        head_frames_width, head_members: width of each member of "frames", and how many there are, whose logits are averaged.
        head_functionals: kind of functionals of an utterance's frames (`calm.audio.functionals`) that a head sees beside what is pooled.
        head_standardise: whether the inputs of a head are standardised by the statistics of the training split.
        encoder: of which the upper blocks are part of the model and recompute the frames: `{"layers": [0, 2, 4], "config": {...}}`, the
            layers of a frame, in ascending order, and the encoder's own configuration. None: frames stay as they are.
        modality: "audio", "text" or "both": what the heads were trained on.
        synthetic: trained on synthetic speech.
        cls_token_id, sep_token_id: first and last special token of the tokenizer; audio alone is this pair and the acoustic tokens.

    `id2label`, `label2id` and `problem_type` are those of the first head.

    Raises:
        ValueError: unknown choice, or a patch larger than a block.
    """

    model_type = "calm"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        block_frames: int = 50,
        block_hop: int = 30,
        channels: int = 64,
        averaged_layers: int = 1,
        front_end: str = "spectran",
        patch: tuple[int, int] = (10, 16),
        stride: tuple[int, int] = (5, 8),
        spectran_layers: int = 2,
        spectran_width: int | None = None,
        spectran_pooling: str = "cls",
        spectran_beside: str | None = None,
        spectran_dropout: float = 0.0,
        projection: int | None = None,
        text_pooling: str = "last_mean",
        heads: dict[str, list[str]] | None = None,
        one_hot: list[str] | None = None,
        thresholds: dict[str, list[float]] | None = None,
        temperatures: dict[str, float] | None = None,
        decisions: dict[str, str] | None = None,
        head_loss: str = "bce",
        head_smoothing: float = 0.0,
        head_hidden: int | None = 64,
        head_dropout: float = 0.1,
        head_pooling: str = "cls",
        head_frames_width: int = 256,
        head_members: int = 1,
        head_functionals: str | None = None,
        head_standardise: bool = False,
        encoder: dict[str, Any] | None = None,
        modality: str = "both",
        synthetic: bool = False,
        cls_token_id: int | None = None,
        sep_token_id: int | None = None,
        **kwargs: Any,
    ):
        self.text_config = _text_config(text_config)
        self.block_frames, self.block_hop, self.channels = block_frames, block_hop, channels
        self.averaged_layers = averaged_layers
        self.front_end, self.patch, self.stride = front_end, list(patch), list(stride)
        self.spectran_layers, self.spectran_width = spectran_layers, spectran_width
        self.spectran_pooling, self.spectran_beside, self.spectran_dropout = spectran_pooling, spectran_beside, spectran_dropout
        self.projection, self.text_pooling = projection, text_pooling
        self.heads, self.one_hot, self.thresholds = heads or {}, one_hot or [], thresholds or {}
        self.temperatures, self.decisions = temperatures or {}, decisions or {}
        self.head_loss, self.head_smoothing = head_loss, head_smoothing
        self.head_hidden, self.head_dropout, self.head_pooling = head_hidden, head_dropout, head_pooling
        self.head_frames_width, self.head_members = head_frames_width, head_members
        self.head_functionals, self.head_standardise = head_functionals, head_standardise
        self.encoder, self.modality, self.synthetic = encoder, modality, synthetic
        self.cls_token_id, self.sep_token_id = cls_token_id, sep_token_id
        super().__init__(**{"tie_word_embeddings": True, **kwargs, **_labels(self.heads, head_loss)})
        self._check()

    @property
    def hidden_size(self) -> int:
        """Width of the language model's hidden states."""
        return int(self.text_config.hidden_size)

    @property
    def embedding_width(self) -> int:
        """Width of the language model's input embeddings, and so of every acoustic token."""
        return getattr(self.text_config, "embedding_size", None) or self.hidden_size

    @property
    def text_width(self) -> int:
        """Width of T_i."""
        return self.embedding_width if self.text_pooling == "input_mean" else self.hidden_size

    @property
    def patches(self) -> tuple[int, int]:
        """How many patches fit in a block, (in time, in frequency)."""
        width = self.channels // self.averaged_layers
        frames, channels = (
            (size - patch) // stride + 1 for size, patch, stride in zip((self.block_frames, width), self.patch, self.stride, strict=True)
        )
        return frames, channels

    def to_dict(self) -> dict[str, Any]:
        """As Transformers writes it, without the local folders that the models were loaded from."""
        settings = super().to_dict()
        for part in (settings, settings["text_config"]):
            part.pop("_name_or_path", None)
        return settings

    def _check(self) -> None:
        if self.channels % self.averaged_layers:
            raise ValueError(f"{self.channels} channels cannot be {self.averaged_layers} layers of equal width")
        width = self.channels // self.averaged_layers
        if self.front_end == "spectran" and (self.patch[0] > self.block_frames or self.patch[1] > width):
            raise ValueError(f"a patch of {tuple(self.patch)} does not fit a block of ({self.block_frames}, {width})")
        if self.head_pooling == "none" and not self.head_functionals:
            raise ValueError("head_pooling is 'none' without head_functionals: heads would see nothing")
        if self.head_pooling == "frames" and (self.head_functionals or self.modality != "audio"):
            raise ValueError("head_pooling is 'frames': heads see the frames of audio alone, without text and head_functionals")
        if self.head_frames_width % 8:
            raise ValueError(f"head_frames_width is {self.head_frames_width}: it must be a multiple of 8")
        choices = (
            ("spectran_pooling", SPECTRAN_POOLINGS),
            ("spectran_beside", SPECTRAN_BESIDE),
            ("head_pooling", HEAD_POOLINGS),
            ("head_loss", HEAD_LOSSES),
            ("text_pooling", TEXT_POOLINGS),
        )
        for name, allowed in choices:
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is '{value}': allowed are {', '.join(map(str, allowed))}")


def _text_config(config: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    settings = dict(config or {})
    return AutoConfig.for_model(settings.pop("model_type", BertConfig.model_type), **settings)


def _labels(heads: dict[str, list[str]], loss: str) -> dict[str, Any]:
    """Transformers' names for the classes of the first head; {} without heads."""
    if not heads:
        return {}
    classes = dict(enumerate(next(iter(heads.values()))))
    labels = {name: index for index, name in classes.items()}
    kind = "single_label_classification" if loss == "softmax" else "multi_label_classification"  # by which Transformers takes a softmax
    return {"id2label": classes, "label2id": labels, "problem_type": kind}
