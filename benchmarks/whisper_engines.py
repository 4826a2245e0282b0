"""Both engines of `calm.asr.engines` on transcribed LibriSpeech, with the same weights and settings: do they hear the same, and how fast?

    python benchmarks/whisper_engines.py --corpora /where/the/corpora/lie

Weights are the packaged tiny.en, converted for openai-whisper. The engines take turns, batch by batch, so that whatever else the
machine does slows both. One thread each.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from ct2_to_openai import convert
from tqdm import tqdm

from calm.asr import engines
from calm.asr.transcripts import word_errors
from calm.audio.decoding import read_audio
from calm.corpora import read_corpus
from calm.corpora.utterances import Utterance
from pipeline.settings import Transcribe
from pipeline.stages.transcribe import BATCH

DEFAULTS = Transcribe()


@dataclass
class Heard:
    """One utterance: what was said, and what each engine made of it."""

    id: str
    speaker: str
    said: str
    faster: str
    openai: str


def main(
    corpora: Annotated[Path, typer.Option(envvar="CALM_CORPORA", help="Folder with LibriSpeech, or a part of it, in 'librispeech'.")],
    utterances: Annotated[int | None, typer.Option(help="Only so many, evenly spread; else all that have a text.")] = None,
    window: Annotated[float, typer.Option(help="Seconds that the encoder sees at least.")] = DEFAULTS.window_seconds,
    beam: Annotated[int, typer.Option(help="Beams of the decoder.")] = DEFAULTS.beam,
    compute_type: Annotated[str, typer.Option(help="Of faster-whisper; openai-whisper takes float32.")] = DEFAULTS.compute_type,
    differing: Annotated[int, typer.Option(help="So many of the pairs of texts that differ most are shown.")] = 5,
) -> None:
    """Transcribe every LibriSpeech utterance that has a text with both engines; print their word error rates and real-time factors."""
    rows = [row for row in read_corpus("librispeech", corpora / "librispeech").utterances if row.text]
    if utterances and utterances < len(rows):
        rows = rows[:: len(rows) // utterances][:utterances]
    weights = engines.resolve("faster-whisper", "tiny.en")
    options = {"window": window, "beam": beam, "language": DEFAULTS.language, "device": "cpu", "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        convert(Path(weights) / "model.bin", Path(folder) / "tiny.en.pt")
        both = {
            "faster-whisper": engines.load("faster-whisper", weights, compute_type=compute_type, **options),
            "openai-whisper": engines.load("openai-whisper", str(Path(folder) / "tiny.en.pt"), compute_type="float32", **options),
        }
    heard, seconds, audio = listen(both, rows)
    print(f"tiny.en, window {window:g} s, beam {beam}, compute type {compute_type} (faster-whisper) and float32 (openai-whisper)")
    print(table(heard))
    for name, spent in seconds.items():
        print(f"{name}: {spent / audio:.3f} s a second of audio ({audio / spent:.1f} x real time), {audio / 3600:.2f} h of audio")
    print(differences(heard, differing))


def listen(both: dict[str, engines.Whisper], rows: list[Utterance]) -> tuple[list[Heard], dict[str, float], float]:
    """Texts of all utterances, seconds that each engine took, and seconds of audio; batches are those of the stage `transcribe`."""
    clips = [(row, read_audio(row.audio, row.start, row.end, engines.SAMPLE_RATE)) for row in rows]
    clips.sort(key=lambda pair: -len(pair[1]))
    heard, seconds = [], dict.fromkeys(both, 0.0)
    with tqdm(total=len(clips), desc="both engines", unit="utt", smoothing=0.05) as bar:
        for first in range(0, len(clips), BATCH["cpu"]):
            batch, texts = clips[first : first + BATCH["cpu"]], {}
            for name, engine in both.items():
                begin = time.perf_counter()
                texts[name] = [transcript.text for transcript in engine([clip for _, clip in batch])]
                seconds[name] += time.perf_counter() - begin
            for (row, _), faster, openai in zip(batch, texts["faster-whisper"], texts["openai-whisper"], strict=True):
                heard.append(Heard(row.id, row.speaker, row.text, faster, openai))
            bar.update(len(batch))
    return heard, seconds, sum(len(clip) for _, clip in clips) / engines.SAMPLE_RATE


def table(heard: list[Heard]) -> str:
    """Word error rates, in percent, of all and by speaker."""
    head = ("speaker", "texts", "words", "faster", "openai", "faster - openai", "faster against openai")
    speakers = sorted({row.speaker for row in heard}, key=int)
    lines = [_line("all", heard)] + [_line(name, [row for row in heard if row.speaker == name]) for name in speakers]
    return "\n".join("  ".join(cell.rjust(len(title)) for cell, title in zip(line, head, strict=True)) for line in [head, *lines])


def _line(name: str, heard: list[Heard]) -> tuple[str, ...]:
    said, ours, theirs = ([getattr(row, key) for row in heard] for key in ("said", "faster", "openai"))
    faster, openai, between = word_errors(said, ours), word_errors(said, theirs), word_errors(theirs, ours)
    rates = (faster.wer, openai.wer, faster.wer - openai.wer, between.wer)
    return (name, str(faster.n), str(faster.words), *(f"{100 * rate:.2f}" for rate in rates))


def differences(heard: list[Heard], count: int) -> str:
    """The pairs of texts that differ most, and how many do at all."""
    pairs = sorted(((word_errors([row.openai], [row.faster]).errors, row) for row in heard), key=lambda pair: -pair[0])
    different = [(errors, row) for errors, row in pairs if errors]
    lines = [f"{len(different)} of {len(heard)} pairs of texts differ by a word or more"]
    for errors, row in different[:count]:
        lines += [f"{row.id}: {errors} words", f"  said    {row.said}", f"  faster  {row.faster}", f"  openai  {row.openai}"]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
