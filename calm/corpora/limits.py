"""What utterances a corpus may have, and how long recordings are cut to some: the defaults that settings take from here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Shortest and longest utterance in seconds, and the share of its rows that a corpus may lose."""

    min_seconds: float = 0.25
    max_seconds: float = 120
    max_dropped: float = 0.1


@dataclass(frozen=True)
class Pauses:
    """Which recordings are cut at their pauses (4.3), and what a piece is; in seconds.

    Only those `longer_than` it are. Pieces shorter than `shortest` are joined to their neighbour where `longest` allows it, silences
    of `pause` part two pieces, and `margin` of silence stays around the speech.
    """

    longer_than: float = 30
    shortest: float = 1
    longest: float = 20
    pause: float = 0.3
    margin: float = 0.1
