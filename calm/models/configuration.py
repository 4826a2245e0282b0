"""Configuration of every CALM model: sizes, and the readings of the paper that shape the network."""

from transformers import AutoConfig, BertConfig, PreTrainedConfig

FRONT_ENDS = ("spectran", "linear", "cnn")
SPECTRAN_POOLINGS = ("cls", "mean", "bands")
HEAD_POOLINGS = ("cls", "cls_mean_std", "cls_blocks")


class CalmConfig(PreTrainedConfig):
    """Sizes of SpecTran, of the language model and of the heads.

    Args:
        text_config: configuration of the BERT-style language model that the multimodal transformer starts from (4.4).
        block_frames, block_hop, mels: an acoustic block is (block_frames, mels) log-mel, one every block_hop frames (5.1).
        front_end: what makes a token of a block: "spectran", or that of a peer, "linear" or "cnn" (tables 1, 3).
        patch, stride: (frames, mels) of a patch and of its shift (5.1; tables 11, 12).
        spectran_layers, spectran_width: size of SpecTran; width None is the language model's, else a projection follows.
        spectran_pooling: "cls", the first output embedding (4.2); "mean" of the patches; or "bands", mean and spread over time of
            every row of patches of one frequency, side by side.
        spectran_dropout: dropout in SpecTran.
        projection: width of the linear heads of the contrastive loss (3.1), one a modality; None: none.
        contrastive_temperature, learn_temperature: tau of equation 2, fixed, or learned as in CLIP.
        alpha: weight of the audio-language term (4.3).
        keep_positive: keep the positive in the denominator (InfoNCE); equation 2 leaves it out.
        symmetric: add the losses with texts and neighbours as anchors.
        ignore_same_text: texts equal to the anchor's own are no negatives.
        heads: classes by head name, `{"emotion": ["happy", "sad"]}` (4.6).
        one_hot: names of heads whose utterances have exactly one class.
        thresholds: by head name, from which probability on each of its classes is decided for; tuned on validation.
        head_hidden, head_dropout: the two-layer MLP of a head (5.2).
        head_pooling: "cls" (5.2); beside [CLS] mean and spread: "cls_mean_std", of the outputs; "cls_blocks", of the encoded blocks that
            SpecTran projects to tokens.
        head_standardise: inputs of a head standardised by the training split's statistics.
        modality: "audio", "text" or "both": what the heads were trained on.
        synthetic: trained on synthetic speech.
    """

    model_type = "calm"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: dict | BertConfig | None = None,
        block_frames: int = 50,
        block_hop: int = 30,
        mels: int = 64,
        front_end: str = "spectran",
        patch: tuple[int, int] = (10, 16),
        stride: tuple[int, int] = (5, 8),
        spectran_layers: int = 2,
        spectran_width: int | None = None,
        spectran_pooling: str = "cls",
        spectran_dropout: float = 0.0,
        projection: int | None = None,
        contrastive_temperature: float = 0.07,
        learn_temperature: bool = False,
        alpha: float = 0.25,
        keep_positive: bool = False,
        symmetric: bool = False,
        ignore_same_text: bool = False,
        heads: dict[str, list[str]] | None = None,
        one_hot: list[str] | None = None,
        thresholds: dict[str, list[float]] | None = None,
        head_hidden: int = 64,
        head_dropout: float = 0.1,
        head_pooling: str = "cls",
        head_standardise: bool = False,
        modality: str = "both",
        synthetic: bool = False,
        **kwargs,
    ):
        if text_config is None:
            text_config = BertConfig()
        elif isinstance(text_config, dict):
            text_config = BertConfig(**text_config)
        self.text_config = text_config
        self.block_frames, self.block_hop, self.mels = block_frames, block_hop, mels
        self.front_end, self.patch, self.stride = front_end, list(patch), list(stride)
        self.spectran_layers, self.spectran_width = spectran_layers, spectran_width
        self.spectran_pooling, self.spectran_dropout = spectran_pooling, spectran_dropout
        self.projection = projection
        self.contrastive_temperature, self.learn_temperature = contrastive_temperature, learn_temperature
        self.alpha, self.keep_positive, self.symmetric = alpha, keep_positive, symmetric
        self.ignore_same_text = ignore_same_text
        self.heads, self.one_hot, self.thresholds = heads or {}, one_hot or [], thresholds or {}
        self.head_hidden, self.head_dropout, self.head_pooling = head_hidden, head_dropout, head_pooling
        self.head_standardise = head_standardise
        self.modality, self.synthetic = modality, synthetic
        super().__init__(**{"tie_word_embeddings": True, **kwargs})
        self._check()

    @property
    def hidden_size(self) -> int:
        """Width of the language model, and so of every token."""
        return self.text_config.hidden_size

    @property
    def patches(self) -> tuple[int, int]:
        """How many patches fit in a block, (in time, in frequency)."""
        frames, mels = (
            (size - patch) // stride + 1
            for size, patch, stride in zip((self.block_frames, self.mels), self.patch, self.stride, strict=True)
        )
        return frames, mels

    def _check(self) -> None:
        if self.patch[0] > self.block_frames or self.patch[1] > self.mels:
            raise ValueError(f"a patch of {tuple(self.patch)} does not fit a block of ({self.block_frames}, {self.mels})")
        choices = (("front_end", FRONT_ENDS), ("spectran_pooling", SPECTRAN_POOLINGS), ("head_pooling", HEAD_POOLINGS))
        for name, allowed in choices:
            if (given := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is '{given}': allowed are {', '.join(allowed)}")
