"""Whether an audio file can be used, how long it is, and what of it is mended: the same answer as its reading gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calm.audio.errors import AudioError

if TYPE_CHECKING:
    from calm.audio.decoding import AudioFile

WIDE = 7000.0  # Hz; files whose sound reaches higher are not told
EMPTY = 1e-6  # share of the power above the end of the spectrum
STEP = 500.0  # Hz, to which the end is rounded up
EXCERPT = 30.0  # seconds in the middle of a file that are looked at,
WINDOWS = 128  # in so many places
WINDOW = 1024  # samples each


@dataclass(frozen=True)
class Header:
    """Length in seconds, or why the file cannot be used: `fault` in a few words, and details."""

    seconds: float = 0.0
    fault: str = ""
    detail: str = ""
    notes: tuple[str, ...] = ()  # what is mended when it is read, in a few words each
    top_hz: float | None = None  # highest frequency with sound, if it is below WIDE


def read_header(path: Path, bands: bool = False) -> Header:
    """Check that a file can be read, and count how long it is. `bands`: and look where its spectrum ends, `top_hz`."""
    from calm.audio.decoding import AudioFile, NotNumbers

    try:
        with AudioFile(path) as file:
            if file.facts.character.refused:
                file.read(0, min(1.0, file.seconds))
            try:
                top = top_hz(file) if bands else None
            except NotNumbers:  # other intervals of the file may be sound
                top = None
            return Header(file.seconds, notes=file.facts.notes, top_hz=top)
    except AudioError as error:
        return Header(fault=error.fault, detail=str(error))


def top_hz(file: "AudioFile") -> float | None:
    """Highest frequency in Hz with sound, rounded up to 500 Hz, or None if it is above 7 kHz or nothing is heard.

    Telephone speech has nothing above 4 kHz, whatever its file's sampling rate.
    """
    begin = max(0.0, (file.seconds - EXCERPT) / 2)
    samples = file.read(begin, begin + EXCERPT, file.facts.rate)
    if len(samples) < WINDOW:
        return None
    places = np.unique(np.linspace(0, len(samples) - WINDOW, WINDOWS).astype(int))
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[places]
    spectra = np.fft.rfft((windows - windows.mean(axis=1, keepdims=True)) * np.hanning(WINDOW).astype(np.float32))
    power = np.square(np.abs(spectra)).sum(axis=0)
    above = np.cumsum(power[::-1])[::-1]
    if not above[0] > 1e-6:
        return None
    end = np.flatnonzero(above > EMPTY * above[0])[-1] * file.facts.rate / WINDOW
    top = min(np.ceil(end / STEP) * STEP, file.facts.rate / 2)
    return float(top) if top < WIDE else None
