"""Limits on the utterances of a corpus. The settings take their defaults from here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Shortest and longest utterance in seconds, and the share of its rows that a corpus may lose."""

    min_seconds: float = 0.25
    max_seconds: float = 120
    max_dropped: float = 0.1
