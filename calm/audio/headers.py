"""Whether an audio file can be used, how long it is, and what of it is mended: the same answer as its reading gives."""

from dataclasses import dataclass
from pathlib import Path

from calm.audio.errors import AudioError


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
    from calm.audio.bandwidth import top_hz
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
