"""Stage `synthesise`: the embedded default's corpora, synthetic speech in a real corpus's layout."""

import hashlib
from pathlib import Path

from calm.corpora.files import AUDIO
from calm.storage import write_json
from calm.synthesis.corpus import make
from pipeline import paths
from pipeline.settings import Settings
from pipeline.stage import whole
from pipeline.state import visible


def run(settings: Settings, corpus: str, workers: int | None = None) -> str:
    """Make one corpus at its path, and write the fingerprint of its files."""
    section = visible(settings, "synthesise", corpus).synthetic[corpus]
    options = section.model_dump(include={"label_noise", "seed", "voices_per_recording"})
    seconds = make(section.path, section.format, section.utterances, section.speakers, **options, workers=workers)
    with whole(paths.fingerprint(corpus)) as folder:
        for part, content in fingerprint(section.path).items():
            write_json(content, folder / f"{part}.json")
    return f"{corpus}: {section.utterances} utterances, {seconds / 60:.1f} min of synthetic speech in {section.path}"


def fingerprint(folder: Path) -> dict[str, dict]:
    """Number, bytes and a digest of the audio files and of the other files, by their content: made again, they are the same."""
    parts = {"audio": [], "other": []}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts["audio" if file.suffix.lower() in AUDIO else "other"].append(file)
    return {part: _of_content(files, folder) for part, files in parts.items()}


def _of_content(files: list[Path], folder: Path) -> dict:
    digest, size = hashlib.sha256(), 0
    for file in files:
        content = file.read_bytes()
        size += len(content)
        digest.update(f"{file.relative_to(folder)} {hashlib.sha256(content).hexdigest()}\n".encode())
    return {"files": len(files), "bytes": size, "digest": digest.hexdigest()}
