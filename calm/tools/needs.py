"""Disk and time that the stages after `ingest` will need for a corpus, from a few seconds of measuring on this machine."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from calm.corpora.utterances import Utterance

PROBED = 8  # utterances whose log-mel is computed, of each the first
PROBED_SECONDS = 30.0
HEARD = 2  # utterances that are transcribed
SECONDS = 2.0  # that training is measured for
BATCH = 32  # utterances a step of CALP
TINY = 128  # width of BERT-tiny, and of the SpecTran that is measured
FLOAT16 = 2  # bytes
COPIES = 2  # of every output: in its place and, where the file system cannot share it, in DVC's cache


@dataclass(frozen=True)
class Need:
    """What one stage will need. None: not counted (disk), not measured (time)."""

    stage: str
    megabytes: float | None
    seconds: float | None
    how: str  # what was measured, and what the figure leaves out


def needs(rows: Sequence[Utterance]) -> dict:
    """Of every stage, of all together, and whether the disk of the working folder has room for it."""
    stages = [features(rows), *([transcription(rows)] if any(row.text is None for row in rows) else []), *training(rows)] if rows else []
    megabytes = round(COPIES * sum(stage.megabytes or 0 for stage in stages), 3)
    free = round(shutil.disk_usage(".").free / 1e6, 1)
    return {"stages": [asdict(stage) for stage in stages], "megabytes": megabytes, "free_megabytes": free, "enough": megabytes <= free}


def features(rows: Sequence[Utterance]) -> Need:
    """Log-mel in float16; the stage runs one process a core."""
    from calm.audio.decoding import AudioError, read_audio
    from calm.audio.logmel import LogMel

    logmel, heard, spent = LogMel(), 0.0, 0.0
    logmel(np.zeros(logmel.sample_rate, np.float32))  # makes its filters
    for row in spread(rows, PROBED):
        begin = time.perf_counter()
        try:
            samples = read_audio(row.audio, row.start, min(row.end, row.start + PROBED_SECONDS), logmel.sample_rate)
        except AudioError:
            continue
        logmel(samples)
        spent += time.perf_counter() - begin
        heard += len(samples) / logmel.sample_rate
    length = sum(row.end - row.start for row in rows)
    size = sum(logmel.frames(round((row.end - row.start) * logmel.sample_rate)) for row in rows) * logmel.channels * FLOAT16
    how = f"log-mel of {heard:.0f} s of audio measured, a process on each of {cores()} cores; float16 before compression"
    return Need("features", _mega(size), length * spent / heard / cores() if heard else None, how)


def transcription(rows: Sequence[Utterance]) -> Need:
    """Whisper over the rows without a text: its cost is that of windows of 30 s, however short what they hold."""
    from calm.asr import engines
    from calm.audio.decoding import AudioError, read_audio

    rows = [row for row in rows if row.text is None]
    windows = sum(1 if (length := row.end - row.start) <= engines.LONGEST else math.ceil(1.5 * length / engines.LONGEST) for row in rows)
    try:
        if not (model := engines.packaged("tiny.en")):
            return Need("transcription", None, None, f"{windows} windows; not measured, the package with Whisper tiny.en is not installed")
        clips = [
            read_audio(row.audio, row.start, min(row.end, row.start + engines.LONGEST), engines.SAMPLE_RATE) for row in spread(rows, HEARD)
        ]
        engine = engines.load("faster-whisper", str(model))
    except (engines.AsrError, AudioError) as error:
        return Need("transcription", None, None, f"{windows} windows; not measured: {error}")
    begin = time.perf_counter()
    engine(clips)
    each = (time.perf_counter() - begin) / len(clips)
    processes = engines.gpus("faster-whisper") or cores()
    how = (
        f"{windows} windows of 30 s, {processes} processes; tiny.en by faster-whisper measured on {len(clips)}: "
        "larger models cost more, shorter windows less"
    )
    return Need("transcription", None, windows * each / processes, how)


def training(rows: Sequence[Utterance]) -> list[Need]:
    """Acoustic tokens of every block, and an epoch of CALP, which takes a pair of blocks an utterance."""
    from calm.audio.logmel import LogMel
    from calm.models.configuration import CalmConfig

    config, logmel = CalmConfig(), LogMel()
    frames = [logmel.frames(round((row.end - row.start) * logmel.sample_rate)) for row in rows]
    blocks = sum(1 + (max(count, config.block_frames) - config.block_frames) // config.block_hop for count in frames)
    trained, embedded = block_rates()
    pairs = 2 * sum(row.split == "train" for row in rows)
    spectran = f"SpecTran of {config.spectran_layers} layers, {TINY} wide"
    tokens = f"{blocks} blocks, {config.hidden_size} wide as BERT-base's in float16; {embedded:.0f} blocks/s measured, {spectran}"
    epoch = f"an epoch of CALP, {pairs} blocks; {trained:.0f} blocks/s measured, {spectran}; the language model and its weights come on top"
    return [
        Need("acoustic tokens", _mega(blocks * config.hidden_size * FLOAT16), blocks / embedded, tokens),
        Need("training", None, pairs / trained, epoch),
    ]


def block_rates() -> tuple[float, float]:
    """Blocks a second of CALP's training steps, and of SpecTran alone without gradients, for a tiny SpecTran of random weights."""
    import torch
    from transformers import BertConfig

    from calm.models.configuration import CalmConfig
    from calm.models.modeling import CalmForContrastivePretraining

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = CalmConfig(BertConfig(hidden_size=TINY))
    model = CalmForContrastivePretraining(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    blocks = torch.randn(2, BATCH, config.block_frames, config.channels, device=device)
    texts = torch.randn(BATCH, TINY, device=device)

    def step() -> None:
        model(blocks[0], blocks[1], texts).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def embed() -> None:
        model.spectran(blocks.flatten(0, 1))

    return tuple(2 * BATCH * _rate(what, share * SECONDS, device) for what, share in ((step, 0.8), (embed, 0.2)))


def _rate(what, seconds: float, device) -> float:
    """Calls a second, the first of which is not counted."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    what(), wait()
    begin, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - begin < seconds:
        what(), wait()
        calls += 1
    return calls / (time.perf_counter() - begin)


def spread(rows: Sequence[Utterance], count: int) -> Sequence[Utterance]:
    """So many rows, evenly spread."""
    return rows[:: max(1, len(rows) // count)][:count]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mega(size: float) -> float:
    return round(size / 1e6, 3)
