"""Settings of the corpora and of the stages that prepare them: synthesise, ingest, transcribe, features."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from calm.audio.pauses import Pauses
from calm.corpora import FORMATS, check_options
from calm.corpora.limits import Limits
from pipeline.settings.base import Positive, RunTime, Section, Share


class Synthetic(Section):
    """Corpora of synthetic speech, each written in the layout of a real corpus. `corpora` must have an entry of the same name and path."""

    format: Literal["mosei", "msp_podcast"]
    """Layout to write."""
    path: Path
    """Folder to write to."""
    utterances: Annotated[int, Field(ge=60, le=400)]
    """Number of utterances."""
    speakers: Annotated[int, Field(ge=20)]
    """Number of speakers."""
    voices_per_recording: Annotated[int, Field(ge=1, le=3)] = 1
    """Number of speakers that take turns in a recording. 1: each recording has one voice, so that a voice tells a recording from others."""
    label_noise: Share = 0.08
    """Share of utterances whose label is replaced by another one."""
    seed: int
    """Seed of the random choices: sentences, voices, labels."""


class CorpusSettings(Section):
    """The corpora: where each one is, in which layout, and the options of its reader."""

    format: Annotated[str, Field(json_schema_extra={"enum": [*FORMATS]})]
    """Layout of the corpus."""
    path: Path
    """Folder of the corpus; for `manifest`, the file of the table."""
    synthetic: bool = False
    """Whether the speech is synthetic. All figures from such a corpus are labelled as synthetic."""
    folds: Annotated[int, Field(ge=2)] | Literal["given"] | None = None
    """Cross-validation instead of one split: the number of folds, made so that no speaker is in two, or the folds
    that are `given`. With fewer speakers than folds, there is one for each."""
    refit: bool = False
    """Baselines, logistic heads and heads that train the network are fitted once more, on training and validation split together, before
    they answer the test split. For corpora of few speakers. Thresholds are still tuned on answers that have not heard validation."""
    options: dict = {}
    """Options of the format's reader, listed below."""

    @field_validator("format")
    @classmethod
    def format_exists(cls, format: str) -> str:
        """The format has a reader."""
        if format not in FORMATS:
            raise ValueError(f"there is no corpus format '{format}': choose one of {', '.join(FORMATS)}")
        return format

    @model_validator(mode="after")
    def options_exist(self):
        """The options are those of the format's reader."""
        check_options(self.format, self.options)
        return self


class Cut(Section):
    """Cutting of long recordings at their pauses (4.3)."""

    longer_than: Annotated[float, Field(gt=0)] = Pauses.longer_than
    """Only recordings longer than this are cut, in seconds."""
    shortest: Annotated[float, Field(gt=0)] = Pauses.shortest
    """Shorter pieces are joined to a neighbour, unless the result would be longer than `longest`. In seconds."""
    longest: Annotated[float, Field(gt=1)] = Pauses.longest
    """Longest piece, in seconds."""
    pause: Annotated[float, Field(ge=0.1)] = Pauses.pause
    """Shortest silence that separates two pieces, in seconds."""
    margin: Annotated[float, Field(ge=0)] = Pauses.margin
    """Silence kept before and after the speech, in seconds."""


class Ingest(Section):
    """From a raw corpus to its table of utterances."""

    min_seconds: Annotated[float, Field(gt=0)] = Limits.min_seconds
    """Shorter utterances are dropped."""
    max_seconds: Annotated[float, Field(gt=0)] = Limits.max_seconds
    """Longer utterances are dropped."""
    max_dropped: Share = Limits.max_dropped
    """If a corpus loses a larger share of its rows, the run stops."""
    cut: Cut | None = Cut()
    """Cuts recordings that have neither segments nor text at their pauses (4.3). null: never."""


class Transcribe(Section):
    """Texts by Whisper, for utterances that have none (5.3), of corpora that a model is pretrained on or whose heads do not hear audio
    alone. Others need no texts."""

    engine: Literal["faster-whisper", "openai-whisper"] = "faster-whisper"
    """Implementation of Whisper."""
    model: str = "tiny.en"
    """Name on the hub, or a folder. The weights of faster-whisper's `tiny.en` come with a package."""
    compute_type: Literal["auto", "int8", "float16", "float32"] = "auto"
    """Number format of the weights. `auto`: int8 on the CPU, float16 on a GPU."""
    beam: Positive = 1
    """Beam size; 1 is greedy decoding."""
    batch: Positive | None = None
    """Clips of similar length decoded together. null: 8 on the CPU, 16 on a GPU."""
    language: str | None = "en"
    """Language of the speech. null: detected for each clip."""
    window_seconds: Annotated[float, Field(ge=1, le=30)] = 30
    """Audio context of the encoder. Whisper was trained with 30 s."""
    check: int = Field(20, ge=0)
    """Number of utterances with a text of their own that are transcribed too, to measure the word error rate."""
    no_speech_threshold: Share = 0.6
    """Transcripts with a higher no-speech probability are flagged."""
    workers: Annotated[Positive | None, RunTime()] = None
    """Number of single-threaded processes; results do not depend on it. null: one per core on the CPU, one per GPU."""


class Features(Section):
    """Acoustic frames: log-mel (5.1), and beside it the hidden states of a pretrained speech encoder if one is named."""

    sample_rate: Positive = 16000
    """Audio is resampled to this rate, in Hz."""
    mels: Positive = 64
    """Number of mel bands (5.1)."""
    window_ms: Positive = 25
    """Length of the analysis window, in milliseconds."""
    hop_ms: Positive = 10
    """Time from frame to frame, in milliseconds (5.1)."""
    low_hz: float = Field(20, ge=0)
    """Lower edge of the lowest mel band, in Hz."""
    high_hz: float = Field(7600, gt=0)
    """Upper edge of the highest mel band, in Hz; half the sample rate at most."""
    trim_db: float | None = Field(None, gt=0)
    """Cut leading and trailing frames that are this far below the loudest one. null: keep all frames. An encoder never hears them."""
    encoder: str | None = None
    """Speech encoder whose states are acoustic frames: a folder, or a name on the hub, `name@revision`, of a Whisper, wav2vec 2.0, HuBERT,
    WavLM, data2vec-audio, w2v-BERT or Moonshine. The weights of `whisper-tiny.en` come with a package. null: log-mel alone."""
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [2]
    """Layers of the encoder, side by side in a frame. 1 is the output of the first transformer block, 0 its input."""
    speeds: list[Annotated[float, Field(gt=0.5, lt=2)]] = []
    """Copies of all utterances for the encoder, played at these speeds, pitch included: [0.9, 1.1]. Heads and baselines of the encoder
    learn from them too, and `head.average_speeds` listens to them."""
    shard: Positive = 512
    """Utterances per Parquet shard."""
    workers: Annotated[Positive | None, RunTime()] = None
    """Number of processes; results do not depend on it. null: one per core."""

    @model_validator(mode="after")
    def bands_fit(self):
        """The mel bands are below half of the sample rate."""
        nyquist = self.sample_rate / 2
        if not self.low_hz < self.high_hz <= nyquist:
            raise ValueError(f"features.high_hz is {self.high_hz}: it must be above low_hz, {self.low_hz}, and at most {nyquist:.0f}")
        return self
