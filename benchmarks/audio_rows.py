"""Rows of `python -m benchmarks` about audio: features, encoder states, speech to text, and the start to an answer."""

import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.ct2_to_openai import convert
from benchmarks.measuring import RATE, Options, Result, clips, compared, say, speech
from benchmarks.side_by_side import in_turn, run
from calm.asr import engines
from calm.asr.transcripts import word_errors
from calm.audio.decoding import AudioFile
from calm.audio.encoder_states import EncoderStates
from calm.audio.logmel import LogMel
from calm.audio.packaged import packaged
from calm.audio.whisper_weights import whisper_encoder
from calm.storage import write_parquet
from pipeline.stages.features import STORAGE, FeatureWorker, _parquet
from pipeline.stages.transcribe import BATCH
from tests import made_model


def features(options: Options) -> list[Result]:
    """From files to log-mel in Parquet, on one core."""
    files, _, source = speech(8 if options.quick else 120)
    ids, out = [file.stem for file in files], options.work / "frames.parquet"
    rows = [(file, 0.0, soundfile.info(file).duration, row) for row, file in enumerate(files)]
    worker, calls = FeatureWorker(LogMel(), None), {}

    def write(frames: list[np.ndarray]) -> None:
        write_parquet(_parquet(ids, frames), out, **STORAGE)

    def ours() -> None:
        frames = worker(rows)
        write([frames[row] for row in range(len(rows))])

    def decode() -> None:
        for file in files:
            with AudioFile(file) as opened:
                opened.read()

    import torchaudio

    bank = {"f_min": 20.0, "f_max": 7600.0, "n_mels": 64}
    mel = torchaudio.transforms.MelSpectrogram(RATE, n_fft=512, win_length=400, hop_length=160, center=False, **bank)

    def theirs() -> None:
        heard = (torch.from_numpy(soundfile.read(file, dtype="float32")[0]) for file in files)
        write([mel(samples).clamp(min=1e-10).log().T.contiguous().half().numpy() for samples in heard])

    calls = {"calm": ours, "torchaudio MelSpectrogram": theirs, "decoding alone": decode}
    if find_spec("kaldi_native_fbank"):
        calls["kaldi-native-fbank"] = lambda: write([_kaldi(file) for file in files])
    spoken = sum(end for _, _, end, _ in rows)
    results = compared("features to Parquet, one core", calls, options, 1.5, f"{source}, {len(rows)} clips, {spoken:.0f} s")
    for result in results:
        if result.other.startswith("decoding"):  # the limit: nothing that decodes is faster
            result.aim, result.note = round(1 / 1.7, 2), "the limit of every system that decodes: at most 1.7 times its time"
    if "kaldi-native-fbank" not in calls:
        results[0].note += "; kaldi-native-fbank is not installed"
    return results


def _kaldi(file: Path) -> np.ndarray:
    kaldi = import_module("kaldi_native_fbank")
    options = kaldi.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0, 64
    fbank = kaldi.OnlineFbank(options)
    fbank.accept_waveform(RATE, soundfile.read(file, dtype="float32")[0].tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(number) for number in range(fbank.num_frames_ready)]).astype(np.float16)


def encoder(options: Options) -> list[Result]:
    """States of Whisper tiny.en of short clips; Transformers' own call pads them to 30 s."""
    from transformers import WhisperFeatureExtractor

    files, _, source = speech(3 if options.quick else 12)
    heard, network, extractor = clips(files), whisper_encoder(packaged("tiny.en") / "model.bin").eval(), WhisperFeatureExtractor(80)
    depth = len(network.layers)

    @torch.inference_mode()
    def theirs() -> None:
        for clip in heard:
            inputs = extractor(clip, sampling_rate=RATE, return_tensors="pt").input_features
            network(inputs, output_hidden_states=True)

    ours = EncoderStates.describe("whisper-tiny.en", [depth])
    mean = sum(map(len, heard)) / RATE / len(heard)
    note = f"{source}; all {depth} layers, clips of {mean:.1f} s on average"
    return compared(
        "encoder states of short clips", {"calm": partial(ours.of_clips, heard), "Transformers, 30 s": theirs}, options, 5.0, note
    )


def asr(options: Options) -> list[Result]:
    """Short utterances to text: calm's windows, and both engines as they come."""
    from faster_whisper import WhisperModel

    files, texts, source = speech(3 if options.quick else 10)
    heard, found = sorted(zip(clips(files), texts, strict=True), key=lambda pair: -len(pair[0])), {}
    samples, references = [clip for clip, _ in heard], [text for _, text in heard]
    weights = engines.resolve("faster-whisper", "tiny.en")
    mine = engines.load("faster-whisper", weights, window=5, beam=1, device="cpu", threads=1)
    faster = WhisperModel(weights, device="cpu", compute_type="int8", cpu_threads=1)

    def ours() -> None:
        batches = [samples[first : first + BATCH["cpu"]] for first in range(0, len(samples), BATCH["cpu"])]
        found["calm"] = [transcript.text for batch in batches for transcript in mine(batch)]

    def theirs(name: str, beam: int) -> None:
        found[name] = [" ".join(part.text.strip() for part in faster.transcribe(clip, beam_size=beam)[0]) for clip in samples]

    calls = {"calm": ours}
    for name, beam in (("faster-whisper int8, greedy", 1), ("faster-whisper int8, as it comes", 5)):
        calls[name] = partial(theirs, name, beam)
    if find_spec("whisper"):
        calls["openai-whisper, as it comes"] = partial(_openai, weights, options.work / "tiny.en.pt", samples, found)
    results = compared("short utterances to text", calls, options, 3.0, source)
    rates = {name: 100 * word_errors(references, own).wer for name, own in found.items()}
    for result, name in zip(results, list(calls)[1:], strict=True):
        apart = rates["calm"] - rates[name]
        fine = "within" if apart <= 0.5 else "NOT within"
        result.note = f"{result.note} WER {rates['calm']:.1f} % against {rates[name]:.1f} %: {fine} 0.5".strip()
    return results


def _openai(weights: str, file: Path, samples: list[np.ndarray], found: dict) -> None:
    import whisper

    if not file.exists():  # in the first turn, which does not count
        convert(Path(weights) / "model.bin", file)
    model = whisper.load_model(str(file), device="cpu")
    found["openai-whisper, as it comes"] = [model.transcribe(clip, fp16=False, language="en")["text"].strip() for clip in samples]


def start(options: Options) -> list[Result]:
    """A process from its start to the answer for one clip, audio alone, by models on log-mel and on an encoder's states."""
    from calm.inference import onnx_export

    folder = options.work / "models"
    made_model.release(folder / "log-mel", "audio", with_graph=True)
    states = EncoderStates.describe("whisper-tiny.en", [2])
    sizes = {"channels": states.channels, "block_frames": 25, "block_hop": 15}
    heard = sizes | {"kind": "encoder", "encoder": "whisper-tiny.en", "layers": [2], "hop": states.hop, "window": states.window}
    heard |= {"mean": np.zeros(states.channels), "std": np.ones(states.channels)}
    network = sizes | {"patch": (5, 48), "stride": (5, 48)}
    onnx_export.write_encoder(states, made_model.release(folder / "encoder", "audio", with_graph=True, config=network, **heard))
    files, _, source = speech(1, 6.0)
    commands = {
        name: run([sys.executable, "-m", "calm", "predict", str(files[0]), "--model", str(folder / name)])
        for name in ("log-mel", "encoder")
    }
    nothing = {"Python with numpy": run([sys.executable, "-c", "import numpy"])}
    wall, cpu = in_turn(commands | nothing, options.turns)
    other = f"Python with numpy alone: {wall['Python with numpy']:.2f} s"
    note = f"{source}, {soundfile.info(files[0]).duration:.1f} s"
    say(f"CPU seconds: {cpu}")
    return [
        Result(f"start to answer, {name}", f"{wall[name]:.2f} s, {cpu[name]:.2f} s of CPU", other, wall[name], 1.0, "s", True, note)
        for name in commands
    ]
