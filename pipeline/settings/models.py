"""Settings of the models and of their pretraining: SpecTran, CALP, masked pretraining."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings.base import Name, Overrides, Positive, Rate, RunTime, Section, Share

Normalise = Literal["corpus", "utterance", "speaker", "tested_speaker"]


class SpecTranSettings(Section):
    """SpecTran, the transformer that encodes acoustic blocks (4.2, 5.1)."""

    frames: Literal["log-mel", "encoder"] | None = None
    """Acoustic frames: log-mel (5.1), or the states of `features.encoder`. null: those of the encoder if there is one."""
    block: Positive = 50
    """Frames per acoustic block (5.1); an encoder's frames are mostly 20 ms apart."""
    hop: Positive = 30
    """Frames from the start of one block to the start of the next (5.1)."""
    patch: tuple[Positive, Positive] = (10, 16)
    """Size of a patch, frames x channels (5.1; tables 11, 12)."""
    stride: tuple[Positive, Positive] = (5, 8)
    """Shift from patch to patch, frames x channels (5.1)."""
    encoder_layers: Literal["side_by_side", "learned_mean"] = "side_by_side"
    """Several `features.layers`: as they lie in a frame, or their mean with weights that SpecTran learns; a patch then covers channels of
    one layer."""
    layers: Positive = 2
    """Number of transformer layers."""
    width: Positive | None = 128
    """Hidden size. null: the language model's hidden size, without a projection."""
    pooling: Literal["cls", "mean", "bands"] = "cls"
    """How the outputs become one vector. `cls`: "the first output embedding" (4.2). `bands`: mean and deviation over time, per band."""
    beside: Literal["frames"] | None = None
    """`frames`: mean and deviation of the block's own frames stand beside what SpecTran pooled, for the token and for the heads, so that
    SpecTran's width is no bottleneck for an encoder's states. null: SpecTran's output alone (4.2)."""
    dropout: Share = 0.0
    """Dropout in training."""
    normalise: Normalise = "corpus"
    """Normalise the frames by the statistics of the training split, of each utterance, or of all recordings of its speaker, without their
    labels. `speaker`: those of everybody. `tested_speaker`: those of the test split alone; what is trained is the same as with `corpus`."""

    @field_validator("width")
    @classmethod
    def heads_fit(cls, width: int | None) -> int | None:
        """Attention heads are 64 wide."""
        if width is not None and width > 64 and width % 64:
            raise ValueError("must be 64 or less, or a multiple of 64, the width of an attention head")
        return width

    @model_validator(mode="after")
    def patch_fits(self):
        """A patch has no more frames than a block."""
        if self.patch[0] > self.block:
            raise ValueError(f"spectran.patch is {list(self.patch)}: its frames must be no more than spectran.block, {self.block}")
        return self


class Augment(Section):
    """Random changes of the log-mel, in training only; each is off at 0. CALP may augment its pairs (4.3)."""

    time_masks: int = Field(0, ge=0)
    """Number of time masks per block."""
    time_mask_frames: Positive = 10
    """Longest time mask, in frames."""
    mel_masks: int = Field(0, ge=0)
    """Number of frequency masks per block."""
    mel_mask_bands: Positive = 8
    """Widest frequency mask, in mel bands."""
    crop: float = Field(0, ge=0, lt=1)
    """Up to this share of the frames is cut from the ends."""
    speed: float = Field(0, ge=0, lt=0.5)
    """The tempo changes by up to this share."""
    warp: float = Field(0, ge=0, lt=0.5)
    """The mel axis is stretched by up to this share, as by another vocal tract length."""
    gain_db: float = Field(0, ge=0)
    """The level changes by up to this many dB."""


class Optimiser(Section):
    """What every training has in common."""

    epochs: Positive
    """Number of epochs."""
    batch: Positive
    """Utterances per step."""
    learning_rate: Rate
    """Highest learning rate."""
    optimiser: Literal["adamw", "adam"] = "adamw"
    """`adam`: without weight decay, as section 5 prints it for the heads."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW. With `adam`: 0."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant_with_warmup", "constant"] = "cosine"
    """Course of the learning rate after the warm-up. `constant`: the same rate in every step; set `warmup: 0`."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of all gradients together, to which larger ones are scaled. 0: no clipping, as always for frozen heads."""
    checkpoint_minutes: Annotated[float, Field(gt=0), RunTime()] = 10
    """Minutes between checkpoints. A stopped stage resumes from its last one, with the same result."""

    @model_validator(mode="after")
    def parts_agree(self):
        """Adam has no weight decay, and a constant rate no warm-up."""
        if self.optimiser == "adam" and self.weight_decay:
            raise ValueError(f"optimiser is adam, but weight_decay is {self.weight_decay:g}: set weight_decay: 0, or optimiser: adamw")
        if self.schedule == "constant" and self.warmup:
            raise ValueError(f"schedule is constant, but warmup is {self.warmup:g}: set warmup: 0, or schedule: constant_with_warmup")
        return self


class Calp(Optimiser):
    """Contrastive audio-language pretraining of SpecTran (4.3, equation 2)."""

    alpha: float = Field(0.25, ge=0)
    """Weight of the audio-language term (4.3). 0: "without CALP" (A.1)."""
    temperature: float = Field(0.07, gt=0)
    """Temperature of the contrastive loss."""
    learn_temperature: bool = False
    """Whether the temperature is trained."""
    keep_positive: bool = False
    """false: the denominator leaves out the positive pair, as equation 2 is printed. true: it includes it (InfoNCE)."""
    symmetric: bool = False
    """false: only audio blocks are anchors (equation 2). true: texts and neighbouring blocks are anchors too."""
    text_vector: Literal["last_mean", "input_mean", "cls"] = "last_mean"
    """How the frozen language model gives T_i: the mean of its last hidden states, the mean of its input embeddings, or [CLS]."""
    projection: Positive | None = 128
    """Width of one linear projection per modality, used by the loss only (3.1). null: no projection."""
    ignore_same_text: bool = False
    """true: in the text term, utterances with the same text are not negatives of each other."""
    text_blocks: Positive | None = 1
    """Blocks of an utterance that stand against its text, as the mean of their vectors. 1: one block (equation 2), which holds two words or
    so of the text; more: drawn from all of them; null: all."""
    batch_of: Literal["utterances", "speakers"] = "utterances"
    """`speakers`: a batch holds many utterances of few speakers (of few recordings, where a corpus has no speakers), so that the voice and
    the channel do not tell which block is the neighbour. `utterances`: any."""
    audio_negatives: Literal["all", "same_speaker", "other_speakers"] = "all"
    """Whose blocks are negatives in the audio term. `same_speaker`: those of the own speaker alone, so that the voice solves nothing; with
    `batch_of: speakers`. `other_speakers`: blocks of the own speaker are not pushed apart."""
    train_beside: bool = True
    """Whether the projection of the frames beside SpecTran's output is trained (`spectran.beside`). false: it stays random, so that tokens
    keep what the loss has no use for, such as how something was said."""
    short: Literal["shift", "drop"] = "shift"
    """Utterances with fewer than two blocks: pair the block with a time-shifted copy of itself, or drop them."""
    train_encoder: bool = False
    """Whether the blocks of the speech encoder above the first of `features.layers` are trained too, as by `head.train_encoder`. All that
    follows hears the trained encoder, but for rows that start from the language model. Without masks in `augment`."""
    encoder_rank: Positive | None = None
    """`train_encoder`: rank of low-rank adapters that are trained in place of the blocks' own weights. null: the blocks' own weights."""
    encoder_rate: float = Field(0.1, gt=0, le=1)
    """`train_encoder`: learning rate of the encoder's blocks or adapters, as a share of `learning_rate`."""
    train_language_model: bool = False
    """Whether the language model is trained too: "minimal training is performed for the lexical modality" (6.2)."""
    chunk: Positive | None = None
    """Blocks, or texts, embedded at a time, for batches whose activations the memory does not hold; gradients are those of the whole
    batch, and everything is embedded twice (GradCache). With `train_encoder`, as many utterances go through the encoder at a time.
    null: the whole batch at once."""
    augment: Augment = Augment()


class Pretrain(Optimiser):
    """Masked pretraining of the multimodal transformer (4.5, equation 3)."""

    mask_words: Share = 0.15
    """Share of the words that are masked (4.5)."""
    mask_style: Literal["mask", "80/10/10"] = "mask"
    """What replaces a masked word. `mask`: always [MASK]. `80/10/10`: [MASK], a random word or the word itself, as in BERT."""
    mask_audio: Share = 0.10
    """Share of the acoustic tokens that are masked (4.5)."""
    mask_audio_of: Literal["starts", "all"] = "starts"
    """`starts`: this share of the tokens starts a masked span, so about 27 % are masked. `all`: this share is masked in total."""
    mask_audio_draw: Literal["each", "count"] = "each"
    """`each`: every token is drawn with this probability, so the share is that of 4.5 for every length. `count`: the rounded share of each
    utterance, at least one token, which masks half of an utterance of 3 to 6 blocks."""
    mask_audio_span: Positive = 3
    """Length of a masked span in tokens: one and the following 2 (4.5)."""
    train_spectran: bool = False
    """Whether SpecTran is trained too."""
    modality: Literal["both", "audio"] = "both"
    """`audio`: masked audio alone, without words (A.1)."""
    max_tokens: Positive = 512
    """Most tokens of text and audio together. The share that is cut off is reported."""


NO_CORPUS = "none"  # `pretrain_on` of a model without pretraining


class Model(Section):
    """The CALM models: language model, pretraining corpora, and how each differs from the sections `spectran`, `calp` and `pretrain`."""

    language_model: str
    """Name on the hub, at best with its revision (`name@revision`), a folder, or `minilm` for the packaged all-MiniLM-L6-v2."""
    layers: Positive | None = None
    """Number of layers of the language model to use, from the first. null: all layers."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of its pretraining. null: the first of `seeds`. For a spread over pretrainings: models of one `lm` with different seeds."""
    pretrain_on: str = "."
    """Name of a corpus, `.` for all corpora (tables 1, 2: in-domain, out-of-domain), or `none` for no pretraining."""
    lm: Name | None = None
    """Name of the language model in the tables, equal for models that are compared. null: the model's own name."""
    stands_for: Literal["tiny", "base"] | None = None
    """The BERT size in the paper's tables whose rows this model fills."""
    aligned: bool = True
    """false: no CALP, SpecTran keeps its random initial weights (table 2, "MM-BERT pretraining only")."""
    spectran: Annotated[dict, Overrides(SpecTranSettings)] = {}
    """Values that differ from `spectran`."""
    calp: Annotated[dict, Overrides(Calp)] = {}
    """Values that differ from `calp`."""
    pretrain: Annotated[dict, Overrides(Pretrain)] = {}
    """Values that differ from `pretrain`."""
