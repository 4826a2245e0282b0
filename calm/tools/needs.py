"""Estimate the disk and time that the stages after `ingest` need for a corpus, from a few seconds of measurement on this machine."""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from calm.corpora.utterances import Utterance

LOGMEL_UTTERANCES = 8  # measured for log-mel
LOGMEL_SECONDS = 30.0  # most seconds of each of them
ENCODER_UTTERANCES = 4  # measured for the states of a speech encoder
WHISPER_UTTERANCES = 2  # measured for transcription
SECONDS = 2.0  # duration of the measurement of training
BATCH = 32  # utterances per training step of CALP
TINY = 128  # width of BERT-tiny, and of the SpecTran that is measured
FLOAT16 = 2  # bytes
COPIES = 2  # of every output: in its place, and in DVC's cache if the file system cannot share it


@dataclass(frozen=True)
class Need:
    """Disk and time of one stage. None: not estimated."""

    stage: str
    megabytes: float | None
    seconds: float | None
    how: str  # what was measured, and what the estimate leaves out


def needs(rows: Sequence["Utterance"]) -> dict[str, Any]:
    """Needs of every stage and of all together, and whether the disk of the working folder has room for them."""
    stages = (
        [features(rows), encoder_states(rows), *([transcription(rows)] if any(row.text is None for row in rows) else []), *training(rows)]
        if rows
        else []
    )
    megabytes = round(COPIES * sum(stage.megabytes or 0 for stage in stages), 3)
    free = round(shutil.disk_usage(".").free / 1e6, 1)
    return {"stages": [asdict(stage) for stage in stages], "megabytes": megabytes, "free_megabytes": free, "enough": megabytes <= free}


def features(rows: Sequence["Utterance"]) -> Need:
    """Needs of log-mel in float16; the stage runs one process per core."""
    from calm.audio.decoding import AudioError, read_audio
    from calm.audio.logmel import LogMel

    logmel, measured, spent = LogMel(), 0.0, 0.0  # both in seconds
    logmel(np.zeros(logmel.sample_rate, np.float32))  # computes its filters
    for row in spread(rows, LOGMEL_UTTERANCES):
        begin = time.perf_counter()
        try:
            samples = read_audio(row.audio, row.start, row.start + min(row.seconds, LOGMEL_SECONDS), logmel.sample_rate)
        except AudioError:
            continue
        logmel(samples)
        spent += time.perf_counter() - begin
        measured += len(samples) / logmel.sample_rate
    length = sum(row.seconds for row in rows)
    size = sum(logmel.frames(round(row.seconds * logmel.sample_rate)) for row in rows) * logmel.channels * FLOAT16
    how = f"measured on {measured:.0f} s of audio, one process on each of {cores()} cores; float16 before compression"
    return Need("features", _megabytes(size), length * spent / measured / cores() if measured else None, how)


def encoder_states(rows: Sequence["Utterance"]) -> Need:
    """Needs of the packaged speech encoder's second layer, for those who set `features.encoder`; its disk does not count for the others."""
    from calm.audio.decoding import AudioError, read_audio
    from calm.audio.encoder_states import EncoderStates
    from calm.audio.packaged import WeightsError, packaged

    states = EncoderStates()
    frames = sum(states.frames(round(row.seconds * states.sample_rate)) for row in rows)
    size = _megabytes(frames * states.channels * FLOAT16)
    how = f"only with features.encoder: {size:g} MB a layer, on disk, and as much again while a stage trains"
    try:
        if not packaged("tiny.en"):
            return Need("encoder states", None, None, f"{how}; not measured, the package with Whisper tiny.en is not installed")
        clips = [
            read_audio(row.audio, row.start, row.start + min(row.seconds, LOGMEL_SECONDS), states.sample_rate)
            for row in spread(rows, ENCODER_UTTERANCES)
        ]
    except (WeightsError, AudioError) as error:
        return Need("encoder states", None, None, f"{how}; not measured: {error}")
    states.of_clips(clips[:1])  # loads the encoder
    begin = time.perf_counter()
    states.of_clips(clips)
    measured = sum(map(len, clips)) / states.sample_rate
    seconds = sum(row.seconds for row in rows) * (time.perf_counter() - begin) / measured / cores()
    return Need("encoder states", None, seconds, f"{how}; measured with {states.encoder}, layer 2, on {measured:.0f} s of audio")


def transcription(rows: Sequence["Utterance"]) -> Need:
    """Needs of Whisper for the rows without a text. The cost is that of windows of 30 s, however short the speech in them."""
    from calm.asr import engines, windows
    from calm.audio.decoding import AudioError, read_audio
    from calm.audio.packaged import packaged

    rows = [row for row in rows if row.text is None]
    lengths = [row.seconds for row in rows]
    count = sum(1 if length <= windows.LONGEST else math.ceil(1.5 * length / windows.LONGEST) for length in lengths)
    try:
        if not (model := packaged("tiny.en")):
            return Need("transcription", None, None, f"{count} windows; not measured, the package with Whisper tiny.en is not installed")
        clips = [
            read_audio(row.audio, row.start, row.start + min(row.seconds, windows.LONGEST), windows.SAMPLE_RATE)
            for row in spread(rows, WHISPER_UTTERANCES)
        ]
        engine = engines.load("faster-whisper", str(model))
    except (engines.AsrError, AudioError) as error:
        return Need("transcription", None, None, f"{count} windows; not measured: {error}")
    begin = time.perf_counter()
    engine(clips)
    seconds_per_window = (time.perf_counter() - begin) / len(clips)
    processes = engines.gpus("faster-whisper") or cores()
    how = (
        f"{count} windows of 30 s, {processes} processes; measured with tiny.en by faster-whisper on {len(clips)}: "
        "larger models take longer, shorter windows less time"
    )
    return Need("transcription", None, count * seconds_per_window / processes, how)


def training(rows: Sequence["Utterance"]) -> list[Need]:
    """Needs of the acoustic tokens of every block, and of an epoch of CALP, which takes a pair of blocks per utterance."""
    from calm.audio.logmel import LogMel
    from calm.models.configuration import CalmConfig

    config, logmel = CalmConfig(), LogMel()
    frames = [logmel.frames(round(row.seconds * logmel.sample_rate)) for row in rows]
    blocks = sum(1 + (max(count, config.block_frames) - config.block_frames) // config.block_hop for count in frames)
    trained, embedded = block_rates()
    pairs = 2 * sum(row.split == "train" for row in rows)
    spectran = f"SpecTran of {config.spectran_layers} layers, {TINY} wide"
    tokens = f"{blocks} blocks, {config.hidden_size} wide as BERT-base's in float16; {embedded:.0f} blocks/s measured, {spectran}"
    epoch = f"an epoch of CALP, {pairs} blocks; {trained:.0f} blocks/s measured, {spectran}; without the language model and its weights"
    return [
        Need("acoustic tokens", _megabytes(blocks * config.hidden_size * FLOAT16), blocks / embedded, tokens),
        Need("training", None, pairs / trained, epoch),
    ]


def block_rates() -> tuple[float, float]:
    """Blocks per second of CALP's training steps, and of SpecTran without gradients, for a tiny SpecTran with random weights."""
    import torch
    from transformers import BertConfig

    from calm.models.configuration import CalmConfig
    from calm.models.modeling import CalmForContrastivePretraining

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = CalmConfig(BertConfig(hidden_size=TINY))
    model = CalmForContrastivePretraining(config)
    torch.nn.Module.to(model, device).train()
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

    return 2 * BATCH * rate(step, device, 0.8 * SECONDS), 2 * BATCH * rate(embed, device, 0.2 * SECONDS)


def rate(call: Callable[[], object], device: "torch.device | None" = None, seconds: float = 0.4) -> float:
    """Calls per second on a device (None: the CPU), without a first call for warming up."""
    import torch

    def once() -> None:
        call()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize()

    once()
    begin, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - begin < seconds:
        once()
        calls += 1
    return calls / (time.perf_counter() - begin)


def spread(rows: Sequence["Utterance"], count: int) -> Sequence["Utterance"]:
    """At most `count` rows, evenly spread."""
    return rows[:: max(1, len(rows) // count)][:count]


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _megabytes(size: float) -> float:
    return round(size / 1e6, 3)
