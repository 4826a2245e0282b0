"""What CALP gives and costs on a speech encoder's states: text retrieval, and emotion by a linear probe (docs/calp.md).

Reads LibriSpeech and RAVDESS from the folder CALM_CORPORA. States of layers 2 and 4 of the packaged Whisper tiny.en are computed once
and kept in `--work`, with the texts that LibriSpeech's own lack. Reader 19 is the validation, reader 27 the test; the others are trained
on and, up to `--hours`, speech made by `calm.synthesis` (synthetic; it says sentences of installed packages' documentation and of
`calm.synthesis.sentences`). A line of JSON comes out:

    python benchmarks/calp_on_states.py --model mended --hours 1.29 --seed 1 --work states
"""

import argparse
import json
import os
import re
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from calm.audio.decoding import read_audio
from calm.audio.encoder_states import EncoderStates, trim_samples
from calm.audio.packaged import packaged
from calm.data.batching import PairCollator, numbered
from calm.data.ragged import AcousticFrames, Ragged
from calm.evaluation.probes import speaker_probe
from calm.evaluation.retrieval import retrieval
from calm.models.configuration import CalmConfig
from calm.models.language_model import load_language_model, load_tokenizer, text_vectors
from calm.models.losses import ContrastiveSettings
from calm.models.modeling import CalmForContrastivePretraining
from calm.synthesis import sentences, voices
from calm.training.loop import train
from calm.training.schedule import Schedule

RATE, FRAMES, HOP, LAYERS = 16000, 25, 15, (2, 4)  # blocks of 0.5 s every 0.3 s
VALIDATION, TEST = "19", "27"  # readers of LibriSpeech with texts
STEPS = 180  # of training, whatever the hours
VOICES = 120
Clip = tuple[np.ndarray, str, str]  # samples, speaker, text
Statistics = tuple[np.ndarray, np.ndarray]  # mean and deviation of every channel
EMOTIONS = {"01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful", "07": "disgusted", "08": "surprised"}
WORDINGS = ("{}", "a {} voice", "someone sounds {}", "i feel so {}")  # of an emotion, for answers without training on it

MENDED = {"keep_positive": True, "symmetric": True, "learn_temperature": True, "alpha": 1.0, "ignore_same_text": True}
MODELS = {  # how the loss is computed, how SpecTran is built, the collator's text_blocks, the learning rate, batches of few speakers
    "printed": (ContrastiveSettings(ignore_same_text=True), {"spectran_pooling": "cls"}, 1, 1e-3, False),
    "mended": (
        ContrastiveSettings(**MENDED, audio_negatives="same_speaker", train_beside=False),
        {"spectran_pooling": "mean", "spectran_beside": "frames"},
        *(8, 3e-4, True),
    ),
}


def librispeech(folder: Path) -> Iterator[Clip]:
    """Clips in the order of their names, without those of held-out readers that have no text; other missing texts are empty."""
    texts = dict(line.strip().split(" ", 1) for file in folder.rglob("*.trans.txt") for line in file.read_text().splitlines())
    for file in {file.stem: file for file in sorted(folder.rglob("*.flac"), reverse=True)}.values():  # of two copies, the first
        speaker, text = file.stem.split("-")[0], texts.get(file.stem, "").lower()
        if text or speaker not in (VALIDATION, TEST):
            yield read_audio(file, None, None, RATE), speaker, text


def ravdess(folder: Path) -> Iterator[Clip]:
    """Clips with silence trimmed; the "text" is the emotion's code, the speaker the actor."""
    for file in sorted([*folder.rglob("*.wav"), *folder.rglob("*.flac")]):
        codes = file.stem.split("-")
        yield trim_samples(read_audio(file, None, None, RATE), RATE, 30), codes[6], codes[2]


def made(hours: float) -> Iterator[Clip]:
    """Synthetic speech of 120 voices: three of five clips a sentence of prose, the others two or three of `sentences`, in their emotion."""
    rng, seconds, number = np.random.default_rng(14), 0.0, 0
    lines = prose()
    lines = iter([lines[index] for index in rng.permutation(len(lines))])
    cast = [voices.draw_speaker(number, rng) for number in range(1, VOICES + 1)]
    while seconds < 3600 * hours:
        speaker, text, style = cast[rng.integers(VOICES)], next(lines, "") if number % 5 < 3 else "", voices.STYLES["neutral"]
        if not text:
            emotion = list(sentences.OWN)[rng.integers(len(sentences.OWN))]
            text = " ".join(sentences.write(emotion, "own" if rng.random() < 0.7 else "none", rng) for _ in range(rng.integers(2, 4)))
            style = voices.STYLES[emotion] if rng.random() < 0.85 else style
        voice = speaker.voice + voices.perform(style, rng.uniform(1, 1.6), rng)
        wave = voices.speak(voices.Line(text, voice, (14, number)))
        wave += rng.standard_normal(len(wave), dtype=np.float32) * np.float32(10 ** (speaker.noise / 20))
        seconds, number = seconds + len(wave) / RATE, number + 1
        yield wave.clip(-1, 1), f"made {speaker.number}", re.sub(r"[^a-z' ]", "", text.lower())


def prose() -> list[str]:
    """Sentences of 8 to 24 plain words in the documentation of Python, numpy, scipy and scikit-learn."""
    from pydoc_data.topics import topics

    library, packages = (Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib"))
    patterns = ("numpy/lib/*.py", "numpy/_core/*.py", "scipy/stats/*.py", "sklearn/*/_*.py")
    files = [*library.glob("*.py"), *(file for pattern in patterns for file in packages.glob(pattern))]
    texts = [*topics.values(), *(part for file in sorted(files) for part in file.read_text(errors="ignore").split('"""')[1::2])]
    parts = (part for text in texts for paragraph in re.split(r"\n\s*\n", text) for part in re.split(r"(?<=[.!?])\s+", paragraph))
    found = dict.fromkeys(re.sub(r"[`*]", "", " ".join(part.split())) for part in parts)
    plain = re.compile(r"[A-Z][a-z']*( [a-zA-Z]?[a-z']+[,;]?)+\.")
    return [sentence for sentence in found if 8 <= len(sentence.split()) <= 24 and plain.fullmatch(sentence)]


def states(name: str, clips: Iterator[Clip], work: Path) -> tuple[Ragged, list[str], list[str]]:
    """States (frames, 2 x 384) float16 of every clip, its speaker and its text; computed once."""
    about, values = work / f"{name}.json", work / f"{name}.npy"
    if not about.exists():
        work.mkdir(parents=True, exist_ok=True)
        extract, rows, lines, whisper = EncoderStates.describe("whisper-tiny.en", LAYERS), [], [], None
        for samples, speaker, text in clips:
            if not text:
                whisper = whisper or transcriber()
                text = re.sub(r"[^a-z' ]", "", whisper(samples).lower())
            rows.append(extract(samples).astype(np.float16))
            lines.append([len(rows[-1]), speaker, text])
        np.save(values, np.concatenate(rows))
        about.write_text(json.dumps(lines))
    lengths, speakers, texts = zip(*json.loads(about.read_text()), strict=True)
    return Ragged(np.load(values, mmap_mode="r"), np.array(lengths)), list(speakers), list(texts)


def transcriber():
    """Samples to text, by the packaged Whisper tiny.en."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(packaged("tiny.en")), device="cpu", compute_type="int8", cpu_threads=1)
    return lambda samples: " ".join(part.text.strip() for part in model.transcribe(samples, beam_size=1, language="en")[0])


def normalised(parts: list[np.ndarray], statistics: list[Statistics]) -> AcousticFrames:
    """Frames with the mean and deviation of each clip's `statistics` removed; a clip shorter than a block is padded with zeros."""
    rows = [((part.astype(np.float32) - mean) / std).astype(np.float16) for part, (mean, std) in zip(parts, statistics, strict=True)]
    rows = [np.pad(row, ((0, max(0, FRAMES - len(row))), (0, 0))) for row in rows]
    return AcousticFrames(Ragged.from_rows(rows), np.ones(len(rows), np.float32), FRAMES, HOP)


def by_speaker(parts: list[np.ndarray], speakers: list[str]) -> list[Statistics]:
    """Mean and deviation of every clip's speaker, over all clips of this speaker."""
    found = {}
    for name in dict.fromkeys(speakers):
        frames = np.concatenate([part for part, speaker in zip(parts, speakers, strict=True) if speaker == name]).astype(np.float32)
        found[name] = frames.mean(0), frames.std(0) + 1e-3
    return [found[speaker] for speaker in speakers]


@torch.inference_mode()
def utterances(model: CalmForContrastivePretraining, frames: AcousticFrames, rows) -> dict[str, np.ndarray]:
    """Of every row: "shared", its vector for retrieval; "token" and "encoded", mean and deviation over its blocks."""
    found: dict[str, list] = {"shared": [], "token": [], "encoded": []}
    for row in rows:
        encoded = model.spectran.encode(torch.from_numpy(frames.blocks_of(row)))
        tokens = model.spectran.token(encoded)
        found["shared"].append(torch.nn.functional.normalize(model.audio_projection(tokens), dim=-1).mean(0))
        for name, vectors in (("token", tokens), ("encoded", encoded)):
            found[name].append(torch.cat([vectors.mean(0), vectors.std(0, correction=0)]))
    return {name: torch.stack(vectors).numpy() for name, vectors in found.items()}


def probe(vectors: np.ndarray, answers: np.ndarray, actors: np.ndarray) -> tuple[float, list[float]]:
    """Balanced accuracy of ridge classification in five folds of actors, and by actor. Its strength is chosen inside the training folds."""
    names, fold = np.unique(answers), actors % 5
    inputs = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-6)
    kernel, targets = inputs @ inputs.T / inputs.shape[1], (answers[:, None] == names) * 2.0 - 1
    predicted = np.empty_like(answers)

    def answer(train: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
        mean = targets[train].mean(0)
        weights = np.linalg.solve(kernel[np.ix_(train, train)] + strength * np.eye(len(train)), targets[train] - mean)
        return names[(kernel[np.ix_(test, train)] @ weights + mean).argmax(1)]

    def score(truth: np.ndarray, found: np.ndarray) -> float:
        return float(np.mean([(found[truth == name] == name).mean() for name in np.unique(truth)]))

    for number in range(5):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        inner = fold[train] == (number + 1) % 5
        scores = {strength: score(answers[train[inner]], answer(train[~inner], train[inner], strength)) for strength in (0.1, 0.3, 1.0)}
        predicted[test] = answer(train, test, max(scores, key=scores.get))
    return score(answers, predicted), [score(answers[actors == actor], predicted[actors == actor]) for actor in np.unique(actors)]


@torch.inference_mode()
def zero_shot(network: CalmForContrastivePretraining, embed: Callable, heard: np.ndarray, emotions: list[str]) -> dict[str, list[float]]:
    """By wording: balanced accuracy of the closest emotion's name, and the same with the mean taken from the names and from the clips."""
    answers, figures = np.array(emotions), {}
    for wording in WORDINGS:
        names = network.embed_text(embed([wording.format(name) for name in EMOTIONS.values()])).numpy()
        centred = (heard - heard.mean(0)) @ (names - names.mean(0)).T
        found = [np.array(list(EMOTIONS))[cosines.argmax(1)] for cosines in (heard @ names.T, centred)]
        figures[wording] = [round(float(np.mean([(kind[answers == name] == name).mean() for name in EMOTIONS])), 4) for kind in found]
    return figures


def main(model: str, hours: float, seed: int, work: Path, own_texts: bool, normalise: str) -> dict:
    """Train and measure one model; "random" is the mended one before training, "printed-random" the printed one."""
    corpora, untrained = Path(os.environ["CALM_CORPORA"]), model.endswith("random")
    loss, options, text_blocks, rate, few_speakers = MODELS["printed" if model.startswith("printed") else "mended"]
    clips = (clip for clip in librispeech(corpora / "librispeech") if clip[2] or not own_texts)
    real, speakers, texts = states("librispeech-own-texts" if own_texts else "librispeech", clips, work)
    rows = np.array([index for index, speaker in enumerate(speakers) if speaker not in (VALIDATION, TEST)])
    if 50 * 3600 * hours < real.lengths[rows].sum():
        drawn = np.random.default_rng(1).permutation(rows)
        rows = np.sort(drawn[np.cumsum(real.lengths[drawn]) <= 50 * 3600 * hours])
    parts, lacking = [real[row] for row in range(len(speakers))], hours - real.lengths[rows].sum() / 50 / 3600
    if lacking > 0.01:
        more, their, said = states(f"made-{lacking:.2f}", made(lacking), work)
        rows = np.concatenate([rows, len(parts) + np.arange(len(their))])
        parts, speakers, texts = parts + [more[row] for row in range(len(their))], speakers + their, texts + said
    sample = np.concatenate([parts[row][::7] for row in rows]).astype(np.float32)
    mean, deviation = sample.mean(0), sample.std(0) + 1e-3
    frames = normalised(parts, by_speaker(parts, speakers) if normalise == "speaker" else [(mean, deviation)] * len(parts))

    torch.manual_seed(seed)
    language_model, tokenizer = load_language_model("minilm", 2), load_tokenizer("minilm")
    sizes = {"block_frames": FRAMES, "block_hop": HOP, "channels": frames.channels, "spectran_width": 128, "projection": 128}
    patch = (5, frames.channels)
    config = CalmConfig(text_config=language_model.config.to_dict(), patch=patch, stride=patch, **sizes, **options)
    network = CalmForContrastivePretraining(config, None, loss)
    vectors = text_vectors(language_model, tokenizer, texts)
    collator = PairCollator(frames, texts, vectors, speakers=speakers if few_speakers else None, text_blocks=text_blocks)
    if not untrained:
        schedule = Schedule(max(2, round(STEPS * 32 / len(rows))), 32, rate)
        with tempfile.TemporaryDirectory() as folder:
            train(network, rows, collator, schedule, Path(folder), seed, groups=numbered(speakers)[rows] if few_speakers else None)
    network.eval()

    learned = round(float(frames.utterances.lengths[rows].sum() / 50 / 3600), 2)
    result = {"model": model, "normalise": normalise, "hours": learned, "seed": seed}
    for split, reader in (("validation", VALIDATION), ("test", TEST)):
        spoken = np.array([index for index, speaker in enumerate(speakers) if speaker == reader])
        keys = network.embed_text(vectors[spoken]).detach().numpy()
        figures = retrieval(utterances(network, frames, spoken)["shared"], keys, groups=[texts[row] for row in spoken])
        result[split] = {name: round(figures[name], 4) for name in ("n", "recall_at_10", "chance_recall_at_10")}
    acted, actors, emotions = states("ravdess", ravdess(corpora / "ravdess"), work)
    actors = np.array([int(actor) for actor in actors])
    clips = [acted[row] for row in range(len(actors))]
    known = by_speaker(clips, [str(actor) for actor in actors]) if normalise == "speaker" else [(mean, deviation)] * len(clips)
    heard = normalised(clips, known)
    found = utterances(network, heard, range(len(actors)))
    result["zero_shot"] = zero_shot(network, partial(text_vectors, language_model, tokenizer), found["shared"], emotions)
    result["actor"] = speaker_probe(found["token"], [str(actor) for actor in actors])
    result["emotion"] = {name: probe(found[name].astype(np.float64), np.array(emotions), actors) for name in ("token", "encoded")}
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, "random", "printed-random"], default="mended")
    parser.add_argument("--hours", type=float, default=1.29)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--own-texts", action="store_true", help="only clips of LibriSpeech with texts of their own: no Whisper")
    parser.add_argument("--normalise", choices=["corpus", "speaker"], default="corpus", help="whose statistics are taken from the frames")
    parser.add_argument("--work", type=Path, default=Path("states"))
    print(json.dumps(main(**vars(parser.parse_args()))))
