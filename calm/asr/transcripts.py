"""Texts that a machine heard: how sure it was, what speaks against them, and their word error rate."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

MOST_COMPRESSION = 2.4  # Whisper's own limit: text that shrinks more is a loop


@dataclass(frozen=True)
class Transcript:
    """Text of one clip, lower-cased, and how sure the model was."""

    text: str
    language: str  # "en", ...
    avg_logprob: float  # mean over the tokens, the end token among them
    no_speech_prob: float  # of the least silent piece, where a clip was longer than 30 s
    compression_ratio: float  # bytes of text by bytes of it compressed


def flags(transcript: Transcript, no_speech_threshold: float = 0.6) -> list[str]:
    """What speaks against a transcript: "no_speech", "compression", "repeats". It marks a row, it deletes none."""
    found = {
        "no_speech": transcript.no_speech_prob > no_speech_threshold,
        "compression": transcript.compression_ratio > MOST_COMPRESSION,
        "repeats": repeats(transcript.text),
    }
    return [name for name, present in found.items() if present]


def compression_ratio(text: str) -> float:
    """Bytes of a text by bytes of it compressed; 0 of no text."""
    return len(text.encode()) / len(zlib.compress(text.encode()))


def repeats(text: str, times: int = 4, shortest: int = 1, longest: int = 8) -> bool:
    """Whether a phrase of `shortest` to `longest` words is said so many times in a row."""
    words = re.findall(r"[\w']+", text.lower())
    for length in range(shortest, longest + 1):
        same = 0  # words in a row that are those of `length` words before
        for word, earlier in zip(words[length:], words, strict=False):
            same = same + 1 if word == earlier else 0
            if same >= length * (times - 1):
                return True
    return False


# Word error rate


@cache
def normaliser(language: str = "en"):
    """Whisper's own text normaliser: case, punctuation and, of English, spelling, numbers and contractions."""
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


@dataclass
class WordErrors:
    """Counts of a word error rate over texts that were both normalised."""

    n: int = 0  # texts
    words: int = 0  # in the references
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    wer: float = math.nan  # all errors by the words of the references

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions


def word_errors(references: Sequence[str], hypotheses: Sequence[str], language: str = "en") -> WordErrors:
    """Word error rate of hypotheses against references, over all words (not the mean of the texts' rates)."""
    import jiwer

    normalise = normaliser(language)
    errors = WordErrors(n=len(references))
    for reference, text in zip(references, hypotheses, strict=True):
        reference, text = normalise(reference), normalise(text)
        if not reference:  # nothing was said: every word is one too many
            errors.insertions += len(text.split())
            continue
        found = jiwer.process_words(reference, text)
        errors.words += len(reference.split())
        errors.substitutions += found.substitutions
        errors.deletions += found.deletions
        errors.insertions += found.insertions
    if errors.words:
        errors.wer = errors.errors / errors.words
    return errors
