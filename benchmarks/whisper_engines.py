"""Word error rates and speed of both engines of `calm.asr.engines` on LibriSpeech, with the same weights and settings.

    python -m benchmarks.whisper_engines --corpora FOLDER

The weights are the packaged tiny.en, converted for openai-whisper. The engines take turns, batch by batch, so that other load on the
machine slows both alike. Each uses one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from benchmarks.ct2_to_openai import convert
from calm.asr import engines
from calm.asr.transcripts import word_errors
from calm.audio.decoding import read_audio
from calm.corpora import read_corpus
from calm.corpora.utterances import Utterance
from pipeline.settings import Transcribe
from pipeline.stages.transcribe import BATCH

DEFAULTS = Transcribe()


@dataclass
class Transcripts:
    """The reference text of an utterance, and each engine's transcript."""

    id: str
    speaker: str
    reference: str
    faster: str
    openai: str


def main(
    corpora: Annotated[Path, typer.Option(envvar="CALM_CORPORA", help="Folder with LibriSpeech, or a part of it, as 'librispeech'.")],
    utterances: Annotated[int | None, typer.Option(help="Number of utterances, evenly spread; default: all that have a text.")] = None,
    window: Annotated[float, typer.Option(help="Least number of seconds that the encoder sees.")] = DEFAULTS.window_seconds,
    beam: Annotated[int, typer.Option(help="Number of beams of the decoder.")] = DEFAULTS.beam,
    compute_type: Annotated[str, typer.Option(help="Compute type of faster-whisper; openai-whisper uses float32.")] = DEFAULTS.compute_type,
    differing: Annotated[int, typer.Option(help="Number of pairs of transcripts to show, those that differ most.")] = 5,
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
    transcripts, seconds, audio = transcribe(both, rows)
    print(f"tiny.en, window {window:g} s, beam {beam}, compute type {compute_type} (faster-whisper) and float32 (openai-whisper)")
    print(table(transcripts))
    for name, spent in seconds.items():
        print(f"{name}: {spent / audio:.3f} s per second of audio ({audio / spent:.1f} x real time), {audio / 3600:.2f} h of audio")
    print(differences(transcripts, differing))


def transcribe(both: dict[str, engines.Whisper], rows: list[Utterance]) -> tuple[list[Transcripts], dict[str, float], float]:
    """Transcripts of all utterances, seconds that each engine took, and seconds of audio; batches are those of the stage `transcribe`."""
    clips = [(row, read_audio(row.audio, row.start, row.end, engines.SAMPLE_RATE)) for row in rows]
    clips.sort(key=lambda pair: -len(pair[1]))
    transcripts, seconds = [], dict.fromkeys(both, 0.0)
    with tqdm(total=len(clips), desc="both engines", unit="utt", smoothing=0.05) as bar:
        for first in range(0, len(clips), BATCH["cpu"]):
            batch, texts = clips[first : first + BATCH["cpu"]], {}
            for name, engine in both.items():
                begin = time.perf_counter()
                texts[name] = [transcript.text for transcript in engine([clip for _, clip in batch])]
                seconds[name] += time.perf_counter() - begin
            for (row, _), faster, openai in zip(batch, texts["faster-whisper"], texts["openai-whisper"], strict=True):
                transcripts.append(Transcripts(row.id, row.speaker, row.text, faster, openai))
            bar.update(len(batch))
    return transcripts, seconds, sum(len(clip) for _, clip in clips) / engines.SAMPLE_RATE


def table(transcripts: list[Transcripts]) -> str:
    """Word error rates in percent, over all and by speaker."""
    head = ("speaker", "texts", "words", "faster", "openai", "faster - openai", "faster against openai")
    speakers = sorted({row.speaker for row in transcripts}, key=int)
    lines = [_line("all", transcripts)] + [_line(name, [row for row in transcripts if row.speaker == name]) for name in speakers]
    return "\n".join("  ".join(cell.rjust(len(title)) for cell, title in zip(line, head, strict=True)) for line in [head, *lines])


def _line(name: str, transcripts: list[Transcripts]) -> tuple[str, ...]:
    references, faster_texts, openai_texts = ([getattr(row, key) for row in transcripts] for key in ("reference", "faster", "openai"))
    faster, openai = word_errors(references, faster_texts), word_errors(references, openai_texts)
    between = word_errors(openai_texts, faster_texts)
    rates = (faster.wer, openai.wer, faster.wer - openai.wer, between.wer)
    return (name, str(faster.n), str(faster.words), *(f"{100 * rate:.2f}" for rate in rates))


def differences(transcripts: list[Transcripts], count: int) -> str:
    """How many pairs of transcripts differ, and those that differ most."""
    pairs = sorted(((word_errors([row.openai], [row.faster]).errors, row) for row in transcripts), key=lambda pair: -pair[0])
    different = [(errors, row) for errors, row in pairs if errors]
    lines = [f"{len(different)} of {len(transcripts)} pairs of transcripts differ by a word or more"]
    for errors, row in different[:count]:
        lines += [f"{row.id}: {errors} words", f"  reference  {row.reference}", f"  faster     {row.faster}", f"  openai     {row.openai}"]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
