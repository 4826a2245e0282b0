"""Speech to text by Whisper, for corpora without transcripts: two engines behind one interface.

Whisper was trained on windows of 30 s and pads every clip to that length, which is most of the cost for short clips. Here its encoder may
see less. The decoder falls into loops if no silence follows the words, so it then also gets the encoder's states of silence, which are
computed once. If a text still looks wrong (`suspicious`), the clip is decoded again with the full 30 s, and then with five beams. Whether
greedy decoding falls into a loop depends on the last bits of the numbers, so it may happen with one engine and not with the other.
"""

import logging
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calm import devices
from calm.array_types import Floats32
from calm.asr.transcripts import Transcript
from calm.asr.windows import LONGEST, SAMPLE_RATE, DecodedWindow, join, most_tokens, padded, split, suspicious, tail_of, window_seconds
from calm.audio.packaged import WeightsError, packaged

if TYPE_CHECKING:
    import torch
    from ctranslate2 import StorageView
    from faster_whisper.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MORE_BEAMS = 5  # Whisper's default. Whisper itself raises the temperature to escape loops, but then texts differ from run to run


class AsrError(ValueError):
    """A model that cannot be used. The message is one sentence that says what to do."""


class Whisper(ABC):
    """What both engines share.

    Clips are split into windows of at most 30 s and decoded greedily, or with beams, at temperature 0, without timestamps or prompt.

    Args:
        name: name of the engine and its model.
        window: least seconds that the encoder sees; more if a clip and a margin of silence need it. 30: always the full window.
        beam: number of beams; 1 is greedy decoding.
        language: code, or None to detect it for every clip. Models without other languages than English always hear English.
    """

    multilingual: bool  # whether the model knows other languages than English

    def __init__(self, name: str, window: float = LONGEST, beam: int = 1, language: str | None = None):
        self.name, self.window, self.beam, self.language = name, window, beam, language

    def __call__(self, clips: Sequence[Floats32]) -> list[Transcript]:
        """Transcripts of clips, each float32 (samples,) at 16 kHz. All clips of a call are one batch and should be about equally long.

        Raises AsrError if the engine fails, such as for want of a GPU's memory.
        """
        parts = [split(clip) for clip in clips]
        batch = [part for clip_parts in parts for part in clip_parts]
        seconds = window_seconds(max((len(part) for part in batch), default=0) / SAMPLE_RATE, self.window)
        try:
            decoded = self._decode(batch, seconds, self.beam) if batch else []
            windows = iter([self._corrected(part, window, seconds) for part, window in zip(batch, decoded, strict=True)])
        except RuntimeError as error:  # most often memory
            raise AsrError(f"{self.name} failed on {len(batch)} windows at once, with fewer it may not: {_first_line(error)}") from error
        return [join([next(windows) for _ in clip_parts]) for clip_parts in parts]

    def _corrected(self, part: Floats32, window: DecodedWindow, seconds: float) -> DecodedWindow:
        """The decoded window; decoded again with the full 30 s if it looks wrong, and with more beams if it still does."""
        for beam in [self.beam] * (seconds < LONGEST) + [MORE_BEAMS] * (self.beam < MORE_BEAMS):
            if suspicious(window):
                (window,) = self._decode([part], LONGEST, beam)
        return window

    @abstractmethod
    def _decode(self, batch: list[Floats32], seconds: float, beam: int) -> list[DecodedWindow]:
        """Decode clips of at most 30 s, each in a window of so many seconds, with so many beams."""


class FasterWhisper(Whisper):
    """Whisper through CTranslate2.

    Args:
        model: folder of a converted model (see `resolve`).
        compute_type: "auto": int8 on CPU, float16 on GPU. The CPU takes float32 in place of float16.
        device: "cpu", "cuda" or "auto". On a GPU the window is always 30 s, which costs little there. A GPU that fails at a first clip
            of silence is replaced by the CPU, with a warning.
        index: of the GPU.
        threads: of the CPU.
        options: arguments of Whisper other than `name`.
    """

    def __init__(self, model: str, compute_type: str = "auto", device: str = "auto", index: int = 0, threads: int = 1, **options: Any):
        from faster_whisper.transcribe import get_suppressed_tokens

        if device == "auto":
            device = "cuda" if gpus("faster-whisper") else "cpu"
        super().__init__(f"faster-whisper {model}", **options)
        shortest = self.window
        try:
            self._open(model, compute_type, device, index, threads)
            if device == "cuda":
                self.window = LONGEST
                self._encode([np.zeros(0, np.float32)], LONGEST)  # CTranslate2 opens its libraries at the first product
        except RuntimeError as error:
            if device != "cuda":
                raise
            self.window = shortest
            self._open(model, compute_type, "cpu", 0, threads)
            logger.warning(f"faster-whisper transcribes on the CPU, as the GPU cannot be used: {_first_line(error)}")
        self.multilingual = self.model.model.is_multilingual
        if not self.multilingual:
            self.language = "en"
        self._suppressed = get_suppressed_tokens(self._tokenizer("en"), [-1])

    def _open(self, model: str, compute_type: str, device: str, index: int, threads: int) -> None:
        from faster_whisper import WhisperModel

        formats = {"auto": "int8", "float16": "float32"} if device == "cpu" else {"auto": "float16"}
        compute_type = formats.get(compute_type, compute_type)
        self.model = WhisperModel(model, device=device, device_index=index, compute_type=compute_type, cpu_threads=threads)

    def _tokenizer(self, language: str) -> "Tokenizer":
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self.model.hf_tokenizer, self.multilingual, task="transcribe", language=language)

    def _decode(self, batch: list[Floats32], seconds: float, beam: int) -> list[DecodedWindow]:
        encoded = self._encode(batch, seconds)
        languages = self._languages(encoded, len(batch))
        tokenizers = [self._tokenizer(language) for language in languages]
        prompts = [[*tokenizer.sot_sequence, tokenizer.no_timestamps] for tokenizer in tokenizers]
        limit = most_tokens(batch)
        results = self.model.model.generate(
            encoded,
            prompts,
            beam_size=beam,
            max_length=2 * limit,  # CTranslate2 uses half of it for the text, as Whisper does with its context
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )
        windows = []
        for result, tokenizer, language in zip(results, tokenizers, languages, strict=True):
            tokens = result.sequences_ids[0]
            text = tokenizer.decode(tokens).strip()
            # The score is the sum over the tokens and the end token, divided by the number of tokens.
            logprob = result.scores[0] * max(1, len(tokens))
            windows.append(DecodedWindow(text, language, len(tokens) + 1, logprob, result.no_speech_prob, len(tokens) < limit))
        return windows

    def _encode(self, batch: list[Floats32], seconds: float) -> "StorageView":
        """Encoder states, (batch, positions of 20 ms, width), followed by states of silence if the window is under 30 s."""
        from ctranslate2 import StorageView

        features = np.stack([self.model.feature_extractor(padded(clip, seconds), padding=0) for clip in batch])
        encoded = self.model.encode(np.ascontiguousarray(features))
        if seconds == LONGEST:
            return encoded
        states = np.asarray(encoded)
        tail = np.repeat(self._silence[None, tail_of(states.shape[1])], len(batch), axis=0)
        return StorageView.from_array(np.concatenate([states, tail], axis=1))

    @cached_property
    def _silence(self) -> Floats32:
        """States of 30 s of silence, (1500, width)."""
        states: Floats32 = np.array(self._encode([np.zeros(0, np.float32)], LONGEST))[0]
        return states

    def _languages(self, encoded: "StorageView", count: int) -> list[str]:
        if self.language:
            return [self.language] * count
        return [ranked[0][0].strip("<|>") for ranked in self.model.model.detect_language(encoded)]


class OpenAIWhisper(Whisper):
    """Whisper through openai-whisper (PyTorch). Arguments are those of FasterWhisper, but `model` is a name or the path of a checkpoint."""

    def __init__(self, model: str, compute_type: str = "auto", device: str = "auto", index: int = 0, threads: int = 1, **options: Any):
        import torch
        import whisper

        if compute_type == "int8":
            raise AsrError("openai-whisper has no compute_type 'int8': set transcribe.compute_type to auto, float16 or float32")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        super().__init__(f"openai-whisper {model}", **options | ({"window": LONGEST} if device == "cuda" else {}))
        torch.set_num_threads(threads)
        self.fp16 = compute_type == "float16" or (compute_type == "auto" and device != "cpu")
        self.model = whisper.load_model(model, device=f"cuda:{index}" if device == "cuda" else device)
        self.multilingual = self.model.is_multilingual
        if not self.multilingual:
            self.language = "en"
        self._positions = self.model.encoder.positional_embedding

    def _decode(self, batch: list[Floats32], seconds: float, beam: int) -> list[DecodedWindow]:
        import torch
        import whisper

        with torch.inference_mode():
            states = self._encode(batch, seconds)
        self.model.dims.n_audio_ctx = states.shape[1]  # tells whisper.decode that these are encoder states
        limit = most_tokens(batch)
        options = whisper.DecodingOptions(
            language=self.language,
            beam_size=beam if beam > 1 else None,
            sample_len=limit,
            without_timestamps=True,
            fp16=self.fp16,
        )
        results = whisper.decode(self.model, states, options)
        return [
            DecodedWindow(
                result.text.strip(),
                result.language,
                len(result.tokens) + 1,
                result.avg_logprob * (len(result.tokens) + 1),
                result.no_speech_prob,
                len(result.tokens) < limit,
            )
            for result in results
        ]

    def _encode(self, batch: list[Floats32], seconds: float) -> "torch.Tensor":
        """Encoder states, (batch, positions of 20 ms, width), followed by states of silence if the window is under 30 s."""
        import torch
        import whisper

        # Clip by clip, because the floor of a log-mel depends on the loudest point of the whole array.
        mels = [whisper.log_mel_spectrogram(padded(clip, seconds), self.model.dims.n_mels) for clip in batch]
        self.model.encoder.positional_embedding = self._positions[: mels[0].shape[-1] // 2]
        mel = torch.stack(mels).to(self.model.device)
        states: torch.Tensor = self.model.encoder(mel.half() if self.fp16 else mel)
        if seconds == LONGEST:
            return states
        return torch.cat([states, self._silence[tail_of(states.shape[1])].expand(len(batch), -1, -1)], dim=1)

    @cached_property
    def _silence(self) -> "torch.Tensor":
        """States of 30 s of silence, (1500, width)."""
        return self._encode([np.zeros(0, np.float32)], LONGEST)[0]


def load(engine: str, model: str, **options: Any) -> Whisper:
    """Load an engine, "faster-whisper" or "openai-whisper", with a model from `resolve`; options are those of the engines.

    Raises AsrError if the model cannot be loaded.
    """
    try:
        return {"faster-whisper": FasterWhisper, "openai-whisper": OpenAIWhisper}[engine](model, **options)
    except (RuntimeError, OSError, KeyError) as error:
        raise AsrError(f"{engine} cannot load the model '{model}': {error}") from error


def gpus(engine: str) -> int:
    """Number of GPUs that an engine can use on this machine. Warns, once, if there are some that it cannot use."""
    if engine != "faster-whisper":
        return devices.count()
    if fault := devices.ctranslate2_fault():
        _warn_once(fault)
        return 0
    import ctranslate2

    return int(ctranslate2.get_cuda_device_count())


@cache
def _warn_once(message: str) -> None:
    if multiprocessing.parent_process() is None:  # a worker's parent has said it
        logger.warning(message)


def resolve(engine: str, model: str) -> str:
    """Model in the form that `load` takes; downloaded if it is not on this machine.

    Args:
        engine: "faster-whisper" or "openai-whisper".
        model: a folder (faster-whisper) or checkpoint (openai-whisper), a size ("tiny.en"), or a hub name. faster-whisper's "tiny.en"
            comes with a package.

    Raises AsrError if the model is unknown or cannot be downloaded.
    """
    if Path(model).exists():
        return model
    try:
        if engine == "faster-whisper" and (folder := packaged(model)):
            return str(folder)
    except WeightsError as error:
        raise AsrError(str(error)) from None
    return _download_for_faster_whisper(model) if engine == "faster-whisper" else _download_for_openai_whisper(model)


def _download_for_faster_whisper(model: str) -> str:
    from faster_whisper.utils import download_model

    try:
        folder: str = download_model(model)
        return folder
    except Exception as error:  # the hub's client raises many kinds
        raise AsrError(f"the faster-whisper model '{model}' is not a folder and cannot be downloaded: {_first_line(error)}") from error


def _download_for_openai_whisper(model: str) -> str:
    import whisper

    if model not in whisper.available_models():
        raise AsrError(f"the openai-whisper model '{model}' is neither a file nor one of {', '.join(whisper.available_models())}")
    try:
        whisper.load_model(model, device="cpu")  # download once, before several processes load it
    except (RuntimeError, OSError) as error:
        raise AsrError(f"the openai-whisper model '{model}' cannot be downloaded: {_first_line(error)}") from error
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
